//! Sets of completion indexes in the API's short form: `1,3-5,7`.
//!
//! Upstream: pkg/controller/job/indexed_job_utils.go

use std::collections::BTreeSet;
use std::fmt::Write as _;

/// Reads `1,3-5,7`; what is malformed, or not below `completions`, is left out.
pub fn parse(text: &str, completions: i32) -> BTreeSet<i32> {
    let mut set = BTreeSet::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(from), Ok(to)) = (from.trim().parse::<i32>(), to.trim().parse::<i32>()) {
            set.extend(from.max(0)..=to.min(completions - 1));
        }
    }
    set
}

/// The short form: two neighbours are written apart (`1,2`), three and more as a range.
pub fn format(set: &BTreeSet<i32>) -> String {
    let mut out = String::new();
    let mut numbers = set.iter().copied().peekable();
    while let Some(first) = numbers.next() {
        let mut last = first;
        while numbers.peek() == Some(&(last + 1)) {
            last = numbers.next().unwrap_or(last);
        }
        if !out.is_empty() {
            out.push(',');
        }
        let _ = match last - first {
            0 => write!(out, "{first}"),
            1 => write!(out, "{first},{last}"),
            _ => write!(out, "{first}-{last}"),
        };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_form_round_trips() {
        for text in ["", "0", "1,2", "1,3-5,7", "0-9"] {
            assert_eq!(format(&parse(text, 100)), text);
        }
        assert_eq!(format(&parse("1,2,3,90-200", 100)), "1-3,90-99");
        assert_eq!(format(&parse("x,3-,5", 100)), "5");
    }
}

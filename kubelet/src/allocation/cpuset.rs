//! Sets of processors or memory nodes in the kernel's list form: `0-3,8`.

use std::collections::BTreeSet;
use std::fmt;

/// A set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuSet(pub BTreeSet<usize>);

/// A bound on numbers read from lists: a hostile `0-18446744073709551615` is no set.
const LARGEST: usize = 1 << 16;

impl CpuSet {
    /// Reads the list form; `None` where it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let mut out = BTreeSet::new();
        for part in text.trim().split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
            if last < first || last > LARGEST {
                return None;
            }
            out.extend(first..=last);
        }
        Some(Self(out))
    }

    /// What is in this one and not in the other.
    pub fn without(&self, other: &Self) -> Self {
        Self(self.0.difference(&other.0).copied().collect())
    }

    /// What is in either.
    pub fn with(&self, other: &Self) -> Self {
        Self(self.0.union(&other.0).copied().collect())
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<usize> for CpuSet {
    fn from_iter<I: IntoIterator<Item = usize>>(items: I) -> Self {
        Self(items.into_iter().collect())
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.iter().copied().peekable();
        let mut separator = "";
        while let Some(first) = rest.next() {
            let mut last = first;
            while rest.next_if_eq(&(last + 1)).is_some() {
                last += 1;
            }
            write!(f, "{separator}{first}")?;
            if last > first {
                write!(f, "-{last}")?;
            }
            separator = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_written() {
        for (text, written) in [("0-3,8", "0-3,8"), ("3,1,2", "1-3"), ("", ""), ("0-1, 3", "0-1,3")] {
            assert_eq!(CpuSet::parse(text).unwrap().to_string(), written);
        }
        for wrong in ["a", "3-1", "0-99999999999"] {
            assert_eq!(CpuSet::parse(wrong), None, "{wrong}");
        }
    }
}

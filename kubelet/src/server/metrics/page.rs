//! Prometheus' text form for values that are read when asked for.

use std::fmt::Write as _;

/// A page of metrics being written.
#[derive(Default)]
pub struct Page {
    text: String,
}

/// Samples of one name.
pub struct Family {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    lines: String,
}

impl Family {
    /// A name without samples yet.
    pub fn new(name: &'static str, kind: &'static str, help: &'static str) -> Self {
        Self { name, kind, help, lines: String::new() }
    }

    /// Adds a sample; `at` in milliseconds, where the moment of the reading matters.
    pub fn add(&mut self, labels: &[(&str, &str)], value: f64, at: Option<i64>) {
        self.add_as(self.name, labels, value, at);
    }

    /// Adds a sample under another name, for the parts of histograms.
    pub fn add_as(&mut self, name: &str, labels: &[(&str, &str)], value: f64, at: Option<i64>) {
        self.lines.push_str(name);
        for (index, (key, text)) in labels.iter().enumerate() {
            let _ = write!(self.lines, "{}{key}=\"", if index == 0 { '{' } else { ',' });
            escape(text, &mut self.lines);
            self.lines.push('"');
        }
        if !labels.is_empty() {
            self.lines.push('}');
        }
        let value = if value == f64::INFINITY { "+Inf".to_owned() } else { value.to_string() };
        let _ = match at {
            Some(at) => writeln!(self.lines, " {value} {at}"),
            None => writeln!(self.lines, " {value}"),
        };
    }
}

fn escape(text: &str, out: &mut String) {
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
}

impl Page {
    /// Begins with what is there.
    pub fn after(text: String) -> Self {
        Self { text }
    }

    /// Adds a family; one without samples leaves no trace.
    pub fn put(&mut self, family: Family) {
        if family.lines.is_empty() {
            return;
        }
        let Family { name, kind, help, lines } = family;
        let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{lines}");
    }

    /// Adds a family of one sample without labels.
    pub fn one(&mut self, name: &'static str, kind: &'static str, help: &'static str, value: f64) {
        let mut family = Family::new(name, kind, help);
        family.add(&[], value, None);
        self.put(family);
    }

    /// The page.
    pub fn finish(self) -> String {
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped_and_empty_families_left_out() {
        let mut page = Page::default();
        page.put(Family::new("none", "gauge", "x"));
        let mut family = Family::new("a", "gauge", "Help.");
        family.add(&[("l", "q\"b\\n\n")], 1.5, Some(7));
        page.put(family);
        page.one("b", "counter", "h", 2.0);
        assert_eq!(
            page.finish(),
            "# HELP a Help.\n# TYPE a gauge\na{l=\"q\\\"b\\\\n\\n\"} 1.5 7\n# HELP b h\n# TYPE b counter\nb 2\n"
        );
    }
}

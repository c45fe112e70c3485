//! Field selectors: `metadata.name=a,status.phase!=Running`.

use std::fmt;

/// One term: a field and the value that it must (or must not) have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldRequirement {
    /// `spec.nodeName`.
    pub field: String,
    /// `!=` instead of `=`.
    pub negated: bool,
    /// The value.
    pub value: String,
}

/// All of several requirements; none matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    /// In the order given.
    pub requirements: Vec<FieldRequirement>,
}

impl FieldSelector {
    /// Parses the `fieldSelector` parameter. Which fields a resource supports is not checked here.
    ///
    /// # Errors
    /// Upstream's message.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut requirements = Vec::new();
        for part in split(text) {
            if part.is_empty() {
                continue;
            }
            let Some((field, operator, value)) = operator(part) else {
                return Err(format!("invalid selector: '{text}'; can't understand '{part}'"));
            };
            let value = unescape(value)?;
            requirements.push(FieldRequirement { field: field.to_owned(), negated: operator == "!=", value });
        }
        Ok(Self { requirements })
    }

    /// Whether it matches everything.
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether the fields given by a lookup match.
    pub fn matches(&self, get: impl Fn(&str) -> String) -> bool {
        self.requirements.iter().all(|requirement| (get(&requirement.field) == requirement.value) != requirement.negated)
    }

    /// The value that a field must have for a match, where the selector says so.
    pub fn required(&self, field: &str) -> Option<&str> {
        let found = self.requirements.iter().find(|requirement| requirement.field == field && !requirement.negated)?;
        Some(&found.value)
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            let (comma, operator) = (if index > 0 { "," } else { "" }, if requirement.negated { "!=" } else { "=" });
            let value = requirement.value.replace('\\', r"\\").replace(',', r"\,").replace('=', r"\=");
            write!(f, "{comma}{}{operator}{value}", requirement.field)?;
        }
        Ok(())
    }
}

/// Splits at commas that no backslash escapes.
fn split(text: &str) -> Vec<&str> {
    let (mut out, mut start, mut escaped) = (Vec::new(), 0, false);
    if text.is_empty() {
        return out;
    }
    for (at, c) in text.char_indices() {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if c == ',' {
            out.push(&text[start..at]);
            start = at + 1;
        }
    }
    out.push(&text[start..]);
    out
}

fn operator(part: &str) -> Option<(&str, &str, &str)> {
    for at in part.char_indices().map(|(at, _)| at) {
        for operator in ["!=", "==", "="] {
            if part[at..].starts_with(operator) {
                return Some((&part[..at], operator, &part[at + operator.len()..]));
            }
        }
    }
    None
}

fn unescape(value: &str) -> Result<String, String> {
    let (mut out, mut escaped) = (String::with_capacity(value.len()), false);
    for c in value.chars() {
        match (escaped, c) {
            (true, '\\' | ',' | '=') => {
                out.push(c);
                escaped = false;
            }
            (true, _) => return Err(format!("invalid field selector: invalid escape sequence: \\{c}")),
            (false, '\\') => escaped = true,
            // The number is the character's code: upstream prints the rune as an integer.
            (false, ',' | '=') => return Err(format!("invalid field selector: unescaped character in value: {}", u32::from(c))),
            (false, _) => out.push(c),
        }
    }
    if escaped {
        return Err("invalid field selector: invalid escape sequence: \\\u{0}".to_owned());
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_match() {
        let get = |field: &str| if field == "metadata.name" { "p1".to_owned() } else { String::new() };
        for (text, want) in [("", true), ("metadata.name=p1", true), ("metadata.name!=p1", false), ("a=,metadata.name==p1", true)]
        {
            assert_eq!(FieldSelector::parse(text).unwrap().matches(get), want, "{text}");
        }
        assert_eq!(FieldSelector::parse(r"a=b\,c\=d").unwrap().requirements[0].value, "b,c=d");
    }

    #[test]
    fn errors_are_upstreams() {
        assert_eq!(
            FieldSelector::parse("metadata.name in (a)").unwrap_err(),
            "invalid selector: 'metadata.name in (a)'; can't understand 'metadata.name in (a)'"
        );
        assert_eq!(
            FieldSelector::parse("metadata.name=a=b").unwrap_err(),
            "invalid field selector: unescaped character in value: 61"
        );
        assert!(FieldSelector::parse("a=\\").is_err());
        assert_eq!(FieldSelector::parse("=x").unwrap().requirements[0].field, "");
    }
}

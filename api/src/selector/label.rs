//! Label selectors, from text (`app=a,tier in (x,y),!gone,n>2`) and from `metav1.LabelSelector` objects.

use std::fmt;

use serde_json::Value;

use crate::field::{ErrorType, FieldError};
use crate::validation;

/// How a requirement compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `key in (a,b)`, `In`.
    In,
    /// `key notin (a,b)`, `NotIn`.
    NotIn,
    /// `key=a`.
    Equals,
    /// `key==a`.
    DoubleEquals,
    /// `key!=a`.
    NotEquals,
    /// `key`.
    Exists,
    /// `!key`.
    DoesNotExist,
    /// `key>1`.
    GreaterThan,
    /// `key<1`.
    LessThan,
}

/// One term of a selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// How it compares.
    pub operator: Operator,
    /// With what, sorted, without repeats.
    pub values: Vec<String>,
}

/// All of several requirements. The empty selector matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    /// Sorted by key.
    pub requirements: Vec<Requirement>,
    /// Matches nothing at all (a null selector object).
    pub nothing: bool,
}

impl LabelSelector {
    /// Matches everything.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Matches nothing.
    pub fn nothing() -> Self {
        Self { nothing: true, ..Self::default() }
    }

    /// Parses the text form of the `labelSelector` parameter.
    ///
    /// # Errors
    /// Upstream's message, without the `unable to parse requirement: ` that callers do not add either: it is included where upstream has it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut requirements = Parser::new(text).parse()?;
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self { requirements, nothing: false })
    }

    /// From a `metav1.LabelSelector` object. Null matches nothing, the empty object everything, as upstream has it.
    ///
    /// # Errors
    /// Upstream's message.
    pub fn from_object(selector: &Value) -> Result<Self, String> {
        let Value::Object(selector) = selector else { return Ok(Self::nothing()) };
        let mut requirements = Vec::new();
        for (key, value) in selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
            requirements.push(Requirement::new(key, Operator::In, vec![value.as_str().unwrap_or_default().to_owned()])?);
        }
        for expression in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            let operator = match expression["operator"].as_str().unwrap_or_default() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(format!("{other:?} is not a valid label selector operator")),
            };
            let values = expression["values"].as_array().into_iter().flatten();
            let values = values.map(|value| value.as_str().unwrap_or_default().to_owned()).collect();
            requirements.push(Requirement::new(expression["key"].as_str().unwrap_or_default(), operator, values)?);
        }
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self { requirements, nothing: false })
    }

    /// From a plain map (`spec.selector` of a Service). Values are not checked.
    pub fn from_map<'a>(labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let one = |(key, value): (&str, &str)| Requirement {
            key: key.to_owned(),
            operator: Operator::Equals,
            values: vec![value.to_owned()],
        };
        let mut requirements: Vec<_> = labels.into_iter().map(one).collect();
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Self { requirements, nothing: false }
    }

    /// Whether it matches everything.
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// Whether labels given by a lookup match.
    pub fn matches_with<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing && self.requirements.iter().all(|requirement| requirement.matches(get(&requirement.key)))
    }

    /// Whether the `metadata.labels` object (or null) matches.
    pub fn matches(&self, labels: &Value) -> bool {
        self.matches_with(|key| labels.get(key).and_then(Value::as_str))
    }

    /// Whether an object's labels match.
    pub fn matches_object(&self, object: &Value) -> bool {
        self.matches(&object["metadata"]["labels"])
    }
}

impl Requirement {
    /// A checked requirement.
    ///
    /// # Errors
    /// Upstream's message (`<nil>: Invalid value: …`).
    pub fn new(key: &str, operator: Operator, mut values: Vec<String>) -> Result<Self, String> {
        let mut errors = Vec::new();
        let mut add = |kind, field: String, value: Value, detail: String| {
            errors.push(FieldError { kind, field, value, detail, shown: None }.to_string());
        };
        for problem in validation::qualified_name(key) {
            add(ErrorType::Invalid, "<nil>".to_owned(), key.into(), problem);
        }
        let shown = || Value::from(values.clone());
        match operator {
            Operator::In | Operator::NotIn if values.is_empty() => {
                add(
                    ErrorType::Invalid,
                    "values".to_owned(),
                    shown(),
                    "for 'in', 'notin' operators, values set can't be empty".to_owned(),
                );
            }
            Operator::Equals | Operator::DoubleEquals | Operator::NotEquals if values.len() != 1 => {
                add(
                    ErrorType::Invalid,
                    "values".to_owned(),
                    shown(),
                    "exact-match compatibility requires one single value".to_owned(),
                );
            }
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
                add(
                    ErrorType::Invalid,
                    "values".to_owned(),
                    shown(),
                    "values set must be empty for exists and does not exist".to_owned(),
                );
            }
            Operator::GreaterThan | Operator::LessThan => {
                if values.len() != 1 {
                    let detail = "for 'Gt', 'Lt' operators, exactly one value is required";
                    add(ErrorType::Invalid, "values".to_owned(), shown(), detail.to_owned());
                }
                for (index, value) in values.iter().enumerate().filter(|(_, value)| value.parse::<i64>().is_err()) {
                    let detail = "for 'Gt', 'Lt' operators, the value must be an integer";
                    add(ErrorType::Invalid, format!("values[{index}]"), value.as_str().into(), detail.to_owned());
                }
            }
            _ => {}
        }
        for (index, value) in values.iter().enumerate() {
            let problems = validation::label_value(value);
            if !problems.is_empty() {
                add(ErrorType::Invalid, format!("values[{index}][{key}]"), value.as_str().into(), problems.join("; "));
            }
        }
        match errors.len() {
            0 => {
                values.sort();
                values.dedup();
                Ok(Self { key: key.to_owned(), operator, values })
            }
            1 => Err(errors.remove(0)),
            _ => Err(format!("[{}]", errors.join(", "))),
        }
    }

    /// Whether a label's value (or its absence) satisfies it.
    pub fn matches(&self, value: Option<&str>) -> bool {
        let one_of = |value: &str| self.values.iter().any(|wanted| wanted == value);
        match (self.operator, value) {
            (Operator::In | Operator::Equals | Operator::DoubleEquals, value) => value.is_some_and(one_of),
            (Operator::NotIn | Operator::NotEquals, value) => !value.is_some_and(one_of),
            (Operator::Exists, value) => value.is_some(),
            (Operator::DoesNotExist, value) => value.is_none(),
            (Operator::GreaterThan | Operator::LessThan, value) => {
                let (Some(value), Some(bound)) =
                    (value.and_then(integer), self.values.first().map(String::as_str).and_then(integer))
                else {
                    return false;
                };
                if self.operator == Operator::GreaterThan { value > bound } else { value < bound }
            }
        }
    }
}

fn integer(text: &str) -> Option<i64> {
    text.parse().ok()
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            write!(f, "{requirement}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, values) = (&self.key, self.values.join(","));
        match self.operator {
            Operator::In => write!(f, "{key} in ({values})"),
            Operator::NotIn => write!(f, "{key} notin ({values})"),
            Operator::Equals => write!(f, "{key}={values}"),
            Operator::DoubleEquals => write!(f, "{key}=={values}"),
            Operator::NotEquals => write!(f, "{key}!={values}"),
            Operator::Exists => write!(f, "{key}"),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::GreaterThan => write!(f, "{key}>{values}"),
            Operator::LessThan => write!(f, "{key}<{values}"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    End,
    Close,
    Comma,
    Bang,
    DoubleEquals,
    Equals,
    Greater,
    Identifier,
    In,
    Less,
    NotEquals,
    NotIn,
    Open,
}

struct Parser<'a> {
    tokens: Vec<(Token, &'a str)>,
    at: usize,
}

fn is_special(byte: u8) -> bool {
    matches!(byte, b'=' | b'!' | b'(' | b')' | b',' | b'>' | b'<')
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Self {
        let bytes = text.as_bytes();
        let (mut tokens, mut at) = (Vec::new(), 0);
        while at < bytes.len() {
            let start = at;
            if is_space(bytes[at]) {
                at += 1;
                continue;
            }
            if is_special(bytes[at]) {
                let pair = match (bytes[at], bytes.get(at + 1)) {
                    (b'=', Some(b'=')) => Some(Token::DoubleEquals),
                    (b'!', Some(b'=')) => Some(Token::NotEquals),
                    _ => None,
                };
                let token = pair.unwrap_or(match bytes[at] {
                    b'=' => Token::Equals,
                    b'!' => Token::Bang,
                    b'(' => Token::Open,
                    b')' => Token::Close,
                    b',' => Token::Comma,
                    b'>' => Token::Greater,
                    _ => Token::Less,
                });
                at += if pair.is_some() { 2 } else { 1 };
                tokens.push((token, &text[start..at]));
                continue;
            }
            while at < bytes.len() && !is_special(bytes[at]) && !is_space(bytes[at]) {
                at += 1;
            }
            let word = &text[start..at];
            let token = match word {
                "in" => Token::In,
                "notin" => Token::NotIn,
                _ => Token::Identifier,
            };
            tokens.push((token, word));
        }
        Self { tokens, at: 0 }
    }

    /// The next token. As values, `in` and `notin` are plain words.
    fn look(&self, values: bool) -> (Token, &'a str) {
        match self.tokens.get(self.at) {
            Some((Token::In | Token::NotIn, word)) if values => (Token::Identifier, word),
            Some(token) => *token,
            None => (Token::End, ""),
        }
    }

    fn take(&mut self, values: bool) -> (Token, &'a str) {
        let token = self.look(values);
        self.at += 1;
        token
    }

    fn parse(&mut self) -> Result<Vec<Requirement>, String> {
        let mut out = Vec::new();
        loop {
            match self.look(true) {
                (Token::Identifier | Token::Bang, _) => {
                    out.push(self.requirement().map_err(|error| format!("unable to parse requirement: {error}"))?);
                    match self.take(true) {
                        (Token::End, _) => return Ok(out),
                        (Token::Comma, _) => match self.look(true) {
                            (Token::Identifier | Token::Bang, _) => {}
                            (_, word) => return Err(format!("found '{word}', expected: identifier after ','")),
                        },
                        (_, word) => return Err(format!("found '{word}', expected: ',' or 'end of string'")),
                    }
                }
                (Token::End, _) => return Ok(out),
                (_, word) => return Err(format!("found '{word}', expected: !, identifier, or 'end of string'")),
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let (mut token, mut key) = self.take(true);
        let absent = token == Token::Bang;
        if absent {
            (token, key) = self.take(true);
        }
        if token != Token::Identifier {
            return Err(format!("found '{key}', expected: identifier"));
        }
        if let Some(problem) = key_problem(key) {
            return Err(problem);
        }
        if absent {
            return Requirement::new(key, Operator::DoesNotExist, Vec::new());
        }
        if matches!(self.look(true).0, Token::End | Token::Comma) {
            return Requirement::new(key, Operator::Exists, Vec::new());
        }
        let (token, word) = self.take(false);
        let operator = match token {
            Token::In => Operator::In,
            Token::Equals => Operator::Equals,
            Token::DoubleEquals => Operator::DoubleEquals,
            Token::Greater => Operator::GreaterThan,
            Token::Less => Operator::LessThan,
            Token::NotIn => Operator::NotIn,
            Token::NotEquals => Operator::NotEquals,
            _ => return Err(format!("found '{word}', expected: in, notin, =, ==, !=, gt, lt")),
        };
        let values = if matches!(operator, Operator::In | Operator::NotIn) { self.values()? } else { self.exact_value()? };
        Requirement::new(key, operator, values)
    }

    fn values(&mut self) -> Result<Vec<String>, String> {
        let (token, word) = self.take(true);
        if token != Token::Open {
            return Err(format!("found '{word}' expected: '('"));
        }
        match self.look(true) {
            (Token::Identifier | Token::Comma, _) => {
                let mut out = self.identifiers()?;
                let (token, word) = self.take(true);
                if token != Token::Close {
                    return Err(format!("found '{word}', expected: ')'"));
                }
                out.sort();
                out.dedup();
                Ok(out)
            }
            (Token::Close, _) => {
                self.at += 1;
                Ok(vec![String::new()])
            }
            (_, word) => Err(format!("found '{word}', expected: ',', ')' or identifier")),
        }
    }

    fn identifiers(&mut self) -> Result<Vec<String>, String> {
        let mut out = Vec::new();
        loop {
            match self.take(true) {
                (Token::Identifier, word) => {
                    out.push(word.to_owned());
                    match self.look(true) {
                        (Token::Comma, _) => continue,
                        (Token::Close, _) => return Ok(out),
                        (_, word) => return Err(format!("found '{word}', expected: ',' or ')'")),
                    }
                }
                (Token::Comma, _) => {
                    if out.is_empty() {
                        out.push(String::new());
                    }
                    match self.look(true) {
                        (Token::Close, _) => {
                            out.push(String::new());
                            return Ok(out);
                        }
                        (Token::Comma, _) => {
                            self.at += 1;
                            out.push(String::new());
                        }
                        _ => {}
                    }
                }
                (_, word) => return Err(format!("found '{word}', expected: ',', or identifier")),
            }
        }
    }

    fn exact_value(&mut self) -> Result<Vec<String>, String> {
        if matches!(self.look(true).0, Token::End | Token::Comma) {
            return Ok(vec![String::new()]);
        }
        match self.take(true) {
            (Token::Identifier, word) => Ok(vec![word.to_owned()]),
            (_, word) => Err(format!("found '{word}', expected: identifier")),
        }
    }
}

fn key_problem(key: &str) -> Option<String> {
    let problems = validation::qualified_name(key);
    let one = |detail| {
        FieldError { kind: ErrorType::Invalid, field: "<nil>".to_owned(), value: key.into(), detail, shown: None }.to_string()
    };
    (!problems.is_empty()).then(|| one(problems.join("; ")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selectors_match_as_upstream() {
        let labels = json!({"app": "a", "n": "3", "kubernetes.io/x": ""});
        for (text, want) in [
            ("", true),
            ("app=a", true),
            ("app==b", false),
            ("app!=b,n", true),
            ("!app", false),
            ("!gone", true),
            ("app in (b, a)", true),
            ("app notin (a)", false),
            ("gone notin (a)", true),
            ("n>2", true),
            ("n<3", false),
            ("kubernetes.io/x=", true),
            ("in in (in)", false),
            ("app in ()", false),
        ] {
            assert_eq!(LabelSelector::parse(text).unwrap().matches(&labels), want, "{text}");
        }
    }

    #[test]
    fn errors_are_upstreams() {
        for (text, want) in [
            (",app", "found ',', expected: !, identifier, or 'end of string'"),
            ("=a", "found '=', expected: !, identifier, or 'end of string'"),
            ("app,,n", "found ',', expected: identifier after ','"),
            (
                "n>x",
                "unable to parse requirement: values[0]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must be an integer",
            ),
            (
                "-bad=1",
                "unable to parse requirement: <nil>: Invalid value: \"-bad\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
            ),
        ] {
            assert_eq!(LabelSelector::parse(text).unwrap_err(), want, "{text}");
        }
        for text in ["a in", "a in (", "a in (b", "(", "a b", "!", "!!a", "a=b=c", "a in (b))", "é=ü", "a=\u{0}"] {
            assert!(LabelSelector::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn selector_objects_match() {
        let selector =
            json!({"matchLabels": {"app": "a"}, "matchExpressions": [{"key": "n", "operator": "In", "values": ["3", "4"]}]});
        let selector = LabelSelector::from_object(&selector).unwrap();
        assert!(selector.matches(&json!({"app": "a", "n": "4"})));
        assert!(!selector.matches(&json!({"app": "a"})));
        assert!(!LabelSelector::from_object(&Value::Null).unwrap().matches(&json!({})));
        assert!(LabelSelector::from_object(&json!({})).unwrap().matches(&Value::Null));
    }
}

//! YAML bodies, read as upstream reads them: YAML 1.1 scalars (`yes` is a boolean), anchors and merges, later keys win.
//!
//! Upstream: sigs.k8s.io/yaml

use std::collections::HashMap;

use granit_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Number, Value};

/// Levels of nesting.
const MAX_DEPTH: usize = 200;
/// Nodes that a document may have after its aliases are replaced, per byte of it and at least: real documents have one in ten bytes,
/// alias bombs thousands per byte.
const NODES_PER_BYTE: usize = 4;
/// Documents shorter than this may have as many nodes as this.
const MIN_NODES: usize = 4096;

/// Why a text is no document of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("error converting YAML to JSON: yaml: {0}")]
pub struct YamlError(String);

/// A document and the keys that stood twice in one of its maps.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Document {
    /// The tree.
    pub value: Value,
    /// `line 3: key "kind" already set in map`, as upstream's strict errors have it.
    pub duplicates: Vec<String>,
}

/// Reads the first document of a text. An empty text is null.
///
/// # Errors
/// Malformed YAML, nesting or aliases beyond bounds.
pub fn decode(body: &[u8]) -> Result<Document, YamlError> {
    let text = std::str::from_utf8(body).map_err(|_| YamlError("invalid UTF-8".to_owned()))?;
    let mut builder = Builder {
        parser: Parser::new_from_str(text),
        anchors: HashMap::new(),
        budget: (text.len() * NODES_PER_BYTE).max(MIN_NODES),
        duplicates: Vec::new(),
    };
    loop {
        match builder.next()? {
            (Event::StreamStart | Event::DocumentStart(..), _) => {}
            (Event::StreamEnd | Event::DocumentEnd, _) => return Ok(Document::default()),
            (event, line) => {
                let value = builder.node(event, line, 0)?;
                return Ok(Document { value, duplicates: builder.duplicates });
            }
        }
    }
}

struct Builder<'a> {
    parser: Parser<'a, granit_parser::StrInput<'a>>,
    anchors: HashMap<usize, (Value, usize)>,
    budget: usize,
    duplicates: Vec<String>,
}

impl<'a> Builder<'a> {
    fn next(&mut self) -> Result<(Event<'a>, usize), YamlError> {
        loop {
            match self.parser.next_event() {
                Some(Ok((Event::Comment(..), _))) => {}
                Some(Ok((event, span))) => return Ok((event, span.start.line())),
                Some(Err(error)) => return Err(YamlError(error.to_string())),
                None => return Err(YamlError("unexpected end of stream".to_owned())),
            }
        }
    }

    fn spend(&mut self, nodes: usize) -> Result<(), YamlError> {
        self.budget =
            self.budget.checked_sub(nodes).ok_or_else(|| YamlError("document contains excessive aliasing".to_owned()))?;
        Ok(())
    }

    fn node(&mut self, event: Event<'a>, line: usize, depth: usize) -> Result<Value, YamlError> {
        if depth > MAX_DEPTH {
            return Err(YamlError("exceeded max depth".to_owned()));
        }
        self.spend(1)?;
        let before = self.budget;
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let is_text = style != ScalarStyle::Plain || tag.as_ref().is_some_and(|tag| tag.core_suffix() == Some("str"));
                (if is_text { Value::String(text.into_owned()) } else { plain(&text) }, anchor)
            }
            Event::SequenceStart(_, anchor, _) => {
                let mut list = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => break,
                        (event, line) => list.push(self.node(event, line, depth + 1)?),
                    }
                }
                (Value::Array(list), anchor)
            }
            Event::MappingStart(_, anchor, _) => (self.mapping(depth)?, anchor),
            Event::Alias(id) => {
                let (value, size) = self.anchors.get(&id).cloned().ok_or_else(|| YamlError("unknown anchor".to_owned()))?;
                self.spend(size)?;
                return Ok(value);
            }
            _ => return Err(YamlError(format!("line {line}: unexpected content"))),
        };
        if anchor > 0 {
            self.anchors.insert(anchor, (value.clone(), before - self.budget));
        }
        Ok(value)
    }

    fn mapping(&mut self, depth: usize) -> Result<Value, YamlError> {
        let (mut map, mut merged) = (Map::new(), Vec::new());
        loop {
            let (event, line) = self.next()?;
            let plain_merge = matches!(&event, Event::Scalar(text, ScalarStyle::Plain, _, _) if text == "<<");
            let key = match event {
                Event::MappingEnd => break,
                event => self.node(event, line, depth + 1)?,
            };
            let (event, value_line) = self.next()?;
            let value = self.node(event, value_line, depth + 1)?;
            if plain_merge {
                merged.push(value);
                continue;
            }
            let key = match key {
                Value::String(text) => text,
                Value::Null => "null".to_owned(),
                key @ (Value::Bool(_) | Value::Number(_)) => key.to_string(),
                _ => return Err(YamlError(format!("line {line}: unsupported map key"))),
            };
            if map.contains_key(&key) {
                self.duplicates.push(format!("line {line}: key {key:?} already set in map"));
            }
            map.insert(key, value);
        }
        for value in merged {
            let sources = match value {
                Value::Array(list) => list,
                value => vec![value],
            };
            for source in sources {
                let Value::Object(source) = source else {
                    return Err(YamlError("map merge requires map or sequence of maps as the value".to_owned()));
                };
                for (key, value) in source {
                    map.entry(key).or_insert(value);
                }
            }
        }
        Ok(Value::Object(map))
    }
}

/// A scalar without quotes, by YAML 1.1 as Go's library reads it.
fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "y" | "Y" => return Value::Bool(true),
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" | "n" | "N" => return Value::Bool(false),
        _ => {}
    }
    let starts_as_number = text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.'));
    if starts_as_number && let Some(number) = number(text) { number } else { Value::String(text.to_owned()) }
}

fn number(text: &str) -> Option<Value> {
    let plain = text.replace('_', "");
    let (negative, digits) = match plain.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, plain.strip_prefix('+').unwrap_or(&plain)),
    };
    let radix = |radix, digits: &str| {
        let value = u64::from_str_radix(digits, radix).ok()?;
        if negative { 0_i64.checked_sub_unsigned(value).map(Value::from) } else { Some(Value::from(value)) }
    };
    if let Some(digits) = digits.strip_prefix("0x") {
        return radix(16, digits);
    }
    if let Some(digits) = digits.strip_prefix("0b") {
        return radix(2, digits);
    }
    if let Some(digits) = digits.strip_prefix("0o") {
        return radix(8, digits);
    }
    // A leading zero makes an octal number, as in YAML 1.1; 0777 is 511.
    if digits.len() > 1
        && digits.starts_with('0')
        && digits.bytes().all(|byte| byte.is_ascii_digit())
        && let Some(value) = radix(8, &digits[1..])
    {
        return Some(value);
    }
    if !digits.is_empty()
        && digits.bytes().all(|byte| byte.is_ascii_digit())
        && let Some(value) = radix(10, digits)
    {
        return Some(value);
    }
    let float = digits.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'+' | b'-'))
        && digits.bytes().any(|byte| byte.is_ascii_digit());
    if !float {
        return None;
    }
    let value: f64 = plain.parse().ok()?;
    // Go prints whole numbers without a fraction.
    if value.fract() == 0.0 && value.abs() < 1e15 {
        Some(Value::from(value as i64))
    } else {
        Number::from_f64(value).map(Value::Number)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn value(text: &str) -> Value {
        decode(text.as_bytes()).unwrap().value
    }

    #[test]
    fn scalars_are_those_of_yaml_1_1() {
        let got = value(
            "a: yes\nb: 'yes'\nc: off\nd: 0777\ne: 1.5\nf: 1e3\ng: \nh: ~\ni: 12e\nj: 0x1F\nk: \"5\"\nl: 1_000\nm: 2026-01-01\nn: 1.2.3.4\no: |\n  x\n  y\np: -5\nq: .5\nr: y\n",
        );
        let want = json!({"a": true, "b": "yes", "c": false, "d": 511, "e": 1.5, "f": 1000, "g": null, "h": null, "i": "12e", "j": 31, "k": "5", "l": 1000, "m": "2026-01-01", "false": "1.2.3.4", "o": "x\ny\n", "p": -5, "q": 0.5, "r": true});
        assert_eq!(got, want);
    }

    #[test]
    fn anchors_merges_and_duplicates() {
        let got = decode(b"base: &b {x: 1, z: 3}\nuse:\n  <<: *b\n  x: 2\nlist: [*b]\nk: 1\nk: 2\n").unwrap();
        assert_eq!(got.value, json!({"base": {"x": 1, "z": 3}, "use": {"x": 2, "z": 3}, "list": [{"x": 1, "z": 3}], "k": 2}));
        assert_eq!(got.duplicates, ["line 7: key \"k\" already set in map"]);
    }

    #[test]
    fn json_is_yaml_and_only_the_first_document_counts() {
        assert_eq!(value("{\"a\": [1, \"b\", null]}"), json!({"a": [1, "b", null]}));
        assert_eq!(value("---\na: 1\n---\nb: 2\n"), json!({"a": 1}));
        assert_eq!(value(""), Value::Null);
    }

    #[test]
    fn bombs_and_broken_texts_are_refused() {
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for level in 1..12 {
            let refs = vec![format!("*a{}", level - 1); 10].join(",");
            bomb.push_str(&format!("a{level}: &a{level} [{refs}]\n"));
        }
        assert!(decode(bomb.as_bytes()).unwrap_err().to_string().contains("excessive aliasing"));
        assert!(decode("[".repeat(100_000).as_bytes()).is_err());
        for text in ["a: b: c", "{", "\t- x: [", "&a *a", "? {a: 1}\n: x", "\u{0}", "<<: 5", "%YAML"] {
            let _ = decode(text.as_bytes());
        }
        assert!(decode(&[0xff, 0xfe]).is_err());
    }
}

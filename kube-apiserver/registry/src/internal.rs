//! Objects as upstream's errors print them: its internal Go types as JSON, all fields in the order of declaration.
//!
//! Clients see these in `field is immutable` and in the difference of an update that is not allowed. Internal types carry no JSON tags, so
//! names are Go's, nothing is omitted, and what stands elsewhere in the internal type (the host namespaces of a pod) is printed there.
//! The types are data: `data/internal-types.txt`.
//!
//! Upstream: pkg/apis, apimachinery/pkg/util/diff, apimachinery/pkg/util/validation/field

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::LazyLock;

use serde_json::Value;

use crate::tree::Tree;

/// A value as it is printed.
#[derive(Clone, Debug, PartialEq)]
pub enum Shown {
    /// JSON text.
    Leaf(String),
    /// Elements.
    List(Vec<Shown>),
    /// Fields in the order of printing.
    Object(Vec<(String, Shown)>),
}

/// A value of the internal type `kind` (`PodSpec`, `[]CSINodeDriver`), given as users write it.
pub fn show(kind: &'static str, value: &Value) -> Shown {
    one_of(&FieldType::parse(kind), value, value)
}

/// The same as one line of JSON, as field errors print values.
pub fn compact(kind: &'static str, value: &Value) -> String {
    let mut out = String::new();
    show(kind, value).write(&mut out);
    out
}

impl Shown {
    /// One line of JSON.
    fn write(&self, out: &mut String) {
        match self {
            Self::Leaf(text) => out.push_str(text),
            Self::List(items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    item.write(out);
                }
                out.push(']');
            }
            Self::Object(fields) => {
                out.push('{');
                for (index, (name, value)) in fields.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    out.push_str(&quoted(name));
                    out.push(':');
                    value.write(out);
                }
                out.push('}');
            }
        }
    }

    /// Lines of JSON, one space for each level.
    pub fn lines(&self) -> Vec<String> {
        let mut out = Vec::new();
        self.push_lines(0, "", "", &mut out);
        out
    }

    fn push_lines(&self, depth: usize, before: &str, after: &str, out: &mut Vec<String>) {
        let indent = " ".repeat(depth);
        let comma = |index: usize, count: usize| if index + 1 < count { "," } else { "" };
        match self {
            Self::Leaf(text) => out.push(format!("{indent}{before}{text}{after}")),
            Self::List(items) if items.is_empty() => out.push(format!("{indent}{before}[]{after}")),
            Self::Object(fields) if fields.is_empty() => out.push(format!("{indent}{before}{{}}{after}")),
            Self::List(items) => {
                out.push(format!("{indent}{before}["));
                for (index, item) in items.iter().enumerate() {
                    item.push_lines(depth + 1, "", comma(index, items.len()), out);
                }
                out.push(format!("{indent}]{after}"));
            }
            Self::Object(fields) => {
                out.push(format!("{indent}{before}{{"));
                for (index, (name, value)) in fields.iter().enumerate() {
                    value.push_lines(depth + 1, &format!("{}: ", quoted(name)), comma(index, fields.len()), out);
                }
                out.push(format!("{indent}}}{after}"));
            }
        }
    }
}

/// Text as Go's encoder quotes it: HTML is escaped.
fn quoted(text: &str) -> String {
    let plain = Value::from(text).to_string();
    if !plain.contains(['<', '>', '&', '\u{2028}', '\u{2029}', '\u{7f}']) {
        return plain;
    }
    let mut out = String::with_capacity(plain.len() + 16);
    for c in plain.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                // Writing to a string cannot fail.
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            other => out.push(other),
        }
    }
    out
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Shape {
    One,
    Slice,
    Map,
}

#[derive(Clone, Copy, Debug)]
struct FieldType {
    /// The value stands in the object around this one.
    lifted: bool,
    pointer: bool,
    shape: Shape,
    base: &'static str,
}

impl FieldType {
    fn parse(text: &'static str) -> Self {
        let (text, lifted) = text.strip_prefix('^').map_or((text, false), |rest| (rest, true));
        let (text, pointer) = text.strip_prefix('*').map_or((text, false), |rest| (rest, true));
        let (base, shape) = match (text.strip_prefix("[]"), text.strip_prefix("{}")) {
            (Some(base), _) => (base, Shape::Slice),
            (_, Some(base)) => (base, Shape::Map),
            _ => (text, Shape::One),
        };
        Self { lifted, pointer, shape, base }
    }
}

#[derive(Clone, Debug)]
enum Member {
    /// Fields of another struct among these; `within`: the JSON field that holds them.
    Embedded {
        base: &'static str,
        within: Option<&'static str>,
    },
    Field {
        name: &'static str,
        json: String,
        kind: FieldType,
        tagged: bool,
        always: bool,
    },
}

static TYPES: LazyLock<HashMap<&'static str, Vec<Member>>> = LazyLock::new(|| {
    let mut types: HashMap<&'static str, Vec<Member>> = HashMap::new();
    let mut current: &'static str = "";
    for line in include_str!("../data/internal-types.txt").lines().filter(|line| !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('=') {
            current = name;
            types.entry(current).or_default();
            continue;
        }
        let member = if let Some(embedded) = line.strip_prefix('<') {
            let (base, within) = embedded.split_once('=').map_or((embedded, None), |(base, within)| (base, Some(within)));
            Member::Embedded { base, within }
        } else {
            let Some((name, kind)) = line.split_once(' ') else { continue };
            let (name, json) = name.split_once('=').map_or((name, None), |(name, json)| (name, Some(json)));
            let (name, always) = name.strip_suffix('!').map_or((name, false), |name| (name, true));
            let json = json.map_or_else(|| json_name(name), str::to_owned);
            let tagged = name.starts_with(|c: char| c.is_ascii_lowercase());
            Member::Field { name, json, kind: FieldType::parse(kind), tagged, always }
        };
        types.entry(current).or_default().push(member);
    }
    types
});

/// The JSON name of a Go field by the usual rule: a leading run of capitals goes to lower case, but for one that starts a word.
fn json_name(name: &str) -> String {
    let run = name.chars().take_while(char::is_ascii_uppercase).count();
    let lower = if run == name.len() { run } else { run.saturating_sub(1).max(usize::from(run > 0)) };
    name[..lower].to_ascii_lowercase() + &name[lower..]
}

fn one_of(kind: &FieldType, value: &Value, parent: &Value) -> Shown {
    match kind.shape {
        Shape::Slice => match value.as_array() {
            Some(items) => Shown::List(items.iter().map(|item| single(kind.base, item, parent)).collect()),
            None => null(),
        },
        Shape::Map => match value.as_object() {
            Some(_) => {
                let mut entries: Vec<(String, Shown)> = value
                    .as_object()
                    .into_iter()
                    .flatten()
                    .map(|(key, value)| (key.clone(), single(kind.base, value, parent)))
                    .collect();
                entries.sort_by(|a, b| a.0.cmp(&b.0));
                Shown::Object(entries)
            }
            None => null(),
        },
        Shape::One if kind.pointer && value.is_null() => null(),
        Shape::One => single(kind.base, value, parent),
    }
}

fn null() -> Shown {
    Shown::Leaf("null".to_owned())
}

fn single(base: &'static str, value: &Value, parent: &Value) -> Shown {
    match base {
        "string" => Shown::Leaf(quoted(value.as_str().unwrap_or(""))),
        "int" => Shown::Leaf(value.as_i64().unwrap_or(0).to_string()),
        "bool" => Shown::Leaf(value.as_bool().unwrap_or(false).to_string()),
        "quantity" => Shown::Leaf(value.as_str().map_or_else(|| "\"0\"".to_owned(), quoted)),
        "intstr" => Shown::Leaf(value.as_str().map_or_else(|| value.as_i64().unwrap_or(0).to_string(), quoted)),
        "raw" => Shown::Leaf(value.to_string()),
        base => {
            let mut fields = Vec::new();
            members(base, value, parent, &mut fields);
            Shown::Object(fields)
        }
    }
}

fn members(base: &str, value: &Value, parent: &Value, out: &mut Vec<(String, Shown)>) {
    for member in TYPES.get(base).into_iter().flatten() {
        match member {
            Member::Embedded { base, within: Some(within) } => members(base, value.at(within), value, out),
            Member::Embedded { base, within: None } => members(base, value, parent, out),
            Member::Field { name, json, kind, tagged, always } => {
                let field = if kind.lifted { parent.at(json) } else { value.at(json) };
                if *tagged && !always && is_empty(field) {
                    continue;
                }
                out.push(((*name).to_owned(), one_of(kind, field, value)));
            }
        }
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(truth) => !truth,
        Value::String(text) => text.is_empty(),
        Value::Number(number) => number.as_i64() == Some(0),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn json_names_follow_go_names() {
        for (name, json) in [
            ("DNSPolicy", "dnsPolicy"),
            ("TTY", "tty"),
            ("Name", "name"),
            ("HostIP", "hostIP"),
            ("SELinuxOptions", "seLinuxOptions"),
            ("ISCSIInterface", "iscsiInterface"),
            ("FSType", "fsType"),
            ("matchLabels", "matchLabels"),
        ] {
            assert_eq!(json_name(name), json);
        }
    }

    #[test]
    fn all_types_are_there_and_every_name_is_a_field_of_the_published_type() {
        let scalars = ["string", "int", "bool", "quantity", "intstr", "raw"];
        for (owner, members) in TYPES.iter() {
            for member in members {
                let base = match member {
                    Member::Embedded { base, .. } => base,
                    Member::Field { kind, .. } => kind.base,
                };
                assert!(scalars.contains(&base) || TYPES.contains_key(base), "{owner} has a {base}");
            }
        }
        for group in ["core", "batch", "policy", "rbac", "storage"] {
            for (owner, members) in TYPES.iter() {
                let Some(schema) = api::schema::Schema::definition(&format!("io.k8s.api.{group}.v1.{owner}")) else { continue };
                let api::schema::Type::Struct(id) = schema.root() else { continue };
                for member in members {
                    if let Member::Field { json, kind, .. } = member
                        && !kind.lifted
                    {
                        assert!(schema.table().get(id).field(json).is_some(), "{owner} has no {json}");
                    }
                }
            }
        }
    }

    #[test]
    fn everything_is_printed_under_gos_names() {
        assert_eq!(
            compact("RoleRef", &json!({"apiGroup": "rbac.authorization.k8s.io", "name": "a<b"})),
            r#"{"APIGroup":"rbac.authorization.k8s.io","Kind":"","Name":"a\u003cb"}"#
        );
        let budget = json!({"minAvailable": "50%", "selector": {"matchLabels": {"a": "b"}}});
        assert_eq!(
            compact("PodDisruptionBudgetSpec", &budget),
            r#"{"MinAvailable":"50%","Selector":{"matchLabels":{"a":"b"}},"MaxUnavailable":null,"UnhealthyPodEvictionPolicy":null}"#
        );
        let pod = json!({"hostNetwork": true, "securityContext": {"runAsUser": 5}});
        let text = compact("PodSpec", &pod);
        assert!(text.contains(r#""SecurityContext":{"HostNetwork":true,"HostPID":false,"#), "{text}");
        let template = json!({"metadata": {"labels": {"a": "b"}}});
        assert!(compact("PodTemplateSpec", &template).starts_with(r#"{"labels":{"a":"b"},"Spec":{"Volumes":null,"#));
    }
}

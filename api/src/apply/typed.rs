//! Values seen through the schema as server-side apply sees them: what is a leaf, and how list elements are named.

use serde_json::{Map, Value};

use super::fields::{self, Set};
use crate::schema::{Field, Flags, ListKind, Schema, Table, Type};

/// A place in the schema.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    pub(super) table: &'a Table,
    pub(super) kind: Type,
    field: Option<&'a Field>,
}

/// What a place is for apply.
pub(super) enum Shape<'a> {
    /// One value.
    Leaf,
    /// Named fields or map entries.
    Map,
    /// Elements that are their own keys.
    Set,
    /// Elements named by these fields.
    Keyed(&'a Field),
}

impl<'a> At<'a> {
    pub(super) fn root(schema: &'a Schema) -> Self {
        Self { table: schema.table(), kind: schema.root(), field: None }
    }

    pub(super) fn shape(self) -> Shape<'a> {
        let atomic = self.field.is_some_and(|field| field.flags.has(Flags::ATOMIC));
        match self.kind {
            Type::Struct(id) if atomic || self.table.get(id).atomic => Shape::Leaf,
            Type::Struct(_) => Shape::Map,
            Type::Map(_) if atomic => Shape::Leaf,
            Type::Map(_) => Shape::Map,
            Type::List(_) => match self.field {
                Some(field) if field.list == ListKind::Set => Shape::Set,
                Some(field) if field.list == ListKind::Map && !field.keys.is_empty() => Shape::Keyed(field),
                _ => Shape::Leaf,
            },
            _ => Shape::Leaf,
        }
    }

    /// The member of this name of a struct or map; `None` for a field that the schema does not have.
    pub(super) fn member(self, name: &str) -> Option<Self> {
        match self.kind {
            Type::Struct(id) => {
                let field = self.table.get(id).field(name)?;
                Some(Self { kind: field.kind, field: Some(field), ..self })
            }
            Type::Map(id) => Some(Self { kind: self.table.element(id), field: None, ..self }),
            _ => None,
        }
    }

    /// Elements of a list.
    pub(super) fn element(self) -> Self {
        let kind = if let Type::List(id) = self.kind { self.table.element(id) } else { Type::Any };
        Self { kind, field: None, ..self }
    }

    /// Whether the name is a declared field (not a map entry).
    fn declares(self, name: &str) -> bool {
        matches!(self.kind, Type::Struct(id) if self.table.get(id).field(name).is_some())
    }

    /// The key of a list element in a field set (`k:{"name":"c"}`, `v:"x"`).
    pub(super) fn element_key(self, value: &Value) -> Result<String, String> {
        match self.shape() {
            Shape::Keyed(field) => {
                let Value::Object(map) = value else {
                    return Err(format!(
                        "associative list with keys may not have {}",
                        if value.is_null() { "a null element" } else { "non-map elements" }
                    ));
                };
                let mut keys = Map::new();
                for name in &field.keys {
                    if let Some(value) = map.get(name.as_ref()) {
                        keys.insert(name.clone().into_owned(), value.clone());
                    } else if let Some(default) = self.key_default(name) {
                        keys.insert(name.clone().into_owned(), default);
                    }
                }
                if keys.is_empty() {
                    let names: Vec<_> = field.keys.iter().map(|name| format!("{name:?}")).collect();
                    return Err(format!(
                        "associative list with keys has an element that omits all key fields [{}] (and doesn't have default values for any key fields)",
                        names.join(" ")
                    ));
                }
                Ok(format!("k:{}", Value::Object(keys)))
            }
            _ => match value {
                Value::Object(_) => Err("associative list without keys has an element that's a map type".to_owned()),
                Value::Array(_) => Err("not supported: associative list with lists as elements".to_owned()),
                Value::Null => Err("associative list without keys has an element that's an explicit null".to_owned()),
                value => Ok(format!("v:{value}")),
            },
        }
    }

    fn key_default(self, name: &str) -> Option<Value> {
        let field = self.element().member(name)?.field?;
        if !field.default.is_empty() {
            return serde_json::from_str(&field.default).ok();
        }
        // Fields that Go always prints default to their zero value.
        let printed = !field.flags.has(Flags::POINTER) && !field.flags.has(Flags::OMIT_EMPTY);
        match field.kind {
            Type::String if printed => Some(Value::String(String::new())),
            Type::Int32 | Type::Int64 if printed => Some(0.into()),
            _ => None,
        }
    }
}

/// Equal as apply compares: numbers by value.
pub(super) fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|((x, a), (y, b))| x == y && same(a, b))
        }
        _ => a == b,
    }
}

/// All fields that an applied object sets.
pub(super) fn field_set(at: At<'_>, value: &Value) -> Set {
    let mut out = Set::new();
    match (at.shape(), value) {
        (Shape::Map, Value::Object(map)) => {
            for (name, value) in map {
                let Some(member) = at.member(name) else { continue };
                let declared = at.declares(name);
                let empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
                // A missing sub-set is no member, unless the place is a leaf or an entry of a map.
                let node = match member.shape() {
                    Shape::Leaf => Some(fields::leaf()),
                    _ => {
                        let below = field_set(member, value);
                        if empty || !declared { Some(fields::member(below)) } else { (!below.is_empty()).then_some(below) }
                    }
                };
                if let Some(node) = node {
                    out.insert(format!("f:{name}"), Value::Object(node));
                }
            }
        }
        (Shape::Set | Shape::Keyed(_), Value::Array(list)) => {
            for value in list {
                if let Ok(key) = at.element_key(value) {
                    let below = field_set(at.element(), value);
                    out.insert(key, Value::Object(fields::member(below)));
                }
            }
        }
        _ => {}
    }
    out
}

/// Makes every declared field on the way to a member a member itself.
pub(super) fn name_members(at: At<'_>, set: &mut Set) {
    for key in fields::keys(set) {
        let below = match key.strip_prefix("f:") {
            Some(name) => {
                if at.declares(name) {
                    fields::mark(set, &key);
                }
                at.member(name)
            }
            None => Some(at.element()),
        };
        if let (Some(below), Some(node)) = (below, set.get_mut(&key).and_then(Value::as_object_mut)) {
            let self_key = node.remove(".");
            let was_leaf = node.is_empty();
            name_members(below, node);
            if let (Some(value), false) = (self_key, was_leaf) {
                node.insert(".".to_owned(), value);
            }
        }
    }
}

/// Whether an applied object fits the schema.
///
/// # Errors
/// Upstream's text: one error plain, several as a list.
pub(super) fn validate(at: At<'_>, value: &Value) -> Result<(), String> {
    let mut errors = Vec::new();
    check(at, value, &mut String::new(), &mut errors);
    match errors.len() {
        0 => Ok(()),
        1 => Err(errors.remove(0)),
        _ => Err(errors.iter().fold("errors:".to_owned(), |text, error| format!("{text}\n  {error}"))),
    }
}

fn check(at: At<'_>, value: &Value, path: &mut String, errors: &mut Vec<String>) {
    if value.is_null() {
        return;
    }
    let told = |path: &str, message: String| if path.is_empty() { message } else { format!("{path}: {message}") };
    match at.kind {
        Type::Struct(_) | Type::Map(_) => {
            let Value::Object(map) = value else {
                errors.push(told(path, format!("expected map, got {}", go_value(value))));
                return;
            };
            for (name, value) in map {
                let mark = path.len();
                path.push('.');
                path.push_str(name);
                match at.member(name) {
                    Some(member) => check(member, value, path, errors),
                    None => {
                        let known = if let Type::Struct(id) = at.kind { &at.table.get(id).fields[..] } else { &[] };
                        let hint = crate::schema::nearest(name, known.iter().map(|field| field.name.as_ref()));
                        let hint = hint.map_or_else(String::new, |hint| format!(" (did you mean {hint:?}?)"));
                        errors.push(format!("{path}: field not declared in schema{hint}"));
                    }
                }
                path.truncate(mark);
            }
        }
        Type::List(_) => {
            let Value::Array(list) = value else {
                errors.push(told(path, format!("expected list, got {}", go_value(value))));
                return;
            };
            let keyed = matches!(at.shape(), Shape::Set | Shape::Keyed(_));
            let mut seen = std::collections::HashSet::new();
            for (index, value) in list.iter().enumerate() {
                if keyed {
                    match at.element_key(value) {
                        Err(message) => {
                            errors.push(told(path, format!("element {index}: {message}")));
                            return;
                        }
                        Ok(key) => {
                            if !seen.insert(key.clone()) {
                                let shown = fields::print(std::slice::from_ref(&key));
                                errors.push(told(path, format!("duplicate entries for key {shown}")));
                            }
                        }
                    }
                }
                let mark = path.len();
                path.push_str(&format!("[{index}]"));
                check(at.element(), value, path, errors);
                path.truncate(mark);
            }
        }
        Type::String | Type::Bytes | Type::Time | Type::MicroTime | Type::Duration if !value.is_string() => {
            errors.push(told(path, format!("expected string, got {}", go_value(value))));
        }
        Type::Bool if !value.is_boolean() => errors.push(told(path, format!("expected boolean, got {}", go_value(value)))),
        Type::Int32 | Type::Int64 | Type::Double if !value.is_number() => {
            errors.push(told(path, format!("expected numeric (int or float), got {}", go_value(value))));
        }
        _ => {}
    }
}

fn go_value(value: &Value) -> String {
    match value {
        Value::Object(_) => format!("&{{{}}}", crate::patch::go_print(value)),
        Value::Array(_) => format!("&{{{}}}", crate::patch::go_print(value)),
        other => format!("&value.valueUnstructured{{Value:{}}}", other),
    }
}

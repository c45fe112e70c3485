//! Reading and filling JSON trees with Go's rules: absent, null and empty are the same thing.

use serde_json::{Map, Value};

const NULL: Value = Value::Null;

/// Reads and edits by field name; total on any shape.
pub trait Tree {
    /// The field, or null.
    fn at(&self, key: &str) -> &Value;
    /// The field at a dotted path, or null.
    fn path(&self, path: &str) -> &Value;
    /// The field as text, or empty.
    fn text(&self, key: &str) -> &str;
    /// The field as an integer.
    fn int(&self, key: &str) -> Option<i64>;
    /// Whether the field is `true`.
    fn truth(&self, key: &str) -> bool;
    /// Whether the field is there and not null.
    fn has(&self, key: &str) -> bool;
    /// The elements of a list field, or none.
    fn items(&self, key: &str) -> &[Value];
    /// The entries of a map field, or none.
    fn entries(&self, key: &str) -> Vec<(&str, &Value)>;
    /// The number of elements or entries of the field.
    fn len_of(&self, key: &str) -> usize;

    /// Sets the field; makes this an object if it is none.
    fn set(&mut self, key: &str, value: impl Into<Value>);
    /// Sets the field unless it is there.
    fn fill(&mut self, key: &str, value: impl Into<Value>);
    /// Sets a text field unless it is there and not empty.
    fn fill_text(&mut self, key: &str, value: &str);
    /// Sets a numeric field unless it is there and not zero.
    fn fill_int(&mut self, key: &str, value: i64);
    /// Drops the field.
    fn drop(&mut self, key: &str);
    /// The field, made an object if absent.
    fn child(&mut self, key: &str) -> &mut Value;
    /// The field, if it is there.
    fn child_if(&mut self, key: &str) -> Option<&mut Value>;
    /// The elements of a list field to edit, or none.
    fn items_mut(&mut self, key: &str) -> &mut [Value];
    /// Copies the field from another tree; drops it where that has none.
    fn keep(&mut self, key: &str, from: &Value);
}

impl Tree for Value {
    fn at(&self, key: &str) -> &Value {
        self.get(key).unwrap_or(&NULL)
    }

    fn path(&self, path: &str) -> &Value {
        path.split('.').fold(self, |value, key| value.at(key))
    }

    fn text(&self, key: &str) -> &str {
        self.at(key).as_str().unwrap_or("")
    }

    fn int(&self, key: &str) -> Option<i64> {
        self.at(key).as_i64()
    }

    fn truth(&self, key: &str) -> bool {
        self.at(key).as_bool().unwrap_or(false)
    }

    fn has(&self, key: &str) -> bool {
        !self.at(key).is_null()
    }

    fn items(&self, key: &str) -> &[Value] {
        self.at(key).as_array().map_or(&[], Vec::as_slice)
    }

    fn entries(&self, key: &str) -> Vec<(&str, &Value)> {
        let mut out: Vec<(&str, &Value)> = self
            .at(key)
            .as_object()
            .map(|map| map.iter().map(|(key, value)| (key.as_str(), value)).collect())
            .unwrap_or_default();
        out.sort_by_key(|(key, _)| *key);
        out
    }

    fn len_of(&self, key: &str) -> usize {
        match self.at(key) {
            Value::Array(list) => list.len(),
            Value::Object(map) => map.len(),
            _ => 0,
        }
    }

    fn set(&mut self, key: &str, value: impl Into<Value>) {
        if !self.is_object() {
            *self = Value::Object(Map::new());
        }
        if let Value::Object(map) = self {
            map.insert(key.to_owned(), value.into());
        }
    }

    fn fill(&mut self, key: &str, value: impl Into<Value>) {
        if !self.has(key) {
            self.set(key, value);
        }
    }

    fn fill_text(&mut self, key: &str, value: &str) {
        if self.text(key).is_empty() && (self.at(key).is_null() || self.at(key).is_string()) {
            self.set(key, value);
        }
    }

    fn fill_int(&mut self, key: &str, value: i64) {
        if !self.has(key) || self.int(key) == Some(0) {
            self.set(key, value);
        }
    }

    fn drop(&mut self, key: &str) {
        if let Value::Object(map) = self {
            map.remove(key);
        }
    }

    fn child(&mut self, key: &str) -> &mut Value {
        if !self.at(key).is_object() {
            self.set(key, Value::Object(Map::new()));
        }
        &mut self[key]
    }

    fn child_if(&mut self, key: &str) -> Option<&mut Value> {
        self.get_mut(key).filter(|value| !value.is_null())
    }

    fn items_mut(&mut self, key: &str) -> &mut [Value] {
        self.get_mut(key).and_then(Value::as_array_mut).map_or(&mut [], Vec::as_mut_slice)
    }

    fn keep(&mut self, key: &str, from: &Value) {
        match from.at(key) {
            Value::Null => self.drop(key),
            value => self.set(key, value.clone()),
        }
    }
}

/// Equality as Go's `Semantic.DeepEqual` has it on canonical objects: absent, null and empty lists are equal; an empty object may be a
/// pointer that is set, and differs from none.
pub fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            x.iter().all(|(key, value)| same(value, y.get(key).unwrap_or(&NULL)))
                && y.iter().all(|(key, value)| x.contains_key(key) || hollow(value))
        }
        (Value::Array(x), Value::Array(y)) => x.len() == y.len() && x.iter().zip(y).all(|(x, y)| same(x, y)),
        _ => a == b || (hollow(a) && hollow(b)),
    }
}

fn hollow(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}

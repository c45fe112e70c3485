//! Field paths and the errors that validation reports on them, in upstream's words.
//!
//! Upstream: apimachinery/pkg/util/validation/field

use std::fmt;

use serde_json::{Value, json};

/// A path to a field: `spec.containers[0].ports[1].name`, `metadata.labels[app]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path(String);

impl Path {
    /// The path of a top-level field.
    pub fn new(name: &str) -> Self {
        Self(name.to_owned())
    }

    /// The empty path: the object itself.
    pub fn root() -> Self {
        Self::default()
    }

    /// The field `name` (or a dotted run of them) below this one.
    pub fn child(&self, name: &str) -> Self {
        if self.0.is_empty() { Self(name.to_owned()) } else { Self(format!("{}.{name}", self.0)) }
    }

    /// The element `index` of this list.
    pub fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    /// The element `key` of this map.
    pub fn key(&self, key: &str) -> Self {
        Self(format!("{}[{key}]", self.0))
    }

    /// The path as text; `<nil>` where it is empty, as upstream prints it.
    pub fn as_str(&self) -> &str {
        if self.0.is_empty() { "<nil>" } else { &self.0 }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The kind of a [`FieldError`]; its text is the `reason` of a status cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorType {
    /// A needed value is absent.
    Required,
    /// The value is malformed.
    Invalid,
    /// The value is not one of an enumeration.
    NotSupported,
    /// The value may not be given (here, or by this user).
    Forbidden,
    /// The value stands twice where it must be unique.
    Duplicate,
    /// A referenced thing does not exist.
    NotFound,
    /// The value is too long (text, bytes).
    TooLong,
    /// The list or map has too many elements.
    TooMany,
    /// The value has the wrong type.
    TypeInvalid,
    /// Something else failed.
    Internal,
}

impl ErrorType {
    /// The cause reason of the wire: `FieldValueRequired`, …
    pub fn reason(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::Duplicate => "FieldValueDuplicate",
            Self::NotFound => "FieldValueNotFound",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::Internal => "InternalError",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Required => "Required value",
            Self::Invalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::Duplicate => "Duplicate value",
            Self::NotFound => "Not found",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::TypeInvalid => "Invalid value",
            Self::Internal => "Internal error",
        }
    }
}

/// One error on one field.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    /// What is wrong.
    pub kind: ErrorType,
    /// Where.
    pub field: String,
    /// The value as given; not printed for `Required`, `Forbidden`, `TooLong`, `TooMany`, `Internal`.
    pub value: Value,
    /// What to do, in upstream's words.
    pub detail: String,
    /// The value as upstream prints it, where that is not `value` as JSON (Go structs). Empty: no value is printed.
    pub shown: Option<String>,
}

impl FieldError {
    /// The message without the field: `Invalid value: "x": must be …`.
    pub fn body(&self) -> String {
        let text = self.kind.text();
        let mut out = match self.kind {
            ErrorType::Required | ErrorType::Forbidden | ErrorType::TooLong | ErrorType::Internal => text.to_owned(),
            _ => match self.shown.as_deref() {
                Some("") => text.to_owned(),
                Some(shown) => format!("{text}: {shown}"),
                None => format!("{text}: {}", go_value(&self.value)),
            },
        };
        if !self.detail.is_empty() {
            out.push_str(": ");
            out.push_str(&self.detail);
        }
        out
    }

    /// The element of `status.details.causes`.
    pub fn cause(&self) -> Value {
        json!({"reason": self.kind.reason(), "message": self.body(), "field": self.field})
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

/// A value as upstream's errors print it: text quoted, numbers and booleans plain, the rest as compact JSON.
fn go_value(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::String(text) => format!("{text:?}"),
        other => other.to_string(),
    }
}

/// The errors of one validation, in the order found.
#[derive(Clone, Debug, Default)]
pub struct Errors(pub Vec<FieldError>);

impl Errors {
    /// No errors yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an error of any kind.
    pub fn add(&mut self, kind: ErrorType, path: &Path, value: impl Into<Value>, detail: impl Into<String>) {
        self.0.push(FieldError {
            kind,
            field: path.as_str().to_owned(),
            value: value.into(),
            detail: detail.into(),
            shown: None,
        });
    }

    /// Adds an error whose value upstream prints in a form of its own; empty: without value.
    pub fn add_shown(&mut self, kind: ErrorType, path: &Path, shown: impl Into<String>, detail: impl Into<String>) {
        self.0.push(FieldError {
            kind,
            field: path.as_str().to_owned(),
            value: Value::Null,
            detail: detail.into(),
            shown: Some(shown.into()),
        });
    }

    /// A needed value is absent.
    pub fn required(&mut self, path: &Path, detail: impl Into<String>) {
        self.add(ErrorType::Required, path, "", detail);
    }

    /// The value is malformed.
    pub fn invalid(&mut self, path: &Path, value: impl Into<Value>, detail: impl Into<String>) {
        self.add(ErrorType::Invalid, path, value, detail);
    }

    /// The value may not be given.
    pub fn forbidden(&mut self, path: &Path, detail: impl Into<String>) {
        self.add(ErrorType::Forbidden, path, "", detail);
    }

    /// The value stands twice.
    pub fn duplicate(&mut self, path: &Path, value: impl Into<Value>) {
        self.add(ErrorType::Duplicate, path, value, "");
    }

    /// The value is not one of `allowed` (printed sorted and quoted, as upstream does).
    pub fn not_supported(&mut self, path: &Path, value: impl Into<Value>, allowed: &[&str]) {
        let mut allowed: Vec<_> = allowed.iter().map(|value| format!("{value:?}")).collect();
        allowed.sort();
        let detail = if allowed.is_empty() { String::new() } else { format!("supported values: {}", allowed.join(", ")) };
        self.add(ErrorType::NotSupported, path, value, detail);
    }

    /// The same with `allowed` printed in the given order, where upstream does not sort.
    pub fn not_one_of(&mut self, path: &Path, value: impl Into<Value>, allowed: &[&str]) {
        let allowed: Vec<_> = allowed.iter().map(|value| format!("{value:?}")).collect();
        self.add(ErrorType::NotSupported, path, value, format!("supported values: {}", allowed.join(", ")));
    }

    /// The thing named does not exist.
    pub fn not_found(&mut self, path: &Path, value: impl Into<Value>) {
        self.add(ErrorType::NotFound, path, value, "");
    }

    /// More than `max` elements where there are `count`.
    pub fn too_many(&mut self, path: &Path, count: usize, max: usize) {
        self.add(ErrorType::TooMany, path, count, format!("must have at most {max} {}", if max == 1 { "item" } else { "items" }));
    }

    /// Text longer than `max` bytes.
    pub fn too_long(&mut self, path: &Path, max: usize) {
        self.add(ErrorType::TooLong, path, "", format!("may not be more than {max} bytes"));
    }

    /// Appends all of `other`.
    pub fn extend(&mut self, other: Errors) {
        self.0.extend(other.0);
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All messages as one: alone as it is, several as `[a, b]` without repeats, as upstream's aggregate prints them.
    pub fn message(&self) -> String {
        let mut seen: Vec<String> = Vec::new();
        for error in &self.0 {
            let text = error.to_string();
            if !seen.contains(&text) {
                seen.push(text);
            }
        }
        if seen.len() == 1 { seen.remove(0) } else { format!("[{}]", seen.join(", ")) }
    }
}

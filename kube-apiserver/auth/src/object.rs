//! Short reads of object trees.

use jiff::Timestamp;
use serde_json::Value;

/// The text at a JSON pointer, or "".
pub(crate) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

/// The elements of the list at a JSON pointer; none where it is absent.
pub(crate) fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The texts of the list at a JSON pointer.
pub(crate) fn texts(value: &Value, pointer: &str) -> Vec<String> {
    list(value, pointer).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// `metadata.uid`.
pub(crate) fn uid(value: &Value) -> &str {
    text(value, "/metadata/uid")
}

/// When the object was marked for deletion.
pub(crate) fn deleted_at(value: &Value) -> Option<Timestamp> {
    text(value, "/metadata/deletionTimestamp").parse().ok()
}

/// Texts as Go prints a quoted slice: `["a" "b"]`.
pub(crate) fn quoted<S: AsRef<str>>(texts: &[S]) -> String {
    let inner: Vec<String> = texts.iter().map(|text| format!("{:?}", text.as_ref())).collect();
    format!("[{}]", inner.join(" "))
}

/// Several errors as upstream prints an aggregate: one alone, several as `[a, b]`, repeats dropped.
pub(crate) fn aggregate(errors: &[String]) -> String {
    let mut seen: Vec<&str> = Vec::new();
    for error in errors {
        if !seen.contains(&error.as_str()) {
            seen.push(error);
        }
    }
    match seen.as_slice() {
        [one] => (*one).to_owned(),
        many => format!("[{}]", many.join(", ")),
    }
}

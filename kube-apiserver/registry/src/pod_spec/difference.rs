//! The difference between two pod specs as upstream's error shows it.

use serde_json::Value;

/// Changed parts.
pub fn between(_before: &Value, _after: &Value) -> String {
    String::new()
}

/// A template as the error about an immutable one shows it.
pub fn template(template: &Value) -> String {
    template.to_string()
}

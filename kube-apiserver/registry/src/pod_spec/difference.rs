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

/// Changed parts of a volume's source.
pub fn persistent_volume_source(_before: &Value, _after: &Value) -> String {
    String::new()
}

/// Changed parts of a claim's spec.
pub fn claim_spec(_before: &Value, _after: &Value) -> String {
    String::new()
}

/// A disruption budget's spec.
pub fn disruption_budget(spec: &Value) -> String {
    spec.to_string()
}

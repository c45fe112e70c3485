//! What the schema of a custom resource must be like: structural, with defaults that fit.
//!
//! Upstream: apiextensions-apiserver/pkg/apiserver/schema/validation.go, pkg/apis/apiextensions/validation

use api::field::{ErrorType, Errors, Path};
use serde_json::Value;

use crate::tree::Tree;

const TYPES: &[&str] = &["array", "boolean", "integer", "number", "object", "string"];
/// Parts of JSON schema that have no place in a structural one.
const FORBIDDEN: &[&str] = &["$ref", "$schema", "definitions", "dependencies", "id", "patternProperties"];
/// Deeper schemas are not looked into; decoding bounds the depth of what arrives here.
const MOST_LEVELS: usize = 200;

/// Checks `openAPIV3Schema`; `with_status`: whether the status subresource is on.
pub(super) fn validate(schema: &Value, path: &Path, with_status: bool, errors: &mut Errors) {
    let kind = schema.text("type");
    if with_status && !matches!(kind, "" | "object") {
        let why = "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
        errors.invalid(&path.child("type"), kind, why);
    }
    let mut structure = Errors::new();
    let mut values = Errors::new();
    if kind.is_empty() {
        structure.required(&path.child("type"), "must not be empty at the root");
    } else if kind != "object" {
        structure.invalid(&path.child("type"), kind, "must be object at the root");
    }
    node(schema, path, 0, &mut structure, &mut values);
    errors.extend(structure);
    errors.extend(values);
}

fn node(schema: &Value, path: &Path, level: usize, structure: &mut Errors, values: &mut Errors) {
    if level > MOST_LEVELS {
        return;
    }
    for field in FORBIDDEN {
        if schema.has(field) {
            structure.forbidden(&path.child(field), format!("{field} is not supported"));
        }
    }
    if schema.truth("uniqueItems") {
        let why = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        structure.forbidden(&path.child("uniqueItems"), why);
    }
    let additional = schema.at("additionalProperties");
    if additional == &Value::Bool(false) {
        structure.forbidden(&path.child("additionalProperties"), "additionalProperties cannot be set to false");
    }
    if !additional.is_null() && schema.len_of("properties") > 0 {
        let why = "additionalProperties and properties are mutual exclusive";
        structure.forbidden(&path.child("additionalProperties"), why);
    }
    let kind = schema.text("type");
    if kind == "array" && !schema.has("items") {
        structure.required(&path.child("items"), "must be specified");
    }
    if schema.truth("x-kubernetes-int-or-string") && !kind.is_empty() {
        structure.invalid(&path.child("type"), kind, "must be empty if x-kubernetes-int-or-string is true");
    }
    if schema.truth("x-kubernetes-embedded-resource") && kind != "object" {
        structure.invalid(&path.child("type"), kind, "must be object if x-kubernetes-embedded-resource is true");
    }
    if schema.has("default") {
        default(schema.at("default"), kind, &path.child("default"), values);
    }
    if !kind.is_empty() && !TYPES.contains(&kind) {
        values.not_supported(&path.child("type"), kind, TYPES);
    }
    for (index, rule) in schema.items("x-kubernetes-validations").iter().enumerate() {
        let path = path.child("x-kubernetes-validations").index(index);
        if rule.text("rule").trim().is_empty() {
            structure.required(&path.child("rule"), "rule is not specified");
        } else {
            crate::cel::check(rule.text("rule"), &path.child("rule"), structure);
        }
        if !rule.text("messageExpression").trim().is_empty() {
            crate::cel::check(rule.text("messageExpression"), &path.child("messageExpression"), structure);
        }
    }
    for (name, property) in schema.entries("properties") {
        let path = path.child("properties").key(name);
        typed(property, &path, "must not be empty for specified object fields", structure);
        node(property, &path, level + 1, structure, values);
    }
    if additional.is_object() {
        let path = path.child("additionalProperties");
        typed(additional, &path, "must not be empty for specified object fields", structure);
        node(additional, &path, level + 1, structure, values);
    }
    if schema.at("items").is_object() {
        let path = path.child("items");
        typed(schema.at("items"), &path, "must not be empty for specified array items", structure);
        node(schema.at("items"), &path, level + 1, structure, values);
    }
}

fn typed(schema: &Value, path: &Path, why: &str, structure: &mut Errors) {
    let free = schema.truth("x-kubernetes-int-or-string") || schema.truth("x-kubernetes-preserve-unknown-fields");
    if schema.text("type").is_empty() && !free {
        structure.required(&path.child("type"), why);
    }
}

fn default(value: &Value, kind: &str, path: &Path, values: &mut Errors) {
    let actual = match value {
        Value::Null => return,
        Value::Bool(_) => "boolean",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
    };
    if kind.is_empty() || kind == actual || (kind == "number" && actual == "integer") {
        return;
    }
    values.add(ErrorType::TypeInvalid, path, actual, format!(" in body must be of type {kind}: {actual:?}"));
    if kind == "integer" && actual == "number" {
        values.invalid(path, "", "Checked value must be of type integer (default format) in ");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn complaints(schema: &Value) -> Vec<String> {
        let mut errors = Errors::new();
        validate(schema, &Path::new("s"), true, &mut errors);
        errors.0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_level_has_a_type() {
        let schema = json!({"type": "object", "properties": {
            "a": {"type": "array", "items": {"type": "string"}},
            "b": {"x-kubernetes-preserve-unknown-fields": true},
            "c": {"type": "integer", "default": 3},
        }});
        assert_eq!(complaints(&schema), Vec::<String>::new());
        for (schema, complaint) in [
            (json!({}), "s.type: Required value: must not be empty at the root"),
            (
                json!({"type": "array", "items": {"type": "string"}}),
                "s.type: Invalid value: \"array\": must be object at the root",
            ),
            (
                json!({"type": "object", "properties": {"a": {}}}),
                "s.properties[a].type: Required value: must not be empty for specified object fields",
            ),
            (
                json!({"type": "object", "properties": {"a": {"type": "array"}}}),
                "s.properties[a].items: Required value: must be specified",
            ),
            (
                json!({"type": "object", "properties": {"a": {"type": "integer", "default": "x"}}}),
                "s.properties[a].default: Invalid value: \"string\":  in body must be of type integer: \"string\"",
            ),
        ] {
            assert!(complaints(&schema).iter().any(|found| found == complaint), "{:?}", complaints(&schema));
        }
    }
}

//! ConfigMaps.
//!
//! Upstream: pkg/registry/core/configmap, ValidateConfigMap

use api::field::{Errors, Path};
use serde_json::Value;

use crate::column::{self, text};
use crate::identifier;
use crate::resource::{Context, Resource};
use crate::rules::Rules;
use crate::tree::{Tree, same};

/// Bytes of all values together. Upstream: MaxSecretSize, 1 MiB.
pub const MAX_BYTES: usize = 1024 * 1024;

/// Rules and columns of ConfigMaps.
pub fn build(resource: &mut Resource) {
    resource.strategy =
        Rules { validate: |_, object, errors| validate(object, errors), validate_update, ..Rules::GENERIC }.strategy();
    resource.columns = vec![
        column::name(),
        text("Data", DATA, |object, _| (object.len_of("data") + object.len_of("binaryData")).into()),
        column::age(),
    ];
}

const DATA: &str = "Data contains the configuration data. Each key must consist of alphanumeric characters, '-', '_' or '.'. Values with non-UTF-8 byte sequences must use the BinaryData field. The keys stored in Data must not overlap with the keys in the BinaryData field, this is enforced during validation process.";

fn validate(object: &Value, errors: &mut Errors) {
    let mut total = 0;
    for (key, value) in object.entries("data") {
        let path = Path::new("data").key(key);
        for message in identifier::config_key(key) {
            errors.invalid(&path, key, message);
        }
        if object.at("binaryData").has(key) {
            errors.invalid(&path, key, "duplicate of key present in binaryData");
        }
        total += value.as_str().map_or(0, str::len);
    }
    for (key, value) in object.entries("binaryData") {
        for message in identifier::config_key(key) {
            errors.invalid(&Path::new("binaryData").key(key), key, message);
        }
        total += decoded_len(value.as_str().unwrap_or(""));
    }
    if total > MAX_BYTES {
        errors.too_long(&Path::root(), MAX_BYTES);
    }
}

/// Bytes behind base64 text.
pub fn decoded_len(text: &str) -> usize {
    text.trim_end_matches('=').len() * 3 / 4
}

fn validate_update(_context: &Context, new: &Value, old: &Value, errors: &mut Errors) {
    immutable_data(new, old, &["data", "binaryData"], errors);
    validate(new, errors);
}

/// An object marked immutable keeps its data and its mark.
pub fn immutable_data(new: &Value, old: &Value, fields: &[&str], errors: &mut Errors) {
    if !old.truth("immutable") {
        return;
    }
    if !new.truth("immutable") {
        errors.forbidden(&Path::new("immutable"), "field is immutable when `immutable` is set");
    }
    for field in fields {
        if !same(new.at(field), old.at(field)) {
            errors.forbidden(&Path::new(field), "field is immutable when `immutable` is set");
        }
    }
}

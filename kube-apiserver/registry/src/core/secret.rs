//! Secrets.
//!
//! Upstream: pkg/registry/core/secret, ValidateSecret

use api::field::{Errors, Path};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::config_map::{MAX_BYTES, decoded_len, immutable_data};
use crate::column::{self, text};
use crate::identifier;
use crate::metadata::immutable;
use crate::resource::{Context, Resource};
use crate::rules::Rules;
use crate::tree::Tree;

/// Rules and columns of Secrets.
pub fn build(resource: &mut Resource) {
    resource.strategy = Rules {
        default,
        update: |_, new, old| {
            // Clients of old left the type out of updates.
            if new.text("type").is_empty() {
                new.keep("type", old);
            }
        },
        validate: |_, object, errors| validate(object, errors),
        validate_update,
        ..Rules::GENERIC
    }
    .strategy();
    resource.selectable = vec![("type", |object| object.text("type").to_owned())];
    resource.columns = vec![
        column::name(),
        text(
            "Type",
            "Used to facilitate programmatic handling of secret data. More info: https://kubernetes.io/docs/concepts/configuration/secret/#secret-types",
            |object, _| object.text("type").into(),
        ),
        text(
            "Data",
            "Data contains the secret data. Each key must consist of alphanumeric characters, '-', '_' or '.'. The serialized form of the secret data is a base64 encoded string, representing the arbitrary (possibly non-string) data value here. Described in https://tools.ietf.org/html/rfc4648#section-4",
            |object, _| object.len_of("data").into(),
        ),
        column::age(),
    ];
}

/// Plain `stringData` becomes `data`; the type is `Opaque` unless given.
fn default(object: &mut Value) {
    let plain = object.at("stringData").as_object().cloned().unwrap_or_default();
    for (key, value) in plain {
        let encoded = STANDARD.encode(value.as_str().unwrap_or(""));
        object.child("data").set(&key, encoded);
    }
    object.drop("stringData");
    object.fill_text("type", "Opaque");
}

fn validate(object: &Value, errors: &mut Errors) {
    let data = Path::new("data");
    let mut total = 0;
    for (key, value) in object.entries("data") {
        for message in identifier::config_key(key) {
            errors.invalid(&data.key(key), key, message);
        }
        total += decoded_len(value.as_str().unwrap_or(""));
    }
    if total > MAX_BYTES {
        errors.too_long(&data, MAX_BYTES);
    }
    let has = |key: &str| object.at("data").has(key);
    match object.text("type") {
        "kubernetes.io/service-account-token"
            if object.at("metadata").at("annotations").text("kubernetes.io/service-account.name").is_empty() =>
        {
            errors.required(&Path::new("metadata").child("annotations").key("kubernetes.io/service-account.name"), "");
        }
        "kubernetes.io/dockercfg" => json_document(object, ".dockercfg", errors),
        "kubernetes.io/dockerconfigjson" => json_document(object, ".dockerconfigjson", errors),
        "kubernetes.io/basic-auth" if !has("username") && !has("password") => {
            errors.required(&data.key("username"), "");
            errors.required(&data.key("password"), "");
        }
        "kubernetes.io/ssh-auth" if object.at("data").text("ssh-privatekey").is_empty() => {
            errors.required(&data.key("ssh-privatekey"), "");
        }
        "kubernetes.io/tls" => {
            for key in ["tls.crt", "tls.key"] {
                if !has(key) {
                    errors.required(&data.key(key), "");
                }
            }
        }
        _ => {}
    }
}

fn json_document(object: &Value, key: &str, errors: &mut Errors) {
    let path = Path::new("data").key(key);
    let Some(encoded) = object.at("data").at(key).as_str() else {
        errors.required(&path, "");
        return;
    };
    let bytes = STANDARD.decode(encoded).unwrap_or_default();
    if let Err(error) = serde_json::from_slice::<serde_json::Map<String, Value>>(&bytes) {
        let why = api::json::syntax_error(&bytes).unwrap_or_else(|| error.to_string());
        errors.invalid(&path, "<secret contents redacted>", why);
    }
}

fn validate_update(_context: &Context, new: &Value, old: &Value, errors: &mut Errors) {
    immutable(new.at("type"), old.at("type"), &Path::new("type"), errors);
    immutable_data(new, old, &["data"], errors);
    validate(new, errors);
}

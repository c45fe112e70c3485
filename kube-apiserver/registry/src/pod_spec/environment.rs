//! Environment variables and field selectors.
//!
//! Upstream: ValidateEnv, ValidateEnvFrom, validateObjectFieldSelector

use api::field::{Errors, Path};
use serde_json::Value;

use crate::check;
use crate::identifier;
use crate::quantity;
use crate::tree::Tree;

const ENVIRONMENT_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// What a downward API volume may show.
pub const VOLUME_FIELDS: &[&str] =
    &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
const KNOWN_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.schedulerName",
    "status.phase",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
    "spec.host",
];
const RESOURCE_FIELDS: &[&str] =
    &["limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage", "requests.memory"];

/// `env`.
pub fn variables(container: &Value, path: &Path, errors: &mut Errors) {
    for (index, variable) in container.items("env").iter().enumerate() {
        let path = path.index(index);
        let name = variable.text("name");
        if name.is_empty() {
            errors.required(&path.child("name"), "");
        } else {
            check::each(identifier::environment_name(name), name, &path.child("name"), errors);
        }
        if variable.has("valueFrom") {
            value_from(variable, &path.child("valueFrom"), errors);
        }
    }
}

fn value_from(variable: &Value, path: &Path, errors: &mut Errors) {
    let source = variable.at("valueFrom");
    let mut count = 0;
    if source.has("fieldRef") {
        count += 1;
        field_selector(source.at("fieldRef"), ENVIRONMENT_FIELDS, &path.child("fieldRef"), errors);
    }
    if source.has("resourceFieldRef") {
        count += 1;
        resource_selector(source.at("resourceFieldRef"), false, &path.child("resourceFieldRef"), errors);
    }
    for key in ["configMapKeyRef", "secretKeyRef"] {
        if source.has(key) {
            count += 1;
            key_selector(source.at(key), &path.child(key), errors);
        }
    }
    if source.has("fileKeyRef") {
        count += 1;
        file_selector(source.at("fileKeyRef"), &path.child("fileKeyRef"), errors);
    }
    if count == 0 {
        errors.invalid(
            path,
            "",
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        );
    } else if !variable.text("value").is_empty() {
        errors.invalid(path, "", "may not be specified when `value` is not empty");
    } else if count > 1 {
        errors.invalid(path, "", "may not have more than one field specified at a time");
    }
}

fn file_selector(source: &Value, path: &Path, errors: &mut Errors) {
    if source.text("key").is_empty() {
        errors.required(&path.child("key"), "");
    } else {
        check::each(identifier::environment_name(source.text("key")), source.text("key"), &path.child("key"), errors);
    }
    if source.text("path").is_empty() {
        errors.required(&path.child("path"), "");
    } else {
        check::descending(source.text("path"), &path.child("path"), errors);
    }
    if source.text("volumeName").is_empty() {
        errors.required(&path.child("volumeName"), "");
    } else {
        check::label_name(source.text("volumeName"), &path.child("volumeName"), errors);
    }
}

fn key_selector(source: &Value, path: &Path, errors: &mut Errors) {
    check::subdomain(source.text("name"), &path.child("name"), errors);
    let key = source.text("key");
    if key.is_empty() {
        errors.required(&path.child("key"), "");
    } else {
        check::each(identifier::config_key(key), key, &path.child("key"), errors);
    }
}

/// `fieldRef`.
pub fn field_selector(selector: &Value, allowed: &[&str], path: &Path, errors: &mut Errors) {
    let version = selector.text("apiVersion");
    let field = selector.text("fieldPath");
    if version.is_empty() {
        errors.required(&path.child("apiVersion"), "");
        return;
    }
    if field.is_empty() {
        errors.required(&path.child("fieldPath"), "");
        return;
    }
    let (name, subscript) = match field.strip_suffix(']').and_then(|rest| rest.split_once("['").or_else(|| rest.split_once('[')))
    {
        Some((name, subscript)) => (name, Some(subscript.trim_end_matches('\''))),
        None => (field, None),
    };
    let convertible = match subscript {
        Some(_) => matches!(name, "metadata.annotations" | "metadata.labels"),
        None => KNOWN_FIELDS.contains(&field),
    };
    if version != "v1" {
        errors.invalid(
            &path.child("fieldPath"),
            field,
            format!("error converting fieldPath: unsupported pod version: {version}"),
        );
    } else if !convertible {
        errors.invalid(
            &path.child("fieldPath"),
            field,
            format!("error converting fieldPath: field label not supported: {field}"),
        );
    } else if let Some(subscript) = subscript {
        let key = if name == "metadata.annotations" { subscript.to_lowercase() } else { subscript.to_owned() };
        check::qualified(&key, path, errors);
    } else {
        let field = if field == "spec.host" { "spec.nodeName" } else { field };
        if !allowed.contains(&field) {
            errors.not_supported(&path.child("fieldPath"), field, allowed);
        }
    }
}

/// `resourceFieldRef`.
pub fn resource_selector(selector: &Value, volume: bool, path: &Path, errors: &mut Errors) {
    let resource = selector.text("resource");
    if volume && selector.text("containerName").is_empty() {
        errors.required(&path.child("containerName"), "");
    } else if resource.is_empty() {
        errors.required(&path.child("resource"), "");
    } else if !RESOURCE_FIELDS.contains(&resource)
        && !resource.starts_with("limits.hugepages-")
        && !resource.starts_with("requests.hugepages-")
    {
        errors.not_supported(&path.child("resource"), resource, RESOURCE_FIELDS);
    }
    let divisor = selector.at("divisor");
    if quantity::parse(divisor).is_none_or(|amount| amount == 0) {
        return;
    }
    let text = divisor.as_str().unwrap_or("");
    const BYTES: &[&str] = &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];
    let path = path.child("divisor");
    match resource.split_once('.').map(|(_, name)| name) {
        Some("cpu") if !matches!(text, "1" | "1m") => {
            errors.invalid(&path, text, "only divisor's values 1m and 1 are supported with the cpu resource");
        }
        Some("memory") if !BYTES.contains(&text) => errors.invalid(
            &path,
            text,
            "only divisor's values 1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with the memory resource",
        ),
        Some("ephemeral-storage") if !BYTES.contains(&text) => errors.invalid(
            &path,
            text,
            "only divisor's values 1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with the local ephemeral storage resource",
        ),
        _ => {}
    }
}

/// `envFrom`.
pub fn sources(container: &Value, path: &Path, errors: &mut Errors) {
    for (index, source) in container.items("envFrom").iter().enumerate() {
        let item = path.index(index);
        let prefix = source.text("prefix");
        if !prefix.is_empty() {
            check::each(identifier::environment_name(prefix), prefix, &item.child("prefix"), errors);
        }
        let mut count = 0;
        for key in ["configMapRef", "secretRef"] {
            if source.has(key) {
                count += 1;
                let path = item.child(key).child("name");
                let name = source.at(key).text("name");
                if name.is_empty() {
                    errors.required(&path, "");
                } else {
                    check::subdomain(name, &path, errors);
                }
            }
        }
        if count == 0 {
            errors.invalid(path, "", "must specify one of: `configMapRef` or `secretRef`");
        } else if count > 1 {
            errors.invalid(path, "", "may not have more than one field specified at a time");
        }
    }
}

//! Rules for `metadata` that hold for every kind.
//!
//! Upstream: apimachinery/pkg/api/validation/objectmeta.go, apiserver/pkg/registry/rest

use api::field::{Errors, Path};
use rand::Rng;
use serde_json::Value;

use crate::identifier;
use crate::resource::Resource;
use crate::tree::{Tree, same};

/// Bytes of all annotations together. Upstream: TotalAnnotationSizeLimitB.
const ANNOTATIONS_BYTES: usize = 256 * 1024;
/// Letters of generated names: no vowels, no look-alikes. Upstream: apimachinery/pkg/util/rand.
const GENERATED_LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const GENERATED_LENGTH: usize = 5;
const NAME_LENGTH: usize = 63;

/// A name from a `generateName`: its first 58 characters and five random ones.
pub fn generate_name(base: &str) -> String {
    let mut end = base.len().min(NAME_LENGTH - GENERATED_LENGTH);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{}", &base[..end], random_suffix(GENERATED_LENGTH))
}

/// Random letters as in generated names.
pub fn random_suffix(length: usize) -> String {
    let mut rng = rand::rng();
    (0..length).map(|_| char::from(GENERATED_LETTERS[rng.random_range(0..GENERATED_LETTERS.len())])).collect()
}

/// Checks the metadata of a new object.
pub fn validate(resource: &Resource, object: &Value, errors: &mut Errors) {
    let check = |name: &str, prefix: bool| resource.strategy.check_name(name, prefix);
    validate_object_meta(object.at("metadata"), Some(resource.names.namespaced), &check, &Path::new("metadata"), errors);
    if errors.is_empty() {
        let name = object.at("metadata").text("name");
        for message in identifier::path_segment(name, false) {
            errors.invalid(&Path::new("metadata.name"), name, message);
        }
    }
}

/// Checks the metadata of a changed object against the old one.
pub fn validate_update(resource: &Resource, new: &Value, old: &Value, errors: &mut Errors) {
    let path = Path::new("metadata");
    let check = |name: &str, prefix: bool| identifier::path_segment(name, prefix);
    let mut first = Errors::new();
    validate_object_meta(new.at("metadata"), Some(resource.names.namespaced), &check, &path, &mut first);
    let mut second = Errors::new();
    validate_object_meta_update(new.at("metadata"), old.at("metadata"), &path, &mut second);
    errors.extend(first);
    // Upstream looks at labels and annotations in each of its three passes over the metadata; clients see all the causes.
    for _ in 0..2 {
        validate_labels(new.at("metadata").at("labels"), &path.child("labels"), errors);
        validate_annotations(new.at("metadata").at("annotations"), &path.child("annotations"), errors);
    }
    errors.extend(second);
}

/// The rules of one `ObjectMeta`. `namespaced`: whether a namespace must be there (`None`: not asked, as in pod templates).
pub fn validate_object_meta(
    meta: &Value,
    namespaced: Option<bool>,
    check_name: &dyn Fn(&str, bool) -> Vec<String>,
    path: &Path,
    errors: &mut Errors,
) {
    let generate_name = meta.text("generateName");
    if !generate_name.is_empty() {
        for message in check_name(generate_name, true) {
            errors.invalid(&path.child("generateName"), generate_name, message);
        }
    }
    let name = meta.text("name");
    if name.is_empty() {
        errors.required(&path.child("name"), "name or generateName is required");
    } else {
        for message in check_name(name, false) {
            errors.invalid(&path.child("name"), name, message);
        }
    }
    let namespace = meta.text("namespace");
    match namespaced {
        Some(true) if namespace.is_empty() => errors.required(&path.child("namespace"), ""),
        Some(true) => {
            for message in identifier::dns1123_label(namespace) {
                errors.invalid(&path.child("namespace"), namespace, message);
            }
        }
        Some(false) if !namespace.is_empty() => errors.forbidden(&path.child("namespace"), "not allowed on this type"),
        _ => {}
    }
    if let Some(generation) = meta.int("generation").filter(|generation| *generation < 0) {
        errors.invalid(&path.child("generation"), generation, "must be greater than or equal to 0");
    }
    validate_labels(meta.at("labels"), &path.child("labels"), errors);
    validate_annotations(meta.at("annotations"), &path.child("annotations"), errors);
    validate_owner_references(meta, &path.child("ownerReferences"), errors);
    validate_finalizers(meta.items("finalizers"), &path.child("finalizers"), errors);
    validate_managed_fields(meta, &path.child("managedFields"), errors);
}

/// Keys and values of labels.
pub fn validate_labels(labels: &Value, path: &Path, errors: &mut Errors) {
    let Some(labels) = labels.as_object() else { return };
    for (key, value) in labels {
        for message in identifier::qualified_name(key) {
            errors.invalid(path, key.as_str(), message);
        }
        let value = value.as_str().unwrap_or("");
        for message in identifier::label_value(value) {
            errors.invalid(path, value, message);
        }
    }
}

/// Keys and total size of annotations.
pub fn validate_annotations(annotations: &Value, path: &Path, errors: &mut Errors) {
    let Some(annotations) = annotations.as_object() else { return };
    let mut total = 0;
    for (key, value) in annotations {
        for message in identifier::qualified_name(&key.to_lowercase()) {
            errors.invalid(path, key.as_str(), message);
        }
        total += key.len() + value.as_str().map_or(0, str::len);
    }
    if total > ANNOTATIONS_BYTES {
        errors.too_long(path, ANNOTATIONS_BYTES);
    }
}

fn validate_owner_references(meta: &Value, path: &Path, errors: &mut Errors) {
    let mut controller: Option<&str> = None;
    for (index, owner) in meta.items("ownerReferences").iter().enumerate() {
        let path = path.index(index);
        let api_version = owner.text("apiVersion");
        if api_version.matches('/').count() > 1 {
            errors.invalid(&path.child("apiVersion"), api_version, format!("unexpected GroupVersion string: {api_version}"));
        } else if api_version.rsplit('/').next().is_none_or(str::is_empty) {
            errors.invalid(&path.child("apiVersion"), api_version, "version must not be empty");
        }
        for field in ["kind", "name", "uid"] {
            if owner.text(field).is_empty() {
                errors.invalid(&path.child(field), owner.text(field), "must not be empty");
            }
        }
        if api_version == "v1" && owner.text("kind") == "Event" {
            errors.invalid(&path, owner.clone(), "/v1, Kind=Event is disallowed from being an owner");
        }
        if owner.truth("controller") {
            match controller {
                Some(first) => errors.invalid(
                    &parent(&path),
                    meta.at("ownerReferences").clone(),
                    format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {}",
                        owner.text("name")
                    ),
                ),
                None => controller = Some(owner.text("name")),
            }
        }
    }
}

fn parent(path: &Path) -> Path {
    Path::new(path.as_str().rsplit_once('[').map_or(path.as_str(), |(head, _)| head))
}

/// Finalizers of an object's metadata.
pub fn validate_finalizers(finalizers: &[Value], path: &Path, errors: &mut Errors) {
    let names: Vec<&str> = finalizers.iter().filter_map(Value::as_str).collect();
    for name in &names {
        validate_finalizer(name, path, errors);
    }
    if names.contains(&"orphan") && names.contains(&"foregroundDeletion") {
        errors.invalid(path, finalizers.to_vec(), "finalizer orphan and foregroundDeletion cannot be both set");
    }
}

/// One finalizer: a qualified name; without a domain it must be one that Kubernetes itself uses.
pub fn validate_finalizer(name: &str, path: &Path, errors: &mut Errors) {
    for message in identifier::qualified_name(name) {
        errors.invalid(path, name, message);
    }
}

fn validate_managed_fields(meta: &Value, path: &Path, errors: &mut Errors) {
    for (index, entry) in meta.items("managedFields").iter().enumerate() {
        let path = path.index(index);
        let operation = entry.text("operation");
        if operation != "Apply" && operation != "Update" {
            errors.invalid(&path.child("operation"), operation, "must be `Apply` or `Update`");
        }
        let kind = entry.text("fieldsType");
        if !kind.is_empty() && kind != "FieldsV1" {
            errors.invalid(&path.child("fieldsType"), kind, "must be `FieldsV1`");
        }
        let manager = entry.text("manager");
        if manager.len() > 128 {
            errors.too_long(&path.child("manager"), 128);
        }
        if let Some((at, c)) = manager.char_indices().find(|(_, c)| c.is_control()) {
            errors.invalid(&path.child("manager"), manager, format!("invalid character {:?} (at position {at})", c));
        }
    }
}

/// What may not change in `metadata`.
pub fn validate_object_meta_update(new: &Value, old: &Value, path: &Path, errors: &mut Errors) {
    if old.has("deletionTimestamp") {
        let before: Vec<&str> = old.items("finalizers").iter().filter_map(Value::as_str).collect();
        let mut added: Vec<String> = new
            .items("finalizers")
            .iter()
            .filter_map(Value::as_str)
            .filter(|name| !before.contains(name))
            .map(|name| format!("{name:?}"))
            .collect();
        added.sort();
        if !added.is_empty() {
            errors.forbidden(
                &path.child("finalizers"),
                format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                    added.join(", ")
                ),
            );
        }
    }
    if new.text("resourceVersion").is_empty() {
        errors.invalid(&path.child("resourceVersion"), "", "must be specified for an update");
    }
    let (new_generation, old_generation) = (new.int("generation").unwrap_or(0), old.int("generation").unwrap_or(0));
    if new_generation < old_generation {
        errors.invalid(&path.child("generation"), new_generation, "must not be decremented");
    }
    for field in ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        if new.at(field) != old.at(field) {
            errors.invalid(&path.child(field), new.at(field).clone(), "field is immutable");
        }
    }
}

/// The same for a text field, whose absence is the empty text.
pub fn immutable_text(new: &str, old: &str, path: &Path, errors: &mut Errors) {
    if new != old {
        errors.invalid(path, new, "field is immutable");
    }
}

/// Adds the error for a field that differs from the old object's: `field is immutable`.
pub fn immutable(new: &Value, old: &Value, path: &Path, errors: &mut Errors) {
    if !same(new, old) {
        errors.invalid(path, new.clone(), "field is immutable");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_fit_a_label() {
        let name = generate_name(&"x".repeat(80));
        assert_eq!(name.len(), 63);
        assert!(generate_name("web-").starts_with("web-"));
        assert_eq!(generate_name("web-").len(), 9);
    }
}

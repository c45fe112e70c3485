//! The apiextensions.k8s.io group.
//!
//! Upstream: apiextensions-apiserver/pkg/apis/apiextensions/v1/defaults.go

use api::field::{ErrorType, Errors, Path};
use serde_json::{Value, json};

use crate::check;
use crate::column;
use crate::identifier;
use crate::internal;
use crate::metadata::immutable_text;
use crate::resource::Resource;
use crate::rules::{Rules, SPEC};
use crate::tree::Tree;

mod structural;

/// CustomResourceDefinitions.
pub fn definition(resource: &mut Resource) {
    resource.strategy = Rules {
        default,
        create,
        update,
        validate: |_, object, errors| {
            name_of_definition(object, errors);
            validate(object, errors);
            stored_versions(object, errors);
        },
        validate_update: |_, new, old, errors| {
            validate(new, errors);
            let text = |object: &Value, path: &str| object.path(path).as_str().unwrap_or("").to_owned();
            for path in ["spec.scope", "spec.names.kind", "spec.group", "spec.names.plural"] {
                immutable_text(&text(new, path), &text(old, path), &Path::new(path), errors);
            }
            stored_versions(new, errors);
        },
        generation: SPEC,
        status: true,
        unconditional_update: false,
        ..Rules::GENERIC
    }
    .strategy();
    resource.columns = column::generic();
}

fn default(object: &mut Value) {
    let spec = object.child("spec");
    let kind = spec.path("names.kind").as_str().unwrap_or("").to_owned();
    let names = spec.child("names");
    if !kind.is_empty() {
        names.fill_text("singular", &kind.to_lowercase());
        names.fill_text("listKind", &format!("{kind}List"));
    }
    let conversion = spec.child("conversion");
    conversion.fill_text("strategy", "None");
    if let Some(service) =
        conversion.child_if("webhook").and_then(|w| w.child_if("clientConfig")).and_then(|c| c.child_if("service"))
    {
        service.fill("port", 443);
    }
}

fn create(_context: &crate::resource::Context, object: &mut Value) {
    let mut stored: Vec<String> =
        object.at("spec").items("versions").iter().filter(|v| v.truth("storage")).map(|v| v.text("name").to_owned()).collect();
    stored.dedup();
    object.set("status", json!({"conditions": null, "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": stored}));
}

/// The storage version joins those in which objects may be stored.
fn update(_context: &crate::resource::Context, new: &mut Value, _old: &Value) {
    let storage = new.at("spec").items("versions").iter().find(|version| version.truth("storage"));
    let Some(storage) = storage.map(|version| version.text("name").to_owned()) else { return };
    let mut stored = new.at("status").items("storedVersions").to_vec();
    if !stored.iter().any(|name| *name == storage) {
        stored.push(storage.into());
        new.child("status").set("storedVersions", stored);
    }
}

fn name_of_definition(object: &Value, errors: &mut Errors) {
    let spec = object.at("spec");
    let name = object.at("metadata").text("name");
    if !name.is_empty() && name != format!("{}.{}", spec.at("names").text("plural"), spec.text("group")) {
        errors.invalid(&Path::new("metadata.name"), name, "must be spec.names.plural+\".\"+spec.group");
    }
}

/// Names, versions and scope. Schemas are checked by whoever compiles them.
fn validate(object: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let spec = object.at("spec");
    let group = spec.text("group");
    if group.is_empty() {
        errors.required(&path.child("group"), "");
    } else {
        check::subdomain(group, &path.child("group"), errors);
        if identifier::dns1123_subdomain(group).is_empty() && group.split('.').count() < 2 {
            errors.invalid(&path.child("group"), group, "should be a domain with at least one dot");
        }
    }
    match spec.text("scope") {
        "" => errors.required(&path.child("scope"), ""),
        "Cluster" | "Namespaced" => {}
        other => errors.not_one_of(&path.child("scope"), other, &["Cluster", "Namespaced"]),
    }
    let versions = spec.items("versions");
    let single = versions.len() == 1;
    let mut seen = Vec::new();
    let mut unique = true;
    for (index, version) in versions.iter().enumerate() {
        let path = path.child("versions").index(index);
        let name = version.text("name");
        check::each(identifier::dns1035_label(name), name, &path.child("name"), errors);
        if single && !name.is_empty() {
            // What all versions share stands at the top of the internal type, and is told of there.
            check::each(identifier::dns1035_label(name), name, &Path::new("spec.version"), errors);
        }
        unique &= !seen.contains(&name);
        seen.push(name);
        let schema = version.path("schema.openAPIV3Schema");
        if schema.is_null() {
            errors.required(&path.child("schema.openAPIV3Schema"), "");
        }
    }
    let shown = || {
        internal::compact(
            "[]CustomResourceDefinitionVersion",
            &Value::Array(versions.iter().map(|v| hoisted(v, versions)).collect()),
        )
    };
    let shown = || if spec.has("versions") { shown() } else { "null".to_owned() };
    if !unique {
        errors.add_shown(ErrorType::Invalid, &path.child("versions"), shown(), "must contain unique version names");
    }
    if versions.iter().filter(|version| version.truth("storage")).count() != 1 {
        let why = "must have exactly one version marked as storage version";
        errors.add_shown(ErrorType::Invalid, &path.child("versions"), shown(), why);
    }
    for (index, version) in versions.iter().enumerate() {
        let path = if single { path.clone() } else { path.child("versions").index(index) };
        let columns = path.child("additionalPrinterColumns");
        for (index, column) in version.items("additionalPrinterColumns").iter().enumerate() {
            printer_column(column, &columns.index(index), errors);
        }
        let schema = version.path("schema.openAPIV3Schema");
        let path = path.child(if single { "validation" } else { "schema" }).child("openAPIV3Schema");
        if !schema.is_null() {
            structural::validate(schema, &path, version.path("subresources").has("status"), errors);
        }
    }
    names(spec.at("names"), &path.child("names"), errors);
}

/// The version without what all versions share, which the internal type holds at its top.
fn hoisted(version: &Value, all: &[Value]) -> Value {
    let mut version = version.clone();
    for field in ["schema", "subresources", "additionalPrinterColumns", "selectableFields"] {
        if all.iter().all(|other| other.at(field) == version.at(field)) {
            version.drop(field);
        }
    }
    version
}

/// Versions that objects may be stored in: the storage version is one, and all of them exist.
fn stored_versions(object: &Value, errors: &mut Errors) {
    let path = Path::new("status.storedVersions");
    let status = object.at("status");
    let stored: Vec<&str> = status.items("storedVersions").iter().filter_map(Value::as_str).collect();
    if stored.is_empty() {
        let shown = "null";
        errors.add_shown(ErrorType::Invalid, &path, shown, "must have at least one stored version");
        return;
    }
    let versions = object.at("spec").items("versions");
    for (index, name) in stored.iter().enumerate() {
        if !versions.iter().any(|version| version.text("name") == *name) {
            let why = format!(
                "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {name} and removes {name} from status.storedVersions"
            );
            errors.invalid(&path.index(index), *name, why);
        }
    }
    // Upstream looks at the last of several.
    if let Some(storage) = versions.iter().rfind(|version| version.truth("storage")).map(|version| version.text("name")) {
        let doubled = versions.iter().filter(|version| version.text("name") == storage).count() > 1;
        if doubled || !stored.contains(&storage) {
            errors.invalid(&path, status.at("storedVersions").clone(), format!("must have the storage version {storage}"));
        }
    }
}

fn names(names: &Value, path: &Path, errors: &mut Errors) {
    for field in ["plural", "singular", "kind", "listKind"] {
        let name = names.text(field);
        let at = path.child(field);
        if name.is_empty() {
            errors.required(&at, "");
            continue;
        }
        let mixed = matches!(field, "kind" | "listKind");
        let messages = identifier::dns1035_label(&if mixed { name.to_lowercase() } else { name.to_owned() });
        if mixed && !messages.is_empty() {
            errors.invalid(&at, name, format!("may have mixed case, but should otherwise match: {}", messages.join(",")));
        } else if !messages.is_empty() {
            errors.invalid(&at, name, messages.join(","));
        }
    }
    for field in ["shortNames", "categories"] {
        for (index, name) in names.items(field).iter().enumerate() {
            let name = name.as_str().unwrap_or("");
            let messages = identifier::dns1035_label(name);
            if !messages.is_empty() {
                errors.invalid(&path.child(field).index(index), name, messages.join(","));
            }
        }
    }
    if !names.text("kind").is_empty() && names.text("kind") == names.text("listKind") {
        errors.invalid(&path.child("listKind"), names.text("listKind"), "kind and listKind may not be the same");
    }
}

fn printer_column(column: &Value, path: &Path, errors: &mut Errors) {
    const TYPES: &[&str] = &["boolean", "date", "integer", "number", "string"];
    const FORMATS: &[&str] = &["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
    if column.text("name").is_empty() {
        errors.required(&path.child("name"), "");
    }
    let (kind, format) = (column.text("type"), column.text("format"));
    if kind.is_empty() {
        errors.required(&path.child("type"), format!("must be one of {}", TYPES.join(",")));
    } else if !TYPES.contains(&kind) {
        errors.invalid(&path.child("type"), kind, format!("must be one of {}", TYPES.join(",")));
    }
    if !format.is_empty() && !FORMATS.contains(&format) {
        errors.invalid(&path.child("format"), format, format!("must be one of {}", FORMATS.join(",")));
    }
    let json_path = column.text("jsonPath");
    if json_path.is_empty() {
        errors.required(&path.child("JSONPath"), "");
    } else if !json_path.starts_with(['.', '[']) {
        errors.invalid(&path.child("JSONPath"), json_path, "must be a simple json path starting with .");
    }
}

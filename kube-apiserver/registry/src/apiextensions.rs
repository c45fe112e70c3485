//! The apiextensions.k8s.io group.
//!
//! Upstream: apiextensions-apiserver/pkg/apis/apiextensions/v1/defaults.go

use api::field::{Errors, Path};
use serde_json::{Value, json};

use crate::check;
use crate::column;
use crate::identifier;
use crate::metadata::immutable_text;
use crate::resource::Resource;
use crate::rules::{Rules, SPEC};
use crate::tree::Tree;

/// CustomResourceDefinitions.
pub fn definition(resource: &mut Resource) {
    resource.strategy = Rules {
        default,
        create,
        validate: |_, object, errors| {
            name_of_definition(object, errors);
            validate(object, errors);
        },
        validate_update: |_, new, old, errors| {
            for field in ["group", "scope"] {
                immutable_text(new.at("spec").text(field), old.at("spec").text(field), &Path::new("spec").child(field), errors);
            }
            for field in ["plural", "kind"] {
                let of = |object: &Value| object.path("spec.names").text(field).to_owned();
                immutable_text(&of(new), &of(old), &Path::new("spec.names").child(field), errors);
            }
            validate(new, errors);
        },
        generation: SPEC,
        status: true,
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
    let stored: Vec<String> =
        object.at("spec").items("versions").iter().filter(|v| v.truth("storage")).map(|v| v.text("name").to_owned()).collect();
    object.set("status", json!({"conditions": null, "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": stored}));
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
    let stored = spec.items("versions").iter().filter(|version| version.truth("storage")).count();
    if stored != 1 {
        errors.invalid(
            &path.child("versions"),
            spec.at("versions").clone(),
            "must have exactly one version marked as storage version",
        );
    }
    let mut seen = Vec::new();
    for (index, version) in spec.items("versions").iter().enumerate() {
        let path = path.child("versions").index(index);
        let name = version.text("name");
        check::each(identifier::dns1035_label(name), name, &path.child("name"), errors);
        let single = spec.items("versions").len() == 1;
        if single {
            // What all versions share stands at the top of the internal type, and is told of there.
            check::each(identifier::dns1035_label(name), name, &Path::new("spec.version"), errors);
        }
        let columns = if single { Path::new("spec") } else { path.clone() }.child("additionalPrinterColumns");
        for (index, column) in version.items("additionalPrinterColumns").iter().enumerate() {
            printer_column(column, &columns.index(index), errors);
        }
        if seen.contains(&name) {
            errors.invalid(&Path::new("spec.versions"), spec.at("versions").clone(), "must contain unique version names");
        }
        seen.push(name);
        if version.path("schema.openAPIV3Schema").is_null() {
            errors.required(&path.child("schema.openAPIV3Schema"), "schemas are required");
        }
    }
    names(spec.at("names"), &path.child("names"), errors);
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

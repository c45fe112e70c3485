//! Namespaces.
//!
//! Upstream: pkg/registry/core/namespace

use api::field::{Errors, Path};
use serde_json::{Value, json};

use crate::column::{self, text};
use crate::identifier;
use crate::metadata;
use crate::resource::{Context, Resource};
use crate::rules::Rules;
use crate::tree::Tree;

/// Rules and columns of Namespaces.
pub fn build(resource: &mut Resource) {
    resource.strategy = Rules {
        default,
        create,
        update: |_, new, old| {
            let finalizers = old.at("spec").at("finalizers").clone();
            if finalizers.is_null() {
                new.child("spec").drop("finalizers")
            } else {
                new.child("spec").set("finalizers", finalizers)
            }
        },
        subresource: |_, new, old| {
            // finalize: only spec.finalizers
            let spec = new.at("spec").clone();
            let version = new.at("metadata").at("resourceVersion").clone();
            let api_version = new.at("apiVersion").clone();
            *new = old.clone();
            new.set("apiVersion", api_version);
            new.set("spec", spec);
            if !version.is_null() {
                new.child("metadata").set("resourceVersion", version);
            }
        },
        validate: |_, object, errors| validate(object, errors),
        validate_update,
        name: identifier::name_is_dns_label,
        status: true,
        ..Rules::GENERIC
    }
    .strategy();
    resource.selectable = vec![("status.phase", phase), ("name", |object| object.at("metadata").text("name").to_owned())];
    resource.columns = vec![
        column::name(),
        text("Status", "The status of the namespace", |object, _| object.at("status").text("phase").into()),
        column::age(),
    ];
}

fn phase(object: &Value) -> String {
    object.at("status").text("phase").to_owned()
}

fn default(object: &mut Value) {
    let name = object.at("metadata").text("name").to_owned();
    if !name.is_empty() {
        object.child("metadata").child("labels").set("kubernetes.io/metadata.name", name);
    }
    object.child("status").fill_text("phase", "Active");
}

fn create(_context: &Context, object: &mut Value) {
    default(object);
    object.set("status", json!({"phase": "Active"}));
    let spec = object.child("spec");
    let mut finalizers = spec.items("finalizers").to_vec();
    if !finalizers.iter().any(|finalizer| finalizer == "kubernetes") {
        finalizers.push("kubernetes".into());
    }
    spec.set("finalizers", finalizers);
}

fn validate(object: &Value, errors: &mut Errors) {
    let path = Path::new("spec.finalizers");
    for (index, finalizer) in object.at("spec").items("finalizers").iter().enumerate() {
        metadata::validate_finalizer(finalizer.as_str().unwrap_or(""), &path.index(index), errors);
    }
}

fn validate_update(context: &Context, new: &Value, _old: &Value, errors: &mut Errors) {
    if context.subresource == "finalize" {
        validate(new, errors);
    }
}

//! IngressClasses.

use api::field::{Errors, Path};
use serde_json::Value;

use crate::check;
use crate::column::{self, text};
use crate::identifier;
use crate::metadata::immutable_text;
use crate::resource::Resource;
use crate::rules::{Rules, SPEC};
use crate::tree::Tree;

/// Rules and columns of IngressClasses.
pub fn build(resource: &mut Resource) {
    resource.strategy = Rules {
        default: |object| {
            if let Some(parameters) = object.child("spec").child_if("parameters") {
                parameters.fill("scope", "Cluster");
            }
        },
        generation: SPEC,
        validate: |_, object, errors| validate(object, errors),
        validate_update: |_, new, old, errors| {
            immutable_text(
                new.at("spec").text("controller"),
                old.at("spec").text("controller"),
                &Path::new("spec.controller"),
                errors,
            );
            validate(new, errors);
        },
        ..Rules::GENERIC
    }
    .strategy();
    resource.columns = vec![
        column::name(),
        text("Controller", "Controller that is responsible for handling this class", |object, _| {
            object.at("spec").text("controller").into()
        }),
        text("Parameters", "A reference to a resource with additional parameters", |object, _| {
            let parameters = object.path("spec.parameters");
            if parameters.is_null() {
                return "<none>".into();
            }
            let group = parameters.text("apiGroup");
            let kind = if group.is_empty() {
                parameters.text("kind").to_owned()
            } else {
                format!("{}.{group}", parameters.text("kind"))
            };
            format!("{kind}/{}", parameters.text("name")).into()
        }),
        column::age(),
    ];
}

fn validate(object: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let spec = object.at("spec");
    let controller = spec.text("controller");
    if controller.is_empty() {
        errors.required(&path.child("controller"), "");
    } else {
        if controller.len() > 250 {
            errors.too_long(&path.child("controller"), 250);
        }
        check::each(identifier::domain_prefixed_path(controller), controller, &path.child("controller"), errors);
    }
    let parameters = spec.at("parameters");
    if parameters.is_null() {
        return;
    }
    let path = path.child("parameters");
    for field in ["kind", "name"] {
        if parameters.text(field).is_empty() {
            errors.required(&path.child(field), "");
        }
    }
    let namespace = parameters.text("namespace");
    match parameters.text("scope") {
        "Cluster" => {
            if !namespace.is_empty() {
                errors.forbidden(&path.child("namespace"), "parameters.namespace must not be set for a Cluster scope");
            }
        }
        "Namespace" => {
            if namespace.is_empty() {
                errors.required(&path.child("namespace"), "parameters.scope is set to 'Namespace'");
            } else {
                check::label_name(namespace, &path.child("namespace"), errors);
            }
        }
        "" => errors.required(&path.child("scope"), ""),
        other => errors.not_supported(&path.child("scope"), other, &["Cluster", "Namespace"]),
    }
}

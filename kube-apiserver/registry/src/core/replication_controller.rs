//! ReplicationControllers.
//!
//! Upstream: pkg/registry/core/replicationcontroller

use api::field::{Errors, Path};
use serde_json::{Value, json};

use crate::check;
use crate::column::{self, integer, text, wide};
use crate::identifier;
use crate::pod_spec::{defaults, template};
use crate::resource::Resource;
use crate::rules::{Rules, SPEC};
use crate::tree::Tree;

/// Rules and columns of ReplicationControllers.
pub fn build(resource: &mut Resource) {
    resource.strategy = Rules {
        default,
        generation: SPEC,
        validate: |_, object, errors| validate(object, errors),
        validate_update: |_, new, _, errors| validate(new, errors),
        name: name_in_bytes,
        status: true,
        orphan: true,
        create: |_, object| object.set("status", json!({"replicas": 0})),
        ..Rules::GENERIC
    }
    .strategy();
    resource.selectable = vec![("status.replicas", |object| object.at("status").int("replicas").unwrap_or(0).to_string())];
    resource.columns = vec![
        column::name(),
        integer("Desired", "Replicas is the number of desired replicas.", |object, _| {
            object.at("spec").int("replicas").unwrap_or(0).into()
        }),
        integer("Current", "Replicas is the most recently observed number of replicas.", |object, _| {
            object.at("status").int("replicas").unwrap_or(0).into()
        }),
        integer("Ready", "The number of ready replicas for this replication controller.", |object, _| {
            object.at("status").int("readyReplicas").unwrap_or(0).into()
        }),
        column::age(),
        wide(text("Containers", "Names of each container in the template.", |object, _| {
            column::container_names(object.path("spec.template.spec")).into()
        })),
        wide(text("Images", "Images referenced by each container in the template.", |object, _| {
            column::container_images(object.path("spec.template.spec")).into()
        })),
        wide(text("Selector", "Selector is a label query over pods that should match the replicas count.", |object, _| {
            column::labels(object.path("spec.selector")).into()
        })),
    ];
}

fn default(object: &mut Value) {
    let labels = object.path("spec.template.metadata.labels").clone();
    if labels.is_object() {
        if object.at("spec").len_of("selector") == 0 {
            object.child("spec").set("selector", labels.clone());
        }
        if object.at("metadata").len_of("labels") == 0 {
            object.child("metadata").set("labels", labels);
        }
    }
    let spec = object.child("spec");
    spec.fill("replicas", 1);
    if spec.has("template") {
        defaults::template(spec);
    }
}

/// Subdomains, told in bytes: this kind's rules are generated from its type.
fn name_in_bytes(name: &str, prefix: bool) -> Vec<String> {
    identifier::name_is_dns_subdomain(name, prefix)
        .into_iter()
        .map(|text| text.replace("no more than 253 characters", "no more than 253 bytes"))
        .collect()
}

fn validate(object: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let spec = object.at("spec");
    check::non_negative_field(spec, "minReadySeconds", &path, errors);
    if spec.len_of("selector") == 0 {
        errors.required(&path.child("selector"), "");
    }
    check::non_negative_field(spec, "replicas", &path, errors);
    let at = path.child("template");
    if !spec.has("template") {
        errors.required(&at, "");
        return;
    }
    let labels = spec.path("template.metadata.labels");
    if spec.len_of("selector") > 0 && !spec.entries("selector").iter().all(|(key, value)| labels.at(key) == *value) {
        errors.invalid(&at.child("metadata.labels"), labels.clone(), "`selector` does not match template `labels`");
    }
    template::template(spec.at("template"), &at, errors);
    template::always_restarted(spec.at("template"), "ReplicationController", &at, errors);
}

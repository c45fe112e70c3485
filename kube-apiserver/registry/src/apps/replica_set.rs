//! ReplicaSets.
//!
//! Upstream: pkg/registry/apps/replicaset

use api::field::{Errors, Path};
use serde_json::{Value, json};

use crate::check;
use crate::column::{self, integer, text, wide};
use crate::pod_spec::{defaults, template, warnings};
use crate::resource::Resource;
use crate::rules::{Rules, SPEC};
use crate::tree::Tree;

/// Rules and columns of ReplicaSets.
pub fn build(resource: &mut Resource) {
    resource.strategy = Rules {
        default: |object| {
            let spec = object.child("spec");
            spec.fill("replicas", 1);
            defaults::template(spec);
            object.child("status").fill("replicas", 0);
        },
        create: |_, object| object.set("status", json!({"replicas": 0})),
        validate: |_, object, errors| validate(object, errors),
        validate_update: |_, new, old, errors| {
            validate(new, errors);
            check::immutable_selector(new.path("spec.selector"), old.path("spec.selector"), &Path::new("spec.selector"), errors);
        },
        warnings: |_, new, _| warnings::pod(new.path("spec.template"), "spec.template"),
        generation: SPEC,
        status: true,
        ..Rules::GENERIC
    }
    .strategy();
    resource.selectable = vec![("status.replicas", |object| count(object, "status", "replicas").to_string())];
    resource.columns = vec![
        column::name(),
        integer("Desired", "Replicas is the number of desired pods.", |object, _| count(object, "spec", "replicas").into()),
        integer("Current", "Replicas is the most recently observed number of non-terminating pods.", |object, _| {
            count(object, "status", "replicas").into()
        }),
        integer(
            "Ready",
            "The number of non-terminating pods targeted by this ReplicaSet with a Ready Condition.",
            |object, _| count(object, "status", "readyReplicas").into(),
        ),
        column::age(),
        wide(text("Containers", "Names of each container in the template.", |object, _| {
            column::container_names(object.path("spec.template.spec")).into()
        })),
        wide(text("Images", "Images referenced by each container in the template.", |object, _| {
            column::container_images(object.path("spec.template.spec")).into()
        })),
        wide(text("Selector", "Selector is a label query over pods that should match the replica count.", |object, _| {
            column::selector(object.path("spec.selector")).into()
        })),
    ];
}

fn count(object: &Value, part: &str, field: &str) -> i64 {
    object.at(part).int(field).unwrap_or(0)
}

fn validate(object: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let spec = object.at("spec");
    check::non_negative_field(spec, "replicas", &path, errors);
    check::non_negative_field(spec, "minReadySeconds", &path, errors);
    super::selector_and_template(spec, "deployment", "invalid label selector", &path, errors);
    template::always_restarted(spec.at("template"), "ReplicaSet", &path.child("template"), errors);
}

//! Deployments.
//!
//! Upstream: pkg/registry/apps/deployment, SetDefaults_Deployment

use serde_json::{Value, json};

use crate::column::{self, text, wide};
use crate::pod_spec::defaults;
use crate::resource::Resource;
use crate::rules::{Generation, Rules};
use crate::tree::{Tree, same};

/// Rules and columns of Deployments.
pub fn build(resource: &mut Resource) {
    resource.strategy = Rules {
        default,
        create: |_, object| object.set("status", json!({})),
        update: |_, new, old| {
            // Annotations count: rollouts write their revision there.
            let annotations = |object: &Value| object.at("metadata").at("annotations").clone();
            if !same(&annotations(new), &annotations(old)) && same(new.at("spec"), old.at("spec")) {
                let before = old.at("metadata").int("generation").unwrap_or(0);
                new.child("metadata").set("generation", before + 1);
            }
        },
        status_update: |_, new, old| new.child("metadata").keep("labels", old.at("metadata")),
        generation: Generation::Fields(&["spec"]),
        status: true,
        ..Rules::GENERIC
    }
    .strategy();
    resource.columns = vec![
        column::name(),
        text("Ready", "Number of the pod with ready state", |object, _| {
            format!(
                "{}/{}",
                object.at("status").int("readyReplicas").unwrap_or(0),
                object.at("spec").int("replicas").unwrap_or(0)
            )
            .into()
        }),
        text(
            "Up-to-date",
            "Total number of non-terminated pods targeted by this deployment that have the desired template spec.",
            |object, _| object.at("status").int("updatedReplicas").unwrap_or(0).into(),
        ),
        text(
            "Available",
            "Total number of available non-terminating pods (ready for at least minReadySeconds) targeted by this deployment.",
            |object, _| object.at("status").int("availableReplicas").unwrap_or(0).into(),
        ),
        column::age(),
        wide(text("Containers", "Names of each container in the template.", |object, _| {
            column::container_names(object.path("spec.template.spec")).into()
        })),
        wide(text("Images", "Images referenced by each container in the template.", |object, _| {
            column::container_images(object.path("spec.template.spec")).into()
        })),
        wide(text("Selector", "Label selector for pods.", |object, _| column::selector(object.path("spec.selector")).into())),
    ];
}

fn default(object: &mut Value) {
    let spec = object.child("spec");
    spec.fill("replicas", 1);
    let strategy = spec.child("strategy");
    strategy.fill_text("type", "RollingUpdate");
    if strategy.text("type") == "RollingUpdate" {
        let rolling = strategy.child("rollingUpdate");
        rolling.fill("maxUnavailable", "25%");
        rolling.fill("maxSurge", "25%");
    }
    spec.fill("revisionHistoryLimit", 10);
    spec.fill("progressDeadlineSeconds", 600);
    defaults::template(spec);
}

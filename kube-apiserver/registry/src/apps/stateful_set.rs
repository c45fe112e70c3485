//! StatefulSets.
//!
//! Upstream: pkg/registry/apps/statefulset, SetDefaults_StatefulSet

use serde_json::{Value, json};

use crate::column::{self, text, wide};
use crate::core::persistent_volume_claim;
use crate::pod_spec::defaults;
use crate::resource::Resource;
use crate::rules::{Rules, SPEC};
use crate::tree::Tree;

/// Rules and columns of StatefulSets.
pub fn build(resource: &mut Resource) {
    resource.strategy = Rules {
        default,
        create: |_, object| object.set("status", json!({"replicas": 0, "availableReplicas": 0})),
        generation: SPEC,
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
        column::age(),
        wide(text("Containers", "Names of each container in the template.", |object, _| {
            column::container_names(object.path("spec.template.spec")).into()
        })),
        wide(text("Images", "Images referenced by each container in the template.", |object, _| {
            column::container_images(object.path("spec.template.spec")).into()
        })),
    ];
}

fn default(object: &mut Value) {
    let spec = object.child("spec");
    spec.fill_text("podManagementPolicy", "OrderedReady");
    let strategy = spec.child("updateStrategy");
    if strategy.text("type").is_empty() {
        strategy.set("type", "RollingUpdate");
        strategy.child("rollingUpdate").fill("partition", 0);
    } else if strategy.text("type") == "RollingUpdate" && strategy.has("rollingUpdate") {
        strategy.child("rollingUpdate").fill("partition", 0);
    }
    let retention = spec.child("persistentVolumeClaimRetentionPolicy");
    retention.fill_text("whenDeleted", "Retain");
    retention.fill_text("whenScaled", "Retain");
    spec.fill("replicas", 1);
    spec.fill("revisionHistoryLimit", 10);
    for claim in spec.items_mut("volumeClaimTemplates") {
        claim.fill_text("apiVersion", "v1");
        claim.fill_text("kind", "PersistentVolumeClaim");
        persistent_volume_claim::default(claim);
    }
    defaults::template(spec);
    let status = object.child("status");
    status.fill("replicas", 0);
    status.fill("availableReplicas", 0);
}

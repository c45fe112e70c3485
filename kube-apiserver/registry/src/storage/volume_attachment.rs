//! VolumeAttachments.

use serde_json::json;

use crate::column::{self, boolean, text};
use crate::resource::{Column, Resource};
use crate::rules::Rules;
use crate::tree::Tree;

/// Rules and columns of VolumeAttachments.
pub fn build(resource: &mut Resource) {
    resource.strategy =
        Rules { create: |_, object| object.set("status", json!({"attached": false})), status: true, ..Rules::GENERIC }.strategy();
    resource.columns = vec![
        column::name(),
        Column {
            format: "name",
            ..text("Attacher", "attacher indicates the name of the volume driver that MUST handle this request.", |object, _| {
                object.at("spec").text("attacher").into()
            })
        },
        text("PV", "The name of the persistent volume to attach.", |object, _| {
            object.path("spec.source").text("persistentVolumeName").into()
        }),
        text("Node", "nodeName represents the node that the volume should be attached to.", |object, _| {
            object.at("spec").text("nodeName").into()
        }),
        boolean("Attached", "attached indicates the volume is successfully attached.", |object, _| {
            object.at("status").truth("attached").into()
        }),
        column::age(),
    ];
}

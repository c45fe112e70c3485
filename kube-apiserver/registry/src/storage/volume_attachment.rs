//! VolumeAttachments.

use api::field::{ErrorType, Errors, Path};
use serde_json::{Value, json};

use crate::check;
use crate::column::{self, boolean, text};
use crate::resource::{Column, Resource};
use crate::rules::Rules;
use crate::tree::{Tree, same};

/// Rules and columns of VolumeAttachments.
pub fn build(resource: &mut Resource) {
    resource.strategy = Rules {
        create: |_, object| object.set("status", json!({"attached": false})),
        status: true,
        validate: |_, object, errors| validate(object, errors),
        validate_update: |_, new, old, errors| {
            validate(new, errors);
            if !same(new.at("spec"), old.at("spec")) {
                errors.add_shown(
                    ErrorType::Invalid,
                    &Path::new("spec"),
                    crate::internal::compact("VolumeAttachmentSpec", new.at("spec")),
                    "field is immutable",
                );
            }
        },
        unconditional_update: false,
        ..Rules::GENERIC
    }
    .strategy();
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

fn validate(object: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let spec = object.at("spec");
    crate::pod_spec::volume::driver_name_once(spec.text("attacher"), &path.child("attacher"), errors);
    let source = spec.at("source");
    let at = path.child("source");
    match (source.has("inlineVolumeSpec"), source.has("persistentVolumeName")) {
        (false, false) => errors.required(&at, "must specify exactly one of inlineVolumeSpec and persistentVolumeName"),
        (true, true) => errors.forbidden(&at, "must specify exactly one of inlineVolumeSpec and persistentVolumeName"),
        (false, true) => {
            let name = source.text("persistentVolumeName");
            if name.is_empty() {
                errors.required(&at.child("persistentVolumeName"), "must specify non empty persistentVolumeName");
            }
            check::subdomain(name, &at.child("persistentVolumeName"), errors);
        }
        (true, false) => {
            crate::pod_spec::volume::persistent(source.at("inlineVolumeSpec"), &at.child("inlineVolumeSpec"), errors);
        }
    }
    check::subdomain(spec.text("nodeName"), &path.child("nodeName"), errors);
}

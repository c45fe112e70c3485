//! PersistentVolumeClaims.
//!
//! Upstream: pkg/registry/core/persistentvolumeclaim, printPersistentVolumeClaim

use api::field::{Errors, Path};
use serde_json::{Value, json};

use super::persistent_volume::{access_modes, class, unset};
use crate::column::{self, text, wide};
use crate::difference;
use crate::pod_spec::{defaults, volume};
use crate::quantity;
use crate::resource::Resource;
use crate::rules::Rules;
use crate::tree::{Tree, same};

/// Rules and columns of PersistentVolumeClaims.
pub fn build(resource: &mut Resource) {
    resource.strategy = Rules {
        default,
        create: |_, object| object.set("status", json!({"phase": "Pending"})),
        status: true,
        validate: |_, claim, errors| volume::claim_spec(claim.at("spec"), &Path::new("spec"), errors),
        validate_update: |_, new, old, errors| {
            volume::claim_spec(new.at("spec"), &Path::new("spec"), errors);
            validate_change(new, old, errors);
        },
        ..Rules::GENERIC
    }
    .strategy();
    resource.columns = vec![
        column::name(),
        text("Status", "phase represents the current phase of PersistentVolumeClaim.", |object, _| {
            if object.at("metadata").has("deletionTimestamp") {
                "Terminating".into()
            } else {
                object.at("status").text("phase").into()
            }
        }),
        text("Volume", "volumeName is the binding reference to the PersistentVolume backing this claim.", |object, _| {
            object.at("spec").text("volumeName").into()
        }),
        text("Capacity", "capacity represents the actual resources of the underlying volume.", |object, _| {
            if object.at("spec").text("volumeName").is_empty() {
                "".into()
            } else {
                object.path("status.capacity").text("storage").into()
            }
        }),
        text("Access Modes", "accessModes contains the actual access modes the volume backing the PVC has.", |object, _| {
            if object.at("spec").text("volumeName").is_empty() {
                "".into()
            } else {
                access_modes(object.at("status").items("accessModes")).into()
            }
        }),
        text("StorageClass", "StorageClass of the pvc", |object, _| class(object).into()),
        text("VolumeAttributesClass", "VolumeAttributesClass of the pvc", |object, _| {
            unset(object.at("spec").text("volumeAttributesClassName")).into()
        }),
        column::age(),
        wide(text(
            "VolumeMode",
            "volumeMode defines what type of volume is required by the claim. Value of Filesystem is implied when not included in claim spec.",
            |object, _| unset(object.at("spec").text("volumeMode")).into(),
        )),
    ];
}

/// Defaults of a claim, also as a template of a StatefulSet.
pub fn default(object: &mut Value) {
    object.child("status").fill_text("phase", "Pending");
    defaults::claim_spec(object.child("spec"));
}

fn validate_change(new: &Value, old: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let (after, before) = (new.at("spec"), old.at("spec"));
    let mut kept = after.clone();
    // The binder fills in the volume, late binding the class.
    if before.text("volumeName").is_empty() {
        kept.keep("volumeName", before);
    }
    if !before.has("storageClassName") {
        kept.keep("storageClassName", before);
    }
    let bound = old.at("status").text("phase") == "Bound";
    if bound {
        if kept.path("resources.requests").is_object() {
            kept.child("resources").child("requests").keep("storage", before.path("resources.requests"));
        }
        kept.keep("volumeAttributesClassName", before);
    }
    if !same(&kept, before) {
        let difference = difference::between("PersistentVolumeClaimSpec", before, &kept);
        errors.forbidden(
            &path,
            format!("spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n{difference}"),
        );
    }
    let size = |spec: &Value| quantity::parse(spec.path("resources.requests.storage")).unwrap_or(0);
    let capacity = quantity::parse(old.path("status.capacity.storage")).unwrap_or(0);
    if size(after) < size(before) && size(after) <= capacity {
        let at = path.child("resources.requests.storage");
        errors.forbidden(&at, "field can not be less than status.capacity");
    }
    let class = path.child("volumeAttributesClassName");
    if !before.text("volumeAttributesClassName").is_empty() {
        if !after.has("volumeAttributesClassName") {
            errors.forbidden(&class, "update from non-nil value to nil is forbidden");
        } else if after.text("volumeAttributesClassName").is_empty() {
            errors.forbidden(&class, "update from non-nil value to an empty string is forbidden");
        }
    }
}

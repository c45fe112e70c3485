//! StorageClasses.

use serde_json::Value;

use crate::column::{self, text};
use crate::resource::{Column, Resource};
use crate::rules::Rules;
use crate::tree::Tree;

/// Rules and columns of StorageClasses.
pub fn build(resource: &mut Resource) {
    resource.strategy = Rules {
        default: |object| {
            object.fill("reclaimPolicy", "Delete");
            object.fill("volumeBindingMode", "Immediate");
        },
        create_on_update: true,
        ..Rules::GENERIC
    }
    .strategy();
    resource.columns = vec![
        Column { cell: |object, _| name(object).into(), ..column::name() },
        text("Provisioner", "provisioner indicates the type of the provisioner.", |object, _| object.text("provisioner").into()),
        text(
            "ReclaimPolicy",
            "reclaimPolicy controls the reclaimPolicy for dynamically provisioned PersistentVolumes of this storage class.",
            |object, _| or(object.text("reclaimPolicy"), "Delete"),
        ),
        text(
            "VolumeBindingMode",
            "volumeBindingMode indicates how PersistentVolumeClaims should be provisioned and bound.",
            |object, _| or(object.text("volumeBindingMode"), "Immediate"),
        ),
        text("AllowVolumeExpansion", "allowVolumeExpansion shows whether the storage class allow volume expand.", |object, _| {
            object.truth("allowVolumeExpansion").into()
        }),
        column::age(),
    ];
}

fn or(text: &str, default: &str) -> Value {
    if text.is_empty() { default.into() } else { text.into() }
}

/// The annotations that make a class the default one.
pub const DEFAULT: &[&str] = &["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

fn name(object: &Value) -> String {
    let annotations = object.at("metadata").at("annotations");
    let name = object.at("metadata").text("name");
    if DEFAULT.iter().any(|key| annotations.text(key) == "true") { format!("{name} (default)") } else { name.to_owned() }
}

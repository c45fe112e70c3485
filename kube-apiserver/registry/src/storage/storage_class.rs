//! StorageClasses.

use api::field::{Errors, Path};
use serde_json::Value;

use crate::check;
use crate::column::{self, text};
use crate::metadata::{immutable, immutable_text};
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
        validate: |_, object, errors| validate(object, errors),
        validate_update: |_, new, old, errors| {
            validate(new, errors);
            immutable(new.at("parameters"), old.at("parameters"), &Path::new("parameters"), errors);
            immutable_text(new.text("provisioner"), old.text("provisioner"), &Path::new("provisioner"), errors);
            immutable(new.at("reclaimPolicy"), old.at("reclaimPolicy"), &Path::new("reclaimPolicy"), errors);
            immutable(new.at("volumeBindingMode"), old.at("volumeBindingMode"), &Path::new("volumeBindingMode"), errors);
        },
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

fn validate(object: &Value, errors: &mut Errors) {
    let provisioner = object.text("provisioner");
    if provisioner.is_empty() {
        errors.required(&Path::new("provisioner"), "");
    } else {
        check::qualified(&provisioner.to_lowercase(), &Path::new("provisioner"), errors);
    }
    let total: usize =
        object.entries("parameters").iter().map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum();
    if object.len_of("parameters") > 512 {
        errors.too_long(&Path::new("provisioner Parameters Length"), 512);
    } else if total > 256 * 1024 {
        errors.too_long(&Path::new("parameters"), 256 * 1024);
    }
    if object.entries("parameters").iter().any(|(key, _)| key.is_empty()) {
        errors.invalid(&Path::new("parameters"), "", "field can not be empty.");
    }
    match object.text("reclaimPolicy") {
        "" | "Delete" | "Retain" => {}
        other => errors.not_supported(&Path::new("reclaimPolicy"), other, &["Delete", "Retain"]),
    }
    if !object.has("volumeBindingMode") {
        errors.required(&Path::new("volumeBindingMode"), "");
    } else if !matches!(object.text("volumeBindingMode"), "Immediate" | "WaitForFirstConsumer") {
        errors.not_supported(
            &Path::new("volumeBindingMode"),
            object.text("volumeBindingMode"),
            &["Immediate", "WaitForFirstConsumer"],
        );
    }
}

//! PersistentVolumes.
//!
//! Upstream: pkg/registry/core/persistentvolume, printPersistentVolume

use api::field::{ErrorType, Errors, Path};
use serde_json::{Value, json};

use crate::check;
use crate::column::{self, text, wide};
use crate::difference;
use crate::pod_spec::defaults::{resource_list, storage_source};
use crate::pod_spec::{affinity, volume};
use crate::quantity;
use crate::resource::{Context, Resource};
use crate::rules::Rules;
use crate::tree::{Tree, same};

/// Rules and columns of PersistentVolumes.
pub fn build(resource: &mut Resource) {
    resource.strategy = Rules {
        default,
        create: |context, object| object.set("status", json!({"phase": "Pending", "lastPhaseTransitionTime": context.now})),
        status_update,
        warnings,
        status: true,
        validate: |_, volume, errors| validate(volume, errors),
        validate_update: |_, new, old, errors| {
            // Upstream validates the new object in both of its passes.
            validate(new, errors);
            validate_change(new, old, errors);
            validate(new, errors);
        },
        ..Rules::GENERIC
    }
    .strategy();
    resource.columns = vec![
        column::name(),
        text("Capacity", "Capacity is the description of the persistent volume's resources and capacity.", |object, _| {
            object.path("spec.capacity").text("storage").into()
        }),
        text("Access Modes", "AccessModes contains all ways the volume can be mounted.", |object, _| {
            access_modes(object.at("spec").items("accessModes")).into()
        }),
        text(
            "Reclaim Policy",
            "PersistentVolumeReclaimPolicy defines what happens to a persistent volume when released from its claim.",
            |object, _| object.at("spec").text("persistentVolumeReclaimPolicy").into(),
        ),
        text("Status", "Phase indicates if a volume is available, bound to a claim, or released by a claim.", |object, _| {
            if object.at("metadata").has("deletionTimestamp") {
                "Terminating".into()
            } else {
                object.at("status").text("phase").into()
            }
        }),
        text(
            "Claim",
            "ClaimRef is part of a bi-directional binding between PersistentVolume and PersistentVolumeClaim.",
            |object, _| {
                let claim = object.path("spec.claimRef");
                if claim.is_null() { "".into() } else { format!("{}/{}", claim.text("namespace"), claim.text("name")).into() }
            },
        ),
        text("StorageClass", "StorageClass of the pv", |object, _| class(object).into()),
        text("VolumeAttributesClass", "VolumeAttributesClass of the pv", |object, _| {
            unset(object.at("spec").text("volumeAttributesClassName")).into()
        }),
        text(
            "Reason",
            "Reason is a brief CamelCase string that describes any failure and is meant for machine parsing and tidy display in the CLI.",
            |object, _| object.at("status").text("reason").into(),
        ),
        column::age(),
        wide(text(
            "VolumeMode",
            "volumeMode defines if a volume is intended to be used with a formatted filesystem or to remain in raw block state. Value of Filesystem is implied when not included in spec.",
            |object, _| unset(object.at("spec").text("volumeMode")).into(),
        )),
    ];
}

/// `<unset>` for nothing.
pub fn unset(text: &str) -> &str {
    if text.is_empty() { "<unset>" } else { text }
}

/// The storage class, by the field or the old annotation.
pub fn class(object: &Value) -> String {
    let annotation = object.at("metadata").at("annotations").at("volume.beta.kubernetes.io/storage-class");
    annotation.as_str().unwrap_or(object.at("spec").text("storageClassName")).to_owned()
}

/// `RWO,ROX,…` in upstream's order without repeats.
pub fn access_modes(modes: &[Value]) -> String {
    [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")]
        .iter()
        .filter(|(mode, _)| modes.iter().any(|given| given == mode))
        .map(|(_, short)| *short)
        .collect::<Vec<_>>()
        .join(",")
}

fn default(object: &mut Value) {
    object.child("status").fill_text("phase", "Pending");
    let spec = object.child("spec");
    spec.fill_text("persistentVolumeReclaimPolicy", "Retain");
    spec.fill("volumeMode", "Filesystem");
    storage_source(spec);
    if let Some(capacity) = spec.child_if("capacity") {
        resource_list(capacity);
    }
}

fn status_update(context: &Context, new: &mut Value, old: &Value) {
    if new.at("status").text("phase") != old.at("status").text("phase") {
        if new.at("status").at("lastPhaseTransitionTime") == old.at("status").at("lastPhaseTransitionTime") {
            new.child("status").set("lastPhaseTransitionTime", context.now.clone());
        }
    } else if !new.at("status").has("lastPhaseTransitionTime") {
        new.child("status").keep("lastPhaseTransitionTime", old.at("status"));
    }
}

fn warnings(_context: &Context, new: &Value, _old: Option<&Value>) -> Vec<String> {
    let mut out = Vec::new();
    if new.at("metadata").at("annotations").has("volume.beta.kubernetes.io/storage-class") {
        out.push("metadata.annotations[volume.beta.kubernetes.io/storage-class]: deprecated since v1.8; use \"storageClassName\" attribute instead".to_owned());
    }
    if new.at("spec").text("persistentVolumeReclaimPolicy") == "Recycle" {
        out.push("spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.".to_owned());
    }
    out
}

fn validate(object: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let spec = object.at("spec");
    if spec.items("accessModes").is_empty() {
        errors.required(&path.child("accessModes"), "");
    }
    volume::access_modes(spec, &path, errors);
    let at = path.child("capacity");
    if spec.len_of("capacity") == 0 {
        errors.required(&at, "");
    }
    if !spec.at("capacity").has("storage") || spec.len_of("capacity") > 1 {
        errors.add(ErrorType::NotSupported, &at, spec.at("capacity").clone(), "supported values: \"storage\"");
    }
    for (name, amount) in spec.entries("capacity") {
        if quantity::parse(amount).is_some_and(|amount| amount <= 0) {
            errors.invalid(&at.key(name), amount.clone(), "must be greater than zero");
        }
    }
    let policy = spec.text("persistentVolumeReclaimPolicy");
    if !matches!(policy, "" | "Delete" | "Recycle" | "Retain") {
        errors.not_supported(&path.child("persistentVolumeReclaimPolicy"), policy, &["Delete", "Recycle", "Retain"]);
    }
    let required = spec.path("nodeAffinity.required");
    if spec.has("nodeAffinity") {
        let at = path.child("nodeAffinity.required");
        if required.is_null() {
            errors.required(&at, "must specify required node constraints");
        } else {
            affinity::node_selector(required, &at, errors);
        }
    }
    if !volume::persistent(spec, &path, errors) {
        errors.required(&path, "must specify a volume type");
    }
    if spec.has("local") && required.is_null() {
        errors.required(&Path::new("metadata.annotations"), "Local volume requires node affinity");
    }
    if spec.at("hostPath").text("path") == "/" && policy == "Recycle" {
        errors.forbidden(&path.child("persistentVolumeReclaimPolicy"), "may not be 'recycle' for a hostPath mount of '/'");
    }
    for field in ["storageClassName", "volumeAttributesClassName"] {
        if !spec.text(field).is_empty() {
            check::subdomain(spec.text(field), &path.child(field), errors);
        }
    }
    volume::volume_mode(spec, &path, errors);
}

/// Fields of the spec that are no source.
const PLAIN: &[&str] = &[
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
];

fn source(spec: &Value) -> Value {
    let mut spec = spec.clone();
    for field in PLAIN {
        spec.drop(field);
    }
    spec
}

fn validate_change(new: &Value, old: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let (after, before) = (new.at("spec"), old.at("spec"));
    if !same(&source(after), &source(before)) {
        let difference = difference::between("PersistentVolumeSource", before, after);
        errors.forbidden(
            &path.child("persistentvolumesource"),
            format!("spec.persistentvolumesource is immutable after creation\n{difference}"),
        );
    }
    if after.at("volumeMode") != before.at("volumeMode") {
        errors.invalid(&path.child("volumeMode"), after.at("volumeMode").clone(), "field is immutable");
    }
    if before.has("nodeAffinity") && !same(after.at("nodeAffinity"), before.at("nodeAffinity")) {
        let shown = crate::internal::compact("*VolumeNodeAffinity", after.at("nodeAffinity"));
        errors.add_shown(ErrorType::Invalid, &path.child("nodeAffinity"), shown, "field is immutable");
    }
}

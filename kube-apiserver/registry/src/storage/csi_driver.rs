//! CSIDrivers.

use api::field::{Errors, Path};
use serde_json::{Value, json};

use crate::column::{self, boolean, text};
use crate::metadata::immutable;
use crate::resource::Resource;
use crate::rules::Rules;
use crate::tree::Tree;

/// Rules and columns of CSIDrivers.
pub fn build(resource: &mut Resource) {
    resource.strategy = Rules {
        default,
        validate: |_, object, errors| validate(object, errors),
        validate_update: |_, new, old, errors| {
            validate(new, errors);
            for field in ["attachRequired", "fsGroupPolicy", "volumeLifecycleModes"] {
                immutable(new.at("spec").at(field), old.at("spec").at(field), &Path::new("spec").child(field), errors);
            }
        },
        unconditional_update: false,
        ..Rules::GENERIC
    }
    .strategy();
    resource.columns = vec![
        column::name(),
        boolean("AttachRequired", "Indicates this CSI volume driver requires an attach operation.", |object, _| {
            object.at("spec").at("attachRequired").as_bool().unwrap_or(true).into()
        }),
        boolean(
            "PodInfoOnMount",
            "Indicates this CSI volume driver requires additional pod information during mount.",
            |object, _| object.at("spec").truth("podInfoOnMount").into(),
        ),
        boolean(
            "StorageCapacity",
            "Indicates that the CSI volume driver wants pod scheduling to consider the storage capacity.",
            |object, _| object.at("spec").truth("storageCapacity").into(),
        ),
        text("TokenRequests", "Audiences of the tokens that the driver needs.", |object, _| {
            let audiences: Vec<&str> =
                object.at("spec").items("tokenRequests").iter().map(|request| request.text("audience")).collect();
            if audiences.is_empty() { "<unset>".into() } else { audiences.join(",").into() }
        }),
        boolean("RequiresRepublish", "Whether NodePublishVolume is called periodically.", |object, _| {
            object.at("spec").truth("requiresRepublish").into()
        }),
        text("Modes", "Which kinds of volumes this driver supports.", |object, _| {
            let modes: Vec<&str> = object.at("spec").items("volumeLifecycleModes").iter().filter_map(Value::as_str).collect();
            if modes.is_empty() { "<none>".into() } else { modes.join(",").into() }
        }),
        column::age(),
    ];
}

fn default(object: &mut Value) {
    let spec = object.child("spec");
    spec.fill("attachRequired", true);
    spec.fill("podInfoOnMount", false);
    spec.fill("storageCapacity", false);
    spec.fill("fsGroupPolicy", "ReadWriteOnceWithFSType");
    if spec.items("volumeLifecycleModes").is_empty() {
        spec.set("volumeLifecycleModes", json!(["Persistent"]));
    }
    spec.fill("requiresRepublish", false);
    spec.fill("seLinuxMount", false);
}

fn validate(object: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let spec = object.at("spec");
    for field in ["attachRequired", "podInfoOnMount", "storageCapacity"] {
        if !spec.has(field) {
            errors.required(&path.child(field), "");
        }
    }
    let policy = spec.text("fsGroupPolicy");
    if spec.has("fsGroupPolicy") && !matches!(policy, "ReadWriteOnceWithFSType" | "File" | "None") {
        errors.not_supported(&path.child("fsGroupPolicy"), policy, &["File", "None", "ReadWriteOnceWithFSType"]);
    }
    for mode in spec.items("volumeLifecycleModes") {
        if mode != "Persistent" && mode != "Ephemeral" {
            errors.not_one_of(&path.child("volumeLifecycleModes"), mode.clone(), &["Ephemeral", "Persistent"]);
        }
    }
}

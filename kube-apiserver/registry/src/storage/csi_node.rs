//! CSINodes.

use api::field::{ErrorType, Errors, Path};
use serde_json::Value;

use crate::check;
use crate::column::{self, integer};
use crate::pod_spec::volume::driver_name;
use crate::resource::Resource;
use crate::rules::Rules;
use crate::tree::{Tree, same};

/// Rules and columns of CSINodes.
pub fn build(resource: &mut Resource) {
    resource.strategy = Rules {
        default: |object| {
            for driver in object.child("spec").items_mut("drivers") {
                if !driver.has("topologyKeys") {
                    driver.set("topologyKeys", Value::Null);
                }
            }
        },
        validate: |_, object, errors| validate(object, errors),
        validate_update: |_, new, old, errors| {
            validate(new, errors);
            drivers_stay(new, old, errors);
        },
        unconditional_update: false,
        ..Rules::GENERIC
    }
    .strategy();
    resource.columns = vec![
        column::name(),
        integer("Drivers", "Drivers indicates the number of CSI drivers registered on the node", |object, _| {
            object.at("spec").len_of("drivers").into()
        }),
        column::age(),
    ];
}

/// What a driver said of the node it does not take back, but for how many volumes it can attach.
fn drivers_stay(new: &Value, old: &Value, errors: &mut Errors) {
    let fixed = |driver: &Value| {
        let mut driver = driver.clone();
        driver.drop("allocatable");
        driver
    };
    for before in old.at("spec").items("drivers") {
        for after in new.at("spec").items("drivers").iter().filter(|after| after.text("name") == before.text("name")) {
            if !same(&fixed(before), &fixed(after)) {
                let shown = crate::internal::compact("CSINodeDriver", &fixed(after));
                errors.add_shown(ErrorType::Invalid, &Path::new("spec.drivers"), shown, "field is immutable");
            }
        }
    }
}

/// Bytes. Upstream: csiNodeIDMaxLength
const MAX_NODE_ID: usize = 192;

fn validate(object: &Value, errors: &mut Errors) {
    let mut names = Vec::new();
    for (index, driver) in object.at("spec").items("drivers").iter().enumerate() {
        let path = Path::new("spec.drivers").index(index);
        let name = driver.text("name");
        if name.is_empty() {
            errors.required(&path.child("name"), "");
        } else {
            driver_name(name, &path.child("name"), errors);
        }
        let id = driver.text("nodeID");
        if id.is_empty() {
            errors.required(&path.child("nodeID"), "");
        } else if id.len() > MAX_NODE_ID {
            errors.invalid(&path.child("nodeID"), id, format!("must be {MAX_NODE_ID} characters or less"));
        }
        if let Some(count) = driver.at("allocatable").int("count").filter(|count| *count < 0) {
            errors.invalid(&path.child("allocatable.count"), count, "must be greater than or equal to 0");
        }
        let mut keys = Vec::new();
        for key in driver.items("topologyKeys").iter().filter_map(Value::as_str) {
            if keys.contains(&key) {
                errors.duplicate(&path.child("topologyKeys"), key);
            }
            keys.push(key);
            check::qualified(key, &path.child("topologyKeys"), errors);
        }
        if names.contains(&name) {
            errors.duplicate(&path.child("name"), name);
        }
        names.push(name);
    }
}

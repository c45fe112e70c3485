//! VolumeAttributesClasses.

use api::field::{Errors, Path};
use serde_json::Value;

use crate::check;
use crate::column::{self, text};
use crate::resource::{Column, Resource};
use crate::rules::Rules;
use crate::tree::{Tree, same};

/// Rules and columns of VolumeAttributesClasses.
pub fn build(resource: &mut Resource) {
    resource.strategy = Rules {
        validate: |_, object, errors| validate(object, errors),
        validate_update: |_, new, old, errors| {
            if new.text("driverName") != old.text("driverName") {
                errors.forbidden(&Path::new("driverName"), "updates to driverName are forbidden.");
            }
            if !same(new.at("parameters"), old.at("parameters")) {
                errors.forbidden(&Path::new("parameters"), "updates to parameters are forbidden.");
            }
        },
        ..Rules::GENERIC
    }
    .strategy();
    resource.columns = vec![
        Column {
            cell: |object, _| {
                let name = object.at("metadata").text("name");
                let default =
                    object.at("metadata").at("annotations").text("volumeattributesclass.alpha.kubernetes.io/is-default-class")
                        == "true";
                if default { format!("{name} (default)").into() } else { name.into() }
            },
            ..column::name()
        },
        text("DriverName", "Name of the CSI driver", |object, _| object.text("driverName").into()),
        column::age(),
    ];
}

/// Entries. Upstream: maxVolumeAttributesClassParameterSize and maxProvisionerParameterLen
const MOST_PARAMETERS: usize = 512;
/// Bytes of all keys and values.
const MOST_BYTES: usize = 256 * 1024;

fn validate(object: &Value, errors: &mut Errors) {
    let driver = object.text("driverName");
    let path = Path::new("driverName");
    if driver.is_empty() {
        errors.required(&path, "");
    } else {
        check::qualified(&driver.to_lowercase(), &path, errors);
    }
    let path = Path::new("parameters");
    let parameters = object.entries("parameters");
    if parameters.is_empty() {
        errors.required(&path, "must contain at least one key/value pair");
    }
    if parameters.len() > MOST_PARAMETERS {
        errors.too_long(&path, MOST_PARAMETERS);
        return;
    }
    if let Some((name, _)) = parameters.iter().find(|(name, _)| name.is_empty()) {
        errors.invalid(&path, *name, "field can not be empty.");
    }
    let size: usize = parameters.iter().map(|(name, value)| name.len() + value.as_str().map_or(0, str::len)).sum();
    if size > MOST_BYTES {
        errors.too_long(&path, MOST_BYTES);
    }
}

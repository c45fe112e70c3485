//! CSIStorageCapacities.

use api::field::{Errors, Path};
use serde_json::Value;

use crate::check;
use crate::column::{self, text};
use crate::metadata::immutable_text;
use crate::quantity;
use crate::resource::Resource;
use crate::rules::Rules;
use crate::tree::Tree;

/// Rules and columns of CSIStorageCapacities.
pub fn build(resource: &mut Resource) {
    resource.strategy = Rules {
        validate: |_, object, errors| validate(object, errors),
        validate_update: |_, new, old, errors| {
            validate(new, errors);
            check::immutable_selector(new.at("nodeTopology"), old.at("nodeTopology"), &Path::new("nodeTopology"), errors);
            let (after, before) = (new.text("storageClassName"), old.text("storageClassName"));
            immutable_text(after, before, &Path::new("storageClassName"), errors);
        },
        unconditional_update: false,
        ..Rules::GENERIC
    }
    .strategy();
    resource.columns = vec![
        column::name(),
        text("StorageClassName", "The name of the StorageClass that the reported capacity applies to.", |object, _| {
            object.text("storageClassName").into()
        }),
        text("Capacity", "The value reported by the CSI driver in its GetCapacityResponse.", |object, _| {
            object.text("capacity").into()
        }),
    ];
}

fn validate(object: &Value, errors: &mut Errors) {
    check::label_selector(object.at("nodeTopology"), &Path::new("nodeTopology"), errors);
    check::subdomain(object.text("storageClassName"), &Path::new("storageClassName"), errors);
    for field in ["capacity", "maximumVolumeSize"] {
        let amount = object.at(field);
        if quantity::parse(amount).is_some_and(|amount| amount < 0) {
            errors.invalid(&Path::new(field), amount.clone(), "must be greater than or equal to 0");
        }
    }
}

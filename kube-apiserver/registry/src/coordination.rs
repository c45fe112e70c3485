//! The coordination.k8s.io group.

use api::field::{Errors, Path};
use serde_json::Value;

use crate::column::{self, text};
use crate::resource::Resource;
use crate::rules::Rules;
use crate::tree::Tree;

/// Leases.
pub fn lease(resource: &mut Resource) {
    resource.strategy = Rules {
        validate: |_, object, errors| validate(object, errors),
        validate_update: |_, new, _, errors| validate(new, errors),
        create_on_update: true,
        unconditional_update: false,
        ..Rules::GENERIC
    }
    .strategy();
    resource.columns = vec![
        column::name(),
        text("Holder", "holderIdentity contains the identity of the holder of a current lease.", |object, _| {
            object.at("spec").text("holderIdentity").into()
        }),
        column::age(),
    ];
}

fn validate(object: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let spec = object.at("spec");
    if let Some(seconds) = spec.int("leaseDurationSeconds").filter(|seconds| *seconds <= 0) {
        errors.invalid(&path.child("leaseDurationSeconds"), seconds, "must be greater than 0");
    }
    if let Some(count) = spec.int("leaseTransitions").filter(|count| *count < 0) {
        errors.invalid(&path.child("leaseTransitions"), count, "must be greater than or equal to 0");
    }
    if spec.has("preferredHolder") && spec.text("strategy").is_empty() {
        errors.forbidden(&path.child("preferredHolder"), "may only be specified if `strategy` is defined");
    }
}

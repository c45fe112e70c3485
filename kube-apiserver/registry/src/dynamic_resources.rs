//! The resource.k8s.io group: dynamic resource allocation.
//!
//! Upstream: pkg/registry/resource

use api::field::Path;
use serde_json::{Value, json};

use crate::column::{self, text};
use crate::resource::Resource;
use crate::rules::{Rules, SPEC};
use crate::tree::Tree;

mod validate;

/// ResourceClaims.
pub fn claim(resource: &mut Resource) {
    resource.strategy = Rules {
        default: |object| default_requests(object.child("spec")),
        create: |_, object| object.set("status", json!({})),
        validate: |_, object, errors| validate::claim_spec(object.at("spec"), &Path::new("spec"), errors),
        validate_update: |_, new, old, errors| validate::same_spec(new, old, errors),
        status: true,
        ..Rules::GENERIC
    }
    .strategy();
    resource.columns = vec![
        column::name(),
        text("State", "A summary of the current state (allocated, pending, reserved, etc.).", |object, _| state(object).into()),
        column::age(),
    ];
}

fn state(object: &Value) -> String {
    let mut states = Vec::new();
    if object.at("metadata").has("deletionTimestamp") {
        states.push("deleted");
    }
    if object.path("status.allocation").is_null() {
        if !object.at("metadata").has("deletionTimestamp") {
            states.push("pending");
        }
    } else {
        states.push("allocated");
        if object.at("status").len_of("reservedFor") > 0 {
            states.push("reserved");
        }
    }
    states.join(",")
}

fn default_requests(spec: &mut Value) {
    let Some(devices) = spec.child_if("devices") else { return };
    for request in devices.items_mut("requests") {
        if let Some(exactly) = request.child_if("exactly") {
            default_request(exactly);
        }
        for sub in request.items_mut("firstAvailable") {
            default_request(sub);
        }
    }
}

fn default_request(request: &mut Value) {
    request.fill_text("allocationMode", "ExactCount");
    if request.text("allocationMode") == "ExactCount" {
        request.fill_int("count", 1);
    }
    for toleration in request.items_mut("tolerations") {
        toleration.fill_text("operator", "Equal");
    }
}

/// ResourceClaimTemplates.
pub fn claim_template(resource: &mut Resource) {
    resource.strategy = Rules {
        default: |object| default_requests(object.child("spec").child("spec")),
        validate: |_, object, errors| validate::claim_spec(object.path("spec.spec"), &Path::new("spec.spec"), errors),
        validate_update: |_, new, old, errors| validate::same_spec(new, old, errors),
        ..Rules::GENERIC
    }
    .strategy();
    resource.columns = vec![column::name(), column::age()];
}

/// DeviceClasses.
pub fn device_class(resource: &mut Resource) {
    resource.strategy = Rules {
        validate: |_, object, errors| validate::device_class(object, errors),
        validate_update: |_, new, _, errors| validate::device_class(new, errors),
        generation: SPEC,
        ..Rules::GENERIC
    }
    .strategy();
    resource.columns = vec![column::name(), column::age()];
}

/// ResourceSlices.
pub fn slice(resource: &mut Resource) {
    resource.strategy = Rules {
        validate: |_, object, errors| validate::slice(object, errors),
        validate_update: |_, new, old, errors| {
            validate::slice(new, errors);
            validate::slice_change(new, old, errors);
        },
        generation: SPEC,
        ..Rules::GENERIC
    }
    .strategy();
    resource.selectable = vec![
        ("spec.nodeName", |object| object.at("spec").text("nodeName").to_owned()),
        ("spec.driver", |object| object.at("spec").text("driver").to_owned()),
    ];
    resource.columns = vec![
        column::name(),
        text("Node", "NodeName identifies the node which provides the resources in this pool.", |object, _| {
            match object.at("spec").text("nodeName") {
                "" => "<unset>".into(),
                node => node.into(),
            }
        }),
        text("Driver", "Driver identifies the DRA driver providing the capacity information.", |object, _| {
            object.at("spec").text("driver").into()
        }),
        text("Pool", "Pool describes the pool that this ResourceSlice belongs to.", |object, _| {
            object.path("spec.pool").text("name").into()
        }),
        column::age(),
    ];
}

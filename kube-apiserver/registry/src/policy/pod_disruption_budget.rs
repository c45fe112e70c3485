//! PodDisruptionBudgets.
//!
//! Upstream: pkg/registry/policy/poddisruptionbudget

use serde_json::{Value, json};

use crate::column::{self, integer, text};
use crate::resource::Resource;
use crate::rules::{Rules, SPEC};
use crate::tree::Tree;

/// Rules and columns of PodDisruptionBudgets.
pub fn build(resource: &mut Resource) {
    resource.strategy = Rules {
        default: |object| status(object.child("status")),
        create: |_, object| {
            let mut zero = json!({});
            status(&mut zero);
            object.set("status", zero);
        },
        generation: SPEC,
        status: true,
        ..Rules::GENERIC
    }
    .strategy();
    resource.columns = vec![
        column::name(),
        text("Min Available", "The minimum number of pods that must be available.", |object, _| {
            amount(object.at("spec").at("minAvailable")).into()
        }),
        text("Max Unavailable", "The maximum number of pods that may be unavailable.", |object, _| {
            amount(object.at("spec").at("maxUnavailable")).into()
        }),
        integer("Allowed Disruptions", "Calculated number of pods that may be disrupted at this time.", |object, _| {
            object.at("status").int("disruptionsAllowed").unwrap_or(0).into()
        }),
        column::age(),
    ];
}

fn status(status: &mut Value) {
    for field in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
        status.fill(field, 0);
    }
}

fn amount(value: &Value) -> String {
    match value {
        Value::Null => "N/A".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

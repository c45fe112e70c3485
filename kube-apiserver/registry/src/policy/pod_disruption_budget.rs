//! PodDisruptionBudgets.
//!
//! Upstream: pkg/registry/policy/poddisruptionbudget

use api::field::{Errors, Path};
use serde_json::{Value, json};

use crate::check;
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
        name: crate::identifier::path_segment,
        generation: SPEC,
        status: true,
        validate: |_, object, errors| validate(object, errors),
        validate_update: |_, new, _, errors| validate(new, errors),
        unconditional_update: false,
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

fn validate(object: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let spec = object.at("spec");
    if spec.has("minAvailable") && spec.has("maxUnavailable") {
        let shown = crate::internal::compact("PodDisruptionBudgetSpec", spec);
        errors.add_shown(api::field::ErrorType::Invalid, &path, shown, "minAvailable and maxUnavailable cannot be both set");
    }
    for field in ["minAvailable", "maxUnavailable"] {
        if spec.has(field) {
            check::int_or_percent(spec.at(field), &path.child(field), errors);
            check::at_most_100_percent(spec.at(field), &path.child(field), errors);
        }
    }
    check::label_selector(spec.at("selector"), &path.child("selector"), errors);
    let policy = spec.text("unhealthyPodEvictionPolicy");
    if spec.has("unhealthyPodEvictionPolicy") && !matches!(policy, "AlwaysAllow" | "IfHealthyBudget") {
        errors.not_supported(&path.child("unhealthyPodEvictionPolicy"), policy, &["AlwaysAllow", "IfHealthyBudget"]);
    }
}

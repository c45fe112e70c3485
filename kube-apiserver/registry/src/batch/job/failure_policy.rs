//! What a job does about failed pods.
//!
//! Upstream: validatePodFailurePolicy

use api::field::{ErrorType, Errors, Path};
use serde_json::Value;

use crate::check;
use crate::tree::Tree;

const MAX_RULES: usize = 20;
const MAX_VALUES: usize = 255;
const MAX_PATTERNS: usize = 20;

pub(super) fn validate(spec: &Value, path: &Path, errors: &mut Errors) {
    let at = path.child("rules");
    let rules = spec.at("podFailurePolicy").items("rules");
    if rules.len() > MAX_RULES {
        errors.too_many(&at, rules.len(), MAX_RULES);
    }
    let pod = spec.path("template.spec");
    let names: Vec<&str> =
        ["containers", "initContainers"].iter().flat_map(|key| pod.items(key)).map(|c| c.text("name")).collect();
    for (index, rule) in rules.iter().enumerate() {
        one(spec, rule, &names, &at.index(index), errors);
    }
}

fn one(spec: &Value, rule: &Value, names: &[&str], path: &Path, errors: &mut Errors) {
    let action = rule.text("action");
    let at = path.child("action");
    match action {
        "" => errors.required(&at, "valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]"),
        "FailIndex" if !spec.has("backoffLimitPerIndex") => {
            errors.invalid(&at, action, "requires the backoffLimitPerIndex to be set");
        }
        "Count" | "FailIndex" | "FailJob" | "Ignore" => {}
        other => errors.not_supported(&at, other, &["Count", "FailIndex", "FailJob", "Ignore"]),
    }
    let conditions = rule.items("onPodConditions");
    if rule.has("onExitCodes") {
        exit_codes(rule.at("onExitCodes"), names, &path.child("onExitCodes"), errors);
    }
    if conditions.len() > MAX_PATTERNS {
        errors.too_many(&path.child("onPodConditions"), conditions.len(), MAX_PATTERNS);
    }
    for (index, pattern) in conditions.iter().enumerate() {
        let path = path.child("onPodConditions").index(index);
        check::qualified(pattern.text("type"), &path.child("type"), errors);
        match pattern.text("status") {
            "" => errors.required(&path.child("status"), "valid values: [\"False\" \"True\" \"Unknown\"]"),
            "True" | "False" | "Unknown" => {}
            other => errors.not_supported(&path.child("status"), other, &["False", "True", "Unknown"]),
        }
    }
    match (rule.has("onExitCodes"), conditions.is_empty()) {
        (true, false) => {
            errors.add_shown(ErrorType::Invalid, path, "", "specifying both OnExitCodes and OnPodConditions is not supported")
        }
        (false, true) => {
            errors.add_shown(ErrorType::Invalid, path, "", "specifying one of OnExitCodes and OnPodConditions is required")
        }
        _ => {}
    }
}

fn exit_codes(codes: &Value, names: &[&str], path: &Path, errors: &mut Errors) {
    let operator = codes.text("operator");
    match operator {
        "" => errors.required(&path.child("operator"), "valid values: [\"In\" \"NotIn\"]"),
        "In" | "NotIn" => {}
        other => errors.not_supported(&path.child("operator"), other, &["In", "NotIn"]),
    }
    if codes.has("containerName") && !names.contains(&codes.text("containerName")) {
        errors.invalid(
            &path.child("containerName"),
            codes.text("containerName"),
            "must be one of the container or initContainer names in the pod template",
        );
    }
    let at = path.child("values");
    let values = codes.items("values");
    if values.is_empty() {
        errors.invalid(&at, codes.at("values").clone(), "at least one value is required");
    } else if values.len() > MAX_VALUES {
        errors.too_many(&at, values.len(), MAX_VALUES);
    }
    let numbers: Vec<i64> = values.iter().filter_map(Value::as_i64).collect();
    let mut ordered = true;
    let mut seen = Vec::new();
    for (index, number) in numbers.iter().enumerate() {
        if *number == 0 && operator == "In" {
            errors.invalid(&at.index(index), 0, "must not be 0 for the In operator");
        }
        if seen.contains(number) {
            errors.duplicate(&at.index(index), *number);
        } else {
            seen.push(*number);
        }
        ordered &= index == 0 || numbers[index - 1] <= *number;
    }
    if !ordered {
        errors.invalid(&at, values.to_vec(), "must be ordered");
    }
}

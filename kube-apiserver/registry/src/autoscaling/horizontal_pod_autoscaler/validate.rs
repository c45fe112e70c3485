//! Validation of HorizontalPodAutoscalers, always on the v2 shape.
//!
//! Upstream: pkg/apis/autoscaling/validation

use api::field::{Errors, Path};
use serde_json::Value;

use crate::check;
use crate::identifier;
use crate::quantity;
use crate::tree::Tree;

const TYPES: &[&str] = &["ContainerResource", "External", "Object", "Pods", "Resource"];

/// A v1 object, checked as what it will be stored as.
pub(super) fn old(object: &Value, errors: &mut Errors) {
    let mut object = object.clone();
    super::v1_to_v2(&mut object);
    autoscaler(&object, errors);
}

pub(super) fn autoscaler(object: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let spec = object.at("spec");
    let least = spec.int("minReplicas");
    let most = spec.int("maxReplicas").unwrap_or(0);
    if let Some(least) = least.filter(|least| *least < 1) {
        errors.invalid(&path.child("minReplicas"), least, "must be greater than or equal to 1");
    }
    if most == 0 {
        errors.required(&path.child("maxReplicas"), "must be set and greater than 0");
    } else if most < 1 {
        errors.invalid(&path.child("maxReplicas"), most, "must be greater than or equal to 1");
    }
    if least.is_some_and(|least| most < least) {
        errors.invalid(&path.child("maxReplicas"), most, "must be greater than or equal to `minReplicas`");
    }
    reference(spec.at("scaleTargetRef"), &path.child("scaleTargetRef"), errors);
    for (index, metric) in spec.items("metrics").iter().enumerate() {
        self::metric(metric, &path.child("metrics").index(index), errors);
    }
    if spec.has("behavior") {
        for key in ["scaleUp", "scaleDown"] {
            let rules = spec.at("behavior").at(key);
            if !rules.is_null() {
                behavior(rules, &path.child("behavior").child(key), errors);
            }
        }
    }
}

fn reference(target: &Value, path: &Path, errors: &mut Errors) {
    for field in ["kind", "name"] {
        let text = target.text(field);
        if text.is_empty() {
            errors.required(&path.child(field), "");
        } else {
            check::each(identifier::path_segment(text, false), text, &path.child(field), errors);
        }
    }
    let version = target.text("apiVersion");
    let (group, _) = crate::names::split_api_version(version);
    if version.matches('/').count() > 1 {
        errors.invalid(&path.child("apiVersion"), version, format!("unexpected GroupVersion string: {version}"));
    } else if group.is_empty() && !(version == "v1" && target.text("kind") == "ReplicationController") {
        errors.invalid(&path.child("apiVersion"), version, "apiVersion must specify API group");
    }
}

fn metric(metric: &Value, path: &Path, errors: &mut Errors) {
    let kind = metric.text("type");
    if kind.is_empty() {
        errors.required(&path.child("type"), "must specify a metric source type");
    }
    if !TYPES.contains(&kind) {
        // Both of upstream's checks of the type complain.
        errors.not_supported(&path.child("type"), kind, TYPES);
        errors.not_supported(&path.child("type"), kind, TYPES);
    }
    let expected = match kind {
        "Object" => "object",
        "External" => "external",
        "Pods" => "pods",
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        _ => "",
    };
    let mut present = Vec::new();
    for key in ["object", "external", "pods", "resource", "containerResource"] {
        if metric.has(key) {
            present.push(key);
            if present.len() == 1 {
                source(key, metric.at(key), &path.child(key), errors);
            }
        }
    }
    if !expected.is_empty() && !present.contains(&expected) {
        errors.required(&path.child(expected), "must populate information for the given metric source");
    }
    if present.len() != 1 {
        for key in present {
            if key != expected {
                errors.forbidden(&path.child(key), "must populate the given metric source only");
            }
        }
    }
}

fn source(key: &str, source: &Value, path: &Path, errors: &mut Errors) {
    let target = source.at("target");
    let at = path.child("target");
    match key {
        "resource" | "containerResource" => {
            if source.text("name").is_empty() {
                errors.required(&path.child("name"), "must specify a resource name");
            }
            if key == "containerResource" && source.text("container").is_empty() {
                errors.required(&path.child("container"), "must specify a container");
            }
            self::target(target, &at, errors);
            match (target.has("averageUtilization"), target.has("averageValue")) {
                (false, false) => {
                    errors.required(&at.child("averageUtilization"), "must set either a target raw value or a target utilization")
                }
                (true, true) => {
                    errors.forbidden(&at.child("averageValue"), "may not set both a target raw value and a target utilization")
                }
                _ => {}
            }
        }
        "pods" => {
            identifier_of(source, path, errors);
            self::target(target, &at, errors);
            if !target.has("averageValue") || quantity::parse(target.at("averageValue")).is_some_and(|value| value <= 0) {
                errors.required(&at.child("averageValue"), "must specify a positive target averageValue");
            }
        }
        "object" => {
            reference_of_object(source.at("describedObject"), &path.child("describedObject"), errors);
            identifier_of(source, path, errors);
            self::target(target, &at, errors);
            if !target.has("value") && !target.has("averageValue") {
                errors.required(&at.child("averageValue"), "must set either a target value or averageValue");
            }
        }
        _ => {
            identifier_of(source, path, errors);
            self::target(target, &at, errors);
            match (target.has("value"), target.has("averageValue")) {
                (false, false) => {
                    errors.required(&at.child("averageValue"), "must set either a target value for metric or a per-pod target")
                }
                (true, true) => {
                    errors.forbidden(&at.child("value"), "may not set both a target value for metric and a per-pod target")
                }
                _ => {}
            }
        }
    }
}

fn reference_of_object(target: &Value, path: &Path, errors: &mut Errors) {
    for field in ["kind", "name"] {
        if target.text(field).is_empty() {
            errors.required(&path.child(field), "");
        }
    }
}

fn identifier_of(source: &Value, path: &Path, errors: &mut Errors) {
    let name = source.path("metric.name").as_str().unwrap_or("");
    let at = path.child("metric.name");
    if name.is_empty() {
        errors.required(&at, "must specify a metric name");
    } else {
        check::each(identifier::path_segment(name, false), name, &at, errors);
    }
}

fn target(target: &Value, path: &Path, errors: &mut Errors) {
    let kind = target.text("type");
    if kind.is_empty() {
        errors.required(&path.child("type"), "must specify a metric target type");
    }
    if !matches!(kind, "Utilization" | "Value" | "AverageValue") {
        errors.invalid(&path.child("type"), kind, "must be either Utilization, Value, or AverageValue");
    }
    for field in ["value", "averageValue"] {
        if quantity::parse(target.at(field)).is_some_and(|value| value <= 0) {
            errors.invalid(&path.child(field), target.at(field).clone(), "must be positive");
        }
    }
    if let Some(percent) = target.int("averageUtilization").filter(|percent| *percent < 1) {
        errors.invalid(&path.child("averageUtilization"), percent, "must be greater than 0");
    }
}

fn behavior(rules: &Value, path: &Path, errors: &mut Errors) {
    let at = path.child("stabilizationWindowSeconds");
    match rules.int("stabilizationWindowSeconds") {
        Some(seconds) if seconds < 0 => errors.invalid(&at, seconds, "must be greater than or equal to zero"),
        Some(seconds) if seconds > 3600 => errors.invalid(&at, seconds, "must be less than or equal to 3600"),
        _ => {}
    }
    if rules.has("selectPolicy") && !matches!(rules.text("selectPolicy"), "Max" | "Min" | "Disabled") {
        errors.not_supported(&path.child("selectPolicy"), rules.text("selectPolicy"), &["Disabled", "Max", "Min"]);
    }
    let policies = path.child("policies");
    if rules.items("policies").is_empty() {
        errors.required(&policies, "must specify at least one Policy");
    }
    for (index, policy) in rules.items("policies").iter().enumerate() {
        let path = policies.index(index);
        if !matches!(policy.text("type"), "Pods" | "Percent") {
            errors.not_supported(&path.child("type"), policy.text("type"), &["Percent", "Pods"]);
        }
        let value = policy.int("value").unwrap_or(0);
        if value <= 0 {
            errors.invalid(&path.child("value"), value, "must be greater than zero");
        }
        let period = policy.int("periodSeconds").unwrap_or(0);
        if period <= 0 {
            errors.invalid(&path.child("periodSeconds"), period, "must be greater than zero");
        } else if period > 1800 {
            errors.invalid(&path.child("periodSeconds"), period, "must be less than or equal to 1800");
        }
    }
}

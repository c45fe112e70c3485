//! HorizontalPodAutoscalers, v1 and v2; v2 is what is stored.
//!
//! Upstream: pkg/apis/autoscaling/v1/conversion.go, v2/defaults.go, printHorizontalPodAutoscaler

use serde_json::{Value, json};

use crate::column::{self, text};
use crate::resource::{Conversion, Resource};
use crate::rules::Rules;
use crate::tree::Tree;

mod targets;
mod validate;

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

/// Rules and columns of v2.
pub fn build(resource: &mut Resource) {
    resource.strategy = Rules {
        default: default_v2,
        validate: |_, object, errors| validate::autoscaler(object, errors),
        validate_update: |_, object, _, errors| validate::autoscaler(object, errors),
        create: |_, object| object.set("status", json!({"currentMetrics": null, "desiredReplicas": 0})),
        status: true,
        ..Rules::GENERIC
    }
    .strategy();
    resource.columns = columns();
}

/// Rules and columns of v1.
pub fn build_v1(resource: &mut Resource) {
    resource.strategy = Rules {
        default: default_v1,
        validate: |_, object, errors| validate::old(object, errors),
        validate_update: |_, object, _, errors| validate::old(object, errors),
        create: |_, object| object.set("status", json!({"currentReplicas": 0, "desiredReplicas": 0})),
        status: true,
        ..Rules::GENERIC
    }
    .strategy();
    resource.columns = columns();
    resource.conversion = Some(Conversion { to_stored: v1_to_v2, from_stored: v2_to_v1 });
}

fn columns() -> Vec<crate::resource::Column> {
    vec![
        column::name(),
        text(
            "Reference",
            "scaleTargetRef points to the target resource to scale, and is used to the pods for which metrics should be collected, as well as to actually change the replica count.",
            |object, _| {
                let target = object.path("spec.scaleTargetRef");
                format!("{}/{}", target.text("kind"), target.text("name")).into()
            },
        ),
        text(
            "Targets",
            "metrics contains the specifications for which to use to calculate the desired replica count (the maximum replica count across all metrics will be used).",
            |object, _| {
                if object.text("apiVersion") == "autoscaling/v1" {
                    let mut object = object.clone();
                    v1_to_v2(&mut object);
                    targets::format(&object).into()
                } else {
                    targets::format(object).into()
                }
            },
        ),
        text(
            "MinPods",
            "minReplicas is the lower limit for the number of replicas to which the autoscaler can scale down.",
            |object, _| object.at("spec").int("minReplicas").map_or_else(|| "<unset>".to_owned(), |min| min.to_string()).into(),
        ),
        text(
            "MaxPods",
            "maxReplicas is the upper limit for the number of replicas to which the autoscaler can scale up.",
            |object, _| object.at("spec").int("maxReplicas").unwrap_or(0).into(),
        ),
        text(
            "Replicas",
            "currentReplicas is current number of replicas of pods managed by this autoscaler, as last seen by the autoscaler.",
            |object, _| object.at("status").int("currentReplicas").unwrap_or(0).into(),
        ),
        column::age(),
    ]
}

fn default_v2(object: &mut Value) {
    let spec = object.child("spec");
    spec.fill("minReplicas", 1);
    if spec.items("metrics").is_empty() {
        spec.set("metrics", json!([cpu_metric(80)]));
    }
    if let Some(behavior) = spec.child_if("behavior") {
        let policies = json!([
            {"type": "Pods", "value": 4, "periodSeconds": 15},
            {"type": "Percent", "value": 100, "periodSeconds": 15},
        ]);
        rules(behavior.child("scaleUp"), 0, policies);
        let down = behavior.child("scaleDown");
        down.fill("selectPolicy", "Max");
        if down.items("policies").is_empty() {
            down.set("policies", json!([{"type": "Percent", "value": 100, "periodSeconds": 15}]));
        }
    }
    let status = object.child("status");
    status.fill("desiredReplicas", 0);
    if !status.has("currentMetrics") {
        status.set("currentMetrics", Value::Null);
    }
}

fn rules(rules: &mut Value, window: i64, policies: Value) {
    rules.fill("stabilizationWindowSeconds", window);
    rules.fill("selectPolicy", "Max");
    if rules.items("policies").is_empty() {
        rules.set("policies", policies);
    }
}

fn default_v1(object: &mut Value) {
    let has_metrics = !object.at("metadata").at("annotations").text(METRICS).is_empty();
    let spec = object.child("spec");
    spec.fill("minReplicas", 1);
    if !has_metrics {
        spec.fill("targetCPUUtilizationPercentage", 80);
    }
    let status = object.child("status");
    status.fill("currentReplicas", 0);
    status.fill("desiredReplicas", 0);
}

fn cpu_metric(percent: i64) -> Value {
    json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": percent}}})
}

fn annotation(object: &Value, key: &str) -> Option<Value> {
    serde_json::from_str(object.at("metadata").at("annotations").text(key)).ok()
}

fn v1_to_v2(object: &mut Value) {
    object.set("apiVersion", "autoscaling/v2");
    let percent = object.at("spec").int("targetCPUUtilizationPercentage");
    let mut metrics: Vec<Value> = annotation(object, METRICS)
        .and_then(|value| value.as_array().cloned())
        .unwrap_or_default()
        .iter()
        .map(metric_from_v1)
        .collect();
    if let Some(percent) = percent {
        metrics.push(cpu_metric(percent));
    }
    if let Some(behavior) = annotation(object, BEHAVIOR) {
        object.child("spec").set("behavior", behavior);
    }
    let spec = object.child("spec");
    spec.drop("targetCPUUtilizationPercentage");
    if !metrics.is_empty() {
        spec.set("metrics", metrics);
    }
    let current = object.at("status").int("currentCPUUtilizationPercentage");
    let mut currents: Vec<Value> = annotation(object, CURRENT_METRICS)
        .and_then(|value| value.as_array().cloned())
        .unwrap_or_default()
        .iter()
        .map(current_from_v1)
        .collect();
    let conditions = annotation(object, CONDITIONS);
    if let Some(percent) = current
        && currents.is_empty()
    {
        currents.push(json!({"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": percent, "averageValue": "0"}}}));
    }
    let status = object.child("status");
    status.drop("currentCPUUtilizationPercentage");
    status.set("currentMetrics", if currents.is_empty() { Value::Null } else { currents.into() });
    if status.int("currentReplicas") == Some(0) {
        status.drop("currentReplicas");
    }
    status.fill("desiredReplicas", 0);
    if let Some(conditions) = conditions {
        status.set("conditions", conditions);
    }
    drop_annotations(object);
}

fn drop_annotations(object: &mut Value) {
    if let Some(annotations) = object.child("metadata").child_if("annotations") {
        for key in [METRICS, CURRENT_METRICS, CONDITIONS, BEHAVIOR] {
            annotations.drop(key);
        }
        if annotations.as_object().is_some_and(serde_json::Map::is_empty) {
            object.child("metadata").drop("annotations");
        }
    }
}

fn v2_to_v1(object: &mut Value) {
    object.set("apiVersion", "autoscaling/v1");
    let mut others = Vec::new();
    let mut percent = None;
    for metric in object.at("spec").items("metrics") {
        let target = metric.path("resource.target");
        if metric.text("type") == "Resource"
            && metric.at("resource").text("name") == "cpu"
            && target.has("averageUtilization")
            && percent.is_none()
        {
            percent = target.int("averageUtilization");
        } else {
            others.push(metric_to_v1(metric));
        }
    }
    let behavior = object.at("spec").at("behavior").clone();
    let spec = object.child("spec");
    spec.drop("metrics");
    spec.drop("behavior");
    if let Some(percent) = percent {
        spec.set("targetCPUUtilizationPercentage", percent);
    }
    let mut currents = Vec::new();
    let mut current = None;
    for metric in object.at("status").items("currentMetrics") {
        if metric.text("type") == "Resource" && metric.at("resource").text("name") == "cpu" {
            current = metric.path("resource.current").int("averageUtilization");
        }
        currents.push(current_to_v1(metric));
    }
    let conditions = object.at("status").at("conditions").clone();
    let status = object.child("status");
    status.drop("currentMetrics");
    status.drop("conditions");
    if let Some(current) = current {
        status.set("currentCPUUtilizationPercentage", current);
    }
    status.fill("currentReplicas", 0);
    status.fill("desiredReplicas", 0);
    let mut annotate = |key: &str, value: Value| object.child("metadata").child("annotations").set(key, value.to_string());
    if !others.is_empty() {
        annotate(METRICS, others.into());
    }
    if !currents.is_empty() {
        annotate(CURRENT_METRICS, currents.into());
    }
    if !conditions.is_null() {
        annotate(CONDITIONS, conditions);
    }
    if !behavior.is_null() {
        annotate(BEHAVIOR, behavior);
    }
}

/// The v1 annotation keeps targets beside the metric (`targetAverageValue`); v2 has them below `target`.
fn metric_from_v1(metric: &Value) -> Value {
    let mut out = json!({"type": metric.at("type")});
    for (kind, name_field) in SOURCES {
        let source = metric.at(kind);
        if source.is_null() {
            continue;
        }
        let mut target = json!({});
        for (from, to, kind) in [
            ("targetAverageUtilization", "averageUtilization", "Utilization"),
            ("targetAverageValue", "averageValue", "AverageValue"),
            ("averageValue", "averageValue", "AverageValue"),
            ("targetValue", "value", "Value"),
        ] {
            if source.has(from) {
                target.set("type", kind);
                target.set(to, source.at(from).clone());
            }
        }
        let mut new = json!({"target": target});
        if *name_field == "name" {
            new.set("name", source.at("name").clone());
            if source.has("container") {
                new.set("container", source.at("container").clone());
            }
        } else {
            let mut identifier = json!({"name": source.at("metricName")});
            let selector = if *kind == "external" { source.at("metricSelector") } else { source.at("selector") };
            if !selector.is_null() {
                identifier.set("selector", selector.clone());
            }
            new.set("metric", identifier);
        }
        if *kind == "object" {
            new.set("describedObject", source.at("target").clone());
        }
        out.set(kind, new);
    }
    out
}

/// Metric sources and where their name stands.
const SOURCES: &[(&str, &str)] = &[
    ("resource", "name"),
    ("containerResource", "name"),
    ("pods", "metricName"),
    ("object", "metricName"),
    ("external", "metricName"),
];

fn metric_to_v1(metric: &Value) -> Value {
    let mut out = json!({"type": metric.at("type")});
    for (kind, name_field) in SOURCES {
        let source = metric.at(kind);
        if source.is_null() {
            continue;
        }
        let mut old = json!({});
        let target = source.at("target");
        if *name_field == "name" {
            old.set("name", source.at("name").clone());
            if source.has("container") {
                old.set("container", source.at("container").clone());
            }
        } else {
            old.set("metricName", source.path("metric.name").clone());
            let selector = source.path("metric.selector");
            if !selector.is_null() {
                old.set(if *kind == "external" { "metricSelector" } else { "selector" }, selector.clone());
            }
        }
        let average = if *kind == "object" { "averageValue" } else { "targetAverageValue" };
        for (from, to) in
            [("averageUtilization", "targetAverageUtilization"), ("averageValue", average), ("value", "targetValue")]
        {
            if target.has(from) {
                old.set(to, target.at(from).clone());
            }
        }
        if *kind == "object" {
            old.set("target", source.at("describedObject").clone());
        }
        out.set(kind, old);
    }
    out
}

fn current_from_v1(metric: &Value) -> Value {
    let mut out = json!({"type": metric.at("type")});
    for (kind, name_field) in SOURCES {
        let source = metric.at(kind);
        if source.is_null() {
            continue;
        }
        let mut current = json!({});
        for (from, to) in [
            ("currentAverageUtilization", "averageUtilization"),
            ("currentAverageValue", "averageValue"),
            ("averageValue", "averageValue"),
            ("currentValue", "value"),
        ] {
            if source.has(from) {
                current.set(to, source.at(from).clone());
            }
        }
        let mut new = json!({"current": current});
        if *name_field == "name" {
            new.set("name", source.at("name").clone());
        } else {
            new.set("metric", json!({"name": source.at("metricName")}));
        }
        if *kind == "object" {
            new.set("describedObject", source.at("target").clone());
        }
        out.set(kind, new);
    }
    out
}

fn current_to_v1(metric: &Value) -> Value {
    let mut out = json!({"type": metric.at("type")});
    for (kind, name_field) in SOURCES {
        let source = metric.at(kind);
        if source.is_null() {
            continue;
        }
        let mut old = json!({});
        if *name_field == "name" {
            old.set("name", source.at("name").clone());
        } else {
            old.set("metricName", source.path("metric.name").clone());
        }
        let current = source.at("current");
        for (from, to) in [
            ("averageUtilization", "currentAverageUtilization"),
            ("averageValue", "currentAverageValue"),
            ("value", "currentValue"),
        ] {
            if current.has(from) {
                old.set(to, current.at(from).clone());
            }
        }
        if *kind == "object" {
            old.set("target", source.at("describedObject").clone());
        }
        out.set(kind, old);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v1_and_v2_convert_without_loss() {
        let v2 = json!({
            "apiVersion": "autoscaling/v2", "metadata": {"name": "h"},
            "spec": {"maxReplicas": 5, "minReplicas": 1, "metrics": [
                {"type": "Pods", "pods": {"metric": {"name": "qps"}, "target": {"type": "AverageValue", "averageValue": "5"}}},
                cpu_metric(70),
            ]},
            "status": {"currentMetrics": null, "desiredReplicas": 0},
        });
        let mut object = v2.clone();
        v2_to_v1(&mut object);
        assert_eq!(object["spec"]["targetCPUUtilizationPercentage"], 70);
        v1_to_v2(&mut object);
        assert_eq!(object, v2);
    }
}

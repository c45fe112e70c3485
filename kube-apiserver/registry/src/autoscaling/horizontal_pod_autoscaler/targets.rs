//! The Targets cell: current and wanted value of each metric.
//!
//! Upstream: formatHPAMetrics

use serde_json::Value;

use crate::tree::Tree;

/// Most metrics shown before `+ n more...`.
const SHOWN: usize = 2;

pub(super) fn format(hpa: &Value) -> String {
    let specs = hpa.at("spec").items("metrics");
    if specs.is_empty() {
        return "<none>".to_owned();
    }
    let currents = hpa.at("status").items("currentMetrics");
    let all: Vec<String> = specs.iter().enumerate().map(|(index, spec)| one(spec, currents.get(index))).collect();
    let head = all[..all.len().min(SHOWN)].join(", ");
    if all.len() > SHOWN { format!("{head} + {} more...", all.len() - SHOWN) } else { head }
}

fn one(spec: &Value, current: Option<&Value>) -> String {
    let kind = match spec.text("type") {
        "External" => "external",
        "Pods" => "pods",
        "Object" => "object",
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        _ => return "<unknown type>".to_owned(),
    };
    let source = spec.at(kind);
    let target = source.at("target");
    let current = current.map(|current| current.at(kind).at("current").clone()).unwrap_or_default();
    let now = |field: &str| text(current.at(field));
    match kind {
        "pods" => format!("{}/{}", now("averageValue"), text(target.at("averageValue"))),
        "object" | "external" => {
            if target.has("averageValue") {
                format!("{}/{} (avg)", now("averageValue"), text(target.at("averageValue")))
            } else {
                format!("{}/{}", now("value"), text(target.at("value")))
            }
        }
        _ => {
            let name = source.text("name");
            if target.has("averageValue") {
                format!("{name}: {}/{}", now("averageValue"), text(target.at("averageValue")))
            } else {
                let now =
                    current.int("averageUtilization").map_or_else(|| "<unknown>".to_owned(), |percent| format!("{percent}%"));
                let wanted =
                    target.int("averageUtilization").map_or_else(|| "<auto>".to_owned(), |percent| format!("{percent}%"));
                format!("{name}: {now}/{wanted}")
            }
        }
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "<unknown>".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

//! Whether a pod may be on a node, as far as a DaemonSet asks: name, node selector, required affinity, taints.
//!
//! Upstream: component-helpers/scheduling/corev1/nodeaffinity

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Toleration};
use kube::ResourceExt;

use crate::taint_eviction::tolerates;

/// Node selector and required node affinity.
pub fn selects(spec: &PodSpec, node: &Node) -> bool {
    let by_label = spec.node_selector.iter().flatten().all(|(key, value)| node.labels().get(key) == Some(value));
    let required = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    by_label && required.is_none_or(|selector| selector.node_selector_terms.iter().any(|term| term_matches(term, node)))
}

fn term_matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let (expressions, fields) =
        (term.match_expressions.as_deref().unwrap_or_default(), term.match_fields.as_deref().unwrap_or_default());
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let name = node.name_any();
    expressions.iter().all(|requirement| matches(requirement, node.labels().get(&requirement.key).map(String::as_str)))
        && fields.iter().all(|requirement| matches(requirement, (requirement.key == "metadata.name").then_some(&name)))
}

fn matches(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = |value: &str| values.iter().any(|v| v == value);
    let compare = |by: fn(&i64, &i64) -> bool| {
        let (left, right) = (value.and_then(|v| v.parse().ok()), values.first().and_then(|v| v.parse().ok()));
        left.zip(right).is_some_and(|(left, right)| by(&left, &right))
    };
    match requirement.operator.as_str() {
        "In" => value.is_some_and(listed),
        "NotIn" => !value.is_some_and(listed),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(i64::gt),
        "Lt" => compare(i64::lt),
        _ => false,
    }
}

/// Whether every taint with one of these effects is tolerated.
pub fn tolerates_all(tolerations: &[Toleration], node: &Node, effects: &[&str]) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    taints
        .iter()
        .filter(|taint| effects.contains(&taint.effect.as_str()))
        .all(|taint| tolerations.iter().any(|t| tolerates(t, taint)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn selectors_terms_and_fields_decide() {
        let node: Node =
            serde_json::from_value(json!({"metadata": {"name": "n1", "labels": {"os": "linux", "gpus": "4"}}})).unwrap();
        let term = |term: Value| json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}});
        for (spec, expected) in [
            (json!({}), true),
            (json!({"nodeSelector": {"os": "linux"}}), true),
            (json!({"nodeSelector": {"os": "windows"}}), false),
            (term(json!({"matchExpressions": [{"key": "gpus", "operator": "Gt", "values": ["3"]}]})), true),
            (term(json!({"matchExpressions": [{"key": "gpus", "operator": "Lt", "values": ["3"]}]})), false),
            (term(json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]})), true),
            (term(json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n2"]}]})), false),
            (term(json!({})), false),
        ] {
            let mut full = spec.clone();
            full["containers"] = json!([]);
            let parsed: PodSpec = serde_json::from_value(full).unwrap();
            assert_eq!(selects(&parsed, &node), expected, "{spec}");
        }
    }
}

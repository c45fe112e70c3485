//! How many pods of a budget may be disrupted now.
//!
//! Upstream: pkg/controller/disruption/disruption.go

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::ResourceExt;

use crate::int_or_percent::scaled;
use crate::pods;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// An eviction that has not become a deletion by then is forgotten. Upstream: DeletionTimeout.
const DELETION_TIMEOUT: SignedDuration = SignedDuration::from_mins(2);

#[derive(Debug, PartialEq)]
pub struct Outcome {
    pub status: PodDisruptionBudgetStatus,
    pub look_again: Option<Timestamp>,
}

/// Whether the scale of the pods' controllers is needed.
pub fn needs_scale(pdb: &PodDisruptionBudget) -> bool {
    let spec = pdb.spec.as_ref();
    spec.is_some_and(|spec| spec.max_unavailable.is_some() || matches!(spec.min_available, Some(IntOrString::String(_))))
}

/// `scale`: what the controllers of the pods want altogether, where that is needed.
pub fn plan(pdb: &PodDisruptionBudget, selected: &[Arc<Pod>], scale: i32, now: Timestamp) -> Outcome {
    let spec = pdb.spec.as_ref();
    let old = pdb.status.clone().unwrap_or_default();
    let count = i32::try_from(selected.len()).unwrap_or(i32::MAX);
    let (expected, desired) = match (spec.and_then(|s| s.max_unavailable.as_ref()), spec.and_then(|s| s.min_available.as_ref())) {
        (Some(value), _) => (scale, (scale - scaled(value, scale, true).unwrap_or(0)).max(0)),
        (None, Some(value @ IntOrString::String(_))) => (scale, scaled(value, scale, true).unwrap_or(0)),
        (None, Some(IntOrString::Int(number))) => (count, *number),
        (None, None) => (count, 0),
    };
    let mut disrupted = BTreeMap::new();
    let mut look_again: Option<Timestamp> = None;
    for (name, since) in old.disrupted_pods.iter().flatten() {
        let Some(_) = selected.iter().find(|pod| pod.name_any() == *name && !pods::is_deleting(pod)) else { continue };
        let until = since.0 + DELETION_TIMEOUT;
        if until > now {
            disrupted.insert(name.clone(), since.clone());
            look_again = Some(look_again.map_or(until, |at| at.min(until)));
        }
    }
    let healthy = selected
        .iter()
        .filter(|pod| pods::is_ready(pod) && !pods::is_deleting(pod) && !disrupted.contains_key(&pod.name_any()))
        .count();
    let healthy = i32::try_from(healthy).unwrap_or(i32::MAX);
    let allowed = if expected <= 0 { 0 } else { (healthy - desired).max(0) };
    let mut conditions = old.conditions.clone().unwrap_or_default();
    let (status, reason) = if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    set_condition(&mut conditions, status, reason, "", pdb.metadata.generation, now);
    Outcome {
        status: PodDisruptionBudgetStatus {
            current_healthy: Some(healthy),
            desired_healthy: Some(desired),
            expected_pods: Some(expected),
            disruptions_allowed: Some(allowed),
            disrupted_pods: (!disrupted.is_empty()).then_some(disrupted),
            observed_generation: pdb.metadata.generation,
            conditions: Some(conditions),
        },
        look_again,
    }
}

/// When the pods cannot be counted, none may be disrupted.
pub fn failed(pdb: &PodDisruptionBudget, message: &str, now: Timestamp) -> PodDisruptionBudgetStatus {
    let mut status = pdb.status.clone().unwrap_or_default();
    status.disruptions_allowed = Some(0);
    status.observed_generation = pdb.metadata.generation;
    let mut conditions = status.conditions.take().unwrap_or_default();
    set_condition(&mut conditions, "False", "SyncFailed", message, pdb.metadata.generation, now);
    status.conditions = Some(conditions);
    status
}

fn set_condition(
    conditions: &mut Vec<Condition>,
    status: &str,
    reason: &str,
    message: &str,
    generation: Option<i64>,
    now: Timestamp,
) {
    const TYPE: &str = "DisruptionAllowed";
    let old = conditions.iter().find(|condition| condition.type_ == TYPE).cloned();
    let since = old.filter(|old| old.status == status).map_or(Time(now), |old| old.last_transition_time);
    conditions.retain(|condition| condition.type_ != TYPE);
    conditions.push(Condition {
        type_: TYPE.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: generation,
        last_transition_time: since,
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn budgets_are_counts_or_shares_of_what_is_wanted() {
        let now: Timestamp = "2024-01-01T00:05:00Z".parse().unwrap();
        let pods: Vec<Arc<Pod>> = (0..4)
            .map(|n| {
                Arc::new(
                    serde_json::from_value(json!({"metadata": {"name": format!("p{n}")},
            "status": {"conditions": [{"type": "Ready", "status": if n < 3 {"True"} else {"False"}}]}}))
                    .unwrap(),
                )
            })
            .collect();
        let run = |spec: Value, status: Value| {
            let pdb: PodDisruptionBudget =
                serde_json::from_value(json!({"metadata": {"generation": 1}, "spec": spec, "status": status})).unwrap();
            let s = plan(&pdb, &pods, 5, now).status;
            [s.expected_pods, s.desired_healthy, s.current_healthy, s.disruptions_allowed].map(|n| n.unwrap_or(-1))
        };
        assert_eq!(run(json!({"minAvailable": 2}), json!({})), [4, 2, 3, 1]);
        assert_eq!(run(json!({"minAvailable": "50%"}), json!({})), [5, 3, 3, 0]);
        assert_eq!(run(json!({"maxUnavailable": 1}), json!({})), [5, 4, 3, 0]);
        assert_eq!(run(json!({"maxUnavailable": "60%"}), json!({})), [5, 2, 3, 1]);
        // A pod that is about to go counts as gone, for two minutes.
        assert_eq!(run(json!({"minAvailable": 2}), json!({"disruptedPods": {"p0": "2024-01-01T00:04:00Z"}})), [4, 2, 2, 0]);
        assert_eq!(run(json!({"minAvailable": 2}), json!({"disruptedPods": {"p0": "2024-01-01T00:01:00Z"}})), [4, 2, 3, 1]);
    }
}

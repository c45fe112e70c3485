//! Whether one node is alive, and which taints follow from its conditions.
//!
//! Upstream: pkg/controller/nodelifecycle/node_lifecycle_controller.go

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, NodeStatus, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};

pub const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Condition, the status that matters, and the `NoSchedule` taint it brings.
const CONDITION_TAINTS: &[(&str, &str, &str)] = &[
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
];

/// What is remembered of a node between looks. Times are ours, so that the clocks of nodes do not matter.
#[derive(Debug, Clone, PartialEq)]
pub struct Health {
    /// When a sign of life was last noticed.
    pub alive_at: Timestamp,
    heartbeat: Option<Time>,
    renewed: Option<MicroTime>,
    has_status: bool,
}

pub fn condition<'a>(node: &'a Node, type_: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == type_)
}

/// `True`, `False` or `Unknown`; a node without the condition counts as unknown.
pub fn readiness(node: &Node) -> &str {
    condition(node, "Ready").map_or("Unknown", |condition| condition.status.as_str())
}

/// Takes note of heartbeats and lease renewals.
pub fn observe(node: &Node, lease: Option<&Lease>, known: Option<&Health>, now: Timestamp) -> Health {
    let ready = condition(node, "Ready");
    let heartbeat = ready.and_then(|ready| ready.last_heartbeat_time.clone());
    let renewed = lease.and_then(|lease| lease.spec.as_ref()?.renew_time.clone());
    let created = node.metadata.creation_timestamp.as_ref().map_or(now, |time| time.0);
    let alive_at = match known {
        // A node that has reported before gets its full grace from a controller that has just started.
        None if ready.is_some() => now,
        None => created,
        Some(known) => {
            let sign = known.has_status != ready.is_some()
                || (ready.is_some() && known.heartbeat != heartbeat)
                || renewed > known.renewed;
            if sign { now } else { known.alive_at }
        }
    };
    Health {
        alive_at,
        heartbeat,
        renewed: renewed.or_else(|| known.and_then(|known| known.renewed.clone())),
        has_status: ready.is_some(),
    }
}

/// The status of a node that fell silent, or `None` while it lives or when all is said already.
pub fn silent_status(
    node: &Node,
    health: &Health,
    grace: Duration,
    startup_grace: Duration,
    now: Timestamp,
) -> Option<NodeStatus> {
    let grace = if health.has_status { grace } else { startup_grace };
    let limit = health.alive_at + jiff::SignedDuration::try_from(grace).unwrap_or(jiff::SignedDuration::MAX);
    if now <= limit {
        return None;
    }
    let mut status = node.status.clone().unwrap_or_default();
    let conditions = status.conditions.get_or_insert_default();
    let mut changed = false;
    for type_ in ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"] {
        match conditions.iter_mut().find(|condition| condition.type_ == type_) {
            None => {
                changed = true;
                conditions.push(NodeCondition {
                    type_: type_.to_owned(),
                    status: "Unknown".to_owned(),
                    reason: Some("NodeStatusNeverUpdated".to_owned()),
                    message: Some("Kubelet never posted node status.".to_owned()),
                    last_heartbeat_time: node.metadata.creation_timestamp.clone(),
                    last_transition_time: Some(Time(now)),
                });
            }
            Some(condition) if condition.status != "Unknown" => {
                changed = true;
                condition.status = "Unknown".to_owned();
                condition.reason = Some("NodeStatusUnknown".to_owned());
                condition.message = Some("Kubelet stopped posting node status.".to_owned());
                condition.last_transition_time = Some(Time(now));
            }
            Some(_) => {}
        }
    }
    changed.then_some(status)
}

/// The taints that the node should have; `evict` says whether the `NoExecute` taint may be put on now (evictions are rate limited).
/// `None` if it has them.
pub fn taints(node: &Node, evict: bool, now: Timestamp) -> Option<Vec<Taint>> {
    let have = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let mut wanted: Vec<(&str, &str)> = CONDITION_TAINTS
        .iter()
        .filter(|(type_, status, _)| condition(node, type_).is_some_and(|condition| condition.status == *status))
        .map(|(_, _, key)| (*key, "NoSchedule"))
        .collect();
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    if let Some(key) = eviction_taint(node) {
        let other = if key == NOT_READY { UNREACHABLE } else { NOT_READY };
        let swaps = has_taint(&have, other, "NoExecute");
        if evict || swaps || has_taint(&have, key, "NoExecute") {
            wanted.push((key, "NoExecute"));
        }
    }
    let managed = |taint: &Taint| match taint.effect.as_str() {
        "NoSchedule" => taint.key == UNSCHEDULABLE || CONDITION_TAINTS.iter().any(|(_, _, key)| taint.key == *key),
        "NoExecute" => taint.key == NOT_READY || taint.key == UNREACHABLE,
        _ => false,
    };
    let mut result: Vec<Taint> = have
        .iter()
        .filter(|taint| !managed(taint) || wanted.contains(&(taint.key.as_str(), taint.effect.as_str())))
        .cloned()
        .collect();
    for (key, effect) in wanted {
        if !has_taint(&have, key, effect) {
            result.push(Taint { key: key.to_owned(), effect: effect.to_owned(), value: None, time_added: Some(Time(now)) });
        }
    }
    (result != have).then_some(result)
}

/// The `NoExecute` taint that the node's readiness calls for.
pub fn eviction_taint(node: &Node) -> Option<&'static str> {
    match condition(node, "Ready")?.status.as_str() {
        "False" => Some(NOT_READY),
        "Unknown" => Some(UNREACHABLE),
        _ => None,
    }
}

/// Whether a node waits for its turn to be emptied.
pub fn awaits_eviction(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    eviction_taint(node).is_some() && !has_taint(taints, NOT_READY, "NoExecute") && !has_taint(taints, UNREACHABLE, "NoExecute")
}

fn has_taint(taints: &[Taint], key: &str, effect: &str) -> bool {
    taints.iter().any(|taint| taint.key == key && taint.effect == effect)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn node(conditions: Value, spec: Value) -> Node {
        serde_json::from_value(json!({"metadata": {"name": "n", "creationTimestamp": "2024-01-01T00:00:00Z"}, "spec": spec,
            "status": {"conditions": conditions}}))
        .unwrap()
    }

    fn at(seconds: i64) -> Timestamp {
        "2024-01-01T00:00:00Z".parse::<Timestamp>().unwrap() + jiff::SignedDuration::from_secs(seconds)
    }

    fn lease(seconds: i64) -> Lease {
        serde_json::from_value(json!({"spec": {"renewTime": MicroTime(at(seconds))}})).unwrap()
    }

    const GRACE: Duration = Duration::from_secs(50);
    const STARTUP: Duration = Duration::from_secs(60);

    #[test]
    fn a_renewed_lease_keeps_a_node_alive_and_silence_ends_it() {
        let ready = node(json!([{"type": "Ready", "status": "True", "lastHeartbeatTime": "2024-01-01T00:00:05Z"}]), json!({}));
        let first = observe(&ready, Some(&lease(0)), None, at(10));
        assert_eq!(first.alive_at, at(10));
        let renewed = observe(&ready, Some(&lease(20)), Some(&first), at(30));
        assert_eq!(renewed.alive_at, at(30));
        let silent = observe(&ready, Some(&lease(20)), Some(&renewed), at(90));
        assert_eq!(silent.alive_at, at(30));
        assert!(silent_status(&ready, &silent, GRACE, STARTUP, at(80)).is_none());
        let status = silent_status(&ready, &silent, GRACE, STARTUP, at(81)).unwrap();
        let conditions = status.conditions.unwrap();
        assert_eq!((conditions[0].status.as_str(), conditions[0].reason.as_deref()), ("Unknown", Some("NodeStatusUnknown")));
        assert_eq!(conditions[1].reason.as_deref(), Some("NodeStatusNeverUpdated"));
    }

    #[test]
    fn a_node_that_never_reported_has_the_startup_grace() {
        let fresh = node(json!([]), json!({}));
        let health = observe(&fresh, None, None, at(30));
        assert_eq!(health.alive_at, at(0));
        assert!(silent_status(&fresh, &health, GRACE, STARTUP, at(60)).is_none());
        assert!(silent_status(&fresh, &health, GRACE, STARTUP, at(61)).is_some());
    }

    #[test]
    fn taints_follow_conditions_and_evictions_wait_for_their_turn() {
        let keys = |node: &Node, evict: bool| {
            let list = taints(node, evict, at(0))?;
            Some(list.into_iter().map(|t| format!("{}:{}", t.key.rsplit('/').next().unwrap_or(""), t.effect)).collect::<Vec<_>>())
        };
        let list = |items: &[&str]| Some(items.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
        let unknown = json!([{"type": "Ready", "status": "Unknown"}]);
        assert_eq!(keys(&node(unknown.clone(), json!({})), false), list(&["unreachable:NoSchedule"]));
        assert_eq!(keys(&node(unknown.clone(), json!({})), true), list(&["unreachable:NoSchedule", "unreachable:NoExecute"]));
        // What others put there stays; the other readiness taint is swapped at once.
        let swapped = json!({"taints": [{"key": "a/mine", "effect": "NoExecute"}, {"key": NOT_READY, "effect": "NoExecute"}]});
        assert_eq!(
            keys(&node(unknown, swapped), false),
            list(&["mine:NoExecute", "unreachable:NoSchedule", "unreachable:NoExecute"])
        );
        let healed =
            json!({"taints": [{"key": UNREACHABLE, "effect": "NoExecute"}, {"key": UNREACHABLE, "effect": "NoSchedule"}]});
        assert_eq!(keys(&node(json!([{"type": "Ready", "status": "True"}]), healed), false), list(&[]));
        let cordoned = node(
            json!([{"type": "Ready", "status": "True"}, {"type": "DiskPressure", "status": "True"}]),
            json!({"unschedulable": true}),
        );
        assert_eq!(keys(&cordoned, false), list(&["disk-pressure:NoSchedule", "unschedulable:NoSchedule"]));
        assert_eq!(keys(&node(json!([{"type": "Ready", "status": "True"}]), json!({})), true), None);
    }
}

//! What controllers read from pods: phases, readiness, availability, and the order in which to delete them.

pub mod slim;

use std::cmp::Ordering;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::ResourceExt;

/// Lets users rank pods for scale-down. Upstream: core.PodDeletionCost.
pub const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("")
}

pub fn is_terminal(pod: &Pod) -> bool {
    matches!(phase(pod), "Failed" | "Succeeded")
}

pub fn is_deleting(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Neither finished nor being deleted.
pub fn is_active(pod: &Pod) -> bool {
    !is_terminal(pod) && !is_deleting(pod)
}

/// Being deleted but not yet finished.
pub fn is_terminating(pod: &Pod) -> bool {
    !is_terminal(pod) && is_deleting(pod)
}

pub fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == type_)
}

pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|condition| condition.status == "True")
}

fn ready_since(pod: &Pod) -> Option<Timestamp> {
    condition(pod, "Ready").filter(|c| c.status == "True")?.last_transition_time.as_ref().map(|time| time.0)
}

/// Ready for at least `min_ready_seconds`.
pub fn is_available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> bool {
    if !is_ready(pod) {
        return false;
    }
    min_ready_seconds == 0
        || ready_since(pod).is_some_and(|since| since + jiff::SignedDuration::from_secs(min_ready_seconds.into()) <= now)
}

/// When a ready pod becomes available, if it is not yet.
pub fn available_at(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> Option<Timestamp> {
    let at = ready_since(pod)? + jiff::SignedDuration::from_secs(min_ready_seconds.into());
    (min_ready_seconds > 0 && at > now).then_some(at)
}

pub fn node_name(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or("")
}

/// A pod made from a template for `owner`. Upstream: controller.GetPodFromTemplate (pkg/controller/controller_utils.go).
pub fn from_template(template: &PodTemplateSpec, namespace: &str, owner: &OwnerReference) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            namespace: Some(namespace.to_owned()),
            generate_name: Some(format!("{}-", owner.name)),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![owner.clone()]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// The order in which a controller gives up pods: first comes what is missed least. `rank` counts, for a pod, the
/// related pods on its node. Upstream: controller.ActivePodsWithRanks (pkg/controller/controller_utils.go).
pub fn deletion_order(a: &Pod, rank_a: usize, b: &Pod, rank_b: usize, now: Timestamp) -> Ordering {
    let phase_rank = |pod: &Pod| match phase(pod) {
        "Pending" => 0,
        "Unknown" => 1,
        "Running" => 2,
        _ => 0,
    };
    let assigned = |pod: &Pod| !node_name(pod).is_empty();
    assigned(a)
        .cmp(&assigned(b))
        .then_with(|| phase_rank(a).cmp(&phase_rank(b)))
        .then_with(|| is_ready(a).cmp(&is_ready(b)))
        .then_with(|| deletion_cost(a).cmp(&deletion_cost(b)))
        .then_with(|| rank_b.cmp(&rank_a))
        .then_with(|| match (is_ready(a), is_ready(b)) {
            (true, true) => by_age(a, ready_since(a), b, ready_since(b), now),
            _ => Ordering::Equal,
        })
        .then_with(|| restarts(b).cmp(&restarts(a)))
        .then_with(|| by_age(a, created(a), b, created(b), now))
}

fn created(pod: &Pod) -> Option<Timestamp> {
    pod.metadata.creation_timestamp.as_ref().map(|time| time.0)
}

/// Newer first; ages within the same power of two count as equal and are ordered by uid (a random choice).
fn by_age(a: &Pod, at: Option<Timestamp>, b: &Pod, bt: Option<Timestamp>, now: Timestamp) -> Ordering {
    match (at, bt) {
        (Some(at), Some(bt)) if at == bt => Ordering::Equal,
        (Some(at), Some(bt)) => age_rank(at, now).cmp(&age_rank(bt, now)).then_with(|| a.metadata.uid.cmp(&b.metadata.uid)),
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Less,
        (Some(_), None) => Ordering::Greater,
    }
}

fn age_rank(since: Timestamp, now: Timestamp) -> i64 {
    let nanos = now.duration_since(since).as_nanos();
    if nanos <= 0 { -1 } else { i64::from(nanos.ilog2()) }
}

fn deletion_cost(pod: &Pod) -> i32 {
    pod.annotations().get(DELETION_COST).and_then(|cost| cost.parse().ok()).unwrap_or(0)
}

/// Highest restart counts: of main containers, then of sidecars.
fn restarts(pod: &Pod) -> (i32, i32) {
    let highest = |list: Option<&Vec<ContainerStatus>>, keep: &dyn Fn(&str) -> bool| {
        list.into_iter().flatten().filter(|status| keep(&status.name)).map(|status| status.restart_count).max().unwrap_or(0)
    };
    let sidecar = |name: &str| {
        let init = pod.spec.as_ref().and_then(|spec| spec.init_containers.as_ref());
        init.into_iter().flatten().any(|c| c.name == name && c.restart_policy.as_deref() == Some("Always"))
    };
    let status = pod.status.as_ref();
    (
        highest(status.and_then(|s| s.container_statuses.as_ref()), &|_| true),
        highest(status.and_then(|s| s.init_container_statuses.as_ref()), &sidecar),
    )
}

/// The `count` pods to delete out of `pods`; `related` are all pods of the family, which spread the choice over nodes.
pub fn to_delete(pods: &[Arc<Pod>], related: &[Arc<Pod>], count: usize, now: Timestamp) -> Vec<Arc<Pod>> {
    if count >= pods.len() {
        return pods.to_vec();
    }
    let rank = |pod: &Pod| {
        let node = node_name(pod);
        related.iter().filter(|other| is_active(other) && node_name(other) == node).count()
    };
    let mut ranked: Vec<(usize, &Arc<Pod>)> = pods.iter().map(|pod| (rank(pod), pod)).collect();
    ranked.sort_by(|(ra, a), (rb, b)| deletion_order(a, *ra, b, *rb, now));
    ranked.into_iter().take(count).map(|(_, pod)| Arc::clone(pod)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(name: &str, node: &str, phase: &str, ready: bool, extra: Value) -> Arc<Pod> {
        let mut value = json!({"metadata": {"name": name, "uid": name, "creationTimestamp": "2024-01-01T00:00:00Z"},
            "spec": {"containers": [], "nodeName": node},
            "status": {"phase": phase, "conditions": [{"type": "Ready", "status": if ready {"True"} else {"False"},
                "lastTransitionTime": "2024-01-01T00:00:10Z"}]}});
        merge(&mut value, extra);
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn merge(into: &mut Value, from: Value) {
        match (into, from) {
            (Value::Object(into), Value::Object(from)) => {
                for (k, v) in from {
                    merge(into.entry(k).or_insert(Value::Null), v);
                }
            }
            (into, from) => *into = from,
        }
    }

    #[test]
    fn the_least_useful_pod_goes_first() {
        let now: Timestamp = "2024-01-01T01:00:00Z".parse().unwrap();
        let unassigned = pod("unassigned", "", "Pending", false, json!({}));
        let pending = pod("pending", "n1", "Pending", false, json!({}));
        let running = pod("running", "n1", "Running", false, json!({}));
        let cheap = pod("cheap", "n2", "Running", true, json!({"metadata": {"annotations": {DELETION_COST: "-5"}}}));
        let crowded = pod("crowded", "n1", "Running", true, json!({}));
        let young = pod(
            "young",
            "n2",
            "Running",
            true,
            json!({"status": {"conditions":
            [{"type": "Ready", "status": "True", "lastTransitionTime": "2024-01-01T00:59:00Z"}]}}),
        );
        let restarted = pod(
            "restarted",
            "n3",
            "Running",
            true,
            json!({"status": {"containerStatuses":
            [{"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 7}]}}),
        );
        let old = pod("zold", "n3", "Running", true, json!({}));
        let all = [&old, &restarted, &young, &crowded, &cheap, &running, &pending, &unassigned].map(Arc::clone);
        let order: Vec<String> = (1..=7).map(|n| to_delete(&all, &all, n, now).last().unwrap().name_any()).collect();
        assert_eq!(order, ["unassigned", "pending", "running", "cheap", "crowded", "young", "restarted"]);
    }

    #[test]
    fn availability_needs_readiness_for_long_enough() {
        let now: Timestamp = "2024-01-01T00:00:20Z".parse().unwrap();
        let pod = pod("a", "n", "Running", true, json!({}));
        assert!(is_available(&pod, 0, now) && is_available(&pod, 10, now) && !is_available(&pod, 11, now));
        assert_eq!(available_at(&pod, 11, now), Some("2024-01-01T00:00:21Z".parse().unwrap()));
    }
}

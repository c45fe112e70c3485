//! Takes `DisruptionTarget` back from pods whose disruption was announced and never came.
//!
//! Upstream: pkg/controller/disruption/disruption.go (syncStalePodDisruption)

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::api_error;
use crate::context::{self, Change, Context, Queue, Requeue, Store};
use crate::key::Key;
use crate::pods;

/// An announced disruption that has not become a deletion by then was called off. Upstream: stalePodDisruptionTimeout.
const TIMEOUT: SignedDuration = SignedDuration::from_mins(2);
const CONDITION: &str = "DisruptionTarget";
/// The kubelet may take as long as it likes.
const BY_KUBELET: &str = "TerminationByKubelet";

pub(super) fn start(ctx: &Context, pods: &Store<Pod>) {
    let queue = Queue::new("stale_pod_disruption");
    let feed = queue.clone();
    pods.on_change(move |change| {
        let pod = change.object();
        if !matches!(change, Change::Deleted(_)) && due(pod).is_some() {
            feed.add(Key::of(pod.as_ref()));
        }
    });
    let (this, pods) = (ctx.clone(), pods.clone());
    ctx.run(&queue, 1, move |key| {
        let (ctx, pods) = (this.clone(), pods.clone());
        async move {
            let Some((pod, at)) = pods.get(&key).and_then(|pod| due(&pod).map(|at| (pod, at))) else { return Ok(Requeue::No) };
            let now = ctx.now();
            if at > now {
                return Ok(context::requeue_at(Some(at), now));
            }
            let condition =
                json!({"type": CONDITION, "status": "False", "reason": null, "message": null, "lastTransitionTime": Time(now)});
            let patch = json!({"metadata": {"uid": pod.uid()}, "status": {"conditions": [condition]}});
            let api = ctx.namespaced::<Pod>(&key.namespace);
            let patched = api.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(&patch)).await;
            api_error::ignore_not_found(patched)?;
            Ok(Requeue::No)
        }
    });
}

/// When the pod's announced disruption is to be taken back, if there is one.
fn due(pod: &Pod) -> Option<Timestamp> {
    if pods::is_deleting(pod) || pods::is_terminal(pod) {
        return None;
    }
    let condition = pods::condition(pod, CONDITION)?;
    let announced = condition.status == "True" && condition.reason.as_deref() != Some(BY_KUBELET);
    let since = condition.last_transition_time.as_ref().filter(|_| announced)?.0;
    Some(since + TIMEOUT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_announced_disruptions_of_running_pods_are_taken_back() {
        let at = Some("2024-01-01T00:02:00Z".parse().unwrap());
        for (status, reason, phase, deleting, expected) in [
            ("True", "EvictionByEvictionAPI", "Running", false, at),
            ("False", "EvictionByEvictionAPI", "Running", false, None),
            ("True", BY_KUBELET, "Running", false, None),
            ("True", "EvictionByEvictionAPI", "Failed", false, None),
            ("True", "EvictionByEvictionAPI", "Running", true, None),
        ] {
            let mut pod = json!({"metadata": {}, "status": {"phase": phase, "conditions": [{"type": CONDITION, "status": status,
                "reason": reason, "lastTransitionTime": "2024-01-01T00:00:00Z"}]}});
            if deleting {
                pod["metadata"]["deletionTimestamp"] = json!("2024-01-01T00:00:00Z");
            }
            assert_eq!(due(&serde_json::from_value(pod.clone()).unwrap()), expected, "{pod}");
        }
    }
}

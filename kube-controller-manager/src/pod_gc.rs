//! Removes pods that nobody else will: finished ones beyond the threshold, those bound to nodes that are gone, those that were deleted
//! before they were bound, and those of nodes that are declared out of service.
//!
//! Upstream: pkg/controller/podgc/gc_controller.go

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::Instant;

use crate::api_error;
use crate::context::{Context, Store};
use crate::key::Key;
use crate::pods;

/// Upstream: gcCheckPeriod.
const PERIOD: Duration = Duration::from_secs(20);
/// A node must be missing for this long before its pods go: it may only have been re-registered. Upstream: quarantineTime.
const QUARANTINE: Duration = Duration::from_secs(40);

const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

pub async fn start(ctx: Context) -> anyhow::Result<()> {
    let (nodes, pods) = (ctx.store::<Node>(), ctx.store::<Pod>());
    nodes.synced().await;
    pods.synced().await;
    let missing: Arc<Mutex<HashMap<String, Instant>>> = Arc::default();
    let this = ctx.clone();
    ctx.every(PERIOD, move || {
        let (ctx, nodes, pods, missing) = (this.clone(), nodes.clone(), pods.clone(), Arc::clone(&missing));
        async move { collect(&ctx, &nodes, &pods, &missing).await }
    });
    Ok(())
}

async fn collect(
    ctx: &Context,
    nodes: &Store<Node>,
    pods: &Store<Pod>,
    missing: &Mutex<HashMap<String, Instant>>,
) -> anyhow::Result<()> {
    let all = pods.list();
    let threshold = usize::try_from(ctx.config.options.terminated_pod_gc_threshold).unwrap_or(0);
    let gone = quarantined(nodes, &all, &mut missing.lock());
    let mut lost = HashSet::new();
    for name in gone {
        // Ask the server itself: deleting the pods of a living node would be bad.
        if ctx.cluster::<Node>().get_opt(&name).await?.is_none() {
            lost.insert(name);
        }
    }
    let out_of_service: HashSet<String> =
        nodes.list().iter().filter(|node| is_out_of_service(node)).map(|node| node.name_any()).collect();
    for (pod, cause) in plan(&all, &lost, &out_of_service, threshold) {
        if let Err(error) = remove(ctx, &pod, cause).await {
            tracing::warn!(pod = %Key::of(pod.as_ref()), err = api_error::message(&error), "Failed to delete a pod");
        }
    }
    Ok(())
}

/// Names of nodes that pods are bound to and that have been missing for long enough.
fn quarantined(nodes: &Store<Node>, all: &[Arc<Pod>], missing: &mut HashMap<String, Instant>) -> Vec<String> {
    let now = Instant::now();
    let named: HashSet<&str> = all.iter().map(|pod| pods::node_name(pod)).filter(|name| !name.is_empty()).collect();
    missing.retain(|name, _| named.contains(name.as_str()) && nodes.get(&Key::cluster(name)).is_none());
    for name in named {
        if nodes.get(&Key::cluster(name)).is_none() {
            missing.entry(name.to_owned()).or_insert(now);
        }
    }
    missing.iter().filter(|(_, since)| now.duration_since(**since) >= QUARANTINE).map(|(name, _)| name.clone()).collect()
}

fn is_out_of_service(node: &Node) -> bool {
    let not_ready = crate::node_lifecycle::plan::readiness(node) != "True";
    not_ready && node.spec.iter().flat_map(|spec| spec.taints.iter().flatten()).any(|taint| taint.key == OUT_OF_SERVICE)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    Terminated,
    NodeGone,
    Unscheduled,
    OutOfService,
}

fn plan(all: &[Arc<Pod>], lost: &HashSet<String>, out_of_service: &HashSet<String>, threshold: usize) -> Vec<(Arc<Pod>, Cause)> {
    let mut doomed: Vec<(Arc<Pod>, Cause)> = Vec::new();
    let mut finished: Vec<&Arc<Pod>> = Vec::new();
    for pod in all {
        let node = pods::node_name(pod);
        if lost.contains(node) {
            doomed.push((Arc::clone(pod), Cause::NodeGone));
        } else if pods::is_deleting(pod) && node.is_empty() {
            doomed.push((Arc::clone(pod), Cause::Unscheduled));
        } else if pods::is_deleting(pod) && out_of_service.contains(node) {
            doomed.push((Arc::clone(pod), Cause::OutOfService));
        } else if pods::is_terminal(pod) {
            finished.push(pod);
        }
    }
    if threshold > 0 && finished.len() > threshold {
        // Evicted pods first, then the oldest.
        finished.sort_by_key(|pod| {
            let evicted =
                pods::phase(pod) == "Failed" && pod.status.as_ref().and_then(|s| s.reason.as_deref()) == Some("Evicted");
            (!evicted, pod.metadata.creation_timestamp.clone(), pod.name_any())
        });
        let surplus = finished.len() - threshold;
        doomed.extend(finished.into_iter().take(surplus).map(|pod| (Arc::clone(pod), Cause::Terminated)));
    }
    doomed
}

async fn remove(ctx: &Context, pod: &Pod, cause: Cause) -> kube::Result<()> {
    let api = ctx.namespaced::<Pod>(&pod.namespace().unwrap_or_default());
    tracing::info!(pod = %Key::of(pod), cause = ?cause, "PodGC is force deleting Pod");
    if !pods::is_terminal(pod) {
        // Say Failed first: who counts the pod (a Job) must not think that it still runs.
        let mut status = json!({"phase": "Failed"});
        if cause == Cause::NodeGone {
            status["conditions"] = json!([{"type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC",
                "message": "PodGC: node no longer exists", "lastTransitionTime": Time(ctx.now())}]);
        }
        let patch = json!({"metadata": {"uid": pod.uid()}, "status": status});
        if api_error::ignore_not_found(
            api.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(&patch)).await,
        )?
        .is_none()
        {
            return Ok(());
        }
    }
    let params = DeleteParams::default().grace_period(0).preconditions(Preconditions { uid: pod.uid(), resource_version: None });
    api_error::ignore_not_found(api.delete(&pod.name_any(), &params).await)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_leftover_is_found() {
        let pod = |name: &str, node: &str, phase: &str, created: u32, deleting: bool| {
            let mut v = json!({"metadata": {"name": name, "creationTimestamp": format!("2024-01-01T00:00:{created:02}Z")},
                "spec": {"containers": [], "nodeName": node}, "status": {"phase": phase}});
            if deleting {
                v["metadata"]["deletionTimestamp"] = json!("2024-01-01T01:00:00Z");
            }
            Arc::new(serde_json::from_value::<Pod>(v).unwrap())
        };
        let all = [
            pod("orphan", "gone", "Running", 1, false),
            pod("unbound", "", "Pending", 1, true),
            pod("waiting", "", "Pending", 1, false),
            pod("stuck", "dead", "Running", 1, true),
            pod("fine", "dead", "Running", 1, false),
            pod("done2", "n", "Succeeded", 9, false),
            pod("done1", "n", "Failed", 3, false),
        ];
        let doomed = plan(&all, &["gone".to_owned()].into(), &["dead".to_owned()].into(), 1);
        let rows: Vec<_> = doomed.iter().map(|(pod, cause)| (pod.name_any(), *cause)).collect();
        let expected = [
            ("orphan", Cause::NodeGone),
            ("unbound", Cause::Unscheduled),
            ("stuck", Cause::OutOfService),
            ("done1", Cause::Terminated),
        ];
        assert_eq!(rows, expected.map(|(name, cause)| (name.to_owned(), cause)));
    }
}

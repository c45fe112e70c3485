//! Evicts pods from nodes with `NoExecute` taints that they do not tolerate, or tolerate only for a while.
//!
//! Upstream: pkg/controller/tainteviction/taint_eviction.go. There a pod's time starts when the controller notices the taint; here
//! when the taint was added, so that a restart of the controller gives nobody more time.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Resource, ResourceExt};
use serde_json::json;

use crate::api_error;
use crate::context::{self, Change, Context, Requeue, Store};
use crate::key::Key;
use crate::node_lifecycle::{BY_NODE, node_of};
use crate::pods;

/// Pods evicted at the same time. Upstream: UpdateWorkerSize.
const WORKERS: usize = 8;

pub async fn start(ctx: Context) -> anyhow::Result<()> {
    let (nodes, pods, queue) = (ctx.store::<Node>(), ctx.store::<Pod>(), ctx.queue());
    pods.add_index(BY_NODE, node_of);
    let (feed, of_node) = (queue.clone(), pods.clone());
    nodes.on_change(move |change| {
        let changed = match change {
            Change::Updated(old, new) => evicting(old).ne(evicting(new)),
            Change::Added(node) => evicting(node).next().is_some(),
            Change::Deleted(_) => false,
        };
        if changed {
            of_node.by_index(BY_NODE, &change.object().name_any()).iter().for_each(|pod| feed.add(Key::of(pod.as_ref())));
        }
    });
    let (feed, all) = (queue.clone(), nodes.clone());
    pods.on_change(move |change| {
        let pod = change.object();
        let tainted = all.get(&Key::cluster(pods::node_name(pod))).is_some_and(|node| evicting(&node).next().is_some());
        if tainted && !matches!(change, Change::Deleted(_)) {
            feed.add(Key::of(pod.as_ref()));
        }
    });
    nodes.synced().await;
    pods.synced().await;
    let this = ctx.clone();
    ctx.run(&queue, WORKERS, move |key| {
        let (ctx, nodes, pods) = (this.clone(), nodes.clone(), pods.clone());
        async move { sync(&ctx, &nodes, &pods, &key).await }
    });
    Ok(())
}

fn evicting(node: &Node) -> impl Iterator<Item = &Taint> {
    node.spec.iter().flat_map(|spec| spec.taints.iter().flatten()).filter(|taint| taint.effect == "NoExecute")
}

async fn sync(ctx: &Context, nodes: &Store<Node>, pods: &Store<Pod>, key: &Key) -> anyhow::Result<Requeue> {
    let Some(pod) = pods.get(key) else { return Ok(Requeue::No) };
    let Some(node) = nodes.get(&Key::cluster(pods::node_name(&pod))) else { return Ok(Requeue::No) };
    if pods::is_deleting(&pod) {
        return Ok(Requeue::No);
    }
    let now = ctx.now();
    match plan(&node, &pod, now) {
        Verdict::Stay => Ok(Requeue::No),
        Verdict::Until(at) if at > now => Ok(context::requeue_at(Some(at), now)),
        Verdict::Until(_) => {
            evict(ctx, &pod, now).await?;
            Ok(Requeue::No)
        }
    }
}

#[derive(Debug, PartialEq)]
enum Verdict {
    Stay,
    Until(Timestamp),
}

/// How long the pod may stay on the node.
fn plan(node: &Node, pod: &Pod, now: Timestamp) -> Verdict {
    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
    let created = pod.metadata.creation_timestamp.as_ref().map_or(now, |time| time.0);
    let mut until: Option<Timestamp> = None;
    for taint in evicting(node) {
        let tolerating: Vec<&Toleration> = tolerations.iter().filter(|toleration| tolerates(toleration, taint)).collect();
        if tolerating.is_empty() {
            return Verdict::Until(now);
        }
        // Without a time, for ever; of several times the shortest counts; negative ones are zero.
        let Some(seconds) = tolerating.iter().filter_map(|toleration| toleration.toleration_seconds).min() else { continue };
        let from = taint.time_added.as_ref().map_or(created, |added| added.0.max(created));
        let at = from.saturating_add(SignedDuration::from_secs(seconds.max(0))).unwrap_or(Timestamp::MAX);
        until = Some(until.map_or(at, |until| until.min(at)));
    }
    until.map_or(Verdict::Stay, Verdict::Until)
}

/// Upstream: v1helper.ToleratesTaint.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let key = toleration.key.as_deref().unwrap_or("");
    let effect = toleration.effect.as_deref().unwrap_or("");
    if (!effect.is_empty() && effect != taint.effect) || (!key.is_empty() && key != taint.key) {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or("") {
        "Exists" => true,
        "" | "Equal" => !key.is_empty() && toleration.value.as_deref().unwrap_or("") == taint.value.as_deref().unwrap_or(""),
        _ => false,
    }
}

async fn evict(ctx: &Context, pod: &Arc<Pod>, now: Timestamp) -> anyhow::Result<()> {
    let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
    ctx.normal(&pod.object_ref(&()), "TaintManagerEviction", format!("Marking for deletion Pod {namespace}/{name}"));
    let api = ctx.namespaced::<Pod>(&namespace);
    let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager",
        "message": "Taint manager: deleting due to NoExecute taint", "lastTransitionTime": Time(now)});
    let patch = json!({"metadata": {"uid": pod.uid()}, "status": {"conditions": [condition]}});
    let marked = api.patch_status(&name, &PatchParams::default(), &Patch::Strategic(&patch)).await;
    if api_error::ignore_not_found(marked)?.is_none() {
        return Ok(());
    }
    let params = DeleteParams::default().preconditions(Preconditions { uid: pod.uid(), resource_version: None });
    api_error::ignore_not_found(api.delete(&name, &params).await)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn pods_stay_as_long_as_they_tolerate_every_taint() {
        let now: Timestamp = "2024-01-01T00:10:00Z".parse().unwrap();
        let node = |taints: Value| -> Node {
            serde_json::from_value(json!({"metadata": {"name": "n"}, "spec": {"taints": taints}})).unwrap()
        };
        let pod = |tolerations: Value| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": "p", "creationTimestamp": "2024-01-01T00:00:00Z"},
                "spec": {"containers": [], "tolerations": tolerations}}))
            .unwrap()
        };
        let out = json!([{"key": "out", "effect": "NoExecute", "timeAdded": "2024-01-01T00:09:00Z"}]);
        let until = |text: &str| Verdict::Until(text.parse().unwrap());
        for (taints, tolerations, expected) in [
            (json!([{"key": "out", "effect": "NoSchedule"}]), json!([]), Verdict::Stay),
            (out.clone(), json!([]), Verdict::Until(now)),
            (out.clone(), json!([{"operator": "Exists"}]), Verdict::Stay),
            (out.clone(), json!([{"key": "out", "operator": "Exists", "tolerationSeconds": 300}]), until("2024-01-01T00:14:00Z")),
            (out.clone(), json!([{"key": "out", "operator": "Exists", "tolerationSeconds": -5}]), until("2024-01-01T00:09:00Z")),
            (out.clone(), json!([{"key": "out", "operator": "Exists", "effect": "NoSchedule"}]), Verdict::Until(now)),
            (
                out,
                json!([{"operator": "Exists", "tolerationSeconds": 60}, {"key": "out", "operator": "Exists"}]),
                until("2024-01-01T00:10:00Z"),
            ),
        ] {
            assert_eq!(plan(&node(taints.clone()), &pod(tolerations.clone()), now), expected, "{taints} {tolerations}");
        }
    }
}

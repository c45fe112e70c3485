//! Makes the node object and keeps its status true.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use client::events::Kind;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeSpec, NodeStatus, Taint};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::facts::{self, Machine};
use super::status::{self, Observed};
use crate::kubelet::Shared;
use crate::objects::message;

/// What does not change while the process runs.
pub struct Fixed {
    /// The machine.
    pub machine: Machine,
    /// Capacity and allocatable.
    pub resources: (BTreeMap<String, i64>, BTreeMap<String, i64>),
}

/// Labels every node has.
fn labels(kubelet: &Shared) -> BTreeMap<String, String> {
    let arch = component::version::arch();
    let mut out: BTreeMap<String, String> = [
        ("kubernetes.io/hostname", kubelet.config.node_name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", arch),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", arch),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into();
    out.extend(kubelet.config.node_labels.clone());
    out
}

/// Registers, then updates every `nodeStatusUpdateFrequency` and whenever `turned` says so, until the tasks stop.
pub async fn run(kubelet: Shared, fixed: Fixed, turned: Arc<Notify>) {
    let Some(api) = kubelet.api.clone() else { return };
    let nodes = Api::<Node>::all(api);
    let mut told = register(&kubelet, &nodes, &fixed).await;
    super::runtime_pod_cidr(&kubelet, &told).await;
    let this = kubelet.clone();
    kubelet.tasks.spawn("csi-node", async move {
        let stop = this.tasks.token();
        stop.run_until_cancelled(async {
            while let Err(why) = crate::csi::node_info::ensure(&this).await {
                tracing::debug!(err = why, "Failed to make the CSINode object");
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
        })
        .await;
    });
    let config = &kubelet.config.kubelet;
    let mut reported = Instant::now();
    let mut was_ready = ready(told.status.as_ref());
    loop {
        tokio::select! {
            () = turned.notified() => {}
            () = tokio::time::sleep(config.node_status_update_frequency.0) => {}
        }
        let previous = told.status.clone().unwrap_or_default();
        let new = make(&kubelet, &fixed, previous.conditions.as_deref().unwrap_or_default()).await;
        let force = reported.elapsed() >= config.node_status_report_frequency.0;
        let Some(patch) = status::patch(&previous, &new, force) else { continue };
        match nodes.patch_status(&kubelet.config.node_name, &PatchParams::default(), &Patch::Strategic(&patch)).await {
            Ok(node) => {
                let is_ready = ready(node.status.as_ref());
                if is_ready != was_ready {
                    let (reason, word) = if is_ready { ("NodeReady", "NodeReady") } else { ("NodeNotReady", "NodeNotReady") };
                    kubelet.node_event(Kind::Normal, reason, format!("Node {} status is now: {word}", kubelet.config.node_name));
                    was_ready = is_ready;
                }
                note(&kubelet, &node);
                super::runtime_pod_cidr(&kubelet, &node).await;
                told = node;
                reported = Instant::now();
            }
            Err(kube::Error::Api(status)) if status.code == 404 => {
                tracing::warn!("The node object is gone; registering again");
                told = register(&kubelet, &nodes, &fixed).await;
            }
            Err(error) => {
                tracing::warn!(err = message(&error), "Error updating node status, will retry");
                // The others may be newer than we think.
                if let Ok(node) = nodes.get(&kubelet.config.node_name).await {
                    told = node;
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
                turned.notify_one();
            }
        }
    }
}

fn ready(status: Option<&NodeStatus>) -> bool {
    status
        .and_then(|status| status.conditions.as_ref())
        .into_iter()
        .flatten()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn note(kubelet: &Shared, node: &Node) {
    *kubelet.node.labels.write() = node.metadata.labels.clone().unwrap_or_default();
}

/// Creates the object, or takes over the one there is. Tries until it works.
async fn register(kubelet: &Shared, nodes: &Api<Node>, fixed: &Fixed) -> Node {
    let config = &kubelet.config.kubelet;
    let mut wait = Duration::from_millis(100);
    loop {
        let mut node = Node::default();
        node.metadata.name = Some(kubelet.config.node_name.clone());
        node.metadata.labels = Some(labels(kubelet));
        node.metadata.annotations =
            Some(BTreeMap::from([("volumes.kubernetes.io/controller-managed-attach-detach".to_owned(), "true".to_owned())]));
        let mut taints: Vec<Taint> = config.register_with_taints.clone();
        if kubelet.config.external_cloud_provider {
            taints.push(Taint {
                key: "node.cloudprovider.kubernetes.io/uninitialized".into(),
                value: Some("true".into()),
                effect: "NoSchedule".into(),
                ..Default::default()
            });
        }
        node.spec = Some(NodeSpec {
            taints: Some(taints).filter(|taints| !taints.is_empty()),
            provider_id: Some(config.provider_id.clone()).filter(|id| !id.is_empty()),
            ..Default::default()
        });
        node.status = Some(make(kubelet, fixed, &[]).await);
        let result = if config.register_node {
            nodes.create(&PostParams::default(), &node).await
        } else {
            nodes.get(&kubelet.config.node_name).await
        };
        match result {
            Ok(made) => {
                tracing::info!(node = kubelet.config.node_name, "Successfully registered node");
                note(kubelet, &made);
                return made;
            }
            Err(kube::Error::Api(status)) if status.code == 409 => match adopt(kubelet, nodes).await {
                Ok(existing) => {
                    tracing::info!(node = kubelet.config.node_name, "Node was previously registered");
                    note(kubelet, &existing);
                    kubelet_update_soon(kubelet);
                    return existing;
                }
                Err(error) => tracing::warn!(err = message(&error), "Unable to take over the node object"),
            },
            Err(error) => {
                tracing::warn!(err = message(&error), node = kubelet.config.node_name, "Unable to register node with API server")
            }
        }
        tokio::time::sleep(wait).await;
        // Upstream goes up to 7 s; on a new control plane that would be most of the wait for the node.
        wait = (wait * 2).min(Duration::from_secs(1));
    }
}

fn kubelet_update_soon(kubelet: &Shared) {
    kubelet.node.status_soon.notify_one();
}

/// Sets the labels that are the kubelet's to set, and leaves others alone.
async fn adopt(kubelet: &Shared, nodes: &Api<Node>) -> Result<Node, kube::Error> {
    let existing = nodes.get(&kubelet.config.node_name).await?;
    let have = existing.metadata.labels.clone().unwrap_or_default();
    let missing: BTreeMap<_, _> = labels(kubelet).into_iter().filter(|(key, value)| have.get(key) != Some(value)).collect();
    if missing.is_empty() {
        return Ok(existing);
    }
    let patch = json!({"metadata": {"labels": missing}});
    nodes.patch(&kubelet.config.node_name, &PatchParams::default(), &Patch::Strategic(&patch)).await
}

/// The status as it is now.
async fn make(kubelet: &Shared, fixed: &Fixed, previous: &[k8s_openapi::api::core::v1::NodeCondition]) -> NodeStatus {
    let (images, version, runtime) = tokio::join!(kubelet.cri.list_images(), kubelet.cri.version(), kubelet.cri.status(false));
    let version = version
        .map(|version| format!("{}://{}", version.runtime_name, version.runtime_version.trim_start_matches('v')))
        .unwrap_or_default();
    let mut not_ready: Vec<String> = Vec::new();
    not_ready.extend(kubelet.node.runtime_error.read().iter().map(|why| format!("container runtime not ready: {why}")));
    not_ready.extend(kubelet.node.network_error.read().iter().map(|why| format!("container runtime network not ready: {why}")));
    if kubelet.node.shutting_down.load(Ordering::Acquire) {
        not_ready.push(crate::shutdown::NOT_READY.into());
    }
    if !kubelet.node.pleg_healthy.load(Ordering::Relaxed) {
        not_ready.push("PLEG is not healthy: pleg has yet to be successful".into());
    }
    let ips = kubelet.node.ips.read().clone();
    let mut resources = fixed.resources.clone();
    for (name, (capacity, allocatable)) in kubelet.allocation.extended() {
        resources.0.insert(name.clone(), capacity);
        resources.1.insert(name, allocatable);
    }
    status::make(&Observed {
        machine: &fixed.machine,
        hostname: &kubelet.config.node_name,
        ips: &ips,
        resources: &resources,
        runtime_version: &version,
        handlers: &runtime.map(|runtime| runtime.runtime_handlers).unwrap_or_default(),
        images: &images.unwrap_or_default(),
        max_images: kubelet.config.kubelet.node_status_max_images,
        port: kubelet.config.kubelet.port,
        pressure: &kubelet.node.pressure.read(),
        volumes_in_use: &kubelet.csi.in_use(),
        not_ready: &not_ready,
        previous,
        now: Timestamp::now(),
    })
}

/// Looks at the machine once.
pub fn fixed(kubelet: &crate::config::Config, cgroup_limit: u64) -> Fixed {
    let machine = facts::machine(&kubelet.root_dir, cgroup_limit);
    let resources = facts::resources(kubelet, &machine);
    Fixed { machine, resources }
}

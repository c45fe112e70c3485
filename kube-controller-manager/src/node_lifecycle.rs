//! Watches over nodes: declares the silent ones unknown, taints those that are not fit, and marks their pods not ready.
//!
//! Upstream: pkg/controller/nodelifecycle

pub mod plan;
pub mod zones;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod};
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::watcher;
use kube::{Api, Resource, ResourceExt};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::api_error;
use crate::context::{Change, Context, Queue, Requeue, Store};
use crate::key::Key;
use crate::pods;
use plan::Health;
use zones::Zones;

/// Where kubelets renew their leases.
const LEASES: &str = "kube-node-lease";

/// Index of pods by the node they are bound to.
pub const BY_NODE: &str = "node";

/// Workers that taint.
const WORKERS: usize = 8;

/// Labels that older clients read, and what they repeat. Upstream: labelReconcileInfo.
const LABELS: &[(&str, &str)] =
    &[("kubernetes.io/os", "beta.kubernetes.io/os"), ("kubernetes.io/arch", "beta.kubernetes.io/arch")];

pub fn node_of(pod: &Pod) -> Vec<String> {
    let name = pods::node_name(pod);
    if name.is_empty() { Vec::new() } else { vec![name.to_owned()] }
}

struct Controller {
    ctx: Context,
    nodes: Store<Node>,
    leases: Store<Lease>,
    pods: Store<Pod>,
    queue: Queue<Key>,
    health: Mutex<HashMap<String, Health>>,
    zones: Mutex<Zones>,
}

pub async fn start(ctx: Context) -> anyhow::Result<()> {
    let leases = ctx.watch(Api::<Lease>::namespaced(ctx.informers.client(), LEASES), watcher::Config::default());
    let controller = Arc::new(Controller {
        nodes: ctx.store(),
        pods: ctx.store(),
        leases,
        queue: ctx.queue(),
        health: Mutex::default(),
        zones: Mutex::default(),
        ctx,
    });
    controller.pods.add_index(BY_NODE, node_of);
    let this = Arc::clone(&controller);
    controller.nodes.on_change(move |change| this.node_changed(change));
    controller.nodes.synced().await;
    controller.leases.synced().await;
    controller.pods.synced().await;
    let this = Arc::clone(&controller);
    controller.ctx.run(&controller.queue, WORKERS, move |key| {
        let this = Arc::clone(&this);
        async move { this.sync(&key, false).await }
    });
    let (this, period) = (Arc::clone(&controller), controller.ctx.config.options.node_monitor_period);
    controller.ctx.every(period.max(Duration::from_millis(100)), move || {
        let this = Arc::clone(&this);
        async move { this.monitor().await }
    });
    Ok(())
}

/// Events about nodes carry the node's name as uid, so that `kubectl describe node` finds them.
fn about(node: &Node) -> ObjectReference {
    ObjectReference { uid: node.metadata.name.clone(), ..node.object_ref(&()) }
}

impl Controller {
    fn node_changed(&self, change: &Change<Node>) {
        let (node, name) = (change.object(), change.object().name_any());
        match change {
            Change::Added(_) => {
                if self.nodes_are_known() {
                    self.ctx.normal(
                        &about(node),
                        "RegisteredNode",
                        format!("Node {name} event: Registered Node {name} in Controller"),
                    );
                }
            }
            Change::Deleted(_) => {
                self.health.lock().remove(&name);
                self.ctx.normal(&about(node), "RemovingNode", format!("Node {name} event: Removing Node {name} from Controller"));
                return;
            }
            Change::Updated(..) => {}
        }
        self.queue.add(Key::cluster(name));
    }

    /// Whether the first look at all nodes is over.
    fn nodes_are_known(&self) -> bool {
        !self.health.lock().is_empty()
    }

    /// Brings one node's taints and labels in line; `evict` when it is the node's turn to be emptied.
    async fn sync(&self, key: &Key, evict: bool) -> anyhow::Result<Requeue> {
        let Some(node) = self.nodes.get(key) else { return Ok(Requeue::No) };
        let mut patch = json!({});
        if let Some(taints) = plan::taints(&node, evict, self.ctx.now()) {
            // The version keeps a taint that somebody adds meanwhile from being lost.
            patch = json!({"metadata": {"resourceVersion": node.resource_version()}, "spec": {"taints": taints}});
        }
        if let Some(labels) = missing_labels(&node) {
            patch["metadata"]["labels"] = labels;
        }
        if patch == json!({}) {
            return Ok(Requeue::No);
        }
        match self.ctx.cluster::<Node>().patch(&key.name, &PatchParams::default(), &Patch::Merge(&patch)).await {
            Ok(_) => Ok(Requeue::No),
            Err(error) if api_error::is_not_found(&error) => Ok(Requeue::No),
            Err(error) => Err(error.into()),
        }
    }

    /// One look at every node.
    async fn monitor(&self) -> anyhow::Result<()> {
        let nodes = self.nodes.list();
        for node in &nodes {
            // One node's trouble must not keep the others from being looked at.
            if let Err(error) = self.check(node).await {
                tracing::warn!(node = node.name_any(), err = format!("{error:#}"), "Error updating node health");
            }
        }
        self.zones.lock().assess(nodes.iter().map(Arc::as_ref), &self.ctx.config.options);
        for node in nodes.iter().filter(|node| plan::awaits_eviction(node)) {
            let turn = self.zones.lock().take(&zones::zone(node), Instant::now());
            if turn {
                tracing::info!(node = node.name_any(), "Adding NoExecute taint to unhealthy node");
                if let Err(error) = self.sync(&Key::of(node.as_ref()), true).await {
                    tracing::warn!(node = node.name_any(), err = format!("{error:#}"), "Failed to taint node");
                }
            }
        }
        Ok(())
    }

    async fn check(&self, node: &Node) -> anyhow::Result<()> {
        let (name, now, options) = (node.name_any(), self.ctx.now(), &self.ctx.config.options);
        let lease = self.leases.get(&Key::new(LEASES, &name));
        let health = {
            let mut all = self.health.lock();
            let health = plan::observe(node, lease.as_deref(), all.get(&name), now);
            all.insert(name.clone(), health.clone());
            health
        };
        let Some(status) =
            plan::silent_status(node, &health, options.node_monitor_grace_period, options.node_startup_grace_period, now)
        else {
            return Ok(());
        };
        tracing::info!(node = name, "Node hasn't been updated, marking it unknown");
        let changed = Node { status: Some(status), ..node.clone() };
        match self.ctx.cluster::<Node>().replace_status(&name, &PostParams::default(), &changed).await {
            Ok(_) => {}
            // Somebody was faster, perhaps the node itself: the next look tells.
            Err(error) if api_error::is_conflict(&error) || api_error::is_not_found(&error) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        if plan::readiness(node) == "True" {
            self.ctx.normal(&about(node), "NodeNotReady", format!("Node {name} status is now: NodeNotReady"));
            self.mark_pods_not_ready(&name).await?;
        }
        Ok(())
    }

    /// Takes a silent node's pods out of service: nobody on the node can say it any more.
    async fn mark_pods_not_ready(&self, node: &str) -> anyhow::Result<()> {
        for pod in self.pods.by_index(BY_NODE, node).iter().filter(|pod| pods::is_ready(pod)) {
            let condition = json!({"type": "Ready", "status": "False", "lastTransitionTime": k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(self.ctx.now())});
            let patch = json!({"metadata": {"uid": pod.uid()}, "status": {"conditions": [condition]}});
            let api = self.ctx.namespaced::<Pod>(&pod.namespace().unwrap_or_default());
            api_error::ignore_not_found(
                api.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(&patch)).await,
            )?;
            self.ctx.warning(&pod.object_ref(&()), "NodeNotReady", "Node is not ready");
        }
        Ok(())
    }
}

/// Labels to set so that the old names say what the new ones do.
fn missing_labels(node: &Node) -> Option<Value> {
    let labels = node.labels();
    let mut patch = serde_json::Map::new();
    for (primary, secondary) in LABELS {
        if let Some(value) = labels.get(*primary)
            && labels.get(*secondary) != Some(value)
        {
            patch.insert((*secondary).to_owned(), Value::String(value.clone()));
        }
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

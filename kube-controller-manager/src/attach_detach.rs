//! Attaches volumes to the nodes whose pods need them, and detaches them when no pod does and the kubelet has unmounted them. The
//! work itself is that of CSI drivers: they watch the VolumeAttachments made here.
//!
//! Upstream: pkg/controller/volume/attachdetach, pkg/volume/csi/csi_attacher.go. Only CSI volumes are attached here: of the plugins
//! that are left in Kubernetes itself, none does more for it than an entry in the node's status (fc, iscsi).

pub mod plan;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::{CSIDriver, VolumeAttachment, VolumeAttachmentSource, VolumeAttachmentSpec};
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Resource, ResourceExt};
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::Instant;

use crate::api_error;
use crate::context::{Change, Context, Queue, Requeue, Store};
use crate::key::Key;
use crate::node_lifecycle::{BY_NODE, node_of};
use crate::pvc_protection::{BY_CLAIM, claims_of};
use crate::{owner, pods};
use plan::{Observed, Op, Volume, Wanted};

const ATTACHMENTS_BY_NODE: &str = "node";
const ATTACHMENTS_BY_VOLUME: &str = "volume";

/// While something waits that no event announces (a kubelet's unmount of a lost node, another node's detach).
const LOOK_AGAIN: Duration = Duration::from_secs(10);

struct Controller {
    ctx: Context,
    nodes: Store<Node>,
    pods: Store<Pod>,
    claims: Store<PersistentVolumeClaim>,
    volumes: Store<PersistentVolume>,
    attachments: Store<VolumeAttachment>,
    drivers: Store<CSIDriver>,
    queue: Queue<Key>,
    memory: Mutex<Memory>,
}

/// What is not written anywhere: lost with the process, and then found out again.
#[derive(Default)]
struct Memory {
    /// Attachments made and not yet seen through the watch.
    assumed: HashMap<String, Arc<VolumeAttachment>>,
    /// Since when nobody wants an attachment.
    unwanted: HashMap<String, Instant>,
    /// The last trouble told about an attachment, so that it is told once.
    told: HashMap<String, String>,
}

pub async fn start(ctx: Context) -> anyhow::Result<()> {
    let controller = Arc::new(Controller {
        nodes: ctx.store(),
        pods: ctx.store(),
        claims: ctx.store(),
        volumes: ctx.store(),
        attachments: ctx.store(),
        drivers: ctx.store(),
        queue: ctx.queue(),
        memory: Mutex::default(),
        ctx,
    });
    controller.pods.add_index(BY_NODE, node_of);
    controller.pods.add_index(BY_CLAIM, claims_of);
    controller.attachments.add_index(ATTACHMENTS_BY_NODE, |attachment| vec![attachment.spec.node_name.clone()]);
    controller.attachments.add_index(ATTACHMENTS_BY_VOLUME, |attachment| {
        attachment.spec.source.persistent_volume_name.clone().into_iter().collect()
    });
    controller.watch();
    controller.nodes.synced().await;
    controller.claims.synced().await;
    controller.volumes.synced().await;
    controller.drivers.synced().await;
    controller.attachments.synced().await;
    controller.pods.synced().await;
    let this = Arc::clone(&controller);
    // One worker: what two nodes may have is decided one node after the other.
    controller.ctx.run(&controller.queue, 1, move |key| {
        let this = Arc::clone(&this);
        async move { this.sync(&key.name).await }
    });
    let options = &controller.ctx.config.options;
    if !options.disable_attach_detach_reconcile_sync {
        // What was changed behind our back (a VolumeAttachment, a node's status) and missed, is found out then.
        let (this, period) = (Arc::clone(&controller), options.attach_detach_reconcile_sync_period.max(LOOK_AGAIN));
        controller.ctx.every(period, move || {
            let this = Arc::clone(&this);
            async move {
                this.attachments
                    .list()
                    .iter()
                    .for_each(|attachment| this.queue.add(Key::cluster(attachment.spec.node_name.clone())));
                Ok(())
            }
        });
    }
    Ok(())
}

/// What of a node matters here; heartbeats do not.
fn node_view(node: &Node) -> impl PartialEq {
    let status = node.status.as_ref();
    let ready = status
        .and_then(|status| status.conditions.as_ref())
        .and_then(|conditions| conditions.iter().find(|condition| condition.type_ == "Ready"))
        .map(|condition| condition.status.clone());
    (
        ready,
        status.and_then(|status| status.volumes_attached.clone()),
        status.and_then(|status| status.volumes_in_use.clone()),
        node.spec.as_ref().and_then(|spec| spec.taints.clone()),
        node.metadata.annotations.as_ref().map(|annotations| annotations.len()),
    )
}

impl Controller {
    fn watch(self: &Arc<Self>) {
        let queue = self.queue.clone();
        self.nodes.on_change(move |change| match change {
            Change::Updated(old, new) if node_view(old) == node_view(new) => {}
            _ => queue.add(Key::cluster(change.object().name_any())),
        });
        let queue = self.queue.clone();
        self.pods.on_change(move |change| {
            let pod = change.object();
            if !claims_of(pod).is_empty() && !pods::node_name(pod).is_empty() {
                queue.add(Key::cluster(pods::node_name(pod)));
            }
        });
        let this = Arc::clone(self);
        self.attachments.on_change(move |change| {
            let attachment = change.object();
            let name = attachment.name_any();
            {
                let mut memory = this.memory.lock();
                memory.assumed.remove(&name);
                if matches!(change, Change::Deleted(_)) {
                    memory.unwanted.remove(&name);
                    memory.told.remove(&name);
                }
            }
            this.queue.add(Key::cluster(attachment.spec.node_name.clone()));
            if let (Change::Deleted(_), Some(volume)) = (change, &attachment.spec.source.persistent_volume_name) {
                this.enqueue_users(volume);
            }
        });
        let this = Arc::clone(self);
        self.volumes.on_change(move |change| this.enqueue_users(&change.object().name_any()));
        let this = Arc::clone(self);
        self.claims.on_change(move |change| this.enqueue_claim(&Key::of(change.object().as_ref()).to_string()));
    }

    fn enqueue_users(&self, volume: &str) {
        let claim = self.volumes.get(&Key::cluster(volume)).and_then(|volume| volume.spec.as_ref()?.claim_ref.clone());
        if let Some(claim) = claim {
            self.enqueue_claim(&Key::new(claim.namespace.unwrap_or_default(), claim.name.unwrap_or_default()).to_string());
        }
    }

    fn enqueue_claim(&self, claim: &str) {
        for pod in self.pods.by_index(BY_CLAIM, claim) {
            if !pods::node_name(&pod).is_empty() {
                self.queue.add(Key::cluster(pods::node_name(&pod)));
            }
        }
    }

    /// The attachable volume behind a claim: bound both ways, of a driver that wants attaching.
    fn volume_of(&self, claim_key: &str, pod: &Pod) -> Option<(Arc<PersistentVolume>, Volume)> {
        let (namespace, name) = claim_key.split_once('/')?;
        let claim = self.claims.get(&Key::new(namespace, name))?;
        if owner::controller_of(&claim.metadata).is_some_and(|owner| owner.kind == "Pod")
            && !owner::is_controlled_by(&claim.metadata, &pod.uid().unwrap_or_default())
        {
            return None;
        }
        let bound = claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
        let volume_name = claim.spec.as_ref()?.volume_name.clone().filter(|_| bound)?;
        let volume = self.volumes.get(&Key::cluster(volume_name))?;
        let spec = volume.spec.as_ref()?;
        if spec.claim_ref.as_ref()?.uid != claim.uid() {
            return None;
        }
        let csi = spec.csi.as_ref()?;
        let driver = self.drivers.get(&Key::cluster(csi.driver.clone()));
        if driver.is_some_and(|driver| driver.spec.attach_required == Some(false)) {
            return None;
        }
        let found = Volume { driver: csi.driver.clone(), handle: csi.volume_handle.clone() };
        Some((volume, found))
    }

    fn observe(&self, name: &str) -> Observed {
        let mut wanted: BTreeMap<String, Wanted> = BTreeMap::new();
        for pod in self.pods.by_index(BY_NODE, name).into_iter().filter(|pod| !has_stopped(pod)) {
            for claim in claims_of(&pod) {
                let Some((volume, found)) = self.volume_of(&claim, &pod) else { continue };
                let entry = wanted.entry(volume.name_any()).or_insert_with(|| {
                    let users = self.pods.by_index(BY_CLAIM, &claim);
                    let elsewhere = |pod: &Arc<Pod>| !pods::node_name(pod).is_empty() && pods::node_name(pod) != name;
                    Wanted {
                        volume: found,
                        name: volume.name_any(),
                        exclusive: is_exclusive(&volume),
                        pods: Vec::new(),
                        elsewhere: self.is_elsewhere(&volume.name_any(), name),
                        others: users.into_iter().filter(elsewhere).collect(),
                    }
                });
                entry.pods.push(Arc::clone(&pod));
            }
        }
        let mut attachments = self.attachments.by_index(ATTACHMENTS_BY_NODE, name);
        let memory = self.memory.lock();
        for assumed in memory.assumed.values().filter(|assumed| assumed.spec.node_name == name) {
            if !attachments.iter().any(|attachment| attachment.name_any() == assumed.name_any()) {
                attachments.push(Arc::clone(assumed));
            }
        }
        Observed {
            name: name.to_owned(),
            node: self.nodes.get(&Key::cluster(name)),
            wanted: wanted.into_values().collect(),
            unwanted_for: memory.unwanted.iter().map(|(name, since)| (name.clone(), since.elapsed())).collect(),
            attachments,
            never_force: self.ctx.config.options.disable_force_detach_on_timeout,
        }
    }

    fn is_elsewhere(&self, volume: &str, node: &str) -> bool {
        let other = |attachment: &Arc<VolumeAttachment>| {
            attachment.spec.node_name != node && attachment.spec.source.persistent_volume_name.as_deref() == Some(volume)
        };
        self.attachments.by_index(ATTACHMENTS_BY_VOLUME, volume).iter().any(other)
            || self.memory.lock().assumed.values().any(other)
    }

    async fn sync(&self, node: &str) -> anyhow::Result<Requeue> {
        let observed = self.observe(node);
        let plan = plan::plan(&observed);
        {
            let mut memory = self.memory.lock();
            let here: BTreeSet<String> = observed.attachments.iter().map(|attachment| attachment.name_any()).collect();
            memory.unwanted.retain(|name, _| !here.contains(name) || plan.unwanted.contains(name));
            for name in &plan.unwanted {
                memory.unwanted.entry(name.clone()).or_insert_with(Instant::now);
            }
        }
        self.tell_errors(&observed);
        for op in plan.ops {
            self.apply(node, op).await?;
        }
        Ok(if plan.waits { Requeue::After(LOOK_AGAIN) } else { Requeue::No })
    }

    async fn apply(&self, node: &str, op: Op) -> anyhow::Result<()> {
        match op {
            Op::Attach { name, driver, volume } => {
                let attachment = VolumeAttachment {
                    metadata: ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() },
                    spec: VolumeAttachmentSpec {
                        attacher: driver,
                        node_name: node.to_owned(),
                        source: VolumeAttachmentSource { persistent_volume_name: Some(volume), inline_volume_spec: None },
                    },
                    status: None,
                };
                self.memory.lock().assumed.insert(name.clone(), Arc::new(attachment.clone()));
                match self.ctx.cluster::<VolumeAttachment>().create(&PostParams::default(), &attachment).await {
                    Ok(_) => {}
                    Err(error) if api_error::is_already_exists(&error) => {}
                    Err(error) => {
                        self.memory.lock().assumed.remove(&name);
                        return Err(error.into());
                    }
                }
                // Seen already? Then the handler ran before the answer came.
                if self.attachments.get(&Key::cluster(name.clone())).is_some() {
                    self.memory.lock().assumed.remove(&name);
                }
            }
            Op::Report(attached) => {
                let attached = if attached.is_empty() { json!(null) } else { json!(attached) };
                let patch = Patch::Strategic(json!({"status": {"volumesAttached": attached}}));
                let patched = self.ctx.cluster::<Node>().patch_status(node, &PatchParams::default(), &patch).await;
                api_error::ignore_not_found(patched)?;
            }
            Op::Detach(name) => {
                let deleted = self.ctx.cluster::<VolumeAttachment>().delete(&name, &DeleteParams::default()).await;
                api_error::ignore_not_found(deleted)?;
            }
            Op::Tell { pod: (namespace, name), warning, reason, message } => {
                let Some(pod) = self.pods.get(&Key::new(namespace, name)) else { return Ok(()) };
                let about = pod.object_ref(&());
                if !warning {
                    self.ctx.normal(&about, reason, message);
                } else if self.is_news(format!("{node}/{}", pod.uid().unwrap_or_default()), &message) {
                    self.ctx.warning(&about, reason, message);
                }
            }
        }
        Ok(())
    }

    /// What drivers say about attachments that fail goes to the pods that wait.
    fn tell_errors(&self, observed: &Observed) {
        for wanted in &observed.wanted {
            let name = wanted.volume.attachment(&observed.name);
            let attachment = observed.attachments.iter().find(|attachment| attachment.name_any() == name);
            let error = attachment.and_then(|attachment| attachment.status.as_ref()?.attach_error.as_ref()?.message.clone());
            let Some(error) = error else { continue };
            let message = format!("AttachVolume.Attach failed for volume {:?} : {error}", wanted.name);
            if self.is_news(name, &message) {
                for pod in &wanted.pods {
                    self.ctx.warning(&pod.object_ref(&()), "FailedAttachVolume", message.clone());
                }
            }
        }
    }

    fn is_news(&self, about: String, message: &str) -> bool {
        let mut memory = self.memory.lock();
        // Entries of pods go with nobody: start over now and then.
        if memory.told.len() > 10_000 {
            memory.told.clear();
        }
        memory.told.insert(about, message.to_owned()).as_deref() != Some(message)
    }
}

/// Upstream: util.IsMultiAttachAllowed, negated.
fn is_exclusive(volume: &PersistentVolume) -> bool {
    let modes = volume.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default();
    !modes.is_empty() && !modes.iter().any(|mode| mode == "ReadWriteMany" || mode == "ReadOnlyMany")
}

/// Whether none of the pod's containers runs or will. Upstream: util.IsPodTerminated (pkg/volume/util).
fn has_stopped(pod: &Pod) -> bool {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
    let runs = |state: Option<&k8s_openapi::api::core::v1::ContainerState>| {
        state.is_some_and(|state| state.terminated.is_none() && state.waiting.is_none())
    };
    pods::is_terminal(pod) || (pods::is_deleting(pod) && !statuses.iter().any(|status| runs(status.state.as_ref())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_exclusive_by_their_access_modes() {
        for (modes, expected) in [
            (json!([]), false),
            (json!(["ReadWriteOnce"]), true),
            (json!(["ReadWriteOncePod"]), true),
            (json!(["ReadWriteOnce", "ReadWriteMany"]), false),
            (json!(["ReadOnlyMany"]), false),
        ] {
            let volume = serde_json::from_value(json!({"spec": {"accessModes": modes}})).unwrap();
            assert_eq!(is_exclusive(&volume), expected, "{modes}");
        }
    }

    #[test]
    fn a_pod_needs_its_volumes_until_its_containers_have_stopped() {
        for (deleting, status, expected) in [
            (false, json!({"phase": "Running"}), false),
            (false, json!({"phase": "Succeeded"}), true),
            (true, json!({"phase": "Running", "containerStatuses": [{"state": {"running": {}}}]}), false),
            (true, json!({"phase": "Running", "containerStatuses": [{"state": {"terminated": {"exitCode": 0}}}]}), true),
            (true, json!({"phase": "Pending"}), true),
        ] {
            let mut pod = json!({"metadata": {}, "status": status});
            for (index, status) in pod["status"]["containerStatuses"].as_array_mut().into_iter().flatten().enumerate() {
                let fixed = json!({"name": index.to_string(), "image": "", "imageID": "", "ready": false, "restartCount": 0});
                status.as_object_mut().unwrap().extend(fixed.as_object().unwrap().clone());
            }
            if deleting {
                pod["metadata"]["deletionTimestamp"] = json!("2024-01-01T00:00:00Z");
            }
            assert_eq!(has_stopped(&serde_json::from_value(pod.clone()).unwrap()), expected, "{pod}");
        }
    }
}

//! Binds claims to volumes, one to one; asks provisioners for volumes that are missing; reclaims those whose claim is gone.
//!
//! Upstream: pkg/controller/volume/persistentvolume

pub mod plan;
pub mod recycler;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimStatus};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{DeleteParams, PostParams};
use kube::{Resource, ResourceExt};
use tokio::sync::Mutex;

use crate::api_error;
use crate::context::{Change, Context, Queue, Requeue, Store};
use crate::key::Key;
use plan::{BIND_COMPLETED, BOUND_BY_CONTROLLER, PROVISIONED_BY, PROVISIONER, PROVISIONER_BETA, SELECTED_NODE, Standing};

const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";

pub struct Binder {
    pub ctx: Context,
    claims: Store<PersistentVolumeClaim>,
    volumes: Store<PersistentVolume>,
    classes: Store<StorageClass>,
    claim_queue: Queue<Key>,
    volume_queue: Queue<Key>,
    /// One decision at a time: two claims must not choose the same volume.
    deciding: Mutex<()>,
}

pub async fn start(ctx: Context) -> anyhow::Result<()> {
    let binder = Arc::new(Binder {
        claims: ctx.store(),
        volumes: ctx.store(),
        classes: ctx.store(),
        claim_queue: Queue::new("claims"),
        volume_queue: Queue::new("volumes"),
        deciding: Mutex::default(),
        ctx,
    });
    binder.claims.feed(&binder.claim_queue);
    binder.volumes.feed(&binder.volume_queue);
    let feed = binder.volume_queue.clone();
    binder.claims.on_change(move |change| {
        // A volume must notice that its claim has gone, or has come.
        let name = change.object().spec.as_ref().and_then(|spec| spec.volume_name.clone()).filter(|name| !name.is_empty());
        if let Some(name) = name {
            feed.add(Key::cluster(name));
        }
    });
    let (this, feed) = (Arc::clone(&binder), binder.claim_queue.clone());
    binder.volumes.on_change(move |change| match plan::claim_ref(change.object()) {
        Some(reference) => {
            feed.add(Key::new(reference.namespace.clone().unwrap_or_default(), reference.name.clone().unwrap_or_default()))
        }
        // A new volume may be what somebody waits for.
        None if !matches!(change, Change::Deleted(_)) => this.enqueue_waiting(),
        None => {}
    });
    let this = Arc::clone(&binder);
    binder.classes.on_change(move |_| this.enqueue_waiting());
    binder.claims.synced().await;
    binder.volumes.synced().await;
    binder.classes.synced().await;
    let this = Arc::clone(&binder);
    binder.ctx.run(&binder.claim_queue, 1, move |key| {
        let this = Arc::clone(&this);
        async move { this.sync_claim(&key).await }
    });
    let this = Arc::clone(&binder);
    binder.ctx.run(&binder.volume_queue, 1, move |key| {
        let this = Arc::clone(&this);
        async move { this.sync_volume(&key).await }
    });
    Ok(())
}

fn volume_name(claim: &PersistentVolumeClaim) -> &str {
    claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or("")
}

fn phase(claim: &PersistentVolumeClaim) -> &str {
    claim.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("")
}

impl Binder {
    fn enqueue_waiting(&self) {
        for claim in self.claims.list().iter().filter(|claim| phase(claim) != "Bound") {
            self.claim_queue.add(Key::of(claim.as_ref()));
        }
    }

    async fn sync_claim(&self, key: &Key) -> anyhow::Result<Requeue> {
        let _one = self.deciding.lock().await;
        let Some(claim) = self.claims.get(key) else { return Ok(Requeue::No) };
        let about = claim.object_ref(&());
        if claim.annotations().contains_key(BIND_COMPLETED) {
            return self.sync_bound(&claim, &about).await;
        }
        if claim.metadata.deletion_timestamp.is_some() {
            return Ok(Requeue::No);
        }
        let name = volume_name(&claim);
        if name.is_empty() {
            return self.find_volume(&claim, &about).await;
        }
        // The user asked for one particular volume.
        match self.volumes.get(&Key::cluster(name)) {
            None => self.set_pending(&claim).await?,
            Some(volume) if plan::claim_ref(&volume).is_none() || plan::is_for(&volume, &claim) => {
                match plan::mismatch(&volume, &claim) {
                    Some(why) => {
                        self.ctx.warning(&about, "VolumeMismatch", format!("Cannot bind to requested volume {name:?}: {why}"));
                        self.set_pending(&claim).await?;
                    }
                    None => self.bind(&volume, &claim).await?,
                }
            }
            Some(_) => {
                self.ctx.warning(&about, "FailedBinding", format!("volume {name:?} already bound to a different claim."));
                self.set_pending(&claim).await?;
            }
        }
        Ok(Requeue::No)
    }

    async fn find_volume(&self, claim: &PersistentVolumeClaim, about: &ObjectReference) -> anyhow::Result<Requeue> {
        let class_name = plan::class_of_claim(claim);
        let class = class_name.as_ref().and_then(|name| self.classes.get(&Key::cluster(name)));
        let waits = class.as_ref().is_some_and(|class| class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"));
        let delayed = waits && !claim.annotations().contains_key(SELECTED_NODE);
        if let Some(volume) = plan::best(claim, &self.volumes.list(), delayed) {
            self.bind(&volume, claim).await?;
            return Ok(Requeue::No);
        }
        if class_name.is_none()
            && let Some(default) = self.default_class()
        {
            // A default class that came after the claim. Upstream: RetroactiveDefaultStorageClass.
            let mut changed = claim.clone();
            changed.spec.get_or_insert_default().storage_class_name = Some(default);
            self.write_claim(&changed).await?;
            return Ok(Requeue::No);
        }
        self.set_pending(claim).await?;
        if delayed {
            self.ctx.normal(about, "WaitForFirstConsumer", "waiting for first consumer to be created before binding");
            return Ok(Requeue::No);
        }
        match (class_name.filter(|name| !name.is_empty()), class) {
            (None, _) => self.ctx.normal(
                about,
                "FailedBinding",
                "no persistent volumes available for this claim and no storage class is set",
            ),
            (Some(name), None) => {
                self.ctx.warning(about, "ProvisioningFailed", format!("storageclass.storage.k8s.io {name:?} not found"));
            }
            (Some(_), Some(_)) if !self.ctx.config.options.enable_dynamic_provisioning => {
                self.ctx.normal(
                    about,
                    "FailedBinding",
                    "no persistent volumes available for this claim and no storage class is set",
                );
            }
            (Some(_), Some(class)) => self.ask_provisioner(claim, about, &class).await?,
        }
        // Once in a while, as upstream: the event keeps telling what is waited for.
        Ok(Requeue::After(self.ctx.config.options.pvclaimbinder_sync_period.max(Duration::from_secs(1))))
    }

    fn default_class(&self) -> Option<String> {
        let is_default = |class: &&Arc<StorageClass>| class.annotations().get(DEFAULT_CLASS).is_some_and(|value| value == "true");
        let all = self.classes.list();
        let newest = all
            .iter()
            .filter(is_default)
            .max_by_key(|class| (class.metadata.creation_timestamp.clone(), std::cmp::Reverse(class.name_any())));
        newest.map(|class| class.name_any())
    }

    async fn ask_provisioner(
        &self,
        claim: &PersistentVolumeClaim,
        about: &ObjectReference,
        class: &StorageClass,
    ) -> anyhow::Result<()> {
        let provisioner = &class.provisioner;
        if provisioner == "kubernetes.io/no-provisioner" {
            self.ctx.normal(about, "FailedBinding", "no persistent volumes available for this claim and no storage class is set");
            return Ok(());
        }
        if claim.annotations().get(PROVISIONER) != Some(provisioner) {
            let mut changed = claim.clone();
            for key in [PROVISIONER, PROVISIONER_BETA] {
                changed.annotations_mut().insert(key.to_owned(), provisioner.clone());
            }
            self.write_claim(&changed).await?;
        }
        let message = format!(
            "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered."
        );
        self.ctx.normal(about, "ExternalProvisioning", message);
        Ok(())
    }

    async fn sync_bound(&self, claim: &PersistentVolumeClaim, about: &ObjectReference) -> anyhow::Result<Requeue> {
        let name = volume_name(claim);
        let lost = |reason: &'static str, message: &'static str| (reason, message);
        let trouble = match self.volumes.get(&Key::cluster(name)) {
            _ if name.is_empty() => {
                lost("ClaimLost", "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!")
            }
            None => lost("ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!"),
            Some(volume) if plan::claim_ref(&volume).is_none() || plan::is_for(&volume, claim) => {
                self.bind(&volume, claim).await?;
                return Ok(Requeue::No);
            }
            Some(_) => lost("ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly"),
        };
        if phase(claim) != "Lost" {
            let status =
                PersistentVolumeClaimStatus { phase: Some("Lost".to_owned()), ..claim.status.clone().unwrap_or_default() };
            self.write_claim_status(claim, status).await?;
            self.ctx.warning(about, trouble.0, trouble.1);
        }
        Ok(Requeue::No)
    }

    /// The four writes of a binding, each left out where it was done before: volume, its phase, claim, its status.
    async fn bind(&self, volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> anyhow::Result<()> {
        let mut volume = volume.clone();
        let complete = plan::claim_ref(&volume).is_some_and(|reference| reference.uid == claim.uid());
        if !complete {
            if plan::claim_ref(&volume).is_none() {
                volume.annotations_mut().insert(BOUND_BY_CONTROLLER.to_owned(), "yes".to_owned());
            }
            let reference = ObjectReference { resource_version: claim.resource_version(), ..claim.object_ref(&()) };
            volume.spec.get_or_insert_default().claim_ref = Some(reference);
            volume = self.ctx.cluster::<PersistentVolume>().replace(&volume.name_any(), &PostParams::default(), &volume).await?;
        }
        self.set_volume_phase(&volume, "Bound", None).await?;
        let mut claim = claim.clone();
        let named = volume_name(&claim) == volume.name_any();
        if !named || !claim.annotations().contains_key(BIND_COMPLETED) {
            if !named {
                claim.spec.get_or_insert_default().volume_name = Some(volume.name_any());
                claim.annotations_mut().insert(BOUND_BY_CONTROLLER.to_owned(), "yes".to_owned());
            }
            claim.annotations_mut().insert(BIND_COMPLETED.to_owned(), "yes".to_owned());
            claim = self.write_claim(&claim).await?;
        }
        let spec = volume.spec.as_ref();
        if phase(&claim) != "Bound" {
            let status = PersistentVolumeClaimStatus {
                phase: Some("Bound".to_owned()),
                access_modes: spec.and_then(|spec| spec.access_modes.clone()),
                capacity: spec.and_then(|spec| spec.capacity.clone()),
                ..claim.status.clone().unwrap_or_default()
            };
            self.write_claim_status(&claim, status).await?;
        }
        Ok(())
    }

    async fn write_claim(&self, claim: &PersistentVolumeClaim) -> kube::Result<PersistentVolumeClaim> {
        let api = self.ctx.namespaced::<PersistentVolumeClaim>(&claim.namespace().unwrap_or_default());
        api.replace(&claim.name_any(), &PostParams::default(), claim).await
    }

    async fn write_claim_status(&self, claim: &PersistentVolumeClaim, status: PersistentVolumeClaimStatus) -> kube::Result<()> {
        let changed = PersistentVolumeClaim { status: Some(status), ..claim.clone() };
        let api = self.ctx.namespaced::<PersistentVolumeClaim>(&claim.namespace().unwrap_or_default());
        api.replace_status(&claim.name_any(), &PostParams::default(), &changed).await.map(|_| ())
    }

    async fn set_pending(&self, claim: &PersistentVolumeClaim) -> kube::Result<()> {
        if phase(claim) == "Pending" {
            return Ok(());
        }
        let status =
            PersistentVolumeClaimStatus { phase: Some("Pending".to_owned()), ..claim.status.clone().unwrap_or_default() };
        self.write_claim_status(claim, status).await
    }

    pub async fn set_volume_phase(&self, volume: &PersistentVolume, phase: &str, message: Option<String>) -> kube::Result<()> {
        let mut status = volume.status.clone().unwrap_or_default();
        if status.phase.as_deref() == Some(phase) && status.message == message {
            return Ok(());
        }
        if status.phase.as_deref() != Some(phase) {
            status.last_phase_transition_time = Some(Time(self.ctx.now()));
        }
        status.phase = Some(phase.to_owned());
        status.message = message;
        let changed = PersistentVolume { status: Some(status), ..volume.clone() };
        let written =
            self.ctx.cluster::<PersistentVolume>().replace_status(&volume.name_any(), &PostParams::default(), &changed).await;
        api_error::ignore_not_found(written).map(|_| ())
    }

    async fn sync_volume(&self, key: &Key) -> anyhow::Result<Requeue> {
        let _one = self.deciding.lock().await;
        let Some(volume) = self.volumes.get(key) else { return Ok(Requeue::No) };
        let reference = plan::claim_ref(&volume).cloned().unwrap_or_default();
        let claim_key = Key::new(reference.namespace.unwrap_or_default(), reference.name.unwrap_or_default());
        let mut claim = self.claims.get(&claim_key);
        if plan::standing(&volume, claim.as_deref()) == Standing::Released {
            // The data is at stake: the server's word counts, not the cache's.
            let api = self.ctx.namespaced::<PersistentVolumeClaim>(&claim_key.namespace);
            claim = api.get_opt(&claim_key.name).await?.map(Arc::new);
        }
        match plan::standing(&volume, claim.as_deref()) {
            Standing::Free | Standing::Reserved
                if plan::claim_ref(&volume).is_none_or(|r| r.uid.as_ref().is_none_or(String::is_empty)) =>
            {
                self.set_volume_phase(&volume, "Available", None).await?;
            }
            Standing::Free | Standing::Reserved => self.claim_queue.add(claim_key),
            Standing::Bound => self.set_volume_phase(&volume, "Bound", None).await?,
            Standing::Jilted => {
                let mut changed = (*volume).clone();
                let spec = changed.spec.get_or_insert_default();
                if volume.annotations().contains_key(BOUND_BY_CONTROLLER) {
                    spec.claim_ref = None;
                    changed.annotations_mut().remove(BOUND_BY_CONTROLLER);
                } else if let Some(reference) = spec.claim_ref.as_mut() {
                    reference.uid = None;
                }
                self.ctx.cluster::<PersistentVolume>().replace(&key.name, &PostParams::default(), &changed).await?;
            }
            Standing::Released => return self.reclaim(&volume).await,
        }
        Ok(Requeue::No)
    }

    /// The claim is gone: keep, delete or scrub.
    async fn reclaim(&self, volume: &PersistentVolume) -> anyhow::Result<Requeue> {
        let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("");
        if !matches!(phase, "Released" | "Failed") {
            self.set_volume_phase(volume, "Released", None).await?;
        }
        let spec = volume.spec.clone().unwrap_or_default();
        let about = volume.object_ref(&());
        match spec.persistent_volume_reclaim_policy.as_deref().unwrap_or("Retain") {
            "Recycle" => recycler::recycle(self, volume).await,
            // What a provisioner made, it takes away itself when it sees the phase.
            "Delete" if volume.annotations().contains_key(PROVISIONED_BY) || spec.csi.is_some() => Ok(Requeue::No),
            "Delete" => {
                let path = spec.host_path.as_ref().map(|host| host.path.clone()).unwrap_or_default();
                let message = match spec.host_path {
                    Some(_) if path.starts_with("/tmp/") && !path.contains("..") => {
                        // Upstream's deleter for hostPath, which is meant for tests: only below /tmp, on this very host.
                        match std::fs::remove_dir_all(&path) {
                            Err(error) if error.kind() != std::io::ErrorKind::NotFound => error.to_string(),
                            _ => {
                                let deleted = self
                                    .ctx
                                    .cluster::<PersistentVolume>()
                                    .delete(&volume.name_any(), &DeleteParams::default())
                                    .await;
                                api_error::ignore_not_found(deleted)?;
                                return Ok(Requeue::No);
                            }
                        }
                    }
                    Some(_) => format!("host_path deleter only supports /tmp/.+ but received provided {path}"),
                    None => format!(
                        "error getting deleter volume plugin for volume {:?}: no deletable volume plugin matched",
                        volume.name_any()
                    ),
                };
                if phase != "Failed" {
                    self.set_volume_phase(volume, "Failed", Some(message.clone())).await?;
                    self.ctx.warning(&about, "VolumeFailedDelete", message);
                }
                Ok(Requeue::No)
            }
            _ => Ok(Requeue::No),
        }
    }
}

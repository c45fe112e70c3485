//! Rolls Deployments from one template to the next by growing and shrinking ReplicaSets.
//!
//! Upstream: pkg/controller/deployment

pub mod plan;
pub mod sets;

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Resource, ResourceExt};

use crate::api_error;
use crate::config::workers;
use crate::context::{self, Change, Context, Queue, Requeue, Store};
use crate::key::Key;
use crate::owner::{self, Claim};
use crate::selector;
use plan::{Observed, Op, Plan};

pub async fn start(ctx: Context) -> anyhow::Result<()> {
    let controller =
        Arc::new(Controller { deployments: ctx.store(), sets: ctx.store(), pods: ctx.store(), queue: ctx.queue(), ctx });
    controller.deployments.feed(&controller.queue);
    let this = Arc::clone(&controller);
    controller.sets.on_change(move |change| this.set_changed(change));
    let this = Arc::clone(&controller);
    controller.pods.on_change(move |change| this.pod_changed(change));
    controller.deployments.synced().await;
    controller.sets.synced().await;
    controller.pods.synced().await;
    let this = Arc::clone(&controller);
    let count = workers(controller.ctx.config.options.concurrent_deployment_syncs);
    controller.ctx.run(&controller.queue, count, move |key| {
        let this = Arc::clone(&this);
        async move { this.sync(&key).await }
    });
    Ok(())
}

struct Controller {
    ctx: Context,
    deployments: Store<Deployment>,
    sets: Store<ReplicaSet>,
    pods: Store<Pod>,
    queue: Queue<Key>,
}

impl Controller {
    fn set_changed(&self, change: &Change<ReplicaSet>) {
        let new = change.object();
        let key = self.controller_key(&new.metadata);
        if let Change::Updated(old, _) = change {
            let before = self.controller_key(&old.metadata);
            if before != key
                && let Some(before) = before
            {
                self.queue.add(before);
            }
        }
        match key {
            Some(key) => self.queue.add(key),
            None if !matches!(change, Change::Deleted(_)) && owner::controller_of(&new.metadata).is_none() => {
                self.enqueue_matching(new)
            }
            None => {}
        }
    }

    /// A Recreate rollout waits for the last old pod.
    fn pod_changed(&self, change: &Change<Pod>) {
        let Change::Deleted(pod) = change else { return };
        let Some(set) = owner::controller_of(&pod.metadata).filter(|owner| owner.kind == "ReplicaSet") else { return };
        let set = self.sets.get(&Key::new(pod.namespace().unwrap_or_default(), set.name.clone()));
        let Some(key) = set.and_then(|set| self.controller_key(&set.metadata)) else { return };
        if self.deployments.get(&key).is_some_and(|deployment| !sets::is_rolling(&deployment)) {
            self.queue.add(key);
        }
    }

    fn controller_key(&self, meta: &ObjectMeta) -> Option<Key> {
        let controller = owner::controller_of(meta).filter(|owner| owner.kind == "Deployment")?;
        let key = Key::new(meta.namespace.clone().unwrap_or_default(), controller.name.clone());
        let deployment = self.deployments.get(&key)?;
        (deployment.uid().as_deref() == Some(&controller.uid)).then_some(key)
    }

    fn enqueue_matching(&self, set: &ReplicaSet) {
        let none = BTreeMap::new();
        let labels = set.metadata.labels.as_ref().unwrap_or(&none);
        for deployment in self.deployments.in_namespace(&set.namespace().unwrap_or_default()) {
            let Some(by) = selector_of(&deployment) else { continue };
            if !selector::is_empty(by) && selector::matches(by, labels) {
                self.queue.add(Key::of(deployment.as_ref()));
            }
        }
    }

    async fn sync(&self, key: &Key) -> anyhow::Result<Requeue> {
        let Some(deployment) = self.deployments.get(key) else { return Ok(Requeue::No) };
        let about = deployment.object_ref(&());
        if selector_of(&deployment).is_none_or(selector::is_empty) {
            self.ctx.warning(&about, "SelectingAll", "This deployment is selecting all pods. A non-empty selector is required.");
            return Ok(Requeue::No);
        }
        let sets = self.claim(&deployment).await?;
        let pods =
            sets.iter().map(|set| set.uid().unwrap_or_default()).map(|uid| (uid.clone(), self.pods.owned_by(&uid))).collect();
        let plan = plan::plan(&Observed { deployment: Arc::clone(&deployment), sets, pods }, self.ctx.now());
        self.apply(&deployment, &about, plan).await
    }

    /// Adopts and releases ReplicaSets; returns the Deployment's own.
    async fn claim(&self, deployment: &Deployment) -> anyhow::Result<Vec<Arc<ReplicaSet>>> {
        let (uid, namespace) = (deployment.uid().unwrap_or_default(), deployment.namespace().unwrap_or_default());
        let Some(by) = selector_of(deployment) else { return Ok(Vec::new()) };
        let mut candidates = self.sets.owned_by(&uid);
        candidates.extend(self.sets.orphans(&namespace));
        let api = self.ctx.namespaced::<ReplicaSet>(&namespace);
        let mut mine = Vec::new();
        for set in candidates {
            let set_uid = set.uid().unwrap_or_default();
            let patch = match owner::claim_by(&deployment.metadata, by, &set.metadata) {
                Claim::Keep => {
                    mine.push(set);
                    continue;
                }
                Claim::Ignore => continue,
                Claim::Release => owner::release_patch(&uid, &set_uid),
                Claim::Adopt => {
                    let fresh = self.ctx.namespaced::<Deployment>(&namespace).get(&deployment.name_any()).await?;
                    anyhow::ensure!(fresh.uid().as_deref() == Some(&uid), "original Deployment is gone: got another uid");
                    anyhow::ensure!(fresh.metadata.deletion_timestamp.is_none(), "Deployment has just been deleted");
                    owner::adoption_patch(&owner::controller_ref("apps/v1", "Deployment", &deployment.metadata), &set_uid)
                }
            };
            let patched = api.patch(&set.name_any(), &PatchParams::default(), &Patch::Strategic(patch)).await;
            if let Some(patched) = api_error::ignore_not_found(patched)?
                && owner::is_controlled_by(&patched.metadata, &uid)
            {
                mine.push(Arc::new(patched));
            }
        }
        Ok(mine)
    }

    async fn apply(&self, deployment: &Deployment, about: &ObjectReference, plan: Plan) -> anyhow::Result<Requeue> {
        let namespace = deployment.namespace().unwrap_or_default();
        let api = self.ctx.namespaced::<ReplicaSet>(&namespace);
        let mut stale = false;
        for op in &plan.ops {
            match op {
                Op::Create(set) => stale |= !self.create(deployment, about, set, &plan).await?,
                Op::Update { set, scaled } => {
                    api.replace(&set.name_any(), &PostParams::default(), set).await?;
                    if let Some(before) = scaled {
                        self.tell_scaled(about, set, *before);
                    }
                }
                Op::Delete(name) => {
                    api_error::ignore_not_found(api.delete(name, &DeleteParams::default()).await)?;
                }
            }
        }
        let old = deployment.status.clone().unwrap_or_default();
        if plan.revision.is_some() || plan::differs(&old, &plan.status) {
            let mut changed = deployment.clone();
            changed.status = Some(plan.status);
            if let Some(revision) = plan.revision {
                changed.annotations_mut().insert(sets::REVISION.to_owned(), revision);
            }
            let written = self
                .ctx
                .namespaced::<Deployment>(&namespace)
                .replace_status(&changed.name_any(), &PostParams::default(), &changed)
                .await;
            api_error::ignore_not_found(written)?;
        }
        Ok(if stale { Requeue::Backoff } else { context::requeue_at(plan.look_again, self.ctx.now()) })
    }

    fn tell_scaled(&self, about: &ObjectReference, set: &ReplicaSet, before: i32) {
        let size = sets::replicas(set);
        let direction = if size > before { "up" } else { "down" };
        let message = format!("Scaled {direction} replica set {} from {before} to {size}", set.name_any());
        self.ctx.normal(about, "ScalingReplicaSet", message);
    }

    /// Makes the new set; `Ok(false)` when it was there already and the cache is behind.
    async fn create(
        &self,
        deployment: &Deployment,
        about: &ObjectReference,
        set: &ReplicaSet,
        plan: &Plan,
    ) -> anyhow::Result<bool> {
        let namespace = deployment.namespace().unwrap_or_default();
        let api = self.ctx.namespaced::<ReplicaSet>(&namespace);
        let deployments = self.ctx.namespaced::<Deployment>(&namespace);
        match api.create(&PostParams::default(), set).await {
            Ok(_) => {
                if sets::replicas(set) > 0 {
                    self.tell_scaled(about, set, 0);
                }
                Ok(true)
            }
            Err(error) if api_error::is_already_exists(&error) => {
                let existing = api.get(&set.name_any()).await?;
                let template = |set: &ReplicaSet| set.spec.as_ref().and_then(|spec| spec.template.clone()).unwrap_or_default();
                let ours = owner::is_controlled_by(&existing.metadata, &deployment.uid().unwrap_or_default());
                if ours && sets::same_template(&template(&existing), &template(set)) {
                    return Ok(false);
                }
                // Another set has the name that our hash gave: the next try hashes with a higher count.
                let mut changed = deployment.clone();
                let status = changed.status.get_or_insert_default();
                status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
                deployments.replace_status(&changed.name_any(), &PostParams::default(), &changed).await?;
                Err(error.into())
            }
            Err(error) if api_error::is_namespace_terminating(&error) => Ok(true),
            Err(error) => {
                let message = format!("Failed to create new replica set {:?}: {}", set.name_any(), api_error::message(&error));
                let conditions =
                    |status: Option<&DeploymentStatus>| status.and_then(|status| status.conditions.clone()).unwrap_or_default();
                let told = conditions(deployment.status.as_ref())
                    .iter()
                    .any(|condition| condition.reason.as_deref() == Some("ReplicaSetCreateError"));
                // Once only: a write at every try would wake this very sync and defeat its backoff.
                if !told && deployment.spec.as_ref().and_then(|spec| spec.progress_deadline_seconds).is_some() {
                    let mut failed = conditions(Some(&plan.status));
                    for condition in failed.iter_mut().filter(|condition| condition.type_ == "Progressing") {
                        condition.status = "False".to_owned();
                        condition.reason = Some("ReplicaSetCreateError".to_owned());
                        condition.message = Some(message.clone());
                    }
                    let mut changed = deployment.clone();
                    changed.status.get_or_insert_default().conditions = Some(failed);
                    deployments.replace_status(&changed.name_any(), &PostParams::default(), &changed).await?;
                }
                self.ctx.warning(about, "ReplicaSetCreateError", message);
                Err(error.into())
            }
        }
    }
}

fn selector_of(deployment: &Deployment) -> Option<&LabelSelector> {
    deployment.spec.as_ref().map(|spec| &spec.selector)
}

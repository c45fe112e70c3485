//! Runs pods that keep their names, their order and their storage.
//!
//! Upstream: pkg/controller/statefulset

pub mod identity;
pub mod plan;

use std::collections::HashSet;
use std::sync::Arc;

use anyhow::Context as _;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolumeClaim, Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Resource, ResourceExt};

use crate::api_error;
use crate::config::workers;
use crate::context::{self, Change, Context, Queue, Requeue, Store};
use crate::history;
use crate::key::Key;
use crate::owner;
use crate::{pod_control, pods, selector};
use plan::{Observed, Op, Revision};

struct Controller {
    ctx: Context,
    sets: Store<StatefulSet>,
    pods: Store<Pod>,
    claims: Store<PersistentVolumeClaim>,
    revisions: Store<ControllerRevision>,
    queue: Queue<Key>,
}

pub async fn start(ctx: Context) -> anyhow::Result<()> {
    let controller = Arc::new(Controller {
        sets: ctx.store(),
        pods: ctx.store(),
        claims: ctx.store(),
        revisions: ctx.store(),
        queue: ctx.queue(),
        ctx,
    });
    controller.sets.feed(&controller.queue);
    let this = Arc::clone(&controller);
    controller.pods.on_change(move |change| this.pod_changed(change));
    controller.sets.synced().await;
    controller.pods.synced().await;
    controller.claims.synced().await;
    controller.revisions.synced().await;
    let this = Arc::clone(&controller);
    let count = workers(controller.ctx.config.options.concurrent_statefulset_syncs);
    controller.ctx.run(&controller.queue, count, move |key| {
        let this = Arc::clone(&this);
        async move { this.sync(&key).await }
    });
    Ok(())
}

impl Controller {
    fn pod_changed(&self, change: &Change<Pod>) {
        let pod = change.object();
        let key = self.controller_key(&pod.metadata);
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
            None if owner::controller_of(&pod.metadata).is_none() && !matches!(change, Change::Deleted(_)) => {
                for set in self.sets.in_namespace(&pod.namespace().unwrap_or_default()) {
                    let by = set.spec.as_ref().map(|spec| &spec.selector);
                    if by.is_some_and(|by| !selector::is_empty(by) && selector::matches(by, pod.labels())) {
                        self.queue.add(Key::of(set.as_ref()));
                    }
                }
            }
            None => {}
        }
    }

    fn controller_key(&self, meta: &ObjectMeta) -> Option<Key> {
        let controller = owner::controller_of(meta).filter(|owner| owner.kind == "StatefulSet")?;
        let key = Key::new(meta.namespace.clone().unwrap_or_default(), controller.name.clone());
        let set = self.sets.get(&key)?;
        (set.uid().as_deref() == Some(&controller.uid)).then_some(key)
    }

    async fn sync(&self, key: &Key) -> anyhow::Result<Requeue> {
        let Some(set) = self.sets.get(key) else { return Ok(Requeue::No) };
        let Some(spec) = set.spec.as_ref() else { return Ok(Requeue::No) };
        if selector::is_empty(&spec.selector) {
            return Ok(Requeue::No);
        }
        let about = set.object_ref(&());
        let pods = self.claim(&set).await?;
        let (current, update, revisions) = self.sync_history(&set).await?;
        let observed = Observed { set: Arc::clone(&set), pods, current, update };
        let now = self.ctx.now();
        let plan = plan::plan(&observed, now);
        let applied = self.apply(key, &set, &about, plan.ops, &observed.pods).await;
        if plan::differs(&set.status.clone().unwrap_or_default(), &plan.status) {
            let changed = StatefulSet { status: Some(plan.status), ..(*set).clone() };
            let written = self
                .ctx
                .namespaced::<StatefulSet>(&key.namespace)
                .replace_status(&key.name, &PostParams::default(), &changed)
                .await;
            api_error::ignore_not_found(written)?;
        }
        applied?;
        self.clean_history(&set, &revisions, &observed).await?;
        let min_ready = spec.min_ready_seconds.unwrap_or(0);
        let next = observed.pods.iter().filter_map(|pod| pods::available_at(pod, min_ready, now)).min();
        Ok(context::requeue_at(next, now))
    }

    async fn claim(&self, set: &StatefulSet) -> anyhow::Result<Vec<Arc<Pod>>> {
        let by = set.spec.as_ref().map(|spec| spec.selector.clone()).unwrap_or_default();
        let mut candidates = self.pods.owned_by(&set.uid().unwrap_or_default());
        let orphans = self.pods.orphans(&set.namespace().unwrap_or_default());
        candidates.extend(orphans.into_iter().filter(|pod| identity::ordinal(set, pod).is_some()));
        pod_control::claim(&self.ctx, set, &by, candidates, None).await
    }

    /// Writes the revision of the template; returns the one that was in force, that one, and all of them.
    async fn sync_history(&self, set: &StatefulSet) -> anyhow::Result<(Revision, Revision, Vec<Arc<ControllerRevision>>)> {
        let template = set.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
        let revisions = self.revisions.owned_by(&set.uid().unwrap_or_default());
        let update = history::record(&self.ctx, set, &template, &revisions).await?;
        let name = history::name(&update).to_owned();
        let update = Revision { name, template };
        let in_force = set.status.as_ref().and_then(|status| status.current_revision.as_deref()).unwrap_or("");
        let current = revisions.iter().find(|revision| history::name(revision) == in_force).and_then(|revision| stored(revision));
        let current = current.unwrap_or_else(|| Revision { name: update.name.clone(), template: update.template.clone() });
        Ok((current, update, revisions))
    }

    async fn clean_history(
        &self,
        set: &StatefulSet,
        revisions: &[Arc<ControllerRevision>],
        observed: &Observed,
    ) -> anyhow::Result<()> {
        let limit = set.spec.as_ref().and_then(|spec| spec.revision_history_limit).unwrap_or(10);
        let mut live: HashSet<String> = observed.pods.iter().map(|pod| identity::revision(pod).to_owned()).collect();
        live.extend([observed.current.name.clone(), observed.update.name.clone()]);
        let api = self.ctx.namespaced::<ControllerRevision>(&set.namespace().unwrap_or_default());
        for name in history::surplus(revisions, &live, usize::try_from(limit).unwrap_or(0)) {
            api_error::ignore_not_found(api.delete(&name, &DeleteParams::default()).await)?;
        }
        Ok(())
    }

    async fn apply(
        &self,
        key: &Key,
        set: &StatefulSet,
        about: &ObjectReference,
        ops: Vec<Op>,
        all: &[Arc<Pod>],
    ) -> anyhow::Result<()> {
        let api = self.ctx.namespaced::<Pod>(&key.namespace);
        for op in ops {
            match op {
                Op::Create { ordinal, pod } => {
                    self.ensure_claims(set, about, ordinal, None).await?;
                    let name = pod.name_any();
                    match api.create(&PostParams::default(), &pod).await {
                        Ok(_) => self.tell(about, "create", &name, &set.name_any(), None),
                        // The cache is behind: its event will come.
                        Err(error) if api_error::is_already_exists(&error) || api_error::is_namespace_terminating(&error) => {}
                        Err(error) => {
                            self.tell(about, "create", &name, &set.name_any(), Some(&error));
                            return Err(error.into());
                        }
                    }
                }
                Op::Delete { pod, finished } => {
                    let name = pod.name_any();
                    if finished {
                        let what = if pods::phase(&pod) == "Failed" { "failed" } else { "terminated" };
                        let reason = if what == "failed" { "RecreatingFailedPod" } else { "RecreatingTerminatedPod" };
                        let message = format!("StatefulSet {key} is recreating {what} Pod {name}");
                        if what == "failed" {
                            self.ctx.warning(about, reason, message)
                        } else {
                            self.ctx.normal(about, reason, message)
                        }
                    }
                    let params = DeleteParams::default().preconditions(Preconditions { uid: pod.uid(), resource_version: None });
                    match api.delete(&name, &params).await {
                        Ok(_) => self.tell(about, "delete", &name, &set.name_any(), None),
                        Err(error) if api_error::is_not_found(&error) || api_error::is_conflict(&error) => {}
                        Err(error) => {
                            self.tell(about, "delete", &name, &set.name_any(), Some(&error));
                            return Err(error.into());
                        }
                    }
                }
                Op::Repair { ordinal, pod } => {
                    self.ensure_claims(set, about, ordinal, all.iter().find(|other| other.uid() == pod.uid()).map(Arc::as_ref))
                        .await?;
                    if identity::in_range(set, ordinal) && !identity::is_identified(set, &pod, ordinal) {
                        let mut repaired = (*pod).clone();
                        identity::identify(set, &mut repaired, ordinal);
                        let labels = &repaired.metadata.labels;
                        let patch = serde_json::json!({"metadata": {"uid": pod.uid(), "labels": labels}});
                        let patched = api.patch(&pod.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await;
                        api_error::ignore_not_found(patched)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn tell(&self, about: &ObjectReference, verb: &str, pod: &str, set: &str, error: Option<&kube::Error>) {
        let title = if verb == "create" { "Create" } else { "Delete" };
        match error {
            None => {
                self.ctx.normal(about, &format!("Successful{title}"), format!("{verb} Pod {pod} in StatefulSet {set} successful"))
            }
            Some(error) => {
                let why = api_error::message(error);
                self.ctx.warning(
                    about,
                    &format!("Failed{title}"),
                    format!("{verb} Pod {pod} in StatefulSet {set} failed error: {why}"),
                );
            }
        }
    }

    /// Makes an ordinal's claims where they are missing, and lets the retention policy choose their owners.
    async fn ensure_claims(
        &self,
        set: &StatefulSet,
        about: &ObjectReference,
        ordinal: i32,
        pod: Option<&Pod>,
    ) -> anyhow::Result<()> {
        let namespace = set.namespace().unwrap_or_default();
        let api = self.ctx.namespaced::<PersistentVolumeClaim>(&namespace);
        for (_, claim) in identity::claims(set, ordinal) {
            let name = claim.name_any();
            let Some(existing) = self.claims.get(&Key::new(&namespace, &name)) else {
                if !identity::in_range(set, ordinal) {
                    continue;
                }
                let mut claim = claim;
                claim.metadata.owner_references = identity::claim_owners(set, pod, &claim, ordinal);
                match api.create(&PostParams::default(), &claim).await {
                    Ok(_) => {
                        let message = format!("create Claim {name} Pod {0}-{ordinal} in StatefulSet {0} success", set.name_any());
                        self.ctx.normal(about, "SuccessfulCreate", message);
                    }
                    Err(error) if api_error::is_already_exists(&error) => {}
                    Err(error) => {
                        let why = api_error::message(&error);
                        let message = format!(
                            "create Claim {name} for Pod {0}-{ordinal} in StatefulSet {0} failed error: {why}",
                            set.name_any()
                        );
                        self.ctx.warning(about, "FailedCreate", message);
                        return Err(error).context("failed to create a claim");
                    }
                }
                continue;
            };
            // A claim that goes with its earlier pod must be gone before the pod comes back, or it would take the data along.
            if pod.is_none() && existing.metadata.deletion_timestamp.is_some() {
                anyhow::bail!("pvc {name} is to be deleted");
            }
            if let Some(owners) = identity::claim_owners(set, pod, &existing, ordinal) {
                let mut changed = (*existing).clone();
                changed.metadata.owner_references = (!owners.is_empty()).then_some(owners);
                api_error::ignore_not_found(api.replace(&name, &PostParams::default(), &changed).await)?;
            }
        }
        Ok(())
    }
}

/// The template that a revision keeps.
fn stored(revision: &ControllerRevision) -> Option<Revision> {
    let mut template = revision.data.as_ref()?.0.pointer("/spec/template")?.clone();
    template.as_object_mut()?.remove("$patch");
    let template: PodTemplateSpec = serde_json::from_value(template).ok()?;
    Some(Revision { name: history::name(revision).to_owned(), template })
}

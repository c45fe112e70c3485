//! Keeps the wished number of pods running for every ReplicaSet; ReplicationControllers run through the same code by conversion.
//!
//! Upstream: pkg/controller/replicaset/replica_set.go, pkg/controller/replication.

pub mod plan;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetSpec, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{Pod, ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use kube::api::PostParams;
use kube::{Resource, ResourceExt};

use crate::api_error;
use crate::config::workers;
use crate::context::{self, Change, Context, Object, Queue, Requeue, Store};
use crate::expectations::Expectations;
use crate::key::Key;
use crate::{owner, pod_control, pods, selector};
use plan::{Observed, Scale};

pub async fn start(ctx: Context) -> anyhow::Result<()> {
    let workers = workers(ctx.config.options.concurrent_replicaset_syncs);
    run::<ReplicaSet>(ctx, workers).await
}

pub async fn start_replication_controllers(ctx: Context) -> anyhow::Result<()> {
    let workers = workers(ctx.config.options.concurrent_rc_syncs);
    run::<ReplicationController>(ctx, workers).await
}

/// A kind that is a ReplicaSet in all but name.
pub trait Flavor: Object + Resource<Scope = k8s_openapi::NamespaceResourceScope> + serde::Serialize {
    const API_VERSION: &'static str;
    const KIND_NAME: &'static str;
    fn view(object: &Arc<Self>) -> Arc<ReplicaSet>;
    fn with_status(&self, status: &ReplicaSetStatus) -> Self;
}

impl Flavor for ReplicaSet {
    const API_VERSION: &'static str = "apps/v1";
    const KIND_NAME: &'static str = "ReplicaSet";

    fn view(object: &Arc<ReplicaSet>) -> Arc<ReplicaSet> {
        Arc::clone(object)
    }

    fn with_status(&self, status: &ReplicaSetStatus) -> ReplicaSet {
        ReplicaSet { status: Some(status.clone()), ..self.clone() }
    }
}

impl Flavor for ReplicationController {
    const API_VERSION: &'static str = "v1";
    const KIND_NAME: &'static str = "ReplicationController";

    fn view(rc: &Arc<ReplicationController>) -> Arc<ReplicaSet> {
        let spec = rc.spec.clone().unwrap_or_default();
        let status = rc.status.clone().unwrap_or_default();
        let condition = |c: ReplicationControllerCondition| ReplicaSetCondition {
            type_: c.type_,
            status: c.status,
            reason: c.reason,
            message: c.message,
            last_transition_time: c.last_transition_time,
        };
        Arc::new(ReplicaSet {
            metadata: rc.metadata.clone(),
            spec: Some(ReplicaSetSpec {
                min_ready_seconds: spec.min_ready_seconds,
                replicas: spec.replicas,
                selector: LabelSelector { match_labels: spec.selector, match_expressions: None },
                template: spec.template,
            }),
            status: Some(ReplicaSetStatus {
                replicas: status.replicas,
                fully_labeled_replicas: status.fully_labeled_replicas,
                ready_replicas: status.ready_replicas,
                available_replicas: status.available_replicas,
                terminating_replicas: None,
                observed_generation: status.observed_generation,
                conditions: status.conditions.map(|list| list.into_iter().map(condition).collect()),
            }),
        })
    }

    fn with_status(&self, status: &ReplicaSetStatus) -> ReplicationController {
        let condition = |c: ReplicaSetCondition| ReplicationControllerCondition {
            type_: c.type_,
            status: c.status,
            reason: c.reason,
            message: c.message,
            last_transition_time: c.last_transition_time,
        };
        let status = ReplicationControllerStatus {
            replicas: status.replicas,
            fully_labeled_replicas: status.fully_labeled_replicas,
            ready_replicas: status.ready_replicas,
            available_replicas: status.available_replicas,
            observed_generation: status.observed_generation,
            conditions: status.conditions.clone().map(|list| list.into_iter().map(condition).collect()),
        };
        ReplicationController { status: Some(status), ..self.clone() }
    }
}

struct Controller<F: Flavor> {
    ctx: Context,
    sets: Store<F>,
    pods: Store<Pod>,
    queue: Queue<Key>,
    expectations: Expectations,
}

async fn run<F: Flavor>(ctx: Context, workers: usize) -> anyhow::Result<()> {
    let controller = Arc::new(Controller::<F> {
        sets: ctx.store(),
        pods: ctx.store(),
        queue: ctx.queue(),
        expectations: Expectations::default(),
        ctx,
    });
    let this = Arc::clone(&controller);
    controller.sets.on_change(move |change| this.set_changed(change));
    let this = Arc::clone(&controller);
    controller.pods.on_change(move |change| this.pod_changed(change));
    controller.sets.synced().await;
    controller.pods.synced().await;
    let this = Arc::clone(&controller);
    controller.ctx.run(&controller.queue, workers, move |key| {
        let this = Arc::clone(&this);
        async move { this.sync(&key).await }
    });
    Ok(())
}

impl<F: Flavor> Controller<F> {
    fn set_changed(&self, change: &Change<F>) {
        if let Change::Deleted(old) = change {
            self.expectations.forget(&Key::of(old.as_ref()));
        }
        // A set that was deleted and made again between two events is another one: old expectations are void.
        if let Change::Updated(old, new) = change
            && old.uid() != new.uid()
        {
            self.expectations.forget(&Key::of(old.as_ref()));
        }
        self.queue.add(Key::of(change.object().as_ref()));
    }

    fn pod_changed(&self, change: &Change<Pod>) {
        match change {
            Change::Added(pod) if pods::is_deleting(pod) => self.pod_gone(pod),
            Change::Added(pod) => match self.controller_key(&pod.metadata) {
                Some(key) => {
                    self.expectations.creation_observed(&key);
                    self.queue.add(key);
                }
                None => self.enqueue_matching(pod),
            },
            Change::Updated(old, new) => {
                if pods::is_deleting(new) {
                    self.pod_gone(new);
                    if old.labels() != new.labels() {
                        self.pod_gone(old);
                    }
                    return;
                }
                let (before, after) = (self.controller_key(&old.metadata), self.controller_key(&new.metadata));
                if before != after
                    && let Some(key) = before.clone()
                {
                    self.queue.add(key);
                }
                match after {
                    Some(key) => {
                        self.queue.add(key.clone());
                        let min_ready = self.set(&key).and_then(|set| set.spec.as_ref()?.min_ready_seconds).unwrap_or(0);
                        if !pods::is_ready(old) && pods::is_ready(new) && min_ready > 0 {
                            // One second more than asked: timestamps are cut to whole seconds.
                            self.queue.add_after(key, Duration::from_secs(u64::from(min_ready.unsigned_abs()) + 1));
                        }
                    }
                    None if old.labels() != new.labels() || before.is_some() => self.enqueue_matching(new),
                    None => {}
                }
            }
            Change::Deleted(pod) => self.pod_gone(pod),
        }
    }

    fn pod_gone(&self, pod: &Pod) {
        if let Some(key) = self.controller_key(&pod.metadata) {
            self.expectations.deletion_observed(&key, &pod.uid().unwrap_or_default());
            self.queue.add(key);
        }
    }

    /// The key of the set that controls an object, if it is one of ours and the very one (by uid).
    fn controller_key(&self, meta: &ObjectMeta) -> Option<Key> {
        let controller = owner::controller_of(meta).filter(|owner| owner.kind == F::KIND_NAME)?;
        let key = Key::new(meta.namespace.clone().unwrap_or_default(), controller.name.clone());
        let set = self.sets.get(&key)?;
        (set.uid().as_deref() == Some(&controller.uid)).then_some(key)
    }

    fn set(&self, key: &Key) -> Option<Arc<ReplicaSet>> {
        self.sets.get(key).as_ref().map(F::view)
    }

    fn enqueue_matching(&self, pod: &Pod) {
        let none = BTreeMap::new();
        let labels = pod.metadata.labels.as_ref().unwrap_or(&none);
        for set in self.sets.in_namespace(&pod.namespace().unwrap_or_default()) {
            let view = F::view(&set);
            let Some(by) = view.spec.as_ref().map(|spec| &spec.selector) else { continue };
            if !selector::is_empty(by) && selector::matches(by, labels) {
                self.queue.add(Key::of(set.as_ref()));
            }
        }
    }

    fn observe(&self, set: &Arc<ReplicaSet>, key: &Key) -> Observed {
        let uid = set.uid().unwrap_or_default();
        let settled = self.expectations.satisfied(key);
        let mut pods = self.pods.owned_by(&uid);
        pods.extend(self.pods.orphans(&key.namespace));
        let related = match owner::controller_of(&set.metadata) {
            Some(parent) => {
                let siblings = self.sets.owned_by(&parent.uid);
                siblings.iter().flat_map(|sibling| self.pods.owned_by(&sibling.uid().unwrap_or_default())).collect()
            }
            None => pods.clone(),
        };
        Observed { set: Arc::clone(set), pods, related, settled }
    }

    async fn sync(&self, key: &Key) -> anyhow::Result<Requeue> {
        let Some(object) = self.sets.get(key) else {
            self.expectations.forget(key);
            return Ok(Requeue::No);
        };
        let set = F::view(&object);
        let observed = self.observe(&set, key);
        let claims = plan::claims(&observed);
        let active = self.claim(&set, claims.keep, claims.adopt, claims.release).await?;
        let parent = object.object_ref(&());
        let scaled = self.scale(key, &set, plan::scale(&observed, &active, self.ctx.now()), &parent).await;
        let now = self.ctx.now();
        let terminating = (F::KIND_NAME == "ReplicaSet").then_some(claims.terminating);
        let message = scaled.as_ref().err().map(api_error::message);
        let status = plan::status(&set, &active, terminating, message.as_deref(), now);
        let min_ready = set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
        self.write_status(key, &object, &set, &status).await?;
        scaled.context("failed to manage replicas")?;
        let next = active.iter().filter_map(|pod| pods::available_at(pod, min_ready, now)).min();
        Ok(context::requeue_at(next, now))
    }

    /// Adopts and releases, and says which pods are in hand afterwards.
    async fn claim(
        &self,
        set: &ReplicaSet,
        mut keep: Vec<Arc<Pod>>,
        adopt: Vec<Arc<Pod>>,
        release: Vec<Arc<Pod>>,
    ) -> anyhow::Result<Vec<Arc<Pod>>> {
        let uid = set.uid().unwrap_or_default();
        for pod in release {
            pod_control::patch(&self.ctx, &pod, &owner::release_patch(&uid, &pod.uid().unwrap_or_default())).await?;
        }
        if !adopt.is_empty() {
            // Ask the server, not the cache, before adopting: the set may be going away. Upstream: RecheckDeletionTimestamp.
            let fresh = self.ctx.namespaced::<F>(&set.namespace().unwrap_or_default()).get(&set.name_any()).await?;
            anyhow::ensure!(fresh.uid().as_deref() == Some(&uid), "original {} is gone: got another uid", F::KIND_NAME);
            anyhow::ensure!(fresh.meta().deletion_timestamp.is_none(), "{} has just been deleted", F::KIND_NAME);
        }
        for pod in adopt {
            let patch = owner::adoption_patch(&controller_ref::<F>(set), &pod.uid().unwrap_or_default());
            pod_control::patch(&self.ctx, &pod, &patch).await?;
            keep.push(pod);
        }
        Ok(keep)
    }

    async fn scale(
        &self,
        key: &Key,
        set: &ReplicaSet,
        scale: Scale,
        parent: &k8s_openapi::api::core::v1::ObjectReference,
    ) -> kube::Result<()> {
        match scale {
            Scale::Nothing => Ok(()),
            Scale::Create(count) => {
                self.expectations.expect_creations(key, count);
                let owner = controller_ref::<F>(set);
                let template = set.spec.as_ref().and_then(|spec| spec.template.clone()).unwrap_or_default();
                let (_, skipped, error) = pod_control::slow_start(count, |_| async {
                    match pod_control::create(&self.ctx, &template, &key.namespace, &owner, parent).await {
                        Ok(_) => Ok(()),
                        Err(error) => {
                            self.expectations.creation_failed(key, &error);
                            if api_error::is_namespace_terminating(&error) { Ok(()) } else { Err(error) }
                        }
                    }
                })
                .await;
                for _ in 0..skipped {
                    self.expectations.creation_observed(key);
                }
                error.map_or(Ok(()), Err)
            }
            Scale::Delete(doomed) => {
                self.expectations.expect_deletions(key, doomed.iter().map(|pod| pod.uid().unwrap_or_default()));
                let deletions = doomed.iter().map(|pod| async {
                    let result = pod_control::delete(&self.ctx, pod, parent).await;
                    if !matches!(result, Ok(true)) {
                        self.expectations.deletion_observed(key, &pod.uid().unwrap_or_default());
                    }
                    result.map(|_| ())
                });
                futures::future::join_all(deletions).await.into_iter().collect()
            }
        }
    }

    async fn write_status(&self, key: &Key, object: &F, set: &ReplicaSet, status: &ReplicaSetStatus) -> anyhow::Result<()> {
        if !plan::differs(&set.status.clone().unwrap_or_default(), status) {
            return Ok(());
        }
        let api = self.ctx.namespaced::<F>(&key.namespace);
        match api.replace_status(&key.name, &PostParams::default(), &object.with_status(status)).await {
            Ok(_) => Ok(()),
            Err(error) if api_error::is_not_found(&error) => Ok(()),
            Err(error) if api_error::is_conflict(&error) => {
                // Once more on the newest object, as upstream (statusUpdateRetries = 1).
                let Some(fresh) = api.get_opt(&key.name).await? else { return Ok(()) };
                api_error::ignore_not_found(
                    api.replace_status(&key.name, &PostParams::default(), &fresh.with_status(status)).await,
                )?;
                Ok(())
            }
            Err(error) => Err(error).context("failed to update status"),
        }
    }
}

fn controller_ref<F: Flavor>(set: &ReplicaSet) -> OwnerReference {
    owner::controller_ref(F::API_VERSION, F::KIND_NAME, &set.metadata)
}

#[cfg(test)]
mod model_tests;

//! Runs one pod of each DaemonSet on every node that should have it.
//!
//! Upstream: pkg/controller/daemon

pub mod plan;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, PostParams};
use kube::{Resource, ResourceExt};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::api_error;
use crate::config::workers;
use crate::context::{self, Change, Context, Queue, Requeue, Store};
use crate::expectations::Expectations;
use crate::history;
use crate::key::Key;
use crate::owner;
use crate::{pod_control, pods, selector};
use plan::{Observed, Plan, Why};

/// Most pods created or deleted in one sync. Upstream: BurstReplicas.
const BURST: usize = 250;

/// A failing daemon pod is made again after 1 s, 2 s … 15 min. Upstream: NewDaemonSetsController's flowcontrol.Backoff.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(15 * 60);

struct Controller {
    ctx: Context,
    sets: Store<DaemonSet>,
    pods: Store<Pod>,
    nodes: Store<Node>,
    revisions: Store<ControllerRevision>,
    queue: Queue<Key>,
    expectations: Expectations,
    /// By set's uid and node: how often the pod failed in a row, and when last.
    failures: Mutex<HashMap<(String, String), (u32, Instant)>>,
}

pub async fn start(ctx: Context) -> anyhow::Result<()> {
    let controller = Arc::new(Controller {
        sets: ctx.store(),
        pods: ctx.store(),
        nodes: ctx.store(),
        revisions: ctx.store(),
        queue: ctx.queue(),
        expectations: Expectations::default(),
        failures: Mutex::default(),
        ctx,
    });
    let this = Arc::clone(&controller);
    controller.sets.on_change(move |change| {
        if let Change::Deleted(set) = change {
            this.expectations.forget(&Key::of(set.as_ref()));
            let uid = set.uid().unwrap_or_default();
            this.failures.lock().retain(|(owner, _), _| *owner != uid);
        }
        this.queue.add(Key::of(change.object().as_ref()));
    });
    let this = Arc::clone(&controller);
    controller.pods.on_change(move |change| this.pod_changed(change));
    let this = Arc::clone(&controller);
    controller.nodes.on_change(move |change| this.node_changed(change));
    let this = Arc::clone(&controller);
    controller.revisions.on_change(move |change| {
        if let Some(key) = this.controller_key(&change.object().metadata) {
            this.queue.add(key);
        }
    });
    controller.sets.synced().await;
    controller.pods.synced().await;
    controller.nodes.synced().await;
    controller.revisions.synced().await;
    let this = Arc::clone(&controller);
    let count = workers(controller.ctx.config.options.concurrent_daemonset_syncs);
    controller.ctx.run(&controller.queue, count, move |key| {
        let this = Arc::clone(&this);
        async move { this.sync(&key).await }
    });
    Ok(())
}

impl Controller {
    fn node_changed(&self, change: &Change<Node>) {
        let relevant = match change {
            Change::Updated(old, new) => {
                let facts = |node: &Node| (node.metadata.labels.clone(), node.spec.as_ref().and_then(|spec| spec.taints.clone()));
                facts(old) != facts(new)
            }
            Change::Added(_) | Change::Deleted(_) => true,
        };
        if relevant {
            self.sets.list().iter().for_each(|set| self.queue.add(Key::of(set.as_ref())));
        }
    }

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
        let gone = pods::is_deleting(pod) || matches!(change, Change::Deleted(_));
        match key {
            Some(key) => {
                if gone {
                    self.expectations.deletion_observed(&key, &pod.uid().unwrap_or_default());
                } else if matches!(change, Change::Added(_)) {
                    self.expectations.creation_observed(&key);
                }
                self.queue.add(key);
            }
            None if !gone && owner::controller_of(&pod.metadata).is_none() => {
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
        let controller = owner::controller_of(meta).filter(|owner| owner.kind == "DaemonSet")?;
        let key = Key::new(meta.namespace.clone().unwrap_or_default(), controller.name.clone());
        let set = self.sets.get(&key)?;
        (set.uid().as_deref() == Some(&controller.uid)).then_some(key)
    }

    async fn sync(&self, key: &Key) -> anyhow::Result<Requeue> {
        let Some(set) = self.sets.get(key) else { return Ok(Requeue::No) };
        let about = set.object_ref(&());
        let Some(spec) = set.spec.as_ref() else { return Ok(Requeue::No) };
        if selector::is_empty(&spec.selector) {
            self.ctx.warning(&about, "SelectingAll", "This daemon set is selecting all pods. A non-empty selector is required.");
            return Ok(Requeue::No);
        }
        if set.metadata.deletion_timestamp.is_some() {
            return Ok(Requeue::No);
        }
        let settled = self.expectations.satisfied(key);
        let (hash, revisions) = self.sync_history(&set).await?;
        let pods = self.claim(&set).await?;
        let observed = Observed { set: Arc::clone(&set), nodes: self.nodes.list(), pods, hash, settled };
        let now = self.ctx.now();
        let mut plan = plan::plan(&observed, now);
        let wait = self.hold_back(&set, &mut plan);
        let applied = self.apply(key, &set, &about, &plan, &observed.hash).await;
        if plan::differs(&set.status.clone().unwrap_or_default(), &plan.status) {
            let changed = DaemonSet { status: Some(plan.status), ..(*set).clone() };
            let written = self
                .ctx
                .namespaced::<DaemonSet>(&key.namespace)
                .replace_status(&key.name, &PostParams::default(), &changed)
                .await;
            api_error::ignore_not_found(written)?;
        }
        applied?;
        self.clean_history(&set, &revisions, &observed).await?;
        let min_ready = spec.min_ready_seconds.unwrap_or(0);
        let next = observed.pods.iter().filter_map(|pod| pods::available_at(pod, min_ready, now)).min();
        Ok(match (wait, context::requeue_at(next, now)) {
            (Some(wait), Requeue::After(after)) => Requeue::After(wait.min(after)),
            (Some(wait), _) => Requeue::After(wait),
            (None, requeue) => requeue,
        })
    }

    /// Leaves failed pods alone until their backoff is over; returns how long the next one has to wait.
    fn hold_back(&self, set: &DaemonSet, plan: &mut Plan) -> Option<Duration> {
        let (uid, now) = (set.uid().unwrap_or_default(), Instant::now());
        let mut failures = self.failures.lock();
        let mut wait: Option<Duration> = None;
        plan.delete.retain(|(pod, why)| {
            if *why != Why::Failed {
                return true;
            }
            let entry = failures.entry((uid.clone(), plan::target(pod).unwrap_or("").to_owned())).or_insert((0, now));
            // A long quiet time forgives.
            if now.duration_since(entry.1) > LONGEST_BACKOFF * 2 {
                *entry = (0, now);
            }
            let due = match entry.0 {
                0 => entry.1,
                count => entry.1 + FIRST_BACKOFF.saturating_mul(1 << (count - 1).min(20)).min(LONGEST_BACKOFF),
            };
            if now >= due {
                *entry = (entry.0 + 1, now);
                return true;
            }
            let left = due - now;
            wait = Some(wait.map_or(left, |wait| wait.min(left)));
            false
        });
        wait
    }

    async fn apply(&self, key: &Key, set: &DaemonSet, about: &ObjectReference, plan: &Plan, hash: &str) -> anyhow::Result<()> {
        let create = &plan.create[..plan.create.len().min(BURST)];
        let delete = &plan.delete[..plan.delete.len().min(BURST)];
        if create.is_empty() && delete.is_empty() {
            return Ok(());
        }
        self.expectations.expect(key, create.len(), delete.iter().map(|(pod, _)| pod.uid().unwrap_or_default()));
        let owner = owner::controller_ref("apps/v1", "DaemonSet", &set.metadata);
        let (_, skipped, error) = pod_control::slow_start(create.len(), |at| {
            let (template, owner) = (plan::pod_template(set, hash, &create[at]), &owner);
            async move {
                let made = pod_control::create(&self.ctx, &template, &key.namespace, owner, about).await;
                match made {
                    Ok(_) => Ok(()),
                    Err(error) => {
                        self.expectations.creation_failed(key, &error);
                        if api_error::is_namespace_terminating(&error) { Ok(()) } else { Err(error) }
                    }
                }
            }
        })
        .await;
        for _ in 0..skipped {
            self.expectations.creation_observed(key);
        }
        let deletions = delete.iter().map(|(pod, why)| async move {
            let (place, node) = (Key::of(pod.as_ref()), plan::target(pod).unwrap_or(""));
            match why {
                Why::Failed => {
                    let message = format!("Found failed daemon pod {place} on node {node}, will try to kill it");
                    self.ctx.warning(about, "FailedDaemonPod", message);
                }
                Why::Succeeded => {
                    let message = format!("Found succeeded daemon pod {place} on node {node}, will try to delete it");
                    self.ctx.normal(about, "SucceededDaemonPod", message);
                }
                Why::Other => {}
            }
            let result = pod_control::delete(&self.ctx, pod, about).await;
            if !matches!(result, Ok(true)) {
                self.expectations.deletion_observed(key, &pod.uid().unwrap_or_default());
            }
            result.map(|_| ())
        });
        let deleted: kube::Result<()> = futures::future::join_all(deletions).await.into_iter().collect();
        error.map_or(Ok(()), Err).and(deleted).context("failed to sync daemon pods")
    }

    async fn claim(&self, set: &DaemonSet) -> anyhow::Result<Vec<Arc<Pod>>> {
        let by = set.spec.as_ref().map(|spec| spec.selector.clone()).unwrap_or_default();
        let mut candidates = self.pods.owned_by(&set.uid().unwrap_or_default());
        candidates.extend(self.pods.orphans(&set.namespace().unwrap_or_default()));
        pod_control::claim(&self.ctx, set, &by, candidates, None).await
    }

    /// Writes the revision in force; returns its hash and all revisions of the set.
    async fn sync_history(&self, set: &DaemonSet) -> anyhow::Result<(String, Vec<Arc<ControllerRevision>>)> {
        let template = set.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
        let revisions = self.revisions.owned_by(&set.uid().unwrap_or_default());
        let current = history::record(&self.ctx, set, &template, &revisions).await?;
        Ok((history::hash_of(&current).to_owned(), revisions))
    }

    async fn clean_history(
        &self,
        set: &DaemonSet,
        revisions: &[Arc<ControllerRevision>],
        observed: &Observed,
    ) -> anyhow::Result<()> {
        let limit = set.spec.as_ref().and_then(|spec| spec.revision_history_limit).unwrap_or(10);
        let mut live: HashSet<String> =
            observed.pods.iter().filter_map(|pod| pod.labels().get(history::HASH_LABEL).cloned()).collect();
        live.insert(observed.hash.clone());
        let api = self.ctx.namespaced::<ControllerRevision>(&set.namespace().unwrap_or_default());
        for name in history::surplus(revisions, &live, usize::try_from(limit).unwrap_or(0)) {
            api_error::ignore_not_found(api.delete(&name, &DeleteParams::default()).await)?;
        }
        Ok(())
    }
}

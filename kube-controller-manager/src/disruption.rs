//! Keeps the status of PodDisruptionBudgets, by which evictions are allowed or refused.
//!
//! Upstream: pkg/controller/disruption

pub mod plan;
mod stale;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use anyhow::Context as _;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{ApiResource, DynamicObject, PostParams};
use kube::{Api, Resource, ResourceExt};
use parking_lot::Mutex;

use crate::api_error;
use crate::context::{self, Change, Context, Requeue, Store};
use crate::discovery;
use crate::key::Key;
use crate::{owner, selector};

struct Controller {
    ctx: Context,
    budgets: Store<PodDisruptionBudget>,
    pods: Store<Pod>,
    sets: Store<ReplicaSet>,
    deployments: Store<Deployment>,
    stateful: Store<StatefulSet>,
    controllers: Store<ReplicationController>,
    /// Resources of kinds that are not built in, by `group/Kind`, as discovery had them.
    kinds: Mutex<HashMap<String, ApiResource>>,
}

pub async fn start(ctx: Context) -> anyhow::Result<()> {
    let controller = Arc::new(Controller {
        budgets: ctx.store(),
        pods: ctx.store(),
        sets: ctx.store(),
        deployments: ctx.store(),
        stateful: ctx.store(),
        controllers: ctx.store(),
        kinds: Mutex::default(),
        ctx,
    });
    let queue = controller.ctx.queue();
    controller.budgets.feed(&queue);
    let (this, feed) = (Arc::clone(&controller), queue.clone());
    controller.pods.on_change(move |change| {
        let mut changed = vec![change.object()];
        if let Change::Updated(old, _) = change {
            changed.push(old);
        }
        for pod in changed {
            for budget in this.budgets.in_namespace(&pod.namespace().unwrap_or_default()) {
                if matches(&budget, pod) {
                    feed.add(Key::of(budget.as_ref()));
                }
            }
        }
    });
    controller.budgets.synced().await;
    controller.pods.synced().await;
    controller.sets.synced().await;
    controller.deployments.synced().await;
    controller.stateful.synced().await;
    controller.controllers.synced().await;
    stale::start(&controller.ctx, &controller.pods);
    let this = Arc::clone(&controller);
    controller.ctx.run(&queue, 1, move |key| {
        let this = Arc::clone(&this);
        async move { this.sync(&key).await }
    });
    Ok(())
}

/// A budget with an empty selector covers all pods of its namespace; one without a selector, none.
fn matches(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let by = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    by.is_some_and(|by| selector::matches(by, pod.labels()))
}

impl Controller {
    async fn sync(&self, key: &Key) -> anyhow::Result<Requeue> {
        let Some(budget) = self.budgets.get(key) else { return Ok(Requeue::No) };
        let about = budget.object_ref(&());
        let now = self.ctx.now();
        let mut pods = self.pods.in_namespace(&key.namespace);
        pods.retain(|pod| matches(&budget, pod));
        if pods.is_empty() {
            self.ctx.normal(&about, "NoPods", "No matching pods found");
        }
        let scale = if plan::needs_scale(&budget) { self.expected(&pods).await } else { Ok(0) };
        let (status, look_again) = match scale {
            Ok(scale) => {
                let outcome = plan::plan(&budget, &pods, scale, now);
                (outcome.status, outcome.look_again)
            }
            Err(error) => {
                let message = format!("Failed to calculate the number of expected pods: {error:#}");
                self.ctx.warning(&about, "CalculateExpectedPodCountFailed", &message);
                (plan::failed(&budget, &format!("{error:#}"), now), None)
            }
        };
        if budget.status.as_ref() != Some(&status) {
            let changed = PodDisruptionBudget { status: Some(status), ..(*budget).clone() };
            let written = self
                .ctx
                .namespaced::<PodDisruptionBudget>(&key.namespace)
                .replace_status(&key.name, &PostParams::default(), &changed)
                .await;
            api_error::ignore_not_found(written).context("failed to update status")?;
        }
        Ok(context::requeue_at(look_again, now))
    }

    /// How many pods the controllers of these pods want. Every pod must have one that says.
    async fn expected(&self, pods: &[Arc<Pod>]) -> anyhow::Result<i32> {
        let mut wanted: BTreeMap<String, i32> = BTreeMap::new();
        for pod in pods {
            // A pod without a controller counts for nobody; with one, the controller speaks for all its pods.
            let Some(controller) = owner::controller_of(&pod.metadata) else { continue };
            if wanted.contains_key(&controller.uid) {
                continue;
            }
            let key = Key::new(pod.namespace().unwrap_or_default(), controller.name.clone());
            let (uid, scale) = match controller.kind.as_str() {
                "ReplicaSet" if controller.api_version.starts_with("apps/") => {
                    let set = self.sets.get(&key).filter(|set| set.uid().as_ref() == Some(&controller.uid));
                    let set = set.with_context(|| format!("found no controllers for pod {:?}", pod.name_any()))?;
                    match owner::controller_of(&set.metadata).filter(|owner| owner.kind == "Deployment") {
                        Some(parent) => {
                            let deployment = self.deployments.get(&Key::new(&key.namespace, &parent.name));
                            let deployment =
                                deployment.with_context(|| format!("found no controllers for pod {:?}", pod.name_any()))?;
                            (parent.uid.clone(), deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1))
                        }
                        None => (controller.uid.clone(), set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)),
                    }
                }
                "StatefulSet" if controller.api_version.starts_with("apps/") => {
                    let set =
                        self.stateful.get(&key).with_context(|| format!("found no controllers for pod {:?}", pod.name_any()))?;
                    (controller.uid.clone(), set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1))
                }
                "ReplicationController" => {
                    let rc = self
                        .controllers
                        .get(&key)
                        .with_context(|| format!("found no controllers for pod {:?}", pod.name_any()))?;
                    (controller.uid.clone(), rc.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1))
                }
                _ => (controller.uid.clone(), self.scale_of(&controller.api_version, &controller.kind, &key).await?),
            };
            wanted.insert(uid, scale);
        }
        Ok(wanted.values().sum())
    }

    /// Any other kind, by its scale subresource.
    async fn scale_of(&self, api_version: &str, kind: &str, key: &Key) -> anyhow::Result<i32> {
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        let name = format!("{group}/{kind}");
        let known = self.kinds.lock().get(&name).cloned();
        let resource = match known {
            Some(resource) => resource,
            None => {
                let found = discovery::resources(&self.ctx.client).await?.found;
                let found = found.into_iter().find(|found| found.resource.group == group && found.resource.kind == kind);
                let resource =
                    found.with_context(|| format!("{kind}.{group} does not implement the scale subresource"))?.resource;
                self.kinds.lock().insert(name, resource.clone());
                resource
            }
        };
        let api: Api<DynamicObject> = Api::namespaced_with(self.ctx.client.clone(), &key.namespace, &resource);
        let scale =
            api.get_scale(&key.name).await.with_context(|| format!("{kind}.{group} does not implement the scale subresource"))?;
        Ok(scale.spec.and_then(|spec| spec.replicas).unwrap_or(0))
    }
}

//! Deletes what has lost its last owner, ends foreground deletions, and lets the dependents of orphaning owners go.
//!
//! Everything is decided on the objects as the server has them now; the graph only says where to look.
//! Upstream: pkg/controller/garbagecollector/garbagecollector.go

pub mod graph;
pub mod monitors;

use std::sync::Arc;

use anyhow::Context as _;
use client::queue::Queue;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions, PropagationPolicy};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::api_error;
use crate::config::workers;
use crate::context::{Context, Requeue};
use graph::{FOREGROUND, Graph, Item, ORPHAN, Place, Uid, Work};
use monitors::Monitors;

pub struct Collector {
    pub ctx: Context,
    pub graph: Mutex<Graph>,
    pub monitors: Monitors,
    /// Told when CustomResourceDefinitions change.
    pub definitions_changed: Notify,
    queue: Queue<Job>,
}

/// `Work` as a queue key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Job(Work);

impl std::fmt::Display for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Work::Delete(uid) => write!(f, "delete {uid}"),
            Work::Orphan(uid) => write!(f, "orphan {uid}"),
        }
    }
}

pub async fn start(ctx: Context) -> anyhow::Result<()> {
    if !ctx.config.options.enable_garbage_collector {
        return Ok(());
    }
    let collector = Arc::new(Collector {
        graph: Mutex::default(),
        monitors: Monitors::default(),
        definitions_changed: Notify::new(),
        queue: Queue::new("garbage_collector_attempt_to_delete"),
        ctx,
    });
    monitors::start(&collector).await;
    tracing::debug!(objects = collector.graph.lock().len(), "Garbage collector's graph is complete");
    let this = Arc::clone(&collector);
    let count = workers(collector.ctx.config.options.concurrent_gc_syncs);
    collector.queue.run(&collector.ctx.tasks, count, move |job| {
        let this = Arc::clone(&this);
        async move { this.work(&job.0).await.map(|()| Requeue::No).map_err(|error| format!("{error:#}")) }
    });
    Ok(())
}

/// An object as the server has it now.
struct Live {
    meta: ObjectMeta,
    api: Api<DynamicObject>,
}

impl Collector {
    pub fn applied(&self, place: Place, meta: &ObjectMeta) {
        if &*place.kind == "apiextensions.k8s.io/CustomResourceDefinition" {
            self.definitions_changed.notify_one();
        }
        let work = self.graph.lock().apply(place, meta);
        work.into_iter().for_each(|work| self.queue.add(Job(work)));
    }

    pub fn removed(&self, uid: &str) {
        let work = self.graph.lock().remove(uid);
        work.into_iter().for_each(|work| self.queue.add(Job(work)));
    }

    async fn work(&self, work: &Work) -> anyhow::Result<()> {
        match work {
            Work::Delete(uid) => self.attempt_to_delete(uid).await,
            Work::Orphan(uid) => self.attempt_to_orphan(uid).await,
        }
    }

    /// The API for an object; `None` while its kind is not known.
    fn api(&self, place: &Place) -> Option<Api<DynamicObject>> {
        let found = self.monitors.find(&place.kind)?;
        let client = self.ctx.client.clone();
        Some(match found.namespaced {
            true if place.namespace.is_empty() => return None,
            true => Api::namespaced_with(client, &place.namespace, &found.resource),
            false => Api::all_with(client, &found.resource),
        })
    }

    /// The object at a place, if it is the one with this uid.
    async fn live(&self, uid: &str, place: &Place) -> anyhow::Result<Option<Live>> {
        let api = self.api(place).with_context(|| format!("no resource known for {} {}", place.kind, place.name))?;
        let object = api_error::ignore_not_found(api.get_metadata(&place.name).await)?;
        Ok(object.filter(|object| object.metadata.uid.as_deref() == Some(uid)).map(|object| Live { meta: object.metadata, api }))
    }

    async fn attempt_to_delete(&self, uid: &Uid) -> anyhow::Result<()> {
        let Some(item) = self.graph.lock().item(uid) else { return Ok(()) };
        if item.deleting && !item.deleting_dependents {
            return Ok(());
        }
        let Some(live) = self.live(uid, &item.place).await? else {
            // The graph is behind, or the object never was: its dependents have to be looked at.
            self.removed(uid);
            return Ok(());
        };
        if !item.observed {
            return Ok(());
        }
        if item.deleting_dependents {
            return self.end_foreground(uid, &item, &live).await;
        }
        let owners = live.meta.owner_references.clone().unwrap_or_default();
        if owners.is_empty() {
            return Ok(());
        }
        let Some(standing) = self.classify(&item, &owners).await? else { return Ok(()) };
        match decide(&owners, &standing, &live.meta, item.dependents > 0) {
            Decision::Keep => Ok(()),
            Decision::Release(remaining) => {
                let patch = json!({"metadata": {"resourceVersion": live.meta.resource_version, "ownerReferences": remaining}});
                self.patch(&live.api, &item.place.name, &patch).await
            }
            Decision::Delete { policy, unblock } => {
                if unblock && self.graph.lock().dependents(uid).iter().any(|(_, _, deleting)| *deleting) {
                    // A circle of foreground deletions would wait for itself: this one blocks nobody any more.
                    let free: Vec<OwnerReference> = owners
                        .iter()
                        .map(|owner| OwnerReference { block_owner_deletion: Some(false), ..owner.clone() })
                        .collect();
                    let patch = json!({"metadata": {"resourceVersion": live.meta.resource_version, "ownerReferences": free}});
                    self.patch(&live.api, &item.place.name, &patch).await?;
                }
                self.delete(&live, &item, uid, policy, !unblock).await
            }
        }
    }

    /// How each owner stands; `None` when a reference can never be right, and nothing may follow from it.
    async fn classify(&self, item: &Item, owners: &[OwnerReference]) -> anyhow::Result<Option<Vec<Standing>>> {
        let mut standing = Vec::with_capacity(owners.len());
        for owner in owners {
            if self.graph.lock().is_absent(&owner.uid) {
                standing.push(Standing::Dangling);
                continue;
            }
            let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
            let kind = Arc::from(format!("{group}/{}", owner.kind));
            let place = Place { kind, namespace: Arc::clone(&item.place.namespace), name: owner.name.clone() };
            let namespaced = self.monitors.find(&place.kind).map(|found| found.namespaced);
            if namespaced == Some(true) && item.place.namespace.is_empty() {
                self.warn_invalid(item, owner);
                return Ok(None);
            }
            standing.push(match self.live(&owner.uid, &place).await? {
                None => Standing::Dangling,
                Some(owner) if is_foreground(&owner.meta) => Standing::Waiting,
                Some(_) => Standing::Solid,
            });
        }
        Ok(Some(standing))
    }

    fn warn_invalid(&self, item: &Item, owner: &OwnerReference) {
        let (group, kind) = item.place.kind.split_once('/').unwrap_or(("", &item.place.kind));
        let about = ObjectReference {
            kind: Some(kind.to_owned()),
            api_version: self.monitors.find(&item.place.kind).map(|found| found.resource.api_version),
            name: Some(item.place.name.clone()),
            ..ObjectReference::default()
        };
        tracing::debug!(group, kind, name = item.place.name, "Cluster-scoped object names a namespaced owner");
        let message = format!(
            "ownerRef [{}/{}, namespace: , name: {}, uid: {}] does not exist in namespace \"\"",
            owner.api_version, owner.kind, owner.name, owner.uid
        );
        self.ctx.warning(&about, "OwnerRefInvalidNamespace", message);
    }

    /// Takes the finalizer off once nothing blocks, else looks after what does.
    async fn end_foreground(&self, uid: &Uid, item: &Item, live: &Live) -> anyhow::Result<()> {
        let blocking = self.graph.lock().blocking(uid);
        if blocking.is_empty() {
            return self.remove_finalizer(live, &item.place.name, FOREGROUND).await;
        }
        for (dependent, deleting) in blocking {
            if !deleting {
                self.queue.add(Job(Work::Delete(dependent)));
            }
        }
        Ok(())
    }

    async fn attempt_to_orphan(&self, uid: &Uid) -> anyhow::Result<()> {
        let (item, dependents) = {
            let graph = self.graph.lock();
            let Some(item) = graph.item(uid) else { return Ok(()) };
            (item, graph.dependents(uid))
        };
        for (dependent, place, _) in dependents {
            let Some(live) = self.live(&dependent, &place).await? else { continue };
            let owners = live.meta.owner_references.clone().unwrap_or_default();
            let remaining: Vec<&OwnerReference> = owners.iter().filter(|owner| *owner.uid != **uid).collect();
            if remaining.len() < owners.len() {
                let patch = json!({"metadata": {"resourceVersion": live.meta.resource_version, "ownerReferences": remaining}});
                self.patch(&live.api, &place.name, &patch).await?;
            }
        }
        match self.live(uid, &item.place).await? {
            Some(live) => self.remove_finalizer(&live, &item.place.name, ORPHAN).await,
            None => Ok(()),
        }
    }

    async fn remove_finalizer(&self, live: &Live, name: &str, finalizer: &str) -> anyhow::Result<()> {
        let finalizers = live.meta.finalizers.clone().unwrap_or_default();
        let remaining: Vec<&String> = finalizers.iter().filter(|f| *f != finalizer).collect();
        if remaining.len() == finalizers.len() {
            return Ok(());
        }
        let patch = json!({"metadata": {"resourceVersion": live.meta.resource_version, "finalizers": remaining}});
        self.patch(&live.api, name, &patch).await
    }

    async fn patch(&self, api: &Api<DynamicObject>, name: &str, patch: &Value) -> anyhow::Result<()> {
        api_error::ignore_not_found(api.patch_metadata(name, &PatchParams::default(), &Patch::Merge(patch)).await)?;
        Ok(())
    }

    async fn delete(
        &self,
        live: &Live,
        item: &Item,
        uid: &Uid,
        policy: PropagationPolicy,
        at_version: bool,
    ) -> anyhow::Result<()> {
        tracing::debug!(kind = &*item.place.kind, namespace = &*item.place.namespace, name = item.place.name, policy = ?policy, "Deleting item");
        // The version guards against an owner that was added meanwhile.
        let preconditions = Preconditions {
            uid: Some(uid.to_string()),
            resource_version: live.meta.resource_version.clone().filter(|_| at_version),
        };
        let params = DeleteParams { propagation_policy: Some(policy), ..DeleteParams::default() }.preconditions(preconditions);
        api_error::ignore_not_found(live.api.delete(&item.place.name, &params).await)?;
        Ok(())
    }
}

/// How one owner stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Solid,
    /// Gone.
    Dangling,
    /// Waits, in a foreground deletion, for its dependents to go.
    Waiting,
}

#[derive(Debug, PartialEq)]
enum Decision {
    Keep,
    /// Another owner holds it: only these references stay.
    Release(Vec<OwnerReference>),
    Delete {
        policy: PropagationPolicy,
        unblock: bool,
    },
}

fn is_foreground(meta: &ObjectMeta) -> bool {
    meta.deletion_timestamp.is_some() && meta.finalizers.iter().flatten().any(|finalizer| finalizer == FOREGROUND)
}

/// Upstream: attemptToDeleteItem.
fn decide(owners: &[OwnerReference], standing: &[Standing], meta: &ObjectMeta, has_dependents: bool) -> Decision {
    let solid: Vec<OwnerReference> = owners
        .iter()
        .zip(standing)
        .filter(|(_, standing)| **standing == Standing::Solid)
        .map(|(owner, _)| owner.clone())
        .collect();
    if solid.len() == owners.len() {
        return Decision::Keep;
    }
    if !solid.is_empty() {
        return Decision::Release(solid);
    }
    if standing.contains(&Standing::Waiting) && has_dependents {
        return Decision::Delete { policy: PropagationPolicy::Foreground, unblock: true };
    }
    let has = |name: &str| meta.finalizers.iter().flatten().any(|finalizer| finalizer == name);
    let policy = match () {
        () if has(ORPHAN) => PropagationPolicy::Orphan,
        () if has(FOREGROUND) => PropagationPolicy::Foreground,
        () => PropagationPolicy::Background,
    };
    Decision::Delete { policy, unblock: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_go_when_no_solid_owner_is_left() {
        let owner = |uid: &str| OwnerReference { uid: uid.to_owned(), ..OwnerReference::default() };
        let owners = [owner("a"), owner("b")];
        let plain = ObjectMeta::default();
        let delete = |policy, unblock| Decision::Delete { policy, unblock };
        use Standing::{Dangling, Solid, Waiting};
        assert_eq!(decide(&owners, &[Solid, Solid], &plain, true), Decision::Keep);
        assert_eq!(decide(&owners, &[Solid, Dangling], &plain, true), Decision::Release(vec![owner("a")]));
        assert_eq!(decide(&owners, &[Waiting, Solid], &plain, true), Decision::Release(vec![owner("b")]));
        assert_eq!(decide(&owners, &[Dangling, Dangling], &plain, true), delete(PropagationPolicy::Background, false));
        assert_eq!(decide(&owners, &[Dangling, Waiting], &plain, true), delete(PropagationPolicy::Foreground, true));
        assert_eq!(decide(&owners, &[Dangling, Waiting], &plain, false), delete(PropagationPolicy::Background, false));
        let orphaning = ObjectMeta { finalizers: Some(vec![ORPHAN.to_owned()]), ..ObjectMeta::default() };
        assert_eq!(decide(&owners, &[Dangling, Dangling], &orphaning, true), delete(PropagationPolicy::Orphan, false));
    }
}

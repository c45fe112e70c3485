//! One metadata watch for each resource that the server has, followed into the graph. Resources come and go with CustomResourceDefinitions.

use std::collections::{HashMap, HashSet};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt;
use kube::api::{DynamicObject, PartialObjectMeta};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::Collector;
use super::graph::{Place, Uid};
use crate::discovery::{self, Found};

/// How often to ask which resources there are. Upstream: gc.Sync period, 30 s.
const RESYNC: Duration = Duration::from_secs(30);

/// A resource that cannot be listed for this long does not hold up the collector's start.
const PATIENCE: Duration = Duration::from_secs(30);

/// The watches that run, by `group/Kind`.
#[derive(Default)]
pub struct Monitors {
    running: Mutex<HashMap<Arc<str>, Monitor>>,
}

struct Monitor {
    found: Found,
    synced: Arc<AtomicBool>,
    stop: CancellationToken,
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Monitors {
    /// How to reach a kind, if it is watched.
    pub fn find(&self, kind: &str) -> Option<Found> {
        self.running.lock().get(kind).map(|monitor| monitor.found.clone())
    }

    fn are_synced(&self) -> bool {
        self.running.lock().values().all(|monitor| monitor.synced.load(Ordering::Acquire))
    }
}

pub fn kind_key(found: &Found) -> Arc<str> {
    Arc::from(format!("{}/{}", found.resource.group, found.resource.kind))
}

/// Events are many, short-lived and own nothing.
fn is_watched(found: &Found) -> bool {
    found.can("list") && found.can("watch") && found.can("delete") && found.resource.plural != "events"
}

/// Keeps the watches in line with discovery until shutdown. Returns when the first ones are complete.
pub async fn start(collector: &Arc<Collector>) {
    resync(collector).await;
    let started = tokio::time::Instant::now();
    while !collector.monitors.are_synced() && started.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let this = Arc::clone(collector);
    collector.ctx.every(RESYNC, move || {
        let this = Arc::clone(&this);
        async move {
            resync(&this).await;
            Ok(())
        }
    });
    let this = Arc::clone(collector);
    let stop = collector.ctx.tasks.token();
    collector.ctx.tasks.spawn("garbage-collector-resync", async move {
        while stop.run_until_cancelled(this.definitions_changed.notified()).await.is_some() {
            // A new definition is served a moment after it is established.
            tokio::time::sleep(Duration::from_millis(500)).await;
            resync(&this).await;
        }
    });
}

/// Starts watches of new resources, stops those of resources that are gone.
pub async fn resync(collector: &Arc<Collector>) {
    let resources = match discovery::resources(&collector.ctx.client).await {
        Ok(resources) => resources,
        Err(error) => {
            tracing::warn!(err = crate::api_error::message(&error), "Failed to discover resources for the garbage collector");
            return;
        }
    };
    let mut wanted: HashMap<Arc<str>, Found> = HashMap::new();
    for found in resources.found.into_iter().filter(is_watched) {
        wanted.entry(kind_key(&found)).or_insert(found);
    }
    let failed: HashSet<&str> = resources.failed.iter().map(|group| group.split('/').next().unwrap_or("")).collect();
    let mut running = collector.monitors.running.lock();
    // What belongs to a group that cannot be asked now is neither there nor gone: its watch stays.
    running.retain(|kind, monitor| {
        wanted.get(kind).is_some_and(|found| found.resource == monitor.found.resource)
            || (failed.contains(monitor.found.resource.group.as_str()) && !wanted.contains_key(kind))
    });
    for (kind, found) in wanted {
        running.entry(Arc::clone(&kind)).or_insert_with(|| {
            let (synced, stop) = (Arc::new(AtomicBool::new(false)), collector.ctx.tasks.token().child_token());
            let watch = follow(Arc::clone(collector), collector.ctx.watches.clone(), kind, found.clone(), Arc::clone(&synced));
            let token = stop.clone();
            collector.ctx.tasks.spawn("garbage-collector-watch", async move {
                token.run_until_cancelled(watch).await;
            });
            Monitor { found, synced, stop }
        });
    }
}

async fn follow(collector: Arc<Collector>, client: Client, kind: Arc<str>, found: Found, synced: Arc<AtomicBool>) {
    let api: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(client, &found.resource);
    let mut stream = pin!(watcher::watcher(api, watcher::Config::default().page_size(client::informer::PAGE)));
    let mut listed: HashSet<Uid> = HashSet::new();
    let mut namespaces: HashMap<String, Arc<str>> = HashMap::new();
    let mut failures = 0_u32;
    while let Some(event) = stream.next().await {
        let mut place = |object: &PartialObjectMeta<DynamicObject>| {
            let namespace = object.namespace().unwrap_or_default();
            let namespace = namespaces.entry(namespace).or_insert_with_key(|namespace| Arc::from(namespace.as_str()));
            Place { kind: Arc::clone(&kind), namespace: Arc::clone(namespace), name: object.name_any() }
        };
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(object)) => {
                listed.extend(object.metadata.uid.as_deref().map(Uid::from));
                collector.applied(place(&object), &object.metadata);
            }
            Ok(Event::InitDone) => {
                let known = collector.graph.lock().of_kind(&kind);
                for uid in known.iter().filter(|uid| !listed.contains(*uid)) {
                    collector.removed(uid);
                }
                listed = HashSet::new();
                synced.store(true, Ordering::Release);
            }
            Ok(Event::Apply(object)) => collector.applied(place(&object), &object.metadata),
            Ok(Event::Delete(object)) => collector.removed(object.metadata.uid.as_deref().unwrap_or("")),
            Err(error) => {
                failures = (failures + 1).min(7);
                tracing::debug!(kind = &*kind, err = component::chain(&error), "Watch failed, trying again");
                tokio::time::sleep(Duration::from_millis(50 << failures)).await;
                continue;
            }
        }
        failures = 0;
    }
}

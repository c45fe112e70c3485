//! Lists the pods behind every Service with a selector in EndpointSlices.
//!
//! Upstream: pkg/controller/endpointslice

pub mod plan;
pub mod topology;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, PostParams};
use kube::{Resource, ResourceExt};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::api_error;
use crate::config::workers;
use crate::context::{Change, Context, Queue, Requeue, Store};
use crate::key::Key;
use crate::service_pods;
use plan::{CONTROLLER, MANAGED_BY, Observed, Plan, SERVICE_NAME};

/// Slices by Service.
pub const BY_SERVICE: &str = "service";

pub fn service_of(slice: &EndpointSlice) -> Vec<String> {
    let service = slice.labels().get(SERVICE_NAME);
    service.map(|service| Key::new(slice.namespace().unwrap_or_default(), service.clone()).to_string()).into_iter().collect()
}

/// After this long a write that never came back is forgotten: its slice was deleted before the watch showed it.
const FORGET: Duration = Duration::from_secs(30);

/// By slice uid: a generation, and when it was written.
type Written = HashMap<String, (i64, Instant)>;

struct Controller {
    ctx: Context,
    services: Store<Service>,
    pods: Store<Pod>,
    nodes: Store<Node>,
    slices: Store<EndpointSlice>,
    queue: Queue<Key>,
    /// By slice uid: the generation we wrote last, and when. A cache that is behind must not be acted on, or slices double.
    written: Mutex<HashMap<Key, Written>>,
}

pub async fn start(ctx: Context) -> anyhow::Result<()> {
    let controller = Arc::new(Controller {
        services: ctx.store(),
        pods: ctx.store(),
        nodes: ctx.store(),
        slices: ctx.store(),
        queue: ctx.queue(),
        written: Mutex::default(),
        ctx,
    });
    controller.slices.add_index(BY_SERVICE, service_of);
    let this = Arc::clone(&controller);
    controller.slices.on_change(move |change| this.slice_changed(change));
    let this = Arc::clone(&controller);
    controller.nodes.on_change(move |change| this.node_changed(change));
    controller.services.synced().await;
    controller.nodes.synced().await;
    controller.slices.synced().await;
    // Pods come last: each of them would otherwise look for its Services, and for its node, in vain.
    let batch = controller.ctx.config.options.endpointslice_updates_batch_period;
    service_pods::feed(&controller.services, &controller.pods, &controller.queue, batch);
    controller.pods.synced().await;
    let this = Arc::clone(&controller);
    let count = workers(controller.ctx.config.options.concurrent_service_endpoint_syncs);
    controller.ctx.run(&controller.queue, count, move |key| {
        let this = Arc::clone(&this);
        async move { this.sync(&key).await }
    });
    Ok(())
}

impl Controller {
    fn slice_changed(&self, change: &Change<EndpointSlice>) {
        let slice = change.object();
        if slice.labels().get(MANAGED_BY).map(String::as_str) != Some(CONTROLLER) {
            return;
        }
        let Some(service) = slice.labels().get(SERVICE_NAME) else { return };
        let key = Key::new(slice.namespace().unwrap_or_default(), service.clone());
        let expected = {
            let mut written = self.written.lock();
            let known = written
                .get(&key)
                .and_then(|slices| slices.get(&slice.uid().unwrap_or_default()))
                .map(|(generation, _)| *generation);
            if matches!(change, Change::Deleted(_))
                && let Some(slices) = written.get_mut(&key)
            {
                slices.remove(&slice.uid().unwrap_or_default());
            }
            known == slice.metadata.generation && !matches!(change, Change::Deleted(_))
        };
        // Our own writes coming back need no sync.
        if !expected {
            self.queue.add(key);
        }
    }

    /// A node's zone goes into the endpoints of its pods.
    fn node_changed(&self, change: &Change<Node>) {
        let zone = |node: &Node| node.labels().get("topology.kubernetes.io/zone").cloned();
        let changed = match change {
            Change::Updated(old, new) => zone(old) != zone(new),
            Change::Added(node) => zone(node).is_some(),
            Change::Deleted(_) => false,
        };
        let shifts = match change {
            Change::Updated(old, new) => topology::view(old) != topology::view(new),
            _ => true,
        };
        if changed || shifts {
            let services = self.services.list();
            let concerned = services.iter().filter(|service| changed || topology::is_wanted(service));
            concerned.for_each(|service| self.queue.add(Key::of(service.as_ref())));
        }
    }

    async fn sync(&self, key: &Key) -> anyhow::Result<Requeue> {
        let Some(service) = self.services.get(key) else {
            self.written.lock().remove(key);
            return Ok(Requeue::No);
        };
        if !service_pods::is_managed(&service) || service.metadata.deletion_timestamp.is_some() {
            return Ok(Requeue::No);
        }
        let ours = |slice: &Arc<EndpointSlice>| {
            slice.labels().get(MANAGED_BY).map(String::as_str) == Some(CONTROLLER) && slice.metadata.deletion_timestamp.is_none()
        };
        let slices: Vec<_> = self.slices.by_index(BY_SERVICE, &key.to_string()).into_iter().filter(ours).collect();
        if self.is_behind(key, &slices) {
            return Ok(Requeue::Backoff);
        }
        let mut pods = self.pods.in_namespace(&key.namespace);
        pods.retain(|pod| service_pods::selects(&service, pod));
        let node = |name: &str| self.nodes.get(&Key::cluster(name));
        let max = usize::try_from(self.ctx.config.options.max_endpoints_per_slice).unwrap_or(100).max(1);
        let shares = topology::is_wanted(&service).then(|| topology::shares(&self.nodes.list()));
        let shares = shares.as_ref();
        let mut plan =
            plan::plan(&Observed { service: &service, pods: &pods, node: &node, slices: &slices, max_per_slice: max, shares });
        let about = service.object_ref(&());
        for (warning, reason, message) in std::mem::take(&mut plan.events) {
            if warning { self.ctx.warning(&about, reason, message) } else { self.ctx.normal(&about, reason, message) }
        }
        if let Err(error) = self.apply(key, plan).await {
            if api_error::is_namespace_terminating(&error) {
                return Ok(Requeue::No);
            }
            let message = format!("Error updating Endpoint Slices for Service {key}: {}", api_error::message(&error));
            self.ctx.warning(&service.object_ref(&()), "FailedToUpdateEndpointSlices", message);
            return Err(error).context("failed to update endpoint slices");
        }
        Ok(Requeue::No)
    }

    fn is_behind(&self, key: &Key, slices: &[Arc<EndpointSlice>]) -> bool {
        let mut written = self.written.lock();
        let Some(ours) = written.get_mut(key) else { return false };
        ours.retain(|_, (_, at)| at.elapsed() < FORGET);
        ours.iter().any(|(uid, (generation, _))| {
            let seen = slices.iter().find(|slice| slice.uid().as_ref() == Some(uid));
            seen.is_none_or(|slice| slice.metadata.generation.unwrap_or(0) < *generation)
        })
    }

    fn note(&self, key: &Key, slice: &EndpointSlice) {
        let entry = (slice.metadata.generation.unwrap_or(0), Instant::now());
        self.written.lock().entry(key.clone()).or_default().insert(slice.uid().unwrap_or_default(), entry);
    }

    async fn apply(&self, key: &Key, plan: Plan) -> kube::Result<()> {
        let api = self.ctx.namespaced::<EndpointSlice>(&key.namespace);
        for slice in &plan.create {
            let made = api.create(&PostParams::default(), slice).await?;
            self.note(key, &made);
        }
        for slice in &plan.update {
            let written = api.replace(&slice.name_any(), &PostParams::default(), slice).await?;
            self.note(key, &written);
        }
        for name in &plan.delete {
            if let Some(slice) = self.slices.get(&Key::new(&key.namespace, name))
                && let Some(ours) = self.written.lock().get_mut(key)
            {
                ours.remove(&slice.uid().unwrap_or_default());
            }
            api_error::ignore_not_found(api.delete(name, &DeleteParams::default()).await)?;
        }
        Ok(())
    }
}

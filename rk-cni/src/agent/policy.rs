//! NetworkPolicy: who may talk to the pods of this node, and to whom they may talk.
//!
//! Objects → [`model`] (what decides about traffic) → [`engine::Engine`] (pure: the rules, and what each change does to them)
//! → [`kernel::Kernel`] (one nftables transaction per change, so that there is never a moment without rules).

pub mod compile;
pub mod engine;
pub mod group;
pub mod kernel;
pub mod model;

use std::sync::Arc;
use std::time::Duration;

use client::informer::{Change, Informer};
use component::tasks::Tasks;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::runtime::watcher;
use kube::{Api, Client};
use parking_lot::Mutex;
use tokio::sync::Notify;

use engine::Engine;
use kernel::Kernel;

/// Changes that come within this time are applied together.
const GATHER: Duration = Duration::from_millis(20);
/// The rules are looked at this often although nothing changed.
const RESYNC: Duration = Duration::from_secs(30);

/// Starts watching and enforcing.
pub fn start(client: &Client, node: &str, tasks: &Tasks) {
    let engine = Arc::new(Mutex::new(Engine::new(node)));
    let changed = Arc::new(Notify::new());
    let policies = Informer::<NetworkPolicy>::start(tasks, Api::all(client.clone()), watcher::Config::default(), |policy| {
        policy.metadata.managed_fields = None;
    });
    let namespaces = Informer::<Namespace>::start(tasks, Api::all(client.clone()), watcher::Config::default(), |namespace| {
        namespace.metadata.managed_fields = None;
    });
    let pods = Informer::<Pod>::start(tasks, Api::all(client.clone()), watcher::Config::default(), trim);
    let (shared, notify) = (engine.clone(), changed.clone());
    policies.on_change(move |change| {
        let key = client::key_of(&**change.object());
        let policy = live(change).and_then(model::reduce_policy);
        tell(&shared, &notify, |engine| engine.set_policy(&key, policy));
    });
    let (shared, notify) = (engine.clone(), changed.clone());
    namespaces.on_change(move |change| {
        let name = change.object().metadata.name.clone().unwrap_or_default();
        let labels = live(change).map(|namespace| namespace.metadata.labels.clone().unwrap_or_default());
        tell(&shared, &notify, |engine| engine.set_namespace(&name, labels));
    });
    let (shared, notify) = (engine.clone(), changed.clone());
    pods.on_change(move |change| {
        let key = client::key_of(&**change.object());
        let pod = live(change).and_then(model::reduce_pod);
        tell(&shared, &notify, |engine| engine.set_pod(&key, pod));
    });
    let stop = tasks.token();
    tasks.spawn("policy", async move {
        let work = async {
            policies.synced().await;
            namespaces.synced().await;
            pods.synced().await;
            enforce(&engine, &changed).await;
        };
        stop.run_until_cancelled(work).await;
    });
}

/// The object as it is now, unless it is gone.
fn live<K>(change: &Change<K>) -> Option<&K> {
    match change {
        Change::Deleted(_) => None,
        other => Some(other.object()),
    }
}

fn tell(engine: &Mutex<Engine>, changed: &Notify, change: impl FnOnce(&mut Engine)) {
    let mut engine = engine.lock();
    change(&mut engine);
    if engine.has_changes() {
        changed.notify_one();
    }
}

/// Drops what is never looked at: most of a pod.
fn trim(pod: &mut Pod) {
    pod.metadata.managed_fields = None;
    pod.metadata.annotations = None;
    pod.metadata.owner_references = None;
    if let Some(spec) = &mut pod.spec {
        spec.volumes = None;
        spec.tolerations = None;
        spec.affinity = None;
        for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
            let (name, ports) = (std::mem::take(&mut container.name), container.ports.take());
            *container = k8s_openapi::api::core::v1::Container { name, ports, ..Default::default() };
        }
    }
    if let Some(status) = &mut pod.status {
        status.conditions = None;
        status.container_statuses = None;
        status.init_container_statuses = None;
    }
}

async fn enforce(engine: &Arc<Mutex<Engine>>, changed: &Notify) {
    let mut kernel = Kernel::default();
    let mut failures = 0_u32;
    loop {
        let batch = {
            let mut engine = engine.lock();
            let changes = engine.take_changes();
            kernel.plan(engine.rules(), &changes)
        };
        let result = tokio::task::spawn_blocking(move || {
            let result = kernel.apply(&batch).map(|()| batch.len());
            (kernel, result)
        })
        .await;
        let Ok((returned, result)) = result else {
            tracing::error!("Applying policies panicked");
            std::process::exit(101);
        };
        kernel = returned;
        match result {
            Ok(0) => failures = 0,
            Ok(bytes) => {
                failures = 0;
                tracing::debug!(bytes, policies = engine.lock().policies(), "Applied network policies");
            }
            Err(error) => {
                failures += 1;
                tracing::error!(err = format!("{error:#}"), "Failed to apply network policies, trying again");
                tokio::time::sleep(Duration::from_millis(200 << failures.min(7))).await;
                continue;
            }
        }
        tokio::select! {
            () = changed.notified() => tokio::time::sleep(GATHER).await,
            () = tokio::time::sleep(RESYNC) => {
                if !kernel.is_intact() {
                    tracing::warn!("Policy rules have been removed by somebody else, writing them again");
                    kernel = Kernel::default();
                }
            }
        }
    }
}

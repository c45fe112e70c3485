//! NetworkPolicy: who may talk to the pods of this node, and to whom they may talk.
//!
//! Objects → [`model::Cluster`] → [`compile::compile`] (pure) → [`kernel::Kernel`] (one nftables transaction per change, so
//! that there is never a moment without rules).

pub mod compile;
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

use kernel::Kernel;
use model::Cluster;

/// Changes that come within this time are applied together.
const GATHER: Duration = Duration::from_millis(20);
/// The rules are looked at this often although nothing changed.
const RESYNC: Duration = Duration::from_secs(30);

/// Starts watching and enforcing.
pub fn start(client: &Client, node: &str, tasks: &Tasks) {
    let cluster = Arc::new(Mutex::new(Cluster::default()));
    let changed = Arc::new(Notify::new());
    let policies = Informer::<NetworkPolicy>::start(tasks, Api::all(client.clone()), watcher::Config::default(), |policy| {
        policy.metadata.managed_fields = None;
    });
    let namespaces = Informer::<Namespace>::start(tasks, Api::all(client.clone()), watcher::Config::default(), |namespace| {
        namespace.metadata.managed_fields = None;
    });
    let pods = Informer::<Pod>::start(tasks, Api::all(client.clone()), watcher::Config::default(), trim);
    let (shared, notify) = (cluster.clone(), changed.clone());
    policies.on_change(move |change| {
        let key = client::key_of(&**change.object());
        let mut cluster = shared.lock();
        let different = match change {
            Change::Deleted(_) => cluster.policies.remove(&key).is_some(),
            other => cluster.set_policy(key, other.object()),
        };
        if different {
            notify.notify_one();
        }
    });
    let (shared, notify) = (cluster.clone(), changed.clone());
    namespaces.on_change(move |change| {
        let name = change.object().metadata.name.clone().unwrap_or_default();
        let mut cluster = shared.lock();
        let different = match change {
            Change::Deleted(_) => cluster.namespaces.remove(&name).is_some(),
            other => cluster.set_namespace(name, other.object()),
        };
        if different {
            notify.notify_one();
        }
    });
    let (shared, notify) = (cluster.clone(), changed.clone());
    pods.on_change(move |change| {
        let key = client::key_of(&**change.object());
        let mut cluster = shared.lock();
        let different = match change {
            Change::Deleted(_) => cluster.pods.remove(&key).is_some(),
            other => cluster.set_pod(key, other.object()),
        };
        // Without policies, pods come and go without a thought.
        if different && !cluster.policies.is_empty() {
            notify.notify_one();
        }
    });
    let (node, stop) = (node.to_owned(), tasks.token());
    tasks.spawn("policy", async move {
        let work = async {
            policies.synced().await;
            namespaces.synced().await;
            pods.synced().await;
            enforce(&cluster, &changed, &node).await;
        };
        stop.run_until_cancelled(work).await;
    });
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

async fn enforce(cluster: &Arc<Mutex<Cluster>>, changed: &Notify, node: &str) {
    let mut kernel = Kernel::default();
    let mut failures = 0_u32;
    loop {
        let rules = compile::compile(&cluster.lock(), node);
        let result = tokio::task::spawn_blocking(move || {
            let result = kernel.apply(rules);
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
            Ok(commands) => {
                failures = 0;
                tracing::debug!(commands, policies = cluster.lock().policies.len(), "Applied network policies");
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

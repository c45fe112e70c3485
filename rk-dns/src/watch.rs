//! Keeps the [`Index`](crate::index::Index) like the cluster.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use client::informer::{Change, Informer};
use component::tasks::Tasks;
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher;
use kube::{Api, Client};

use crate::handler::Shared;

/// Starts the watches; pods are watched only where answers depend on them.
pub fn start(client: &Client, shared: &Arc<Shared>, tasks: &Tasks, pods: bool) {
    // Only what answers are made of is kept; the objects themselves are the index's input, not its store.
    let services = Informer::<Service>::start(tasks, Api::all(client.clone()), watcher::Config::default(), |service| {
        service.metadata.managed_fields = None;
        service.metadata.annotations = None;
        service.metadata.labels = None;
        service.status = None;
    });
    let slices = Informer::<EndpointSlice>::start(tasks, Api::all(client.clone()), watcher::Config::default(), |slice| {
        slice.metadata.managed_fields = None;
        slice.metadata.annotations = None;
        slice.metadata.owner_references = None;
    });
    let namespaces = Informer::<Namespace>::start(tasks, Api::all(client.clone()), watcher::Config::default(), |namespace| {
        namespace.metadata.managed_fields = None;
    });

    let index = shared.clone();
    services.on_change(move |change| {
        let mut index = index.index.write();
        match change {
            Change::Deleted(service) => {
                let meta = &service.metadata;
                index.delete_service(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default());
            }
            other => index.set_service(other.object()),
        }
    });
    let index = shared.clone();
    slices.on_change(move |change| {
        let mut index = index.index.write();
        match change {
            Change::Deleted(slice) => index.delete_slice(slice),
            other => {
                if let Some(old) = other.old() {
                    // Its Service may have changed.
                    index.delete_slice(old);
                }
                index.set_slice(other.object());
            }
        }
    });
    let index = shared.clone();
    namespaces.on_change(move |change| {
        let name = change.object().metadata.name.clone().unwrap_or_default();
        let mut index = index.index.write();
        match change {
            Change::Deleted(_) => index.namespaces.remove(&name),
            _ => index.namespaces.insert(name),
        };
    });
    let pods = pods.then(|| {
        let informer = Informer::<Pod>::start(tasks, Api::all(client.clone()), watcher::Config::default(), |pod| {
            pod.metadata.managed_fields = None;
            pod.metadata.annotations = None;
            pod.metadata.labels = None;
            pod.spec = None;
        });
        let index = shared.clone();
        informer.on_change(move |change| {
            let mut index = index.index.write();
            if let Some(old) = change.old() {
                index.delete_pod(old);
            }
            match change {
                Change::Deleted(pod) => index.delete_pod(pod),
                other => index.set_pod(other.object()),
            }
        });
        informer
    });
    let (shared, stop) = (shared.clone(), tasks.token());
    tasks.spawn("sync", async move {
        let all = async {
            services.synced().await;
            slices.synced().await;
            namespaces.synced().await;
            if let Some(pods) = &pods {
                pods.synced().await;
            }
        };
        if stop.run_until_cancelled(all).await.is_some() {
            shared.synced.store(true, Ordering::Release);
            tracing::info!("Cluster objects are known, answering questions about them");
        }
    });
}

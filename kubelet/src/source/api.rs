//! Pods bound to this node by the API server; among them the mirrors of its static pods. Upstream: pkg/kubelet/config/apiserver.go

use std::collections::HashMap;
use std::sync::Arc;

use client::informer::{Change, Informer};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::runtime::watcher;

use crate::kubelet::{Kubelet, Shared};
use crate::pod;

/// Watches this node's pods until the tasks stop; `told` is called once all were told.
pub fn start(kubelet: &Shared, client: kube::Client, told: impl FnOnce() + Send + 'static) {
    let config = watcher::Config::default().fields(&format!("spec.nodeName={}", kubelet.config.node_name));
    let informer = Informer::<Pod>::start(&kubelet.tasks, Api::all(client), config, trim);
    let this = kubelet.clone();
    informer.on_change(move |change| match change {
        Change::Added(pod) => put(&this, pod),
        Change::Updated(old, pod) => {
            // Deleted and made again under the same name, seen as one change.
            if pod::uid(old) != pod::uid(pod) {
                gone(&this, old);
            }
            put(&this, pod);
        }
        Change::Deleted(pod) => gone(&this, pod),
    });
    let stop = kubelet.tasks.token();
    kubelet.tasks.spawn("api-source", async move {
        if stop.run_until_cancelled(informer.synced()).await.is_some() {
            told();
        }
    });
}

/// Managed fields are nothing to the kubelet and half of an object.
fn trim(pod: &mut Pod) {
    pod.metadata.managed_fields = None;
}

fn put(kubelet: &Shared, pod: &Arc<Pod>) {
    if pod::is_mirror(pod) {
        kubelet.pods.put_mirror(pod.clone());
        if let Some(of) = kubelet.pods.static_of(pod) {
            kubelet.status.poke(pod::uid(&of));
            // Deleted by a user: it comes back.
            if pod.metadata.deletion_timestamp.is_some() {
                kubelet.workers.poke(pod::uid(&of));
            }
        }
        return;
    }
    kubelet.pods.put(pod.clone());
    // Over before this kubelet saw it, and nothing to clean: no worker needed unless the runtime still has something.
    kubelet.workers.update(kubelet, pod.clone());
    kubelet.status.reconcile(pod::uid(pod), pod);
}

fn gone(kubelet: &Kubelet, pod: &Arc<Pod>) {
    if pod::is_mirror(pod) {
        kubelet.pods.remove_mirror(pod);
        if let Some(of) = kubelet.pods.static_of(pod) {
            kubelet.workers.poke(pod::uid(&of));
        }
        return;
    }
    kubelet.pods.remove(pod::uid(pod));
    kubelet.workers.remove(pod::uid(pod), Some(pod));
}

/// Makes a source's pods exactly `pods`; `known` is what it told before.
pub fn apply_set(kubelet: &Shared, known: &mut HashMap<String, Arc<Pod>>, pods: Vec<Pod>) {
    let fresh: HashMap<String, Arc<Pod>> = pods.into_iter().map(|pod| (pod::uid(&pod).to_owned(), Arc::new(pod))).collect();
    let gone: Vec<Arc<Pod>> = known.iter().filter(|(uid, _)| !fresh.contains_key(*uid)).map(|(_, pod)| pod.clone()).collect();
    for pod in gone {
        tracing::info!(pod = pod::log_name(&pod), "Static pod removed");
        known.remove(pod::uid(&pod));
        kubelet.pods.remove(pod::uid(&pod));
        kubelet.workers.remove(pod::uid(&pod), None);
        let kubelet = kubelet.clone();
        let tasks = kubelet.tasks.clone();
        tasks.spawn("mirror-removal", async move { crate::mirror::remove_orphans(&kubelet).await });
    }
    for (uid, pod) in fresh {
        if let std::collections::hash_map::Entry::Vacant(slot) = known.entry(uid) {
            tracing::info!(pod = pod::log_name(&pod), "Static pod added");
            slot.insert(pod.clone());
            kubelet.pods.put(pod.clone());
            kubelet.workers.update(kubelet, pod);
        }
    }
}

//! Sends statuses to the API server: the newest only, and again until it took them. Upstream: pkg/kubelet/status/status_manager.go

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use client::queue::{Queue, Requeue};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use parking_lot::Mutex;

use super::patch;
use crate::kubelet::Shared;
use crate::objects::message;
use crate::pod;

/// Statuses to send at once.
const SENDERS: usize = 8;

/// The newest status of each pod, and what the server has of it.
pub struct StatusManager {
    entries: Mutex<HashMap<String, Entry>>,
    queue: Queue<String>,
}

struct Entry {
    pod: Arc<Pod>,
    status: Arc<PodStatus>,
    /// What the server answered to our last patch: object's uid, resource version, status.
    server: Option<(String, u64, PodStatus)>,
    /// Nothing of the pod is left on the node.
    finished: bool,
}

impl Default for StatusManager {
    fn default() -> Self {
        Self { entries: Mutex::default(), queue: Queue::with_max_delay("status", Duration::from_secs(10)) }
    }
}

impl StatusManager {
    /// Starts sending. Call once, and only with an API server.
    pub fn start(&self, kubelet: &Shared) {
        let (tasks, kubelet) = (kubelet.tasks.clone(), kubelet.clone());
        self.queue.run(&tasks, SENDERS, move |uid: String| {
            let kubelet = kubelet.clone();
            async move { send(&kubelet, &uid).await }
        });
    }

    /// Notes a pod's newest status.
    pub fn set(&self, pod: &Arc<Pod>, status: Arc<PodStatus>) {
        let uid = pod::uid(pod);
        let mut entries = self.entries.lock();
        match entries.get_mut(uid) {
            Some(entry) => {
                let same = *entry.status == *status;
                entry.status = status;
                entry.pod = pod.clone();
                if same {
                    return;
                }
            }
            None => {
                let entry = Entry { pod: pod.clone(), status, server: None, finished: false };
                entries.insert(uid.to_owned(), entry);
            }
        }
        drop(entries);
        self.queue.add(uid.to_owned());
    }

    /// The newest status of a pod.
    pub fn get(&self, uid: &str) -> Option<Arc<PodStatus>> {
        self.entries.lock().get(uid).map(|entry| entry.status.clone())
    }

    /// Notes that nothing of the pod is left on the node: if it is being deleted, the API object may go.
    pub fn finish(&self, pod: &Pod) {
        if let Some(entry) = self.entries.lock().get_mut(pod::uid(pod)) {
            entry.finished = true;
        }
        self.queue.add(pod::uid(pod).to_owned());
    }

    /// Forgets a pod.
    pub fn forget(&self, uid: &str) {
        self.entries.lock().remove(uid);
    }

    /// Looks whether the server still says what we told it; `seen` is what it says now.
    pub fn reconcile(&self, uid: &str, seen: &Pod) {
        let version = version(seen);
        let entries = self.entries.lock();
        let Some(entry) = entries.get(uid) else { return };
        let newer = entry.server.as_ref().is_none_or(|(_, ours, _)| version >= *ours);
        let seen_status = seen.status.clone().unwrap_or_default();
        if newer && (entry.finished || patch::between(uid, &seen_status, &entry.status).is_some()) {
            drop(entries);
            if let Some(entry) = self.entries.lock().get_mut(uid) {
                entry.server = Some((pod::uid(seen).to_owned(), version, seen_status));
            }
            self.queue.add(uid.to_owned());
        }
    }

    /// Makes the senders look at a pod (its mirror appeared).
    pub fn poke(&self, uid: &str) {
        self.queue.add(uid.to_owned());
    }
}

fn version(pod: &Pod) -> u64 {
    pod.metadata.resource_version.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0)
}

async fn send(kubelet: &Shared, uid: &str) -> Result<Requeue, String> {
    let manager = &kubelet.status;
    let Some(api) = &kubelet.api else { return Ok(Requeue::No) };
    let Some((pod, status, server, finished)) = manager
        .entries
        .lock()
        .get(uid)
        .map(|entry| (entry.pod.clone(), entry.status.clone(), entry.server.clone(), entry.finished))
    else {
        return Ok(Requeue::No);
    };
    // A static pod is shown by its mirror.
    let target = if pod::is_static(&pod) {
        kubelet.pods.mirror_of(&pod)
    } else {
        Some(kubelet.pods.get(uid).unwrap_or_else(|| pod.clone()))
    };
    let Some(target) = target else { return Ok(Requeue::No) };
    let target_uid = pod::uid(&target).to_owned();
    let pods = Api::<Pod>::namespaced(api.clone(), pod::namespace(&pod));
    let before = match server {
        Some((object, _, before)) if object == target_uid => before,
        _ => target.status.clone().unwrap_or_default(),
    };
    if let Some(patch) = patch::between(&target_uid, &before, &status) {
        match pods.patch_status(pod::name(&pod), &PatchParams::default(), &Patch::Strategic(&patch)).await {
            Ok(answer) => {
                let answered = (pod::uid(&answer).to_owned(), version(&answer), answer.status.clone().unwrap_or_default());
                if let Some(entry) = manager.entries.lock().get_mut(uid) {
                    entry.server = Some(answered);
                }
            }
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => {
                // Gone, or another pod of that name by now.
                tracing::debug!(pod = pod::log_name(&pod), err = status.message, "Status was not taken");
                return Ok(Requeue::No);
            }
            Err(kube::Error::Api(status)) if status.code == 422 || status.code == 400 => {
                tracing::warn!(pod = pod::log_name(&pod), err = status.message, %patch, "The API server refused a status");
                return Ok(Requeue::After(Duration::from_secs(10)));
            }
            Err(error) => return Err(message(&error)),
        }
    }
    let deleting = target.metadata.deletion_timestamp.is_some() && !pod::is_mirror(&target);
    if finished && deleting {
        let preconditions = Preconditions { uid: Some(target_uid), resource_version: None };
        let params = DeleteParams { grace_period_seconds: Some(0), preconditions: Some(preconditions), ..Default::default() };
        match pods.delete(pod::name(&pod), &params).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => {}
            Err(error) => return Err(message(&error)),
        }
    }
    Ok(Requeue::No)
}

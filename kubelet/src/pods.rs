//! The pods this node is to run, from all sources, and the mirror pods that show static ones to the API.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use parking_lot::RwLock;

use crate::pod;

/// Desired pods by uid; mirror pods by full name.
#[derive(Default)]
pub struct Pods(RwLock<Inner>);

#[derive(Default)]
struct Inner {
    desired: HashMap<String, Arc<Pod>>,
    mirrors: HashMap<String, Arc<Pod>>,
}

impl Pods {
    /// Notes a pod to run.
    pub fn put(&self, pod: Arc<Pod>) {
        self.0.write().desired.insert(pod::uid(&pod).to_owned(), pod);
    }

    /// Forgets a pod.
    pub fn remove(&self, uid: &str) -> Option<Arc<Pod>> {
        self.0.write().desired.remove(uid)
    }

    /// Notes a mirror pod.
    pub fn put_mirror(&self, pod: Arc<Pod>) {
        self.0.write().mirrors.insert(pod::full_name(&pod), pod);
    }

    /// Forgets a mirror pod, if it is still the same object.
    pub fn remove_mirror(&self, gone: &Pod) {
        let mut inner = self.0.write();
        let name = pod::full_name(gone);
        if inner.mirrors.get(&name).is_some_and(|known| pod::uid(known) == pod::uid(gone)) {
            inner.mirrors.remove(&name);
        }
    }

    /// A pod by uid.
    pub fn get(&self, uid: &str) -> Option<Arc<Pod>> {
        self.0.read().desired.get(uid).cloned()
    }

    /// A pod by namespace and name: the running one for the name of a mirror.
    pub fn by_name(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        self.0.read().desired.values().find(|pod| pod::namespace(pod) == namespace && pod::name(pod) == name).cloned()
    }

    /// All pods to run.
    pub fn list(&self) -> Vec<Arc<Pod>> {
        self.0.read().desired.values().cloned().collect()
    }

    /// The mirror of a static pod.
    pub fn mirror_of(&self, pod: &Pod) -> Option<Arc<Pod>> {
        self.0.read().mirrors.get(&pod::full_name(pod)).cloned()
    }

    /// The static pod that a mirror shows.
    pub fn static_of(&self, mirror: &Pod) -> Option<Arc<Pod>> {
        let name = pod::full_name(mirror);
        self.0.read().desired.values().find(|pod| pod::is_static(pod) && pod::full_name(pod) == name).cloned()
    }

    /// Mirrors whose static pod is gone.
    pub fn orphan_mirrors(&self) -> Vec<Arc<Pod>> {
        let inner = self.0.read();
        let statics: std::collections::HashSet<String> =
            inner.desired.values().filter(|pod| pod::is_static(pod)).map(|pod| pod::full_name(pod)).collect();
        inner.mirrors.iter().filter(|(name, _)| !statics.contains(*name)).map(|(_, pod)| pod.clone()).collect()
    }
}

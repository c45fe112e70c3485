//! Volumes of CSI drivers: drivers register with the node, volumes are attached, staged, published and taken back.
//!
//! What is mounted is known from `vol_data.json` files beside the mounts ([`data`]): a killed kubelet unmounts what it did not mount.
//! Upstream: pkg/volume/csi

pub mod client;
pub mod data;
pub mod expand;
pub mod mount;
pub mod node_info;
pub mod unmount;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use crate::kubelet::{Kubelet, Shared};
use crate::plugins::{self, registration::PluginInfo};
use client::Driver;

/// The generated messages and services of `proto/csi.proto`.
#[allow(missing_docs, clippy::all, unreachable_pub)]
pub mod v1 {
    tonic::include_proto!("csi.v1");
}

/// The drivers of the node and its volumes.
#[derive(Default)]
pub struct Csi {
    drivers: RwLock<BTreeMap<String, Arc<Driver>>>,
    /// One at a time works on a volume, by driver and handle.
    locks: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// Volumes in use that are attached to the node, with the pods that use them.
    in_use: Mutex<BTreeMap<String, BTreeSet<String>>>,
}

impl Csi {
    /// A driver that has registered.
    ///
    /// # Errors
    /// It has not; the message is upstream's.
    pub fn driver(&self, name: &str) -> Result<Arc<Driver>, String> {
        let driver = self.drivers.read().get(name).cloned();
        driver.ok_or_else(|| format!("driver name {name} not found in the list of registered CSI drivers"))
    }

    /// All drivers.
    pub fn drivers(&self) -> Vec<Arc<Driver>> {
        self.drivers.read().values().cloned().collect()
    }

    /// Waits for one's turn at a volume.
    async fn turn(&self, driver: &str, handle: &str) -> tokio::sync::OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.locks.lock();
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            locks.entry(format!("{driver}^{handle}")).or_default().clone()
        };
        lock.lock_owned().await
    }

    /// The attached volumes in use, as the node's status tells the attach-detach controller.
    pub fn in_use(&self) -> Vec<String> {
        self.in_use.lock().keys().cloned().collect()
    }

    /// Notes a pod's use of an attached volume; whether the volume was not in use before.
    fn note_use(&self, volume: &str, uid: &str) -> bool {
        let mut in_use = self.in_use.lock();
        let fresh = !in_use.contains_key(volume);
        in_use.entry(volume.to_owned()).or_default().insert(uid.to_owned());
        fresh
    }

    /// Notes that a pod uses the volume no more; whether nobody does.
    fn note_disuse(&self, volume: &str, uid: &str) -> bool {
        let mut in_use = self.in_use.lock();
        let Some(users) = in_use.get_mut(volume) else { return false };
        users.remove(uid);
        let last = users.is_empty();
        if last {
            in_use.remove(volume);
        }
        last
    }
}

/// The name of an attached volume in a node's status.
pub fn unique_name(driver: &str, handle: &str) -> String {
    format!("kubernetes.io/csi/{driver}^{handle}")
}

/// Takes a driver in: asks who the node is to it, and tells the API server.
///
/// # Errors
/// The driver speaks another version or does not answer.
pub async fn register(kubelet: &Shared, info: &PluginInfo) -> Result<(), String> {
    let speaks = |version: &String| version.trim_start_matches('v').split('.').next() == Some("1");
    if !info.supported_versions.iter().any(speaks) {
        return Err(format!(
            "validation of CSI driver {} failed: CSI Driver versions {:?} are not supported, 1.x is needed",
            info.name, info.supported_versions
        ));
    }
    let driver = Arc::new(Driver::new(&info.name, plugins::channel(&plugins::socket_path(&info.endpoint))));
    let facts =
        driver.node_info().await.map_err(|status| format!("error during CSI NodeGetInfo() call: {}", status.message()))?;
    kubelet.csi.drivers.write().insert(info.name.clone(), driver);
    if let Err(why) = node_info::add(kubelet, &info.name, &facts).await {
        kubelet.csi.drivers.write().remove(&info.name);
        return Err(format!("error updating CSINode object with CSI driver node info: {why}"));
    }
    // Pods that waited for it.
    for handle in kubelet.workers.list() {
        if handle.request().pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()).any(mount::may_be_csi) {
            handle.poke();
        }
    }
    Ok(())
}

/// Lets a driver go.
pub async fn unregister(kubelet: &Shared, name: &str) {
    kubelet.csi.drivers.write().remove(name);
    if let Err(why) = node_info::remove(kubelet, name).await {
        tracing::warn!(driver = name, err = why, "Failed to take a CSI driver out of the CSINode object");
    }
}

/// What a former kubelet left: which attached volumes are in use. Called once, before pods start.
pub fn recover(kubelet: &Kubelet) {
    for (uid, found) in data::of_all_pods(&kubelet.config.root_dir) {
        if !found.data.attachment_id.is_empty() {
            kubelet.csi.note_use(&unique_name(&found.data.driver_name, &found.data.volume_handle), &uid);
        }
    }
}

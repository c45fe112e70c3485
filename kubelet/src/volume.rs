//! Volumes: made below `<root>/pods/<uid>/volumes/<plugin>/<name>`, mounted into containers from there.
//!
//! A kind of volume is one file and one line in [`PLUGINS`]. What is on disk is the state: tearing down needs no memory.
//!
//! Upstream: pkg/volume, pkg/kubelet/volumemanager

pub mod atomic_writer;
pub mod config_map;
pub mod csi;
pub mod downward_api;
pub mod empty_dir;
pub mod fs_group;
pub mod host_path;
pub mod image;
pub mod mount;
pub mod persistent;
pub mod projected;
pub mod secret;
pub mod subpath;
pub mod trust_bundle;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Pod, Volume};

use crate::env::field::Facts;
use crate::kubelet::Kubelet;
use crate::pod;

/// What a plugin works with.
pub struct Context<'a> {
    /// The kubelet.
    pub kubelet: &'a Kubelet,
    /// The pod.
    pub pod: &'a Pod,
    /// The volume in it.
    pub volume: &'a Volume,
    /// `<root>/pods/<uid>/volumes/<plugin>/<name>`; made by the plugin if it needs it.
    pub dir: PathBuf,
    /// Addresses and the like for the downward API.
    pub facts: &'a Facts,
}

/// A volume that containers can use.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ready {
    /// Where it is on the host.
    pub path: PathBuf,
    /// The volume itself is read-only.
    pub read_only: bool,
    /// An image to mount by the runtime instead of a path.
    pub image: Option<String>,
}

/// Why a volume is not ready; retried.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct VolumeError(pub String);

impl From<crate::objects::ObjectError> for VolumeError {
    fn from(error: crate::objects::ObjectError) -> Self {
        Self(error.to_string())
    }
}

impl From<std::io::Error> for VolumeError {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}

/// A kind of volume.
pub struct Plugin {
    /// Directory name, as upstream's plugin names escape: `kubernetes.io~empty-dir`.
    pub name: &'static str,
    /// Whether the volume is of this kind.
    pub can: fn(&Volume) -> bool,
    /// Makes it ready, or up to date; repeating it is fine.
    pub set_up: for<'a> fn(Context<'a>) -> BoxFuture<'a, Result<Ready, VolumeError>>,
    /// Whether its content follows objects that change.
    pub refreshes: bool,
}

/// All kinds. A new one: a file with a `PLUGIN`, and its line here.
pub const PLUGINS: &[Plugin] = &[
    empty_dir::PLUGIN,
    host_path::PLUGIN,
    config_map::PLUGIN,
    secret::PLUGIN,
    projected::PLUGIN,
    downward_api::PLUGIN,
    image::PLUGIN,
    persistent::CLAIM,
    persistent::NFS,
    persistent::EPHEMERAL,
    csi::PLUGIN,
];

/// The plugin for a volume.
pub fn plugin_for(volume: &Volume) -> Option<&'static Plugin> {
    PLUGINS.iter().find(|plugin| (plugin.can)(volume))
}

/// Makes all volumes that the pod's containers use, at once. The first failure is told: `FailedMount`'s message.
///
/// # Errors
/// A volume is not ready; the others may be.
pub async fn set_up_all(kubelet: &Kubelet, pod: &Pod, facts: &Facts) -> Result<HashMap<String, Ready>, VolumeError> {
    let volumes = pod::spec(pod).volumes.as_deref().unwrap_or_default();
    let results = futures::future::join_all(volumes.iter().map(|volume| set_up(kubelet, pod, volume, facts))).await;
    let mut out = HashMap::new();
    let mut failure = None;
    for (volume, result) in volumes.iter().zip(results) {
        match result {
            Ok(ready) => {
                out.insert(volume.name.clone(), ready);
            }
            Err(VolumeError(why)) => {
                failure.get_or_insert(VolumeError(format!("MountVolume.SetUp failed for volume \"{}\" : {why}", volume.name)));
            }
        }
    }
    failure.map_or(Ok(out), Err)
}

/// Brings the content of volumes that follow objects up to date. Failures are left for the next time.
pub async fn refresh(kubelet: &Kubelet, pod: &Pod, facts: &Facts) {
    for volume in pod::spec(pod).volumes.iter().flatten() {
        if plugin_for(volume).is_some_and(|plugin| plugin.refreshes)
            && let Err(error) = set_up(kubelet, pod, volume, facts).await
        {
            tracing::debug!(pod = pod::log_name(pod), volume = volume.name, err = %error, "Failed to refresh volume");
        }
    }
}

async fn set_up(kubelet: &Kubelet, pod: &Pod, volume: &Volume, facts: &Facts) -> Result<Ready, VolumeError> {
    let plugin = plugin_for(volume).ok_or_else(|| VolumeError("no volume plugin matched".into()))?;
    let dir = kubelet.config.pod_dir(pod::uid(pod)).join("volumes").join(plugin.name).join(&volume.name);
    (plugin.set_up)(Context { kubelet, pod, volume, dir, facts }).await
}

/// Unmounts and removes everything below a pod's directory. Repeating it is fine; nothing is removed through a mount.
///
/// # Errors
/// A mount is busy; retried.
pub fn tear_down(pod_dir: &Path) -> std::io::Result<()> {
    mount::unmount_below(pod_dir)?;
    match std::fs::remove_dir_all(pod_dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

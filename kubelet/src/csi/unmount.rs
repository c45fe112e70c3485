//! Takes CSI volumes back: unpublished for the pod, unstaged after its last pod on the node. Every step may be repeated.

use std::path::Path;

use super::data::{self, Found};
use super::unique_name;
use super::v1::node_service_capability::rpc::Type as Can;
use super::v1::{NodeUnpublishVolumeRequest, NodeUnstageVolumeRequest};
use crate::kubelet::Kubelet;
use crate::volume::mount;

/// Takes back every CSI volume of a pod.
///
/// # Errors
/// A driver is gone or refuses; retried, since nobody else may unmount its volumes.
pub async fn pod(kubelet: &Kubelet, uid: &str) -> Result<(), String> {
    for found in data::of_pod(&kubelet.config.pod_dir(uid)) {
        one(kubelet, uid, &found).await.map_err(|why| {
            format!(
                "UnmountVolume.TearDown failed for volume {:?} of driver {}: {why}",
                found.data.spec_id, found.data.driver_name
            )
        })?;
    }
    Ok(())
}

async fn one(kubelet: &Kubelet, uid: &str, found: &Found) -> Result<(), String> {
    let data = &found.data;
    let driver = kubelet.csi.driver(&data.driver_name)?;
    let _turn = kubelet.csi.turn(&data.driver_name, &data.volume_handle).await;
    let target = found.dir.join("mount");
    let request =
        NodeUnpublishVolumeRequest { volume_id: data.volume_handle.clone(), target_path: target.to_string_lossy().into_owned() };
    driver.unpublish(request).await.map_err(words)?;
    remove_mount_dir(&target)?;
    let others = data::of_all_pods(&kubelet.config.root_dir);
    let shared = others.iter().any(|(_, other)| {
        other.dir != found.dir && other.data.driver_name == data.driver_name && other.data.volume_handle == data.volume_handle
    });
    if !shared {
        unstage(kubelet, &data.driver_name, &data.volume_handle).await?;
    }
    data::remove(&found.dir).map_err(|error| error.to_string())?;
    if kubelet.csi.note_disuse(&unique_name(&data.driver_name, &data.volume_handle), uid) {
        // The controller may detach it.
        kubelet.node.status_soon.notify_one();
    }
    Ok(())
}

async fn unstage(kubelet: &Kubelet, driver: &str, handle: &str) -> Result<(), String> {
    let dir = data::staging_dir(&kubelet.config.root_dir, driver, handle);
    if !dir.is_dir() {
        return Ok(());
    }
    let staging = dir.join("globalmount");
    let driver = kubelet.csi.driver(driver)?;
    if driver.can(Can::StageUnstageVolume).await.map_err(words)? {
        let request = NodeUnstageVolumeRequest {
            volume_id: handle.to_owned(),
            staging_target_path: staging.to_string_lossy().into_owned(),
        };
        driver.unstage(request).await.map_err(words)?;
    }
    remove_mount_dir(&staging)?;
    data::remove(&dir).map_err(|error| error.to_string())
}

/// Takes back what is staged for no pod: a former kubelet was killed in between.
pub async fn leftovers(kubelet: &Kubelet) {
    for found in data::staged(&kubelet.config.root_dir) {
        let data = &found.data;
        let _turn = kubelet.csi.turn(&data.driver_name, &data.volume_handle).await;
        let used = data::of_all_pods(&kubelet.config.root_dir)
            .iter()
            .any(|(_, other)| other.data.driver_name == data.driver_name && other.data.volume_handle == data.volume_handle);
        if !used && let Err(why) = unstage(kubelet, &data.driver_name, &data.volume_handle).await {
            tracing::debug!(
                driver = data.driver_name,
                volume = data.volume_handle,
                err = why,
                "Failed to unstage a volume of no pod"
            );
        }
    }
}

/// The driver has unmounted it; an empty directory may be left. Nothing is removed through a mount.
fn remove_mount_dir(dir: &Path) -> Result<(), String> {
    if mount::is_mount_point(dir) {
        return Err(format!("{} is still mounted after the driver was asked to unmount it", dir.display()));
    }
    match std::fs::remove_dir(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(format!("{}: {error}", dir.display())),
        _ => Ok(()),
    }
}

fn words(status: tonic::Status) -> String {
    format!("rpc error: code = {:?} desc = {}", status.code(), status.message())
}

//! Makes a volume's file system as large as the volume has become. Upstream: pkg/volume/csi/expander.go, node_expander.go

use std::path::Path;

use client::events::Kind;
use k8s_openapi::api::core::v1::{CSIPersistentVolumeSource, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::data;
use super::v1::node_service_capability::rpc::Type as Can;
use super::v1::{CapacityRange, NodeExpandVolumeRequest};
use crate::objects::message;
use crate::pod::{self, quantity};
use crate::volume::{Context, VolumeError};

/// The size that the file system is to grow to, if it is to grow. Pure.
fn wanted(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<Quantity> {
    let have = claim.status.as_ref()?.capacity.as_ref()?.get("storage")?;
    let want = volume.spec.as_ref()?.capacity.as_ref()?.get("storage")?;
    (quantity::value(want) > quantity::value(have)).then(|| want.clone())
}

/// Grows the file system of a mounted volume if its claim says that it is behind, and tells the claim.
///
/// # Errors
/// The driver cannot; retried.
pub async fn if_needed(
    context: &Context<'_>,
    volume: &PersistentVolume,
    source: &CSIPersistentVolumeSource,
    claim: &PersistentVolumeClaim,
    path: &Path,
) -> Result<(), VolumeError> {
    let Some(size) = wanted(volume, claim) else { return Ok(()) };
    let kubelet = context.kubelet;
    let driver = kubelet.csi.driver(&source.driver).map_err(VolumeError)?;
    let words = |status: tonic::Status| {
        VolumeError(format!(
            "MountVolume.NodeExpandVolume failed: rpc error: code = {:?} desc = {}",
            status.code(),
            status.message()
        ))
    };
    if !driver.can(Can::ExpandVolume).await.map_err(words)? {
        return Ok(());
    }
    let staging = data::staging_dir(&kubelet.config.root_dir, &source.driver, &source.volume_handle).join("globalmount");
    let request = NodeExpandVolumeRequest {
        volume_id: source.volume_handle.clone(),
        volume_path: path.to_string_lossy().into_owned(),
        capacity_range: Some(CapacityRange { required_bytes: quantity::value(&size), limit_bytes: 0 }),
        staging_target_path: if staging.is_dir() { staging.to_string_lossy().into_owned() } else { String::new() },
        volume_capability: None,
        secrets: super::mount::secrets(kubelet, source.node_expand_secret_ref.as_ref()).await?,
    };
    let _turn = kubelet.csi.turn(&source.driver, &source.volume_handle).await;
    driver.expand(request).await.map_err(words)?;
    let name = volume.metadata.name.as_deref().unwrap_or("");
    let text = format!("MountVolume.NodeExpandVolume succeeded for volume \"{name}\"");
    kubelet.event(context.pod, Kind::Normal, "FileSystemResizeSuccessful", format!("{text} {}", kubelet.config.node_name));
    let Some(api) = kubelet.api.clone() else { return Ok(()) };
    let claims = Api::<PersistentVolumeClaim>::namespaced(api, pod::namespace(context.pod));
    let conditions = claim.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let conditions: Vec<_> = conditions.filter(|condition| !condition.type_.contains("Resiz")).collect();
    let patch = json!({"status": {
        "capacity": {"storage": size},
        "conditions": conditions,
        "allocatedResourceStatuses": {"storage": null},
    }});
    let claim_name = claim.metadata.name.as_deref().unwrap_or("");
    claims
        .patch_status(claim_name, &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .map_err(|error| VolumeError(format!("failed to tell claim {claim_name} its new size: {}", message(&error))))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_grows_when_its_claim_is_behind() {
        let volume = |size: &str| -> PersistentVolume {
            serde_json::from_value(json!({"spec": {"capacity": {"storage": size}}})).unwrap()
        };
        let claim = |size: &str| -> PersistentVolumeClaim {
            serde_json::from_value(json!({"status": {"capacity": {"storage": size}}})).unwrap()
        };
        assert_eq!(wanted(&volume("2Gi"), &claim("1Gi")).map(|size| size.0), Some("2Gi".into()));
        assert_eq!(wanted(&volume("1Gi"), &claim("1024Mi")), None);
        assert_eq!(wanted(&volume("1Gi"), &PersistentVolumeClaim::default()), None);
    }
}

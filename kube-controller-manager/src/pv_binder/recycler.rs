//! Scrubs a released volume by a pod that mounts it, and makes the volume available again.
//!
//! Upstream: pkg/volume/util/recyclerclient, NewPersistentVolumeRecyclerPodTemplate (pkg/volume/plugins.go)

use std::time::Duration;

use anyhow::Context as _;
use api::quantity::Quantity;
use k8s_openapi::api::core::v1::{PersistentVolume, Pod};
use kube::api::{DeleteParams, PostParams};
use kube::{Resource, ResourceExt};
use serde_json::json;

use super::Binder;
use super::plan::BOUND_BY_CONTROLLER;
use crate::config::Config;
use crate::context::Requeue;
use crate::{api_error, pods};

/// Where scrubbing pods run.
const NAMESPACE: &str = "default";
/// How often to look at one.
const POLL: Duration = Duration::from_secs(2);
/// Any image with a shell, find and test would do.
const IMAGE: &str = "registry.k8s.io/build-image/debian-base:bookworm-v1.0.4";
const SCRUB: &str = "test -e /scrub && find /scrub -mindepth 1 -delete && test -z \"$(ls -A /scrub)\" || exit 1";

pub async fn recycle(binder: &Binder, volume: &PersistentVolume) -> anyhow::Result<Requeue> {
    let ctx = &binder.ctx;
    let about = volume.object_ref(&());
    let spec = volume.spec.clone().unwrap_or_default();
    if spec.host_path.is_none() && spec.nfs.is_none() {
        let message = "No recycler plugin found for the volume!";
        binder.set_volume_phase(volume, "Failed", Some(message.to_owned())).await?;
        ctx.warning(&about, "VolumeFailedRecycle", message);
        return Ok(Requeue::No);
    }
    let api = ctx.namespaced::<Pod>(NAMESPACE);
    let name = format!("recycler-for-{}", volume.name_any());
    let Some(pod) = api.get_opt(&name).await? else {
        match api.create(&PostParams::default(), &scrubber(binder, volume, &name)?).await {
            Err(error) if !api_error::is_already_exists(&error) => return Err(error.into()),
            _ => return Ok(Requeue::After(POLL)),
        }
    };
    match pods::phase(&pod) {
        "Succeeded" => {
            ctx.normal(&about, "VolumeRecycled", "Volume recycled");
            let mut changed = volume.clone();
            changed.spec.get_or_insert_default().claim_ref = None;
            changed.annotations_mut().remove(BOUND_BY_CONTROLLER);
            ctx.cluster::<PersistentVolume>().replace(&volume.name_any(), &PostParams::default(), &changed).await?;
        }
        "Failed" => {
            let why = pod
                .status
                .as_ref()
                .and_then(|status| status.message.clone())
                .unwrap_or_else(|| "pod failed, pod.Status.Message unknown".to_owned());
            let message = format!("Recycle failed: {why}");
            binder.set_volume_phase(volume, "Failed", Some(message.clone())).await?;
            ctx.warning(&about, "VolumeFailedRecycle", message);
        }
        _ => return Ok(Requeue::After(POLL)),
    }
    api_error::ignore_not_found(api.delete(&name, &DeleteParams::default()).await)?;
    Ok(Requeue::No)
}

/// Seconds that scrubbing may take: so many for each GiB, but no fewer than `least`. Upstream: CalculateTimeoutForVolume.
fn timeout(bytes: i64, least: i32, each: i32) -> i64 {
    let wanted = (bytes >> 30).saturating_mul(i64::from(each));
    wanted.max(i64::from(least))
}

/// The pod of the flags' template file, or the built-in one, with the volume in it.
fn scrubber(binder: &Binder, volume: &PersistentVolume, name: &str) -> anyhow::Result<Pod> {
    let options = &binder.ctx.config.options;
    let spec = volume.spec.clone().unwrap_or_default();
    let (file, least, each) = match spec.nfs {
        Some(_) => (
            &options.pv_recycler_pod_template_filepath_nfs,
            options.pv_recycler_minimum_timeout_nfs,
            options.pv_recycler_increment_timeout_nfs,
        ),
        None => (
            &options.pv_recycler_pod_template_filepath_hostpath,
            options.pv_recycler_minimum_timeout_hostpath,
            options.pv_recycler_timeout_increment_hostpath,
        ),
    };
    let size = spec.capacity.as_ref().and_then(|capacity| Quantity::parse(&capacity.get("storage")?.0).ok());
    let timeout = timeout(size.map_or(0, |size| size.value()), least, each);
    let mut pod: Pod = match Config::file(file) {
        Some(path) => serde_yaml::from_str(&std::fs::read_to_string(&path)?)
            .with_context(|| format!("recycler pod template {}", path.display()))?,
        None => {
            serde_json::from_value(json!({"metadata": {}, "spec": {"restartPolicy": "Never", "activeDeadlineSeconds": timeout,
            "volumes": [{"name": "vol"}],
            "containers": [{"name": "pv-recycler", "image": IMAGE, "command": ["/bin/sh"], "args": ["-c", SCRUB],
                "volumeMounts": [{"name": "vol", "mountPath": "/scrub"}]}]}}))?
        }
    };
    pod.metadata.name = Some(name.to_owned());
    pod.metadata.namespace = Some(NAMESPACE.to_owned());
    let volumes = pod.spec.get_or_insert_default().volumes.get_or_insert_default();
    let slot = volumes.first_mut().context("recycler pod template does not contain any volumes")?;
    slot.host_path = spec.host_path;
    slot.nfs = spec.nfs;
    Ok(pod)
}

#[cfg(test)]
mod tests {
    #[test]
    fn scrubbing_may_take_longer_for_larger_volumes() {
        assert_eq!(super::timeout(1 << 30, 60, 30), 60);
        assert_eq!(super::timeout(10 << 30, 60, 30), 300);
    }
}

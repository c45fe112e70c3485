//! `persistentVolumeClaim` on hostPath, local and NFS volumes; `nfs`; generic `ephemeral` volumes, which are claims by another name.
//!
//! Upstream: pkg/volume/local, pkg/volume/nfs, pkg/kubelet/volumemanager/populator

use std::path::{Path, PathBuf};

use futures::FutureExt;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::Api;

use super::{Context, Plugin, Ready, VolumeError, fs_group, host_path, mount};
use crate::objects::message;
use crate::pod;

/// See [`super::PLUGINS`].
pub const CLAIM: Plugin = Plugin {
    name: "kubernetes.io~persistent-volume",
    can: |volume| volume.persistent_volume_claim.is_some(),
    set_up: |context| {
        async move {
            let source = context.volume.persistent_volume_claim.clone().unwrap_or_default();
            claim(&context, &source.claim_name, source.read_only.unwrap_or(false)).await
        }
        .boxed()
    },
    // A volume may have grown.
    refreshes: true,
};

/// See [`super::PLUGINS`].
pub const EPHEMERAL: Plugin = Plugin {
    name: "kubernetes.io~persistent-volume",
    can: |volume| volume.ephemeral.is_some(),
    set_up: |context| {
        async move {
            let name = format!("{}-{}", pod::name(context.pod), context.volume.name);
            claim(&context, &name, false).await
        }
        .boxed()
    },
    refreshes: true,
};

/// See [`super::PLUGINS`].
pub const NFS: Plugin = Plugin {
    name: "kubernetes.io~nfs",
    can: |volume| volume.nfs.is_some(),
    set_up: |context| {
        async move {
            let source = context.volume.nfs.clone().unwrap_or_default();
            nfs(&context.dir, &source.server, &source.path, source.read_only.unwrap_or(false), &[])
        }
        .boxed()
    },
    refreshes: false,
};

async fn claim(context: &Context<'_>, name: &str, read_only: bool) -> Result<Ready, VolumeError> {
    let api = context.kubelet.api.clone().ok_or_else(|| VolumeError("no API server is configured".into()))?;
    let claims = Api::<PersistentVolumeClaim>::namespaced(api.clone(), pod::namespace(context.pod));
    let claim = claims.get(name).await.map_err(|error| VolumeError(message(&error)))?;
    if context.volume.ephemeral.is_some() {
        let owned = claim
            .metadata
            .owner_references
            .iter()
            .flatten()
            .any(|owner| owner.controller == Some(true) && owner.uid == pod::uid(context.pod));
        if !owned {
            return Err(VolumeError(format!(
                "PVC {}/{name} was not created for pod {} (pod is not owner)",
                pod::namespace(context.pod),
                pod::log_name(context.pod)
            )));
        }
    }
    if claim.metadata.deletion_timestamp.is_some()
        && claim.status.as_ref().and_then(|status| status.phase.as_deref()) != Some("Bound")
    {
        return Err(VolumeError(format!("can't start pod because PVC {name} is being deleted")));
    }
    let volume_name = claim.spec.as_ref().and_then(|spec| spec.volume_name.clone()).unwrap_or_default();
    let bound = claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
    if !bound || volume_name.is_empty() {
        return Err(VolumeError(format!("PVC {}/{name} is not bound", pod::namespace(context.pod))));
    }
    let volume = Api::<PersistentVolume>::all(api).get(&volume_name).await.map_err(|error| VolumeError(message(&error)))?;
    let spec = volume.spec.clone().unwrap_or_default();
    let read_only = read_only || spec.access_modes.as_deref() == Some(&["ReadOnlyMany".to_owned()]);
    if let Some(source) = &spec.csi {
        return crate::csi::mount::persistent(context, &volume, source, &claim, read_only).await;
    }
    if let Some(source) = &spec.host_path {
        host_path::check(Path::new(&source.path), source.type_.as_deref().unwrap_or(""))?;
        return Ok(Ready { path: PathBuf::from(&source.path), read_only, ..Default::default() });
    }
    if let Some(source) = &spec.local {
        let path = PathBuf::from(&source.path);
        if !path.exists() {
            return Err(VolumeError(format!("path {:?} does not exist", source.path)));
        }
        if !mount::is_mount_point(&context.dir) {
            std::fs::create_dir_all(&context.dir)?;
            mount::bind(&path, &context.dir)?;
            if !read_only {
                fs_group::apply(context.pod, &context.dir, false)?;
            }
        }
        return Ok(Ready { path: context.dir.clone(), read_only, ..Default::default() });
    }
    if let Some(source) = &spec.nfs {
        let options = spec.mount_options.clone().unwrap_or_default();
        return nfs(&context.dir, &source.server, &source.path, read_only || source.read_only.unwrap_or(false), &options);
    }
    Err(VolumeError(format!("no volume plugin matched PersistentVolume {volume_name}")))
}

fn nfs(dir: &Path, server: &str, path: &str, read_only: bool, options: &[String]) -> Result<Ready, VolumeError> {
    if !mount::is_mount_point(dir) {
        std::fs::create_dir_all(dir)?;
        let mut options = options.to_vec();
        if read_only {
            options.push("ro".into());
        }
        let server = if server.contains(':') { format!("[{server}]") } else { server.to_owned() };
        mount::filesystem("nfs", &format!("{server}:{path}"), dir, &options)?;
    }
    Ok(Ready { path: dir.to_owned(), read_only, ..Default::default() })
}

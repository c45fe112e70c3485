//! `secret`: in memory, never on disk. Upstream: pkg/volume/secret

use futures::FutureExt;
use k8s_openapi::api::core::v1::{KeyToPath, Secret};

use super::atomic_writer::{self, Payload};
use super::{Context, Plugin, Ready, VolumeError, config_map, fs_group, mount};

/// See [`super::PLUGINS`].
pub const PLUGIN: Plugin = Plugin {
    name: "kubernetes.io~secret",
    can: |volume| volume.secret.is_some(),
    set_up: |context| async move { set_up(&context).await }.boxed(),
    refreshes: true,
};

async fn set_up(context: &Context<'_>) -> Result<Ready, VolumeError> {
    let source = context.volume.secret.clone().unwrap_or_default();
    let name = source.secret_name.unwrap_or_default();
    let secret = context.kubelet.objects.follow_secret(context.pod, &name).await?;
    let optional = source.optional.unwrap_or(false);
    let secret = match secret {
        Some(secret) => secret,
        None if optional => Default::default(),
        None => return Err(VolumeError(format!("secret {name:?} not found"))),
    };
    let payload = payload(&secret, source.items.as_deref(), source.default_mode.unwrap_or(0o644), optional)?;
    in_memory(context, &payload)
}

/// The files for a Secret's keys.
pub fn payload(secret: &Secret, items: Option<&[KeyToPath]>, default_mode: i32, optional: bool) -> Result<Payload, VolumeError> {
    let data = secret.data.iter().flatten().map(|(key, value)| (key.as_str(), value.0.as_slice())).collect();
    config_map::project(data, items, default_mode, optional, "secret")
}

/// Writes the files into a tmpfs at the volume's directory.
pub fn in_memory(context: &Context<'_>, payload: &Payload) -> Result<Ready, VolumeError> {
    std::fs::create_dir_all(&context.dir)?;
    if !mount::is_mount_point(&context.dir) {
        let size = crate::pod::resources::of_pod(context.pod, crate::pod::resources::Limits, "memory").unwrap_or(0);
        mount::tmpfs(&context.dir, size)?;
        std::os::unix::fs::chown(&context.dir, Some(0), Some(0))?;
    }
    atomic_writer::write(&context.dir, payload, |dir| fs_group::apply(context.pod, dir, true))?;
    Ok(Ready { path: context.dir.clone(), read_only: true, ..Default::default() })
}

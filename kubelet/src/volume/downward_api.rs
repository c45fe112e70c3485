//! `downwardAPI`. Upstream: pkg/volume/downwardapi

use futures::FutureExt;
use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, Pod};

use super::atomic_writer::{File, Payload};
use super::{Plugin, VolumeError, secret};
use crate::env::field::{self, Facts};
use crate::pod;

/// See [`super::PLUGINS`].
pub const PLUGIN: Plugin = Plugin {
    name: "kubernetes.io~downward-api",
    can: |volume| volume.downward_api.is_some(),
    set_up: |context| {
        async move {
            let source = context.volume.downward_api.clone().unwrap_or_default();
            let payload = payload(
                context.pod,
                source.items.as_deref().unwrap_or_default(),
                source.default_mode.unwrap_or(0o644),
                context.facts,
            )?;
            secret::in_memory(&context, &payload)
        }
        .boxed()
    },
    refreshes: true,
};

/// The files for the fields.
pub fn payload(pod: &Pod, items: &[DownwardAPIVolumeFile], default_mode: i32, facts: &Facts) -> Result<Payload, VolumeError> {
    let mut out = Payload::new();
    for item in items {
        let text = match (&item.field_ref, &item.resource_field_ref) {
            (Some(selector), _) => field::pod_field(pod, &selector.field_path, facts),
            (None, Some(resource)) => {
                let name = resource.container_name.as_deref().unwrap_or("");
                let container =
                    pod::container::find(pod, name).ok_or_else(|| VolumeError(format!("container {name} not found")))?;
                field::resource_field(&container, resource, facts)
            }
            (None, None) => continue,
        };
        let mode = u32::try_from(item.mode.unwrap_or(default_mode)).unwrap_or(0o644) & 0o777;
        out.insert(item.path.clone(), File { data: text.map_err(VolumeError)?.into_bytes(), mode });
    }
    Ok(out)
}

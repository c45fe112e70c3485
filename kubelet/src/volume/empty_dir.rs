//! `emptyDir`: a directory, or memory, as long as the pod lives. Upstream: pkg/volume/emptydir

use std::os::unix::fs::PermissionsExt;

use futures::FutureExt;
use k8s_openapi::api::core::v1::Pod;

use super::{Context, Plugin, Ready, VolumeError, fs_group, mount};
use crate::pod::{quantity, resources};

/// See [`super::PLUGINS`].
pub const PLUGIN: Plugin = Plugin {
    name: "kubernetes.io~empty-dir",
    can: |volume| volume.empty_dir.is_some(),
    set_up: |context| async move { set_up(&context) }.boxed(),
    refreshes: false,
};

fn set_up(context: &Context<'_>) -> Result<Ready, VolumeError> {
    let source = context.volume.empty_dir.clone().unwrap_or_default();
    let ready = Ready { path: context.dir.clone(), ..Default::default() };
    if context.dir.is_dir() && (source.medium.as_deref() != Some("Memory") || mount::is_mount_point(&context.dir)) {
        return Ok(ready);
    }
    std::fs::create_dir_all(&context.dir)?;
    match source.medium.as_deref().unwrap_or("") {
        "" => {}
        "Memory" => mount::tmpfs(&context.dir, memory_size(context.pod, source.size_limit.as_ref().map(quantity::value)))?,
        other if other.starts_with("HugePages") => {
            let size = other.strip_prefix("HugePages-").map(|size| format!("pagesize={}", size.trim_end_matches('i')));
            mount::filesystem("hugetlbfs", "nodev", &context.dir, &size.into_iter().collect::<Vec<_>>())?;
        }
        other => return Err(VolumeError(format!("unknown storage medium {other:?}"))),
    }
    std::fs::set_permissions(&context.dir, std::fs::Permissions::from_mode(0o777))?;
    fs_group::apply(context.pod, &context.dir, false)?;
    Ok(ready)
}

/// The smaller of the volume's limit and the pod's memory limit; 0 for neither.
fn memory_size(pod: &Pod, limit: Option<i64>) -> i64 {
    let pod_limit = resources::of_pod(pod, resources::Limits, "memory");
    [limit, pod_limit].into_iter().flatten().filter(|bytes| *bytes > 0).min().unwrap_or(0)
}

//! Group ownership of volumes. Upstream: pkg/volume/volume_linux.go SetVolumeOwnership

use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::Path;

use k8s_openapi::api::core::v1::Pod;

use crate::pod;

/// The pod's `fsGroup`.
pub fn of(pod: &Pod) -> Option<u32> {
    pod::spec(pod).security_context.as_ref()?.fs_group.and_then(|group| u32::try_from(group).ok())
}

/// Whether only a root with the wrong group is to be changed (`OnRootMismatch`).
fn on_root_mismatch(pod: &Pod) -> bool {
    pod::spec(pod).security_context.as_ref().and_then(|context| context.fs_group_change_policy.as_deref())
        == Some("OnRootMismatch")
}

/// Gives everything at and below `dir` to the pod's group: readable, writable unless `read_only`, new files inherit it.
pub fn apply(pod: &Pod, dir: &Path, read_only: bool) -> io::Result<()> {
    let Some(group) = of(pod) else { return Ok(()) };
    let root = std::fs::symlink_metadata(dir)?;
    let wanted = if read_only { 0o440 } else { 0o660 };
    if on_root_mismatch(pod) && root.gid() == group && root.permissions().mode() & wanted == wanted {
        return Ok(());
    }
    change(dir, group, read_only)
}

fn change(path: &Path, group: u32, read_only: bool) -> io::Result<()> {
    let meta = std::fs::symlink_metadata(path)?;
    lchown(path, None, Some(group))?;
    if meta.file_type().is_symlink() {
        return Ok(());
    }
    let mut mode = meta.permissions().mode() & 0o7777 | if read_only { 0o440 } else { 0o660 };
    if meta.is_dir() {
        // Entering, and the group for new files.
        mode |= 0o2110;
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    if meta.is_dir() {
        for entry in std::fs::read_dir(path)? {
            change(&entry?.path(), group, read_only)?;
        }
    }
    Ok(())
}

//! The static pod manifest of the local etcd, and its data directory.

use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};

use anyhow::Context as _;

use crate::init::Init;
use crate::node::Node;
use crate::say;

pub async fn local(init: &mut Init) -> anyhow::Result<()> {
    if init.node.cluster.etcd.local.is_none() {
        say::phase("etcd", "etcd is external: no manifest");
        return Ok(());
    }
    make_data_dir(&init.node)?;
    init.node.write_manifest("etcd", &[])?;
    let image = init.node.images.etcd().unwrap_or_default();
    say::phase("etcd", &format!("Static pod of {image} is in {}", crate::manifest::DIR));
    Ok(())
}

/// Only root may look at the data: it holds every Secret.
pub fn make_data_dir(node: &Node) -> anyhow::Result<()> {
    let Some(local) = &node.cluster.etcd.local else { return Ok(()) };
    if node.dry_run {
        return Ok(());
    }
    let dir = node.files.real(std::path::Path::new(&local.data_dir));
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&dir)
        .with_context(|| format!("cannot make {}", dir.display()))?;
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700))
        .with_context(|| format!("cannot protect {}", dir.display()))
}

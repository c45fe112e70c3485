//! The static pod manifests of the API server, the controller manager and the scheduler.

use crate::init::Init;
use crate::say;

pub async fn apiserver(init: &mut Init) -> anyhow::Result<()> {
    init.node.write_manifest("kube-apiserver", &[])
}

pub async fn controller_manager(init: &mut Init) -> anyhow::Result<()> {
    init.node.write_manifest("kube-controller-manager", &[])
}

pub async fn scheduler(init: &mut Init) -> anyhow::Result<()> {
    init.node.write_manifest("kube-scheduler", &[])?;
    say::phase(
        "control-plane",
        &format!("Static pods of {} are in {}", init.node.cluster.kubernetes_version, crate::manifest::DIR),
    );
    Ok(())
}

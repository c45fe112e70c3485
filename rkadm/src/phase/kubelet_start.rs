//! The kubelet's files, then the kubelet.

use crate::init::Init;
use crate::{kubelet, say};

pub async fn run(init: &mut Init) -> anyhow::Result<()> {
    let cluster_wide = init.kubelet_configuration();
    // The control-plane taint comes with mark-control-plane; own taints are there from the first moment.
    let taints = init.node.registration.taints.clone().unwrap_or_default();
    init.node.write_kubelet_files(&cluster_wide, &taints)?;
    if !init.node.dry_run {
        // A dead runtime would only show as a kubelet that is never healthy.
        init.node.runtime().await?;
    }
    init.node.start_kubelet().await?;
    let how = if init.node.host.systemd { "systemd unit kubelet" } else { "supervised, log in /var/log/kubelet.log" };
    say::phase("kubelet-start", &format!("Started the kubelet ({how}) with {}", kubelet::CONFIG));
    Ok(())
}

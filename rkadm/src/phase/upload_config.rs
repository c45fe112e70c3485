//! The cluster's configuration as ConfigMaps, for nodes that join and for upgrades.

use crate::init::Init;
use crate::{objects, say};

pub async fn kubeadm(init: &mut Init) -> anyhow::Result<()> {
    let objects = objects::kubeadm_config(&init.node.cluster)?;
    init.node.apply(&objects).await
}

pub async fn kubelet(init: &mut Init) -> anyhow::Result<()> {
    let objects = objects::kubelet_config(&init.kubelet_configuration())?;
    init.node.apply(&objects).await?;
    say::phase("upload-config", "The configuration is in the ConfigMaps kubeadm-config and kubelet-config of kube-system");
    Ok(())
}

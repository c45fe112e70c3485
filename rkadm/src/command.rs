//! Commands beside `init`, `join`, `reset` and `upgrade`.

pub mod certs;
pub mod config;
pub mod etcd;
pub mod kubeconfig;
pub mod status;
pub mod token;
pub mod version;

use anyhow::Context as _;

use crate::apply::{Api, readable};
use crate::config::types::ClusterConfiguration;

/// The ClusterConfiguration that the cluster keeps.
pub async fn cluster_configuration(api: &Api) -> anyhow::Result<ClusterConfiguration> {
    let map = api
        .get("/api/v1/namespaces/kube-system/configmaps/kubeadm-config")
        .await
        .map_err(readable)
        .context("cannot get the ConfigMap kubeadm-config")?;
    let text =
        map["data"]["ClusterConfiguration"].as_str().context("the ConfigMap kubeadm-config holds no ClusterConfiguration")?;
    crate::config::parse(text)?.cluster.context("the ConfigMap kubeadm-config holds no ClusterConfiguration")
}

//! Commands beside `init`, `join`, `reset` and `upgrade`.

pub mod certs;
pub mod config;
pub mod doctor;
pub mod etcd;
pub mod kubeconfig;
pub mod status;
pub mod token;
pub mod version;

use anyhow::Context as _;

use crate::apply::{Api, readable};
use crate::config::types::ClusterConfiguration;

/// kubectl's printing flags that kubeadm has as well; templates are not for these commands.
#[derive(Debug, clap::Args)]
pub struct Template {
    /// If true, ignore any errors in templates when a field or map key is missing in the template (accepted)
    #[arg(long, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub allow_missing_template_keys: bool,
    /// If true, keep the managedFields when printing objects in JSON or YAML format (accepted)
    #[arg(long)]
    pub show_managed_fields: bool,
}

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

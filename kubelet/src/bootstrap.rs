//! The kubelet's way to the API server.

use component::tasks::Tasks;

use crate::config::Config;

/// A client by the kubeconfig; `None` in standalone mode.
///
/// # Errors
/// The kubeconfig is unusable.
pub async fn connect(config: &Config, _tasks: &Tasks) -> anyhow::Result<Option<kube::Client>> {
    let Some(path) = &config.kubeconfig else { return Ok(None) };
    Ok(Some(client::connect::from_kubeconfig(path, "kubelet").await?))
}

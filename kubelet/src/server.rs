//! Server.
/// Starts.
pub async fn start(_kubelet: &crate::kubelet::Shared) -> anyhow::Result<()> {
    Ok(())
}

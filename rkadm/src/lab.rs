//! `rkadm lab`: virtual hosts on one machine.

/// Flags of `rkadm lab`.
#[derive(Debug, clap::Args)]
pub struct LabArgs {}

/// Runs one `lab` command.
pub async fn run(_: LabArgs) -> anyhow::Result<()> {
    anyhow::bail!("lab: not built yet")
}

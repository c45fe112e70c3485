//! The command line: kubeadm's commands and flags.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::{command, init, join, lab, reset, upgrade};

/// rkadm: easily bootstrap a secure Kubernetes cluster
#[derive(Debug, Parser)]
#[command(name = "rkadm", version = component::version::current(), arg_required_else_help = true, propagate_version = false)]
pub struct Cli {
    /// Number for the log level verbosity
    #[arg(short = 'v', long = "v", global = true, default_value_t = 0)]
    pub verbosity: u8,
    /// Comma-separated list of pattern=N settings for file-filtered logging (accepted, not used)
    #[arg(long, global = true, hide = true)]
    pub vmodule: Option<String>,
    /// The path to the 'real' host root filesystem
    #[arg(long, global = true)]
    pub rootfs: Option<PathBuf>,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run this command in order to set up the Kubernetes control plane
    #[command(after_help = crate::phase::help(crate::phase::INIT))]
    Init(Box<init::InitArgs>),
    /// Run this on any machine you wish to join an existing cluster
    #[command(after_help = crate::phase::help(crate::phase::JOIN))]
    Join(Box<join::JoinArgs>),
    /// Performs a best effort revert of changes made to this host by 'rkadm init' or 'rkadm join'
    #[command(after_help = crate::phase::help(crate::phase::RESET))]
    Reset(reset::ResetArgs),
    /// Manage configuration for a kubeadm cluster persisted in a ConfigMap in the cluster
    Config(command::config::ConfigArgs),
    /// Manage bootstrap tokens
    Token(command::token::TokenArgs),
    /// Commands related to handling Kubernetes certificates
    Certs(command::certs::CertsArgs),
    /// Kubeconfig file utilities
    Kubeconfig(command::kubeconfig::KubeconfigArgs),
    /// etcd of the control plane: state, members, snapshots
    Etcd(command::etcd::EtcdArgs),
    /// One page about this host and its cluster: what runs, what is wrong, what to do
    Status(command::status::StatusArgs),
    /// What is wrong with this host and why, with the logs that tell: before a cluster is set up and after it broke
    Doctor(command::doctor::DoctorArgs),
    /// Upgrade your cluster smoothly to a newer version with this command
    Upgrade(upgrade::UpgradeArgs),
    /// Print the version of rkadm
    Version(command::version::VersionArgs),
    /// Virtual hosts on one machine
    Lab(lab::LabArgs),
    /// Pass connections on to an API server that is ready (a daemon that `init` and `join` install on the nodes of a shared control plane)
    #[command(hide = true)]
    Balance,
    /// Keep one daemon running (used by rkadm itself on hosts without systemd)
    #[command(hide = true)]
    Supervise {
        /// The unit in /var/lib/rk; `boot` starts all of them
        name: String,
    },
}

/// Runs one command line.
pub async fn run(cli: Cli) -> anyhow::Result<()> {
    let rootfs = cli.rootfs;
    match cli.command {
        Command::Init(args) => init::run(*args, rootfs).await,
        Command::Join(args) => join::run(*args, rootfs).await,
        Command::Reset(args) => reset::run(args, rootfs).await,
        Command::Config(args) => command::config::run(args).await,
        Command::Token(args) => command::token::run(args).await,
        Command::Certs(args) => command::certs::run(args, rootfs).await,
        Command::Kubeconfig(args) => command::kubeconfig::run(args, rootfs).await,
        Command::Etcd(args) => command::etcd::run(args, rootfs).await,
        Command::Status(args) => command::status::run(args, rootfs).await,
        Command::Doctor(args) => command::doctor::run(args, rootfs).await,
        Command::Upgrade(args) => upgrade::run(args, rootfs).await,
        Command::Version(args) => command::version::run(args),
        Command::Lab(args) => lab::run(args).await,
        Command::Balance => crate::balancer::run().await,
        Command::Supervise { name } if name == "boot" => crate::supervise::boot(),
        Command::Supervise { name } => crate::supervise::run(&name).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }
}

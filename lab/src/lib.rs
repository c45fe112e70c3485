//! Virtual hosts on one machine: each a set of namespaces with its own root, cgroups and containerd, joined by a switch with no
//! way out. Inside each the very same `rkadm init` and `rkadm join` run as on a real host.
//!
//! Nothing of the host is touched but: a directory per lab, a cgroup per node, and one port on loopback.

pub mod cgroups;
pub mod command;
pub mod containerd;
pub mod down;
pub mod enter;
pub mod init;
pub mod keeper;
pub mod layout;
pub mod network;
pub mod node;
pub mod status;
pub mod up;

use anyhow::Result;

/// Virtual hosts on this machine: a cluster in seconds.
#[derive(clap::Args, Clone, Debug)]
pub struct LabArgs {
    /// Which lab; several can run side by side.
    #[arg(long, global = true, default_value = "rk")]
    pub lab: String,
    /// What to do.
    #[command(subcommand)]
    pub command: LabCommand,
}

/// What to do with a lab.
#[derive(clap::Subcommand, Clone, Debug)]
pub enum LabCommand {
    /// Boot hosts and make them a cluster.
    Up(up::UpArgs),
    /// Remove everything: processes, mounts, namespaces, interfaces, files.
    Down,
    /// Show hosts and their state.
    Status,
    /// A shell (or a command) on a host.
    Enter(enter::EnterArgs),
    /// Pull the power cord of a host: all its processes die at once, its disks stay.
    Kill {
        /// The host's name.
        node: String,
    },
    /// Boot a host that was killed.
    Start {
        /// The host's name.
        node: String,
    },
    /// Print the kubeconfig that works from this machine.
    Kubeconfig,
    /// The switch's process.
    #[command(hide = true)]
    Keeper {
        /// The loopback port to forward, 0 for any.
        #[arg(long)]
        port: u16,
    },
    /// Puts itself into a host's cgroups and makes its namespaces.
    #[command(hide = true)]
    Boot {
        /// The host's name.
        node: String,
    },
    /// The first process of a host.
    #[command(hide = true)]
    Init {
        /// The host's name.
        node: String,
    },
}

/// Carries out a lab command. Blocking.
///
/// # Errors
/// As text for the user, with what to do.
pub fn run(args: &LabArgs) -> Result<()> {
    let layout = layout::Layout::new(&args.lab)?;
    match &args.command {
        LabCommand::Up(up) => up::up(&layout, up),
        LabCommand::Down => down::down(&layout),
        LabCommand::Status => status::print(&layout),
        LabCommand::Enter(enter) => enter::enter(&layout, enter),
        LabCommand::Kill { node } => node::kill(&layout, node),
        LabCommand::Start { node } => node::start(&layout, node),
        LabCommand::Kubeconfig => status::kubeconfig(&layout),
        LabCommand::Keeper { port } => keeper::run(&layout, *port),
        LabCommand::Boot { node } => node::boot_here(&layout, node),
        LabCommand::Init { node } => init::run(&layout, node),
    }
}

//! rk-cni: the CNI plugin when a runtime calls it (`CNI_COMMAND` is set), else the node's agent and installer.

use clap::{Parser, Subcommand};

/// Pod networking for a node.
#[derive(Parser)]
#[command(name = "rk-cni", version = component::version::current())]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Connects this node's pods with those of the other nodes, until stopped.
    Agent(rk_cni::agent::Options),
    /// Copies the plugin into a directory of CNI plugins.
    Install(rk_cni::install::Options),
    /// Removes what the agent made on this node: devices, routes, rules, its configuration.
    Cleanup(rk_cni::agent::cleanup::Options),
}

fn main() {
    if std::env::var_os("CNI_COMMAND").is_some() {
        std::process::exit(rk_cni::plugin::main());
    }
    component::memory::no_huge_pages();
    let result = match Cli::parse_from(component::flags::normalize(std::env::args_os())).command {
        Command::Agent(options) => rk_cni::agent::main(options),
        Command::Install(options) => rk_cni::install::install(&options.bin_dir).map_err(anyhow::Error::from),
        Command::Cleanup(options) => rk_cni::agent::cleanup::main(&options),
    };
    if let Err(error) = result {
        eprintln!("error: {error:#}");
        std::process::exit(1);
    }
}

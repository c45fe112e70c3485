//! `rk-cni cleanup`: leaves the node as if the agent had never run. Pods that still run lose their network.

use std::path::PathBuf;

use net::{Socket, link};

use super::{conflist, forwarding, overlay, policy};

/// `rk-cni cleanup`
#[derive(clap::Args, Debug, Clone)]
pub struct Options {
    /// Directory of CNI configurations.
    #[arg(long, default_value = "/etc/cni/net.d")]
    pub conf_dir: PathBuf,
    /// Directory of address reservations.
    #[arg(long, default_value = crate::plugin::conf::DATA_DIR)]
    pub data_dir: PathBuf,
}

/// Removes configuration, rules, devices, routes and reservations; goes on after a failure and reports the first.
pub fn main(options: &Options) -> anyhow::Result<()> {
    let remove = |result: std::io::Result<()>| match result {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(anyhow::Error::from(error)),
        _ => Ok(()),
    };
    let socket = Socket::route()?;
    let results = [
        remove(std::fs::remove_file(options.conf_dir.join(conflist::FILE))),
        forwarding::remove(),
        policy::kernel::remove(),
        overlay::remove(&socket).map_err(anyhow::Error::from),
        link::delete(&socket, "cni0").map_err(anyhow::Error::from),
        remove(std::fs::remove_dir_all(options.data_dir.join(conflist::NETWORK))),
    ];
    results.into_iter().collect()
}

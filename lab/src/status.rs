//! What a lab looks like, and its kubeconfig.

use std::fs;

use anyhow::{Context, Result, bail};

use crate::layout::{Layout, State};
use crate::{cgroups, keeper, node};

/// Prints a row a host.
///
/// # Errors
/// There is no such lab.
pub fn print(layout: &Layout) -> Result<()> {
    let state = layout.load()?;
    let switch = if keeper::pid(layout).is_ok() { format!("on, https://127.0.0.1:{}", state.port) } else { "off".to_owned() };
    println!("lab {}: switch {switch}", layout.lab);
    println!("{:<12} {:<14} {:<14} {:<5} {:>9} {:>9}", "NAME", "ROLE", "ADDRESS", "POWER", "PROCESSES", "PID");
    for host in &state.nodes {
        let init = node::init_pid(layout, &host.name);
        println!(
            "{:<12} {:<14} {:<14} {:<5} {:>9} {:>9}",
            host.name,
            if host.control_plane { "control-plane" } else { "worker" },
            host.address(),
            if init.is_some() { "on" } else { "off" },
            cgroups::processes(&layout.cgroup(&host.name)).len(),
            init.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
        );
    }
    Ok(())
}

/// Prints the administrator's kubeconfig, with the address that works from this machine.
///
/// # Errors
/// The cluster was not made yet.
pub fn kubeconfig(layout: &Layout) -> Result<()> {
    print!("{}", kubeconfig_text(layout, &layout.load()?)?);
    Ok(())
}

/// See [`kubeconfig`].
///
/// # Errors
/// As there.
pub fn kubeconfig_text(layout: &Layout, state: &State) -> Result<String> {
    let Some(host) = state.nodes.iter().find(|node| node.control_plane) else {
        bail!("lab {:?} has no control plane", layout.lab)
    };
    let path = layout.disk(&host.name, "/etc/kubernetes/admin.conf");
    let text = fs::read_to_string(&path).with_context(|| format!("no kubeconfig at {}; is the cluster up?", path.display()))?;
    let lines = text.lines().map(|line| match line.split_once("server: ") {
        Some((indent, _)) => format!("{indent}server: https://127.0.0.1:{}\n", state.port),
        None => format!("{line}\n"),
    });
    Ok(lines.collect())
}

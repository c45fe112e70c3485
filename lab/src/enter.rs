//! A command on a host, as if logged in there as root.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::layout::Layout;
use crate::{cgroups, node};

/// `rkadm lab enter NODE [-- COMMAND …]`.
#[derive(clap::Args, Clone, Debug)]
pub struct EnterArgs {
    /// The host's name.
    pub node: String,
    /// The command; a shell without one.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

/// Becomes the command; returns only on errors.
///
/// # Errors
/// No such host, it is off, or the command does not exist there.
pub fn enter(layout: &Layout, args: &EnterArgs) -> Result<()> {
    layout.node(&args.node)?;
    let Some(init) = node::init_pid(layout, &args.node) else { bail!("{0} is off; rkadm lab start {0} boots it", args.node) };
    cgroups::enter(&layout.cgroup(&args.node))?;
    let shell = vec!["bash".to_owned(), "-l".to_owned()];
    let command = if args.command.is_empty() { &shell } else { &args.command };
    let error = Command::new("nsenter")
        .args(["-t", &init.to_string(), "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w", "--"])
        .args(command)
        .env("PATH", "/opt/rk/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", "/root")
        .env("PS1", format!("root@{}:\\w# ", args.node))
        .env_remove("KUBECONFIG")
        .env_remove("RK_IMAGES")
        .exec();
    Err(error).context("run nsenter: not installed? On Debian: apt-get install util-linux")
}

/// Runs a command on a host to its end, its output going where ours goes. Whether it succeeded.
///
/// # Errors
/// It could not be started.
pub fn run(layout: &Layout, node: &str, command: &[&str]) -> Result<bool> {
    Ok(host_command(layout, node, command)?.status()?.success())
}

/// Runs a command on a host to its end; what it printed.
///
/// # Errors
/// It failed; the text holds its own words.
pub fn output(layout: &Layout, node: &str, command: &[&str]) -> Result<String> {
    let output = host_command(layout, node, command)?.output()?;
    if !output.status.success() {
        bail!("on {node}: {}: {}", command.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A command of our own program that enters the host (this process must stay out of its cgroups).
pub fn host_command(layout: &Layout, node: &str, command: &[&str]) -> Result<Command> {
    let mut outer = Command::new(std::env::current_exe()?);
    outer.args(["lab", "--lab", &layout.lab, "enter", node, "--"]).args(command).stdin(std::process::Stdio::null());
    Ok(outer)
}

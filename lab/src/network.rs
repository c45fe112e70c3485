//! The switch and the cables: a bridge in a network namespace of its own, a veth pair to each host.

use anyhow::Result;

use crate::command::run;
use crate::layout::Node;

/// The switch's own address: hosts' default gateway, which leads nowhere.
pub const SWITCH: &str = "172.30.0.254";
const PREFIX: u8 = 24;

/// Makes the bridge; call inside the switch's namespace.
///
/// # Errors
/// `ip` is missing or the kernel lacks bridges.
pub fn make_switch() -> Result<()> {
    run("ip", &["link", "set", "lo", "up"])?;
    run("ip", &["link", "add", "br0", "type", "bridge"])?;
    run("ip", &["address", "add", &format!("{SWITCH}/{PREFIX}"), "dev", "br0"])?;
    run("ip", &["link", "set", "br0", "up"])?;
    Ok(())
}

/// Plugs the host whose first process is `init` into the switch of `keeper` (pids as this machine sees them).
///
/// # Errors
/// `ip` or `nsenter` is missing, or a process is gone.
pub fn plug(keeper: i32, init: i32, node: &Node) -> Result<()> {
    let (keeper, init, port) = (keeper.to_string(), init.to_string(), format!("host{}", node.index));
    let in_switch = |arguments: &[&str]| run("nsenter", &[&["-t", &keeper, "-n", "ip"], arguments].concat());
    let in_node = |arguments: &[&str]| run("nsenter", &[&["-t", &init, "-n", "ip"], arguments].concat());
    in_switch(&["link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &init])?;
    in_switch(&["link", "set", &port, "master", "br0", "up"])?;
    in_node(&["link", "set", "lo", "up"])?;
    in_node(&["address", "add", &format!("{}/{PREFIX}", node.address()), "dev", "eth0"])?;
    in_node(&["link", "set", "eth0", "up"])?;
    // Service addresses need a route before the packet filter may redirect them.
    in_node(&["route", "add", "default", "via", SWITCH])?;
    Ok(())
}

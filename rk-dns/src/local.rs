//! Node-local cache mode: the server answers on addresses that every node has on a device of its own, so that pods ask the node they run
//! on. With the cluster DNS Service's address among them pods need no other resolv.conf: packets to it are not tracked, so that
//! kube-proxy's translation does not see them, and the kernel delivers them here.
//!
//! Upstream: kubernetes/dns cmd/node-cache

use std::io::Write;
use std::net::IpAddr;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use ipnet::IpNet;
use net::{Socket, address, link};

/// The table with our rules.
const TABLE: &str = "rk-node-dns";

/// Nothing passes the device: packets to its addresses are the host's own.
const MTU: u32 = 1500;

/// What stands in Corefiles made for upstream's node-cache, and what it means.
const CLUSTER: &str = "__PILLAR__CLUSTER__DNS__";
const UPSTREAM: &str = "__PILLAR__UPSTREAM__SERVERS__";

/// What the node is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Local {
    /// Where pods ask.
    pub addresses: Vec<IpAddr>,
    /// The device.
    pub interface: String,
    /// Whether the device stays when this process ends.
    pub keep: bool,
}

impl Local {
    /// Makes the device with its addresses, and the rules; idempotent.
    ///
    /// # Errors
    /// The kernel or `nft` refuses.
    pub fn up(&self) -> anyhow::Result<()> {
        let socket = Socket::route().context("failed to open a netlink socket")?;
        // A kernel without dummy devices has bridges, or pods would have no network.
        let made = net::netlink::allow_exists(link::create_dummy(&socket, &self.interface))
            .or_else(|_| net::netlink::allow_exists(link::create_bridge(&socket, &self.interface, None, MTU)));
        made.with_context(|| format!("failed to make the device {}", self.interface))?;
        let index = link::by_name(&socket, &self.interface)?.index;
        for ip in &self.addresses {
            address::add(&socket, index, IpNet::from(*ip))
                .with_context(|| format!("failed to put {ip} on {}", self.interface))?;
        }
        link::change(&socket, index, link::Change::up())?;
        nft(&rules(&self.addresses))
    }

    /// Takes both away: pods reach the cluster DNS through kube-proxy again.
    pub fn down(&self) {
        if self.keep {
            return;
        }
        if let Err(error) = nft(&gone()) {
            tracing::warn!(err = format!("{error:#}"), "Failed to remove the rules");
        }
        let removed = Socket::route().and_then(|socket| link::delete(&socket, &self.interface));
        if let Err(error) = removed {
            tracing::warn!(err = %error, "Failed to remove the device {}", self.interface);
        }
    }
}

fn nft(rules: &str) -> anyhow::Result<()> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("failed to run nft")?;
    child.stdin.take().context("nft has an input")?.write_all(rules.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "nft: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

/// Removes the tables, whether they are there or not.
fn gone() -> String {
    ["ip", "ip6"].map(|family| format!("add table {family} {TABLE}\ndelete table {family} {TABLE}\n")).concat()
}

/// The rules in one transaction: nothing to and from the addresses' port 53 is tracked.
fn rules(addresses: &[IpAddr]) -> String {
    let mut text = gone();
    for (family, v4) in [("ip", true), ("ip6", false)] {
        let list: Vec<String> = addresses.iter().filter(|ip| ip.is_ipv4() == v4).map(IpAddr::to_string).collect();
        if list.is_empty() {
            continue;
        }
        let list = list.join(", ");
        let both = |end: &str, port: &str| {
            ["udp", "tcp"].map(|protocol| format!("    {family} {end} {{ {list} }} {protocol} {port} 53 notrack\n")).concat()
        };
        text.push_str(&format!(
            "table {family} {TABLE} {{\n  chain prerouting {{\n    type filter hook prerouting priority raw; policy accept;\n{}  }}\n  chain output {{\n    type filter hook output priority raw; policy accept;\n{}{}  }}\n}}\n",
            both("daddr", "dport"),
            both("daddr", "dport"),
            both("saddr", "sport"),
        ));
    }
    text
}

/// A Corefile with upstream's placeholders filled in: the Service that leads to the cluster's DNS servers, as the environment has it,
/// and the node's own servers. Other text stays as it is.
pub fn fill(corefile: &str, service: &str, environment: impl Fn(&str) -> Option<String>) -> String {
    if !corefile.contains("__PILLAR__") {
        return corefile.to_owned();
    }
    let name = format!("{}_SERVICE_HOST", service.to_uppercase().replace('-', "_"));
    let cluster = environment(&name).unwrap_or_else(|| {
        tracing::warn!("{name} is not set: the Service {service} came later than this pod, or does not exist");
        CLUSTER.to_owned()
    });
    corefile.replace(CLUSTER, &cluster).replace(UPSTREAM, "/etc/resolv.conf")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_filled_in() {
        let file = "a:53 {\n forward . __PILLAR__CLUSTER__DNS__\n}\n.:53 {\n forward . __PILLAR__UPSTREAM__SERVERS__\n}";
        let environment = |name: &str| (name == "KUBE_DNS_UPSTREAM_SERVICE_HOST").then(|| "10.96.7.7".to_owned());
        let filled = fill(file, "kube-dns-upstream", environment);
        assert_eq!(filled, "a:53 {\n forward . 10.96.7.7\n}\n.:53 {\n forward . /etc/resolv.conf\n}");
        assert_eq!(fill("x", "y", environment), "x");
    }

    #[test]
    fn rules_name_each_family_s_addresses() {
        let text = rules(&["169.254.20.10".parse().unwrap(), "fd00::a".parse().unwrap()]);
        assert!(text.starts_with("add table ip rk-node-dns\ndelete table ip rk-node-dns\n"));
        assert!(text.contains("    ip daddr { 169.254.20.10 } udp dport 53 notrack\n"));
        assert!(text.contains("    ip6 saddr { fd00::a } tcp sport 53 notrack\n"));
        assert!(!rules(&["1.2.3.4".parse().unwrap()]).contains("table ip6 rk-node-dns {"));
    }
}

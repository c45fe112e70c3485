//! iptables rules of the pod network as such: forwarding is allowed, and what leaves the pod network is masqueraded.

use anyhow::Context;
use ipnet::IpNet;
use net::iptables::{Family, Iptables, Jump};

use super::Options;
use super::desired::Network;

const FORWARD: &str = "RK-FORWARD";
const POSTROUTING: &str = "RK-POSTROUTING";

/// From the built-in chains into ours.
pub const JUMPS: [Jump<'static>; 2] = [
    Jump { table: "filter", from: "FORWARD", rule: "-m comment --comment \"rk-cni pod network\" -j RK-FORWARD", first: false },
    Jump {
        table: "nat",
        from: "POSTROUTING",
        rule: "-m comment --comment \"rk-cni masquerade\" -j RK-POSTROUTING",
        first: false,
    },
];

/// The chains of one address family as a batch.
fn render(options: &Options, network: &Network, family: Family) -> String {
    let of_family = |nets: &[IpNet]| -> Vec<IpNet> {
        nets.iter().copied().filter(|net| net.addr().is_ipv4() == (family == Family::V4)).collect()
    };
    let multicast = if family == Family::V4 { "224.0.0.0/4" } else { "ff00::/8" };
    let cluster = of_family(&network.cluster_cidrs);
    let mut out = format!("*filter\n:{FORWARD} - [0:0]\n");
    for net in &cluster {
        out.push_str(&format!("-A {FORWARD} -s {net} -j ACCEPT\n-A {FORWARD} -d {net} -j ACCEPT\n"));
    }
    out.push_str(&format!("COMMIT\n*nat\n:{POSTROUTING} - [0:0]\n"));
    if options.masquerade {
        for net in &cluster {
            out.push_str(&format!("-A {POSTROUTING} -d {net} -j RETURN\n"));
        }
        out.push_str(&format!("-A {POSTROUTING} -d {multicast} -j RETURN\n"));
        for net in of_family(&network.pod_cidrs) {
            out.push_str(&format!("-A {POSTROUTING} -s {} -j MASQUERADE --random-fully\n", net.trunc()));
        }
    }
    out.push_str("COMMIT\n");
    out
}

fn families(network: &Network) -> impl Iterator<Item = Family> {
    let has = |v4: bool| network.pod_cidrs.iter().any(|cidr| cidr.addr().is_ipv4() == v4);
    [(Family::V4, has(true)), (Family::V6, has(false))].into_iter().filter(|(_, used)| *used).map(|(family, _)| family)
}

/// Writes the chains and makes sure that they are reached.
pub fn reconcile(options: &Options, network: &Network) -> anyhow::Result<()> {
    for family in families(network) {
        let iptables = Iptables::new(family);
        iptables.restore(&render(options, network, family)).with_context(|| format!("failed to write {family} rules"))?;
        for jump in &JUMPS {
            iptables.ensure_jump(jump)?;
        }
    }
    Ok(())
}

/// Removes the chains.
pub fn remove() -> anyhow::Result<()> {
    for family in [Family::V4, Family::V6] {
        let iptables = Iptables::new(family);
        for jump in &JUMPS {
            let chain = if jump.table == "nat" { POSTROUTING } else { FORWARD };
            if iptables.chain_exists(jump.table, chain).unwrap_or(false) {
                iptables.delete_jump(jump)?;
                iptables.restore(&format!("*{0}\n:{chain} - [0:0]\n-X {chain}\nCOMMIT\n", jump.table))?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use net::NetNs;

    use super::*;
    use crate::agent::desired::plan;
    use crate::agent::desired::tests::{node, options};

    #[test]
    fn rules_of_both_families_are_written_again_and_removed() {
        let options = options(&["--cluster-cidr=10.244.0.0/16,fd00:10::/48"]);
        let network = plan(&options, &[node("a", "172.30.0.1", &["10.244.0.0/24", "fd00:10::/64"])]).unwrap();
        NetNs::fresh()
            .unwrap()
            .run(|| {
                reconcile(&options, &network).unwrap();
                reconcile(&options, &network).unwrap();
                for (family, own) in
                    [(Family::V4, "-s 10.244.0.0/24 -j MASQUERADE"), (Family::V6, "-s fd00:10::/64 -j MASQUERADE")]
                {
                    let saved = Iptables::new(family).save("nat").unwrap();
                    assert!(saved.contains(own), "{saved}");
                    assert_eq!(saved.matches("-j RK-POSTROUTING").count(), 1);
                }
                remove().unwrap();
                remove().unwrap();
                assert!(!Iptables::new(Family::V4).save("nat").unwrap().contains("RK-"));
            })
            .unwrap();
    }
}

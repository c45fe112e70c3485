//! What is there once, whatever Services exist: chains, jumps from the built-in chains, masquerading, forwarding.

use std::fmt::Write as _;
use std::net::IpAddr;

use net::Socket;
use net::iptables::native;
use net::iptables::{Error, Family, Iptables, Jump};

use super::super::{Settings, SyncError};
use super::names;

/// A chain that does nothing; when it is gone, so are our rules.
pub const CANARY: &str = "KUBE-PROXY-CANARY";

const FILTER_CHAINS: [&str; 6] =
    ["KUBE-NODEPORTS", "KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES", "KUBE-FORWARD", "KUBE-PROXY-FIREWALL", CANARY];
const NAT_CHAINS: [&str; 5] = ["KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-POSTROUTING", "KUBE-MARK-MASQ", CANARY];
/// By table, the chains in which every Service may have rules.
pub const SHARED: [(&str, &[&str]); 2] = [
    ("filter", &["KUBE-NODEPORTS", "KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES", "KUBE-PROXY-FIREWALL"]),
    ("nat", &["KUBE-SERVICES", "KUBE-NODEPORTS"]),
];
/// Shared with the kubelet of older releases: never removed, only made where missing.
const FIREWALL: &str = "KUBE-FIREWALL";

/// From the built-in chains into ours. Upstream: iptablesJumpChains.
pub fn jumps() -> Vec<Jump<'static>> {
    const EXTERNAL: &str = r#"-m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals" -j KUBE-EXTERNAL-SERVICES"#;
    const FIREWALL_JUMP: &str =
        r#"-m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL"#;
    const PORTALS: &str = r#"-m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES"#;
    const NAT_PORTALS: &str = r#"-m comment --comment "kubernetes service portals" -j KUBE-SERVICES"#;
    const HEALTH: &str = r#"-m comment --comment "kubernetes health check service ports" -j KUBE-NODEPORTS"#;
    const FORWARD: &str = r#"-m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD"#;
    const POSTROUTING: &str = r#"-m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING"#;
    const TO_FIREWALL: &str = "-j KUBE-FIREWALL";
    let jump = |table, from, rule| Jump { table, from, rule, first: true };
    vec![
        jump("filter", "INPUT", TO_FIREWALL),
        jump("filter", "OUTPUT", TO_FIREWALL),
        jump("filter", "INPUT", EXTERNAL),
        jump("filter", "FORWARD", EXTERNAL),
        jump("filter", "INPUT", HEALTH),
        jump("filter", "FORWARD", PORTALS),
        jump("filter", "OUTPUT", PORTALS),
        jump("filter", "FORWARD", FORWARD),
        jump("filter", "INPUT", FIREWALL_JUMP),
        jump("filter", "OUTPUT", FIREWALL_JUMP),
        jump("filter", "FORWARD", FIREWALL_JUMP),
        jump("nat", "OUTPUT", NAT_PORTALS),
        jump("nat", "PREROUTING", NAT_PORTALS),
        jump("nat", "POSTROUTING", POSTROUTING),
    ]
}

/// Makes what a batch cannot: chains that may hold other people's rules.
pub fn prepare(iptables: Iptables) -> Result<(), Error> {
    iptables.ensure_chain("filter", FIREWALL)?;
    if iptables.family == Family::V4 {
        let martians = Jump {
            table: "filter",
            from: FIREWALL,
            rule: r#"! -s 127.0.0.0/8 -d 127.0.0.0/8 -m comment --comment "block incoming localnet connections" -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP"#,
            first: false,
        };
        // Packets from outside must not reach the loopback address although NodePorts on it are routed.
        iptables.ensure_jump(&martians)?;
    }
    Ok(())
}

/// The rules that are the same whatever Services exist, as a batch: forwarding, marking and masquerading.
pub fn fixed(settings: &Settings) -> String {
    let mark = settings.mark();
    let mask = format!("{mark:#x}/{mark:#x}");
    let forwarding = r#"-m comment --comment "kubernetes forwarding rules""#;
    let tracked = r#"-m comment --comment "kubernetes forwarding conntrack rule""#;
    let leaving = r#"-m comment --comment "kubernetes service traffic requiring SNAT""#;
    // Invalid: packets of no known connection would be reset by the wrong end if they went on untranslated.
    // The mark is cleared so that the packet is not masqueraded a second time on another way through the node.
    format!(
        "*filter\n:KUBE-FORWARD - [0:0]\n:{CANARY} - [0:0]\n\
         -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP\n\
         -A KUBE-FORWARD {forwarding} -m mark --mark {mask} -j ACCEPT\n\
         -A KUBE-FORWARD {tracked} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
         COMMIT\n*nat\n:KUBE-POSTROUTING - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n:{CANARY} - [0:0]\n\
         -A KUBE-MARK-MASQ -j MARK --or-mark {mark:#x}\n\
         -A KUBE-POSTROUTING -m mark ! --mark {mask} -j RETURN\n\
         -A KUBE-POSTROUTING -j MARK --xor-mark {mark:#x}\n\
         -A KUBE-POSTROUTING {leaving} -j MASQUERADE --random-fully\n\
         COMMIT\n"
    )
}

/// The way to the NodePorts, after all other addresses have been looked at.
pub fn nat_last_rules(settings: &Settings, addresses: Option<&[IpAddr]>, out: &mut String) {
    let text = r#"-m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain""#;
    let loopback = |ip: &IpAddr| ip.is_loopback();
    match addresses {
        None => {
            let except = match settings.family {
                Family::V6 => "! -d ::1/128 ",
                Family::V4 if !settings.localhost_node_ports => "! -d 127.0.0.0/8 ",
                Family::V4 => "",
            };
            let _ = writeln!(out, "-A KUBE-SERVICES {text} {except}-m addrtype --dst-type LOCAL -j KUBE-NODEPORTS");
        }
        Some(addresses) => {
            for ip in addresses {
                if loopback(ip) && (ip.is_ipv6() || !settings.localhost_node_ports) {
                    continue;
                }
                let _ = writeln!(out, "-A KUBE-SERVICES {text} -d {ip} -j KUBE-NODEPORTS");
            }
        }
    }
}

/// Removes everything of ours; idempotent.
pub fn cleanup(family: Family) -> Result<(), SyncError> {
    let iptables = Iptables::new(family);
    let failed = |error: Error| SyncError { family, message: error.to_string() };
    let nat = iptables.chains("nat").map_err(failed)?;
    let filter = iptables.chains("filter").map_err(failed)?;
    for jump in jumps() {
        let target = jump.rule.rsplit(' ').next().unwrap_or_default();
        let present = if jump.table == "nat" { &nat } else { &filter };
        if target != FIREWALL && present.contains(target) {
            iptables.delete_jump(&jump).map_err(failed)?;
        }
    }
    let mut batch = String::new();
    for (table, present, fixed) in [("nat", &nat, &NAT_CHAINS[..]), ("filter", &filter, &FILTER_CHAINS[..])] {
        let ours: Vec<&String> =
            present.iter().filter(|chain| fixed.contains(&chain.as_str()) || names::is_per_service(chain)).collect();
        let _ = writeln!(batch, "*{table}");
        // All are emptied before any is removed: they lead to each other.
        for chain in &ours {
            let _ = writeln!(batch, ":{chain} - [0:0]");
        }
        for chain in &ours {
            let _ = writeln!(batch, "-X {chain}");
        }
        batch.push_str("COMMIT\n");
    }
    // With many Services, iptables-restore would need minutes.
    if iptables.is_nf_tables()
        && let Ok(socket) = Socket::netfilter()
    {
        match native::apply(&socket, family, &batch) {
            Ok(()) => return Ok(()),
            Err(error) => tracing::debug!(?error, "Leaving the cleanup to iptables-restore"),
        }
    }
    iptables.restore(&batch).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_filter_jump_but_the_unconditional_ones_looks_at_new_connections_only() {
        for jump in jumps().iter().filter(|jump| jump.table == "filter") {
            let unconditional =
                ["KUBE-FIREWALL", "KUBE-NODEPORTS", "KUBE-FORWARD"].iter().any(|chain| jump.rule.ends_with(chain));
            assert_eq!(jump.rule.starts_with("-m conntrack --ctstate NEW"), !unconditional, "{jump:?}");
        }
    }
}

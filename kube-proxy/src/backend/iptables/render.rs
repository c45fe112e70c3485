//! From one portal to its rules. Pure.

use std::net::{IpAddr, SocketAddr};

use super::super::Settings;
use super::names;
use crate::portal::Portal;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    Filter,
    Nat,
}

/// A chain of the nat table that belongs to one Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    pub name: String,
    pub rules: Vec<String>,
}

/// A rule in a chain that all Services share. Their order does not matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shared {
    pub table: Table,
    pub chain: &'static str,
    pub rule: String,
}

/// The rules of one portal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    pub chains: Vec<Chain>,
    pub shared: Vec<Shared>,
}

impl Rules {
    fn share(&mut self, table: Table, chain: &'static str, rule: String) {
        self.shared.push(Shared { table, chain, rule });
    }
}

/// How rules are written.
#[derive(Debug, Clone)]
pub struct Context {
    pub settings: Settings,
    /// Without comments in the chains of endpoints.
    pub terse: bool,
}

fn comment(text: impl std::fmt::Display) -> String {
    format!("-m comment --comment \"{text}\"")
}

impl Context {
    /// Everything that the portal needs.
    pub fn rules(&self, portal: &Portal) -> Rules {
        let port = &*portal.port;
        let mut rules = Rules::default();
        let hash = names::service_hash(port);
        let [cluster, local, external, firewall] = ["SVC", "SVL", "EXT", "FW"].map(|kind| format!("KUBE-{kind}-{hash}"));
        let protocol = format!("-p {0} -m {0}", port.protocol.lower());
        let externally = portal.externally_accessible();
        let internal_chain = if port.internal_local { &local } else { &cluster };
        let to_cluster_ip = format!("-d {} --dport {}", portal.cluster_ip, port.port);
        let refuse_internal = refusal(portal, port.internal_local);
        let refuse_external = refusal(portal, port.external_local);

        match &refuse_internal {
            None => rules.share(
                Table::Nat,
                "KUBE-SERVICES",
                format!("{} {protocol} {to_cluster_ip} -j {internal_chain}", comment(format!("{port} cluster IP"))),
            ),
            Some(refusal) => rules.share(
                Table::Filter,
                "KUBE-SERVICES",
                format!("{} {protocol} {to_cluster_ip} -j {}", comment(format!("{port} {}", refusal.why)), refusal.target),
            ),
        }
        if externally {
            self.external(portal, &protocol, &external, &firewall, refuse_external.as_ref(), &mut rules);
            if portal.has_any {
                rules.chains.push(Chain { rules: self.external_chain(portal, &cluster, &local), name: external });
            }
        }
        let mut mark = Vec::new();
        if self.settings.masquerade_all {
            mark.push(format!("{} {protocol} {to_cluster_ip} -j KUBE-MARK-MASQ", comment(format!("{port} cluster IP"))));
        } else if self.settings.locality.is_known() {
            let foreign = self.settings.locality.iptables(false);
            mark.push(format!(
                "{} {foreign} {protocol} {to_cluster_ip} -j KUBE-MARK-MASQ",
                comment(format!("{port} cluster IP"))
            ));
        }
        for (name, endpoints, is_local) in [(cluster, &portal.cluster, false), (local, &portal.local, true)] {
            if endpoints.is_empty() || (is_local && !port.uses_local_endpoints()) {
                continue;
            }
            let mut chain = if is_local == port.internal_local { mark.clone() } else { Vec::new() };
            chain.extend(self.balance(portal, endpoints));
            rules.chains.push(Chain { name, rules: chain });
        }
        for endpoint in portal.reachable() {
            rules.chains.push(self.endpoint_chain(portal, endpoint, &protocol));
        }
        rules
    }

    fn external(
        &self,
        portal: &Portal,
        protocol: &str,
        external: &str,
        firewall: &str,
        refusal: Option<&Refusal>,
        rules: &mut Rules,
    ) {
        let port = &*portal.port;
        let mut capture = |what: &str, ip: IpAddr, target: &str| {
            let to = format!("{protocol} -d {ip} --dport {}", port.port);
            if portal.has_any {
                rules.share(Table::Nat, "KUBE-SERVICES", format!("{} {to} -j {target}", comment(format!("{port} {what}"))));
            }
            if let Some(refusal) = refusal {
                let text = comment(format!("{port} {}", refusal.why));
                rules.share(Table::Filter, "KUBE-EXTERNAL-SERVICES", format!("{text} {to} -j {}", refusal.target));
            }
        };
        for ip in portal.external_ips() {
            capture("external IP", ip, external);
        }
        let guarded = !port.source_ranges.is_empty() && portal.has_any;
        for ip in portal.load_balancer_ips() {
            capture("loadbalancer IP", ip, if guarded { firewall } else { external });
        }
        if guarded {
            for ip in portal.load_balancer_ips() {
                let text = comment(format!("{port} traffic not accepted by {firewall}"));
                let rule = format!("{text} {protocol} -d {ip} --dport {} -j DROP", port.port);
                rules.share(Table::Filter, "KUBE-PROXY-FIREWALL", rule);
            }
            rules.chains.push(Chain { name: firewall.to_owned(), rules: self.firewall_chain(portal, external) });
        }
        if port.node_port != 0 {
            if portal.has_any {
                let rule = format!("{} {protocol} --dport {} -j {external}", comment(port), port.node_port);
                rules.share(Table::Nat, "KUBE-NODEPORTS", rule);
            }
            if let Some(refusal) = refusal {
                let text = comment(format!("{port} {}", refusal.why));
                let to = format!("-m addrtype --dst-type LOCAL {protocol} --dport {}", port.node_port);
                rules.share(Table::Filter, "KUBE-EXTERNAL-SERVICES", format!("{text} {to} -j {}", refusal.target));
            }
        }
        if port.health_check_node_port != 0 {
            let text = comment(format!("{port} health check node port"));
            let rule = format!("{text} -p tcp -m tcp --dport {} -j ACCEPT", port.health_check_node_port);
            rules.share(Table::Filter, "KUBE-NODEPORTS", rule);
        }
    }

    fn firewall_chain(&self, portal: &Portal, external: &str) -> Vec<String> {
        let port = &*portal.port;
        let text = comment(format!("{port} loadbalancer IP"));
        let family = portal.cluster_ip.is_ipv4();
        let ranges = || port.source_ranges.iter().filter(|range| range.addr().is_ipv4() == family);
        let mut rules: Vec<String> = ranges().map(|range| format!("{text} -s {range} -j {external}")).collect();
        // A node within the ranges reaches the address from the address itself, since the kernel takes it for local.
        if self.settings.node_ips.iter().any(|ip| ranges().any(|range| range.contains(ip))) {
            rules.extend(portal.load_balancer_ips().map(|ip| format!("{text} -s {ip} -j {external}")));
        }
        rules
    }

    /// Where traffic to external addresses goes: the one chain that NodePorts, external and load balancer addresses share.
    fn external_chain(&self, portal: &Portal, cluster: &str, local: &str) -> Vec<String> {
        let port = &*portal.port;
        let mut rules = Vec::new();
        if !port.external_local {
            // The answer has to come back through this node.
            rules.push(format!("{} -j KUBE-MARK-MASQ", comment(format!("masquerade traffic for {port} external destinations"))));
            if !portal.cluster.is_empty() {
                rules.push(format!("-j {cluster}"));
            }
            return rules;
        }
        if !portal.cluster.is_empty() {
            // What starts inside the cluster may use all endpoints, as if there were no load balancer.
            if self.settings.locality.is_known() {
                let text = comment(format!("pod traffic for {port} external destinations"));
                rules.push(format!("{text} {} -j {cluster}", self.settings.locality.iptables(true)));
            }
            let text = comment(format!("masquerade LOCAL traffic for {port} external destinations"));
            rules.push(format!("{text} -m addrtype --src-type LOCAL -j KUBE-MARK-MASQ"));
            let text = comment(format!("route LOCAL traffic for {port} external destinations"));
            rules.push(format!("{text} -m addrtype --src-type LOCAL -j {cluster}"));
        }
        if !portal.local.is_empty() {
            rules.push(format!("-j {local}"));
        }
        rules
    }

    fn balance(&self, portal: &Portal, endpoints: &[SocketAddr]) -> Vec<String> {
        let port = &*portal.port;
        let text =
            |endpoint: &SocketAddr| if self.terse { String::new() } else { comment(format!("{port} -> {endpoint}")) + " " };
        let mut rules = Vec::new();
        if let Some(seconds) = port.affinity {
            for endpoint in endpoints {
                let name = names::endpoint(port, *endpoint);
                let recent = format!("-m recent --name {name} --rcheck --seconds {seconds} --reap --rsource");
                rules.push(format!("{}{recent} -j {name}", text(endpoint)));
            }
        }
        for (index, endpoint) in endpoints.iter().enumerate() {
            let name = names::endpoint(port, *endpoint);
            let remaining = endpoints.len() - index;
            let chance = if remaining == 1 {
                String::new()
            } else {
                format!("-m statistic --mode random --probability {:.10} ", fraction(remaining))
            };
            rules.push(format!("{}{chance}-j {name}", text(endpoint)));
        }
        rules
    }

    fn endpoint_chain(&self, portal: &Portal, endpoint: SocketAddr, protocol: &str) -> Chain {
        let port = &*portal.port;
        let name = names::endpoint(port, endpoint);
        let text = if self.terse { String::new() } else { comment(port) + " " };
        let recent = if port.affinity.is_some() { format!("-m recent --name {name} --set --rsource ") } else { String::new() };
        let rules = vec![
            // A pod that reaches itself through its Service must see the answer come from the Service.
            format!("{text}-s {} -j KUBE-MARK-MASQ", endpoint.ip()),
            format!("{text}{recent}{protocol} -j DNAT --to-destination {endpoint}"),
        ];
        Chain { name, rules }
    }
}

#[allow(clippy::cast_precision_loss)] // endpoints of a Service are few
fn fraction(of: usize) -> f64 {
    1.0 / of as f64
}

/// What happens to packets that no endpoint can take.
struct Refusal {
    target: &'static str,
    why: &'static str,
}

fn refusal(portal: &Portal, local: bool) -> Option<Refusal> {
    if !portal.has_any {
        return Some(Refusal { target: "REJECT", why: "has no endpoints" });
    }
    let none = if local { portal.local.is_empty() } else { portal.cluster.is_empty() };
    none.then_some(Refusal { target: "DROP", why: "has no local endpoints" })
}

#[cfg(test)]
mod tests;

//! From one portal to its items, and the fixed part of the table. Pure.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use net::iptables::Family;

use super::super::Settings;
use super::super::iptables::names::service_hash;
use super::family_name;
use super::items::{Items, Shared};
use crate::portal::Portal;
use crate::service::ServicePort;

/// Characters of the hash in names of chains; they only have to differ within one name of Service and port.
const HASH_LENGTH: usize = 8;

fn chain_name(kind: &str, port: &ServicePort) -> String {
    let hash = &service_hash(port)[..HASH_LENGTH];
    let name = if port.name.is_empty() { String::new() } else { format!("/{}", port.name) };
    format!("{kind}-{hash}-{}/{}/{}{name}", port.service.namespace, port.service.name, port.protocol.lower())
}

/// The name tells the timeout: a set cannot change its own, and one with the same name is as good as it was.
fn affinity_set(port: &ServicePort, endpoint: SocketAddr) -> String {
    format!("affinity-{}-{}", port.affinity.unwrap_or_default(), endpoint_name(port, endpoint))
}

fn endpoint_name(port: &ServicePort, endpoint: SocketAddr) -> String {
    let address = endpoint.ip().to_string().replace(':', ".");
    format!(
        "{}-{}/{}/{}__{address}/{}",
        &service_hash(port)[..HASH_LENGTH],
        port.service.namespace,
        port.service.name,
        port.protocol.lower(),
        endpoint.port()
    )
}

fn target(endpoint: SocketAddr) -> String {
    match endpoint {
        SocketAddr::V4(v4) => format!("{}:{}", v4.ip(), v4.port()),
        SocketAddr::V6(v6) => format!("[{}]:{}", v6.ip(), v6.port()),
    }
}

/// Adds everything that a portal needs.
pub fn add(settings: &Settings, portal: &Portal, items: &mut Items) {
    let port = &*portal.port;
    let protocol = port.protocol.lower();
    let comment = format!(" comment \"{port}\"");
    let mut element = |set: &str, key: String, value: String| {
        items.elements.insert((set.to_owned(), key), format!("{comment} : {value}"));
    };
    let key = format!("{} . {protocol} . {}", portal.cluster_ip, port.port);
    let (cluster, local, external, firewall) =
        (chain_name("service", port), chain_name("local", port), chain_name("external", port), chain_name("firewall", port));
    // Traffic to the cluster IP.
    let internal = portal.internal();
    if let Some(verdict) = refusal(portal, port.internal_local) {
        element("no-endpoint-services", key.clone(), verdict.to_owned());
    } else if port.affinity.is_some() {
        element("service-ips", key.clone(), format!("goto {}", if port.internal_local { &local } else { &cluster }));
    } else {
        element("service-ips", key.clone(), format!("goto balance-{}", internal.len()));
    }
    let simple = refusal(portal, port.internal_local).is_none() && port.affinity.is_none();

    // Traffic from outside.
    if portal.externally_accessible() {
        let refused = refusal(portal, port.external_local);
        let guarded = !port.source_ranges.is_empty() && portal.has_any;
        let balancers: Vec<IpAddr> = portal.load_balancer_ips().collect();
        for ip in portal.external_ips().chain(balancers.iter().copied()) {
            let key = format!("{ip} . {protocol} . {}", port.port);
            if portal.has_any {
                element("service-ips", key.clone(), format!("goto {external}"));
            }
            if let Some(verdict) = refused {
                element("no-endpoint-services", key.clone(), verdict.to_owned());
            }
            if guarded && balancers.contains(&ip) {
                element("firewall-ips", key, format!("goto {firewall}"));
            }
        }
        if port.node_port != 0 {
            let key = format!("{protocol} . {}", port.node_port);
            if portal.has_any {
                element("service-nodeports", key.clone(), format!("goto {external}"));
            }
            if let Some(verdict) = refused {
                element("no-endpoint-nodeports", key, verdict.to_owned());
            }
        }
        if guarded {
            items.chains.insert(firewall, firewall_rules(settings, portal, &balancers));
        }
        if portal.has_any {
            items.chains.insert(external, external_rules(settings, portal, &cluster, &local));
        }
    }

    if simple {
        items.shared.insert(Shared::Balance(internal.len()));
        let set = format!("endpoints-{}", internal.len());
        for (index, endpoint) in internal.iter().enumerate() {
            let value = format!(" : {} . {}", endpoint.ip(), endpoint.port());
            items.elements.insert((set.clone(), format!("{key} . {index}")), value);
        }
    }
    add_balancing_chains(settings, portal, &cluster, &local, items);
    if portal.has_any {
        items.shared.insert(Shared::Element("cluster-ips", portal.cluster_ip.to_string()));
    }
    // Only pods of this node can meet themselves here.
    for endpoint in &portal.on_this_node {
        items.shared.insert(Shared::Element("hairpin", format!("{0} . {0}", endpoint.ip())));
    }
}

/// Chains for traffic whose destination is not the key of `endpoints-N`, and for clients that stay with an endpoint.
fn add_balancing_chains(settings: &Settings, portal: &Portal, cluster: &str, local: &str, items: &mut Items) {
    let port = &*portal.port;
    let external = portal.externally_accessible() && portal.has_any;
    let through_affinity = port.affinity.is_some();
    let needs_cluster = external || (through_affinity && !port.internal_local);
    let needs_local = (external && port.external_local) || (through_affinity && port.internal_local);
    for (name, endpoints, needed) in [(cluster, &portal.cluster, needs_cluster), (local, &portal.local, needs_local)] {
        if !needed || endpoints.is_empty() {
            continue;
        }
        let mut rules = Vec::new();
        if through_affinity {
            let family = family_name(settings.family);
            for endpoint in endpoints {
                rules.push(format!("{family} saddr @{} goto {}", affinity_set(port, *endpoint), endpoint_chain(port, *endpoint)));
            }
        }
        for (index, endpoint) in endpoints.iter().enumerate() {
            let remaining = endpoints.len() - index;
            let chance = if remaining == 1 { String::new() } else { format!("numgen random mod {remaining} 0 ") };
            if through_affinity {
                rules.push(format!("{chance}goto {}", endpoint_chain(port, *endpoint)));
            } else {
                rules.push(format!("{chance}meta l4proto {} dnat to {}", port.protocol.lower(), target(*endpoint)));
            }
        }
        items.chains.insert(name.to_owned(), rules);
    }
    let Some(seconds) = port.affinity else { return };
    for endpoint in portal.reachable() {
        let (set, family) = (affinity_set(port, endpoint), family_name(settings.family));
        let kind = if settings.family == Family::V4 { "ipv4_addr" } else { "ipv6_addr" };
        items.sets.insert(set.clone(), format!("{{ type {kind}; flags dynamic,timeout; timeout {seconds}s; }}"));
        let rules = vec![
            format!("update @{set} {{ {family} saddr }}"),
            format!("meta l4proto {} dnat to {}", port.protocol.lower(), target(endpoint)),
        ];
        items.chains.insert(endpoint_chain(port, endpoint), rules);
    }
}

fn endpoint_chain(port: &ServicePort, endpoint: SocketAddr) -> String {
    format!("endpoint-{}", endpoint_name(port, endpoint))
}

fn external_rules(settings: &Settings, portal: &Portal, cluster: &str, local: &str) -> Vec<String> {
    let port = &*portal.port;
    if !port.external_local {
        let mut rules = vec!["jump mark-for-masquerade".to_owned()];
        if !portal.cluster.is_empty() {
            rules.push(format!("goto {cluster}"));
        }
        return rules;
    }
    let mut rules = Vec::new();
    if !portal.cluster.is_empty() {
        if settings.locality.is_known() {
            rules.push(format!("{} goto {cluster} comment \"short-circuit pod traffic\"", settings.locality.nft(true)));
        }
        rules.push("fib saddr type local jump mark-for-masquerade comment \"masquerade local traffic\"".to_owned());
        rules.push(format!("fib saddr type local goto {cluster} comment \"short-circuit local traffic\""));
    }
    if !portal.local.is_empty() {
        rules.push(format!("goto {local}"));
    }
    rules
}

fn firewall_rules(settings: &Settings, portal: &Portal, balancers: &[IpAddr]) -> Vec<String> {
    let v4 = settings.family == Family::V4;
    let ranges = || portal.port.source_ranges.iter().filter(|range| range.addr().is_ipv4() == v4);
    let mut allowed: Vec<String> = ranges().map(|range| range.trunc().to_string()).collect();
    if settings.node_ips.iter().any(|ip| ranges().any(|range| range.contains(ip))) {
        allowed.extend(balancers.iter().map(ToString::to_string));
    }
    let family = family_name(settings.family);
    let mut rules: Vec<String> = allowed.iter().map(|range| format!("{family} saddr {range} return")).collect();
    rules.push("drop".to_owned());
    rules
}

fn refusal(portal: &Portal, local: bool) -> Option<&'static str> {
    if !portal.has_any {
        return Some("goto reject-chain");
    }
    let none = if local { portal.local.is_empty() } else { portal.cluster.is_empty() };
    none.then_some("drop")
}

/// The part of the table that is there whatever Services exist.
pub fn frame(settings: &Settings, node_port_addresses: Option<&[IpAddr]>, out: &mut String) {
    let family = family_name(settings.family);
    let ip = if settings.family == Family::V4 { "ipv4_addr" } else { "ipv6_addr" };
    let service = format!("type {ip} . inet_proto . inet_service : verdict;");
    let _ = write!(
        out,
        " set cluster-ips {{ type {ip}; }}\n\
         \x20set hairpin {{ type {ip} . {ip}; }}\n\
         \x20map service-ips {{ {service} }}\n\
         \x20map no-endpoint-services {{ {service} }}\n\
         \x20map firewall-ips {{ {service} }}\n\
         \x20map service-nodeports {{ type inet_proto . inet_service : verdict; }}\n\
         \x20map no-endpoint-nodeports {{ type inet_proto . inet_service : verdict; }}\n"
    );
    let key = format!("{family} daddr . meta l4proto . th dport");
    let mark = settings.mark();
    let loopback = if settings.family == Family::V4 { "127.0.0.0/8" } else { "::1" };
    let to_node = match node_port_addresses {
        None => format!("fib daddr type local {family} daddr != {loopback}"),
        Some(addresses) => {
            let elements: Vec<String> = addresses.iter().filter(|ip| !ip.is_loopback()).map(ToString::to_string).collect();
            let elements =
                if elements.is_empty() { String::new() } else { format!(" elements = {{ {} }};", elements.join(", ")) };
            let _ = writeln!(out, " set nodeport-ips {{ type {ip};{elements} }}");
            format!("{family} daddr @nodeport-ips")
        }
    };
    let strangers = if settings.masquerade_all {
        format!("  {family} daddr @cluster-ips jump mark-for-masquerade\n")
    } else if settings.locality.is_known() {
        format!("  {family} daddr @cluster-ips {} jump mark-for-masquerade\n", settings.locality.nft(false))
    } else {
        String::new()
    };
    let check = "ct state new jump";
    let hooks = [
        ("filter-prerouting", "filter hook prerouting priority -110", format!("  {check} firewall-check\n")),
        ("filter-output-pre-dnat", "filter hook output priority -110", format!("  {check} firewall-check\n")),
        (
            "filter-input",
            "filter hook input priority 0",
            format!("  {check} nodeport-endpoints-check\n  {check} service-endpoints-check\n"),
        ),
        ("filter-forward", "filter hook forward priority 0", format!("  {check} service-endpoints-check\n")),
        ("filter-output", "filter hook output priority 0", format!("  {check} service-endpoints-check\n")),
        ("nat-prerouting", "nat hook prerouting priority -100", "  jump services\n".to_owned()),
        ("nat-output", "nat hook output priority -100", "  jump services\n".to_owned()),
        ("nat-postrouting", "nat hook postrouting priority 100", "  jump masquerading\n".to_owned()),
    ];
    let plain = [
        ("reject-chain", "  reject\n".to_owned()),
        ("mark-for-masquerade", format!("  meta mark set meta mark or {mark:#x}\n")),
        (
            "masquerading",
            format!(
                "  ct status dnat {family} saddr . {family} daddr @hairpin masquerade fully-random\n\
                 \x20 meta mark & {mark:#x} == 0 return\n\
                 \x20 meta mark set meta mark ^ {mark:#x}\n\
                 \x20 masquerade fully-random\n"
            ),
        ),
        ("firewall-check", format!("  {key} vmap @firewall-ips\n")),
        ("service-endpoints-check", format!("  {key} vmap @no-endpoint-services\n")),
        ("nodeport-endpoints-check", format!("  {to_node} meta l4proto . th dport vmap @no-endpoint-nodeports\n")),
        (
            "services",
            format!("{strangers}  {key} vmap @service-ips\n  {to_node} meta l4proto . th dport vmap @service-nodeports\n"),
        ),
    ];
    for (name, rules) in plain {
        let _ = write!(out, " chain {name} {{\n{rules} }}\n");
    }
    for (name, hook, rules) in hooks {
        let _ = write!(out, " chain {name} {{\n  type {hook};\n{rules} }}\n");
    }
}

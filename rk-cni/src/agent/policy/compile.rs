//! From the cluster's policies to rules for the pods of one node. Pure.
//!
//! A pod that some policy selects is isolated in that direction: its address leads (by a verdict map) to a chain which
//! returns for what is allowed and drops the rest. Pods with the same rules share a chain; peers are sets of addresses that
//! all rules with the same selectors share. A pod that comes or goes changes elements of sets, and no rule.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::net::IpAddr;

use ipnet::IpNet;
use sha2::{Digest, Sha256};

use super::model::{Cluster, Peer, Pod, Policy, PortMatch, Protocol, Rule, Selector};

/// Everything that depends on policies.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Name → definition and elements.
    pub sets: BTreeMap<String, Set>,
    pub chains: BTreeMap<String, Vec<String>>,
    /// Verdict map → address → chain.
    pub maps: BTreeMap<&'static str, BTreeMap<IpAddr, String>>,
    /// Addresses of isolated pods, which may always talk to themselves.
    pub selves: BTreeSet<IpAddr>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// nft's type, e.g. `ipv4_addr`.
    pub kind: &'static str,
    pub elements: BTreeSet<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Direction {
    Ingress,
    Egress,
}

fn hash(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().take(8).fold(String::new(), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// Compiles the rules for `node`.
pub fn compile(cluster: &Cluster, node: &str) -> Rules {
    let mut by_namespace: HashMap<&str, Vec<&Pod>> = HashMap::new();
    for pod in cluster.pods.values() {
        by_namespace.entry(&pod.namespace).or_default().push(pod);
    }
    let mut compiler = Compiler { cluster, by_namespace, rules: Rules::default(), peers: HashMap::new(), parts: HashMap::new() };
    // Policies by namespace: a pod is looked at together with its own namespace's only.
    let mut policies: HashMap<&str, Vec<(&str, &Policy)>> = HashMap::new();
    for (key, policy) in &cluster.policies {
        policies.entry(&policy.namespace).or_default().push((key, policy));
    }
    for pod in cluster.pods.values().filter(|pod| pod.node == node) {
        let selecting: Vec<(&str, &Policy)> = policies
            .get(pod.namespace.as_str())
            .into_iter()
            .flatten()
            .filter(|(_, policy)| policy.pods.matches(&pod.labels))
            .copied()
            .collect();
        for direction in [Direction::Ingress, Direction::Egress] {
            compiler.isolate(pod, &selecting, direction);
        }
    }
    compiler.rules
}

/// A peer and the namespace that it is meant in, where that matters.
type Scoped<'a> = (Option<&'a str>, &'a Peer);
/// A policy, a direction, and what the names of its ports mean.
type Part<'a> = (&'a str, Direction, Vec<(String, u16)>);

struct Compiler<'a> {
    cluster: &'a Cluster,
    by_namespace: HashMap<&'a str, Vec<&'a Pod>>,
    rules: Rules,
    /// Selectors (with the namespace they are meant in) → the pods they match.
    peers: HashMap<Scoped<'a>, (String, Vec<&'a Pod>)>,
    /// Policy, direction and the pod's resolution of named ports → rules.
    parts: HashMap<Part<'a>, Vec<String>>,
}

impl<'a> Compiler<'a> {
    fn isolate(&mut self, pod: &'a Pod, selecting: &[(&'a str, &'a Policy)], direction: Direction) {
        let mut chain = Vec::new();
        let mut isolated = false;
        for (key, policy) in selecting {
            let rules = match direction {
                Direction::Ingress => policy.ingress.as_ref(),
                Direction::Egress => policy.egress.as_ref(),
            };
            let Some(rules) = rules else { continue };
            isolated = true;
            let names = if direction == Direction::Ingress { resolution(pod, rules) } else { Vec::new() };
            let memo = (*key, direction, names);
            if !self.parts.contains_key(&memo) {
                let part = rules.iter().flat_map(|rule| self.rule(policy, rule, direction, pod)).collect();
                self.parts.insert(memo.clone(), part);
            }
            chain.extend(self.parts.get(&memo).into_iter().flatten().cloned());
        }
        if !isolated {
            return;
        }
        chain.dedup();
        chain.push("drop".to_owned());
        let prefix = if direction == Direction::Ingress { "in" } else { "out" };
        let name = format!("{prefix}-{}", hash(&chain.join("\n")));
        self.rules.chains.entry(name.clone()).or_insert(chain);
        for ip in &pod.ips {
            let map = match (direction, ip.is_ipv4()) {
                (Direction::Ingress, true) => "in4",
                (Direction::Ingress, false) => "in6",
                (Direction::Egress, true) => "out4",
                (Direction::Egress, false) => "out6",
            };
            self.rules.maps.entry(map).or_default().insert(*ip, name.clone());
            self.rules.selves.insert(*ip);
        }
    }

    /// The matches that one policy rule allows.
    fn rule(&mut self, policy: &'a Policy, rule: &'a Rule, direction: Direction, pod: &Pod) -> Vec<String> {
        let side = if direction == Direction::Ingress { "saddr" } else { "daddr" };
        let (fixed, named) = ports(rule, direction, pod);
        let mut out = Vec::new();
        let peers: Vec<Option<&'a Peer>> = match &rule.peers {
            None => vec![None],
            Some(peers) => peers.iter().map(Some).collect(),
        };
        for peer in peers {
            let matches = match peer {
                None => vec![String::new()],
                Some(Peer::Block { cidr, except }) => vec![block(*cidr, except, side)],
                Some(pods @ Peer::Pods { .. }) => {
                    let name = self.peer(policy, pods).0;
                    vec![format!("ip {side} @{name}-4 "), format!("ip6 {side} @{name}-6 ")]
                }
            };
            for matched in &matches {
                out.extend(fixed.iter().map(|port| format!("{matched}{port}return")));
            }
            // What a port's name means depends on the pod at the other end.
            for (protocol, port) in &named {
                let name = self.named_port(policy, peer, *protocol, port);
                out.extend([4, 6].map(|family| {
                    let ip = if family == 4 { "ip" } else { "ip6" };
                    format!("{ip} daddr . meta l4proto . th dport @{name}-{family} return")
                }));
            }
        }
        out
    }

    /// The set of a peer's addresses, made on first use.
    fn peer(&mut self, policy: &'a Policy, peer: &'a Peer) -> (String, Vec<&'a Pod>) {
        let Peer::Pods { namespaces, pods } = peer else { return (String::new(), Vec::new()) };
        let scope = namespaces.is_none().then_some(policy.namespace.as_str());
        if let Some(found) = self.peers.get(&(scope, peer)) {
            return found.clone();
        }
        let matched: Vec<&Pod> = self.pods(scope, namespaces.as_ref()).filter(|pod| pods.matches(&pod.labels)).collect();
        let name = format!("peer-{}", hash(&format!("{scope:?} {peer:?}")));
        for (suffix, kind, v4) in [("4", "ipv4_addr", true), ("6", "ipv6_addr", false)] {
            let ips = matched.iter().flat_map(|pod| &pod.ips).filter(|ip| ip.is_ipv4() == v4);
            let set = Set { kind, elements: ips.map(ToString::to_string).collect() };
            self.rules.sets.insert(format!("{name}-{suffix}"), set);
        }
        self.peers.insert((scope, peer), (name.clone(), matched.clone()));
        (name, matched)
    }

    fn pods(&self, scope: Option<&'a str>, namespaces: Option<&'a Selector>) -> impl Iterator<Item = &'a Pod> {
        let names: Vec<&str> = match (scope, namespaces) {
            (Some(own), _) => vec![own],
            (None, selector) => {
                let fits = |labels| selector.is_none_or(|selector| selector.matches(labels));
                self.cluster.namespaces.iter().filter(|(_, labels)| fits(labels)).map(|(name, _)| name.as_str()).collect()
            }
        };
        let lists: Vec<&'a Pod> = names.into_iter().filter_map(|name| self.by_namespace.get(name)).flatten().copied().collect();
        lists.into_iter()
    }

    fn named_port(&mut self, policy: &'a Policy, peer: Option<&'a Peer>, protocol: Protocol, port: &str) -> String {
        let candidates: Vec<&Pod> = match peer {
            Some(pods @ Peer::Pods { .. }) => self.peer(policy, pods).1,
            _ => self.cluster.pods.values().collect(),
        };
        let within = |ip: &IpAddr| match peer {
            Some(Peer::Block { cidr, except }) => cidr.contains(ip) && !except.iter().any(|net| net.contains(ip)),
            _ => true,
        };
        let name = format!("port-{}", hash(&format!("{} {peer:?} {protocol:?} {port}", policy.namespace)));
        for (suffix, kind, v4) in
            [("4", "ipv4_addr . inet_proto . inet_service", true), ("6", "ipv6_addr . inet_proto . inet_service", false)]
        {
            let mut elements = BTreeSet::new();
            for pod in &candidates {
                for (_, _, number) in pod.ports.iter().filter(|(name, kind, _)| name == port && *kind == protocol) {
                    let ips = pod.ips.iter().filter(|ip| ip.is_ipv4() == v4 && within(ip));
                    elements.extend(ips.map(|ip| format!("{ip} . {} . {number}", protocol.lower())));
                }
            }
            self.rules.sets.insert(format!("{name}-{suffix}"), Set { kind, elements });
        }
        name
    }
}

fn block(cidr: IpNet, except: &[IpNet], side: &str) -> String {
    let family = if cidr.addr().is_ipv4() { "ip" } else { "ip6" };
    let mut out = format!("{family} {side} {cidr} ");
    for net in except.iter().filter(|net| net.addr().is_ipv4() == cidr.addr().is_ipv4()) {
        let _ = write!(out, "{family} {side} != {} ", net.trunc());
    }
    out
}

/// What the names in these rules mean for the pod itself.
fn resolution(pod: &Pod, rules: &[Rule]) -> Vec<(String, u16)> {
    let names = rules.iter().flat_map(|rule| rule.ports.iter().flatten()).filter_map(|(protocol, port)| match port {
        PortMatch::Named(name) => Some((*protocol, name)),
        _ => None,
    });
    let mut out: Vec<(String, u16)> = names
        .flat_map(|(protocol, name)| {
            let fitting = pod.ports.iter().filter(move |(known, kind, _)| known == name && *kind == protocol);
            fitting.map(move |(_, _, number)| (format!("{protocol:?}/{name}"), *number))
        })
        .collect();
    out.sort();
    out.dedup();
    out
}

/// Matches on ports, and names that have to be looked up at the peer. No ports at all match everything.
fn ports(rule: &Rule, direction: Direction, pod: &Pod) -> (Vec<String>, Vec<(Protocol, String)>) {
    let Some(listed) = &rule.ports else { return (vec![String::new()], Vec::new()) };
    let (mut out, mut named) = (Vec::new(), Vec::new());
    for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
        let mut ranges: Vec<(u16, u16)> = Vec::new();
        let mut any = false;
        for (_, port) in listed.iter().filter(|(kind, _)| *kind == protocol) {
            match port {
                PortMatch::Any => any = true,
                PortMatch::Range(first, last) => ranges.push((*first, *last)),
                PortMatch::Named(name) if direction == Direction::Ingress => {
                    let own = pod.ports.iter().filter(|(known, kind, _)| known == name && *kind == protocol);
                    ranges.extend(own.map(|(_, _, number)| (*number, *number)));
                }
                PortMatch::Named(name) => named.push((protocol, name.clone())),
            }
        }
        if any {
            out.push(format!("meta l4proto {} ", protocol.lower()));
        } else if !ranges.is_empty() {
            let text: Vec<String> = merged(ranges)
                .into_iter()
                .map(|(first, last)| if first == last { first.to_string() } else { format!("{first}-{last}") })
                .collect();
            out.push(format!("{} dport {{ {} }} ", protocol.lower(), text.join(", ")));
        }
    }
    (out, named)
}

/// Ranges in order, joined where they meet: nft refuses overlapping ones.
fn merged(mut ranges: Vec<(u16, u16)>) -> Vec<(u16, u16)> {
    ranges.sort_unstable();
    let mut out: Vec<(u16, u16)> = Vec::new();
    for (first, last) in ranges {
        match out.last_mut() {
            Some((_, end)) if u32::from(first) <= u32::from(*end) + 1 => *end = (*end).max(last),
            _ => out.push((first, last)),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_joined() {
        assert_eq!(merged(vec![(5, 9), (1, 3), (4, 4), (80, 80), (8, 20)]), [(1, 20), (80, 80)]);
        assert_eq!(merged(vec![(65_535, 65_535), (1, 65_535)]), [(1, 65_535)]);
    }

    #[test]
    fn a_thousand_policies_and_five_thousand_pods_compile_quickly() {
        let mut cluster = Cluster::default();
        let labels = |key: &str, value: usize| [(key.to_owned(), value.to_string())].into();
        for namespace in 0..100 {
            cluster.namespaces.insert(format!("ns{namespace}"), labels("team", namespace % 10));
        }
        for number in 0..5000_usize {
            let pod = Pod {
                namespace: format!("ns{}", number % 100),
                labels: labels("app", number % 7),
                node: format!("node{}", number % 50),
                ips: vec![IpAddr::from([10, 244, u8::try_from(number / 250).unwrap(), u8::try_from(number % 250).unwrap()])],
                ports: Vec::new(),
            };
            cluster.pods.insert(format!("ns{}/p{number}", number % 100), pod);
        }
        let selector = |key: &str, value: usize| Selector {
            requirements: vec![(key.to_owned(), super::super::model::Requirement::In(vec![value.to_string()]))],
        };
        for number in 0..1000_usize {
            let peer = Peer::Pods { namespaces: Some(selector("team", number % 10)), pods: selector("app", number % 5) };
            let rule = Rule { peers: Some(vec![peer]), ports: Some(vec![(Protocol::Tcp, PortMatch::Range(80, 80))]) };
            let policy = Policy {
                namespace: format!("ns{}", number % 100),
                pods: selector("app", number % 7),
                ingress: Some(vec![rule]),
                egress: None,
            };
            cluster.policies.insert(format!("ns{}/np{number}", number % 100), policy);
        }
        let rules = compile(&cluster, "node1");
        assert!(rules.maps["in4"].len() >= 90, "{}", rules.maps["in4"].len());
        // 10 × 5 selectors in two families, however many policies use them.
        assert!(rules.sets.len() <= 100, "{}", rules.sets.len());
    }
}

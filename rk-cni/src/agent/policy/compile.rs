//! The text of rules: what policies allow a pod. Pure.
//!
//! A pod that some policy selects is isolated in that direction: its address leads (by a verdict map) to a chain which
//! returns for what is allowed and drops the rest. Pods with the same rules share a chain; peers are sets of addresses that
//! all rules with the same selectors share. A pod that comes or goes changes elements of sets, and no rule.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;

use ipnet::IpNet;
use sha2::{Digest, Sha256};

use super::group::Group;
use super::model::{Peer, Pod, Policy, PortMatch, Protocol, Rule};

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
pub enum Direction {
    Ingress,
    Egress,
}

impl Direction {
    pub const BOTH: [Self; 2] = [Self::Ingress, Self::Egress];

    /// The verdict map for addresses of this family.
    pub fn map(self, ip: &IpAddr) -> &'static str {
        match (self, ip.is_ipv4()) {
            (Self::Ingress, true) => "in4",
            (Self::Ingress, false) => "in6",
            (Self::Egress, true) => "out4",
            (Self::Egress, false) => "out6",
        }
    }
}

pub fn hash(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().take(8).fold(String::new(), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// A pod's chain in one direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Tells the content.
    pub name: String,
    pub rules: Vec<String>,
    /// The sets that the rules mention.
    pub groups: Vec<Group>,
}

/// What the policies that select a pod make of it in one direction; `None`: nobody isolates it.
pub fn chain<'a>(pod: &Pod, selecting: impl Iterator<Item = &'a Policy>, direction: Direction) -> Option<Chain> {
    let (mut rules, mut groups, mut isolated) = (Vec::new(), Vec::new(), false);
    for policy in selecting {
        let listed = match direction {
            Direction::Ingress => policy.ingress.as_ref(),
            Direction::Egress => policy.egress.as_ref(),
        };
        let Some(listed) = listed else { continue };
        isolated = true;
        for rule in listed {
            rule_text(policy, rule, direction, pod, &mut rules, &mut groups);
        }
    }
    if !isolated {
        return None;
    }
    let mut seen = BTreeSet::new();
    rules.retain(|rule| seen.insert(rule.clone()));
    rules.push("drop".to_owned());
    groups.sort();
    groups.dedup();
    let prefix = if direction == Direction::Ingress { "in" } else { "out" };
    Some(Chain { name: format!("{prefix}-{}", hash(&rules.join("\n"))), rules, groups })
}

/// The matches that one policy rule allows.
fn rule_text(policy: &Policy, rule: &Rule, direction: Direction, pod: &Pod, out: &mut Vec<String>, groups: &mut Vec<Group>) {
    let side = if direction == Direction::Ingress { "saddr" } else { "daddr" };
    let (fixed, named) = ports(rule, direction, pod);
    let peers: Vec<Option<&Peer>> = match &rule.peers {
        None => vec![None],
        Some(peers) => peers.iter().map(Some).collect(),
    };
    for peer in peers {
        let matches = match peer {
            None => vec![String::new()],
            Some(Peer::Block { cidr, except }) => vec![block(*cidr, except, side)],
            Some(Peer::Pods { .. }) if fixed.is_empty() => Vec::new(),
            Some(Peer::Pods { namespaces, pods }) => {
                let group = Group::pods(&policy.namespace, namespaces.as_ref(), pods);
                let name = group.name();
                groups.push(group);
                vec![format!("ip {side} @{name}-4 "), format!("ip6 {side} @{name}-6 ")]
            }
        };
        for matched in &matches {
            out.extend(fixed.iter().map(|port| format!("{matched}{port}return")));
        }
        // What a port's name means depends on the pod at the other end.
        for (protocol, port) in &named {
            let group = Group::port(&policy.namespace, peer, *protocol, port);
            let name = group.name();
            groups.push(group);
            out.extend(
                [("ip", 4), ("ip6", 6)]
                    .map(|(ip, family)| format!("{ip} daddr . meta l4proto . th dport @{name}-{family} return")),
            );
        }
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
}

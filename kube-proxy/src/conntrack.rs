//! Removes tracked UDP and SCTP flows that lead to endpoints which are gone: UDP has no end by itself, and a flow that never
//! pauses would go nowhere for ever. TCP is left to its own end.
//!
//! Upstream: pkg/proxy/conntrack/cleanup.go

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use net::conntrack::{self, Flow};

use crate::portal::Portal;
use crate::service::Protocol;

/// Where traffic to Services may lead, by protocol number.
#[derive(Debug, Default)]
pub struct Allowed {
    /// Service address and port → endpoints.
    addresses: HashMap<(u8, SocketAddr), HashSet<SocketAddr>>,
    /// NodePort → endpoints; on any address of the node.
    node_ports: HashMap<(u8, u16), HashSet<SocketAddr>>,
}

impl Allowed {
    /// Collects the portals of Services that changed, as they were and as they are: what vanished leads nowhere.
    pub fn new<'a>(before: impl Iterator<Item = &'a Arc<[Portal]>>, now: impl Iterator<Item = &'a Arc<[Portal]>>) -> Self {
        let mut allowed = Self::default();
        for (portals, current) in before.map(|p| (p, false)).chain(now.map(|p| (p, true))) {
            for portal in portals.iter().filter(|portal| portal.port.protocol != Protocol::Tcp) {
                allowed.add(portal, current);
            }
        }
        allowed
    }

    fn add(&mut self, portal: &Portal, current: bool) {
        let (protocol, port) = (portal.port.protocol.number(), portal.port.port);
        let endpoints: HashSet<SocketAddr> = if current { portal.reachable().into_iter().collect() } else { HashSet::new() };
        let ips: Vec<IpAddr> =
            [portal.cluster_ip].into_iter().chain(portal.external_ips()).chain(portal.load_balancer_ips()).collect();
        for ip in ips {
            self.addresses.entry((protocol, SocketAddr::new(ip, port))).or_default().extend(&endpoints);
        }
        if portal.port.node_port != 0 {
            self.node_ports.entry((protocol, portal.port.node_port)).or_default().extend(&endpoints);
        }
    }

    /// The protocols that have to be looked at.
    fn protocols(&self) -> BTreeSet<u8> {
        self.addresses.keys().map(|(protocol, _)| *protocol).collect()
    }

    /// Whether a flow leads to a Service but not to one of its endpoints.
    fn is_stale(&self, flow: &Flow) -> bool {
        if let Some(endpoints) = self.addresses.get(&(flow.protocol, flow.destination)) {
            return !endpoints.contains(&flow.reply_source);
        }
        // A NodePort's number may also be a local program's: only translated flows are the Service's.
        let translated = flow.reply_source != flow.destination;
        let endpoints = self.node_ports.get(&(flow.protocol, flow.destination.port()));
        endpoints.is_some_and(|endpoints| translated && !endpoints.contains(&flow.reply_source))
    }
}

/// Deletes stale flows; returns how many.
pub fn clean(allowed: &Allowed, ipv6: bool) -> Result<usize, net::Error> {
    let protocols = allowed.protocols();
    if protocols.is_empty() {
        return Ok(0);
    }
    let socket = net::Socket::netfilter()?;
    let mut deleted = 0;
    for protocol in protocols {
        for flow in conntrack::list(&socket, ipv6, protocol)?.iter().filter(|flow| allowed.is_stale(flow)) {
            conntrack::delete(&socket, flow)?;
            deleted += 1;
        }
    }
    Ok(deleted)
}

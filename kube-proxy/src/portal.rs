//! A portal: one service port of one address family with the endpoints that traffic may go to from this node.
//!
//! Upstream: pkg/proxy/topology.go

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::endpoint::Endpoint;
use super::service::ServicePort;

/// Where this node is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    pub node: String,
    /// Empty when the node has no zone label.
    pub zone: String,
}

/// Everything that a backend needs to write rules for one service port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Portal {
    pub port: Arc<ServicePort>,
    /// The Service's address in this family.
    pub cluster_ip: IpAddr,
    /// For policy Cluster, sorted, without doubles.
    pub cluster: Vec<SocketAddr>,
    /// For policy Local: those on this node.
    pub local: Vec<SocketAddr>,
    /// Those of either list that are on this node.
    pub on_this_node: Vec<SocketAddr>,
    /// Whether there is any endpoint at all, here or elsewhere: decides between rejecting and dropping.
    pub has_any: bool,
}

impl Portal {
    /// For traffic to the cluster IP.
    pub fn internal(&self) -> &[SocketAddr] {
        if self.port.internal_local { &self.local } else { &self.cluster }
    }

    /// For traffic from outside.
    pub fn external(&self) -> &[SocketAddr] {
        if self.port.external_local { &self.local } else { &self.cluster }
    }

    /// The external addresses of this portal's family.
    pub fn external_ips(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.port.external_ips.iter().copied().filter(|ip| ip.is_ipv4() == self.cluster_ip.is_ipv4())
    }

    /// The load balancer addresses of this portal's family.
    pub fn load_balancer_ips(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.port.load_balancer_ips.iter().copied().filter(|ip| ip.is_ipv4() == self.cluster_ip.is_ipv4())
    }

    /// Whether traffic from outside is handled at all in this family.
    pub fn externally_accessible(&self) -> bool {
        self.port.node_port != 0 || self.external_ips().next().is_some() || self.load_balancer_ips().next().is_some()
    }

    /// All endpoints that any rule leads to.
    pub fn reachable(&self) -> Vec<SocketAddr> {
        let mut all = self.cluster.clone();
        all.extend(self.local.iter().filter(|endpoint| !self.cluster.contains(endpoint)));
        all.sort();
        all
    }
}

enum Topology {
    Everywhere,
    Node,
    Zone,
}

/// Which hints are to be honoured. Hints count only when every ready endpoint has them and one of them names this place.
fn topology(endpoints: &[Endpoint], place: &Place) -> Topology {
    let ready = || endpoints.iter().filter(|endpoint| endpoint.ready);
    if ready().next().is_none() {
        return Topology::Everywhere;
    }
    let on_node = ready().any(|endpoint| endpoint.node_hints.contains(&place.node));
    if on_node && ready().all(|endpoint| !endpoint.node_hints.is_empty()) {
        return Topology::Node;
    }
    let in_zone = !place.zone.is_empty() && ready().any(|endpoint| endpoint.zone_hints.contains(&place.zone));
    if in_zone && ready().all(|endpoint| !endpoint.zone_hints.is_empty()) {
        return Topology::Zone;
    }
    Topology::Everywhere
}

fn addresses<'a>(endpoints: impl Iterator<Item = &'a Endpoint>) -> Vec<SocketAddr> {
    let mut all: Vec<SocketAddr> = endpoints.map(|endpoint| endpoint.address).collect();
    all.sort();
    all.dedup();
    all
}

/// Chooses the endpoints for a service port as seen from `place`. Terminating endpoints that still serve stand in only when
/// none is ready.
pub fn open(port: &Arc<ServicePort>, cluster_ip: IpAddr, endpoints: &[Endpoint], place: &Place) -> Portal {
    let mut has_any = false;
    let mut cluster = Vec::new();
    if port.uses_cluster_endpoints() {
        let topology = topology(endpoints, place);
        cluster = addresses(endpoints.iter().filter(|endpoint| {
            let near = match topology {
                Topology::Everywhere => true,
                Topology::Node => endpoint.node_hints.contains(&place.node),
                Topology::Zone => endpoint.zone_hints.contains(&place.zone),
            };
            endpoint.ready && near
        }));
        if cluster.is_empty() {
            cluster = addresses(endpoints.iter().filter(|endpoint| endpoint.serving && endpoint.terminating));
        }
        has_any |= !cluster.is_empty();
    }
    let mut local = Vec::new();
    if port.uses_local_endpoints() {
        has_any |= endpoints.iter().any(|endpoint| endpoint.ready || (endpoint.serving && endpoint.terminating));
        local = addresses(endpoints.iter().filter(|endpoint| endpoint.local && endpoint.ready));
        if local.is_empty() {
            local = addresses(endpoints.iter().filter(|endpoint| endpoint.local && endpoint.serving && endpoint.terminating));
        }
    }
    let used =
        |endpoint: &&Endpoint| endpoint.local && (cluster.contains(&endpoint.address) || local.contains(&endpoint.address));
    let on_this_node = addresses(endpoints.iter().filter(used));
    Portal { port: port.clone(), cluster_ip, cluster, local, on_this_node, has_any }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::{Protocol, ServiceName};

    fn port(change: impl FnOnce(&mut ServicePort)) -> Arc<ServicePort> {
        let mut port = ServicePort {
            service: ServiceName::new("ns", "svc"),
            name: String::new(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: 0,
            cluster_ips: vec!["10.96.0.5".parse().unwrap()],
            external_ips: Vec::new(),
            load_balancer_ips: Vec::new(),
            source_ranges: Vec::new(),
            affinity: None,
            internal_local: false,
            external_local: false,
            health_check_node_port: 0,
        };
        change(&mut port);
        Arc::new(port)
    }

    /// `r` ready, `s` serving and terminating, `n` not ready, `l` local; `z=a` zone hint, `h=x` node hint.
    fn endpoint(number: u8, marks: &str) -> Endpoint {
        let hint = |key: &str| marks.split(' ').filter_map(|m| m.strip_prefix(key)).map(str::to_owned).collect();
        let flags = marks.split(' ').next().unwrap_or_default();
        Endpoint {
            address: SocketAddr::new([10, 0, 0, number].into(), 80),
            ready: flags.contains('r'),
            serving: flags.contains('r') || flags.contains('s'),
            terminating: flags.contains('s'),
            local: flags.contains('l'),
            zone_hints: hint("z="),
            node_hints: hint("h="),
        }
    }

    fn chosen(port: &Arc<ServicePort>, marks: &[&str]) -> (Vec<u8>, Vec<u8>, bool) {
        let endpoints: Vec<_> = marks.iter().zip(1..).map(|(marks, number)| endpoint(number, marks)).collect();
        let place = Place { node: "me".into(), zone: "a".into() };
        let portal = open(port, port.cluster_ips[0], &endpoints, &place);
        let last =
            |all: &[SocketAddr]| all.iter().map(|a| if let IpAddr::V4(v4) = a.ip() { v4.octets()[3] } else { 0 }).collect();
        (last(&portal.cluster), last(&portal.local), portal.has_any)
    }

    #[test]
    fn endpoints_are_chosen_as_upstream_does() {
        let plain = port(|_| {});
        let local = port(|p| p.internal_local = true);
        let external = port(|p| {
            p.external_local = true;
            p.node_port = 30_000;
        });
        for (name, port, marks, cluster, near, any) in [
            ("ready only", &plain, &["r", "n", "rl"][..], vec![1, 3], vec![], true),
            ("terminating stand in", &plain, &["s", "n"], vec![1], vec![], true),
            ("terminating do not when one is ready", &plain, &["s", "r"], vec![2], vec![], true),
            ("none", &plain, &["n"], vec![], vec![], false),
            ("internal local", &local, &["r", "rl"], vec![], vec![2], true),
            ("internal local, only elsewhere", &local, &["r"], vec![], vec![], true),
            ("internal local, terminating", &local, &["sl", "r"], vec![], vec![1], true),
            ("external local uses both", &external, &["r", "rl"], vec![1, 2], vec![2], true),
            ("zone hints", &plain, &["r z=a", "r z=b"], vec![1], vec![], true),
            ("zone hints, one without", &plain, &["r z=a", "r"], vec![1, 2], vec![], true),
            ("zone hints for other zones", &plain, &["r z=b", "r z=c"], vec![1, 2], vec![], true),
            ("node hints go first", &plain, &["r z=a h=me", "r z=a h=you"], vec![1], vec![], true),
            ("node hints for others, zone of mine", &plain, &["r z=a h=you", "r z=b h=you"], vec![1], vec![], true),
        ] {
            assert_eq!(chosen(port, marks), (cluster, near, any), "{name}");
        }
    }
}

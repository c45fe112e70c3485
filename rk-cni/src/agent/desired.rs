//! What the network of this node has to look like, from the Node objects alone.

use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use net::link::Mac;

use super::Options;

/// How packets travel between nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Backend {
    /// Wrapped in UDP; works wherever nodes can send each other UDP.
    Vxlan,
    /// Plain routes; nodes must share a layer-2 segment.
    HostGw,
    /// Something else connects the nodes (or there is only one).
    None,
}

/// First bytes of the link-layer address of a node's tunnel end; the rest is the node's address. Known to every peer
/// without being told.
const TUNNEL_MAC_PREFIX: (u8, u8) = (0x02, 0x72);

/// Another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub name: String,
    /// Where its tunnel ends.
    pub ip: IpAddr,
    /// All of its addresses; direct routes of a family lead to the one of that family.
    pub ips: Vec<IpAddr>,
    pub mac: Mac,
    pub pod_cidrs: Vec<IpNet>,
}

/// This node's place among the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    pub ip: IpAddr,
    pub mac: Mac,
    pub pod_cidrs: Vec<IpNet>,
    pub cluster_cidrs: Vec<IpNet>,
    /// Sorted by name.
    pub peers: Vec<Peer>,
}

impl Network {
    /// The part that rules are made of: they need not be rewritten while it stays the same.
    pub fn rules_input(&self) -> (Vec<IpNet>, Vec<IpNet>) {
        (self.pod_cidrs.clone(), self.cluster_cidrs.clone())
    }
}

/// The link-layer address of the tunnel end of the node with this address.
pub fn tunnel_mac(node: IpAddr) -> Mac {
    Mac::from_ip(TUNNEL_MAC_PREFIX.0, TUNNEL_MAC_PREFIX.1, node)
}

/// The addresses of type InternalIP, in the node's order.
pub fn internal_ips(node: &Node) -> Vec<IpAddr> {
    let addresses = node.status.as_ref().and_then(|status| status.addresses.as_deref()).unwrap_or_default();
    addresses.iter().filter(|address| address.type_ == "InternalIP").filter_map(|address| address.address.parse().ok()).collect()
}

/// The node's pod subnets, in its order.
pub fn pod_cidrs(node: &Node) -> Vec<IpNet> {
    let Some(spec) = &node.spec else { return Vec::new() };
    let listed: Vec<IpNet> = spec.pod_cidrs.as_deref().unwrap_or_default().iter().filter_map(|cidr| cidr.parse().ok()).collect();
    if listed.is_empty() { spec.pod_cidr.iter().filter_map(|cidr| cidr.parse().ok()).collect() } else { listed }
}

/// The network as seen from `options.node_name`; `None` until that node has a pod subnet and an address.
pub fn plan<'a>(options: &Options, nodes: impl IntoIterator<Item = &'a Node>) -> Option<Network> {
    let mut own = None;
    let mut peers = Vec::new();
    for node in nodes {
        let cidrs = pod_cidrs(node);
        let name = node.metadata.name.clone().unwrap_or_default();
        let ips = internal_ips(node);
        let Some(ip) = ips.first().copied() else { continue };
        if cidrs.is_empty() {
            continue;
        }
        if name == options.node_name {
            own = Some((ip, cidrs));
        } else {
            peers.push(Peer { name, ip, ips, mac: tunnel_mac(ip), pod_cidrs: cidrs });
        }
    }
    let (ip, pod_cidrs) = own?;
    // Tunnels run over the family of this node's first address.
    peers.retain_mut(|peer| match peer.ips.iter().find(|theirs| theirs.is_ipv4() == ip.is_ipv4()) {
        Some(theirs) => {
            (peer.ip, peer.mac) = (*theirs, tunnel_mac(*theirs));
            true
        }
        None => false,
    });
    peers.sort_by(|a, b| a.name.cmp(&b.name));
    let cluster_cidrs = if options.cluster_cidr.is_empty() {
        let all = pod_cidrs.iter().chain(peers.iter().flat_map(|peer| &peer.pod_cidrs));
        IpNet::aggregate(&all.copied().collect())
    } else {
        options.cluster_cidr.clone()
    };
    Some(Network { ip, mac: tunnel_mac(ip), pod_cidrs, cluster_cidrs, peers })
}

#[cfg(test)]
pub mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }

    pub fn options(extra: &[&str]) -> Options {
        let args = ["agent", "--node-name=a"].iter().chain(extra);
        Cli::try_parse_from(args).unwrap().options
    }

    pub fn node(name: &str, ip: &str, cidrs: &[&str]) -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {"podCIDRs": cidrs},
            "status": {"addresses": [{"type": "Hostname", "address": name}, {"type": "InternalIP", "address": ip}]},
        }))
        .unwrap()
    }

    #[test]
    fn a_node_without_a_subnet_or_address_waits() {
        assert_eq!(plan(&options(&[]), &[node("a", "172.30.0.1", &[])]), None);
        assert_eq!(plan(&options(&[]), &[node("b", "172.30.0.2", &["10.244.1.0/24"])]), None);
        let mut bare = node("a", "x", &["10.244.0.0/24"]);
        bare.status = None;
        assert_eq!(plan(&options(&[]), &[bare]), None);
    }

    #[test]
    fn peers_are_the_other_nodes_that_have_a_subnet() {
        let nodes = [
            node("c", "172.30.0.3", &["10.244.2.0/24"]),
            node("a", "172.30.0.1", &["10.244.0.0/24"]),
            node("b", "172.30.0.2", &["10.244.1.0/24"]),
            node("new", "172.30.0.4", &[]),
        ];
        let network = plan(&options(&[]), &nodes).unwrap();
        assert_eq!(network.peers.iter().map(|p| p.name.as_str()).collect::<Vec<_>>(), ["b", "c"]);
        assert_eq!(network.peers[0].mac.to_string(), "02:72:ac:1e:00:02");
        assert_eq!(network.cluster_cidrs, ["10.244.0.0/23".parse::<IpNet>().unwrap(), "10.244.2.0/24".parse().unwrap()]);
        let given = plan(&options(&["--cluster-cidr=10.244.0.0/16"]), &nodes).unwrap();
        assert_eq!(given.cluster_cidrs.len(), 1);
    }
}

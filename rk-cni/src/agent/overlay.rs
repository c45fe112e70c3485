//! Brings devices, routes and neighbour entries to what the network wants; touches nothing that is already so, and removes
//! only what carries our mark.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::Context;
use ipnet::IpNet;
use net::link::{self, Change, Link, Vxlan};
use net::neighbour::{self, Neighbour, Table};
use net::route::{self, PROTO_RK, Route};
use net::{Socket, address, sysctl};

use super::Options;
use super::desired::{Backend, Network};

/// Our tunnel device.
pub const DEVICE: &str = "rk.vxlan";
/// Bytes that VXLAN adds to a packet: outer IP, UDP, VXLAN and inner Ethernet headers.
const OVERHEAD_V4: u32 = 50;
const OVERHEAD_V6: u32 = 70;

/// The kernel objects that the network consists of.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    routes: BTreeSet<Route>,
    neighbours: BTreeSet<Neighbour>,
}

/// Where packets can go out.
struct Ways {
    tunnel: Option<u32>,
    /// The node's own link, and the subnets on it.
    uplink: u32,
    on_link: Vec<IpNet>,
}

fn wanted(options: &Options, network: &Network, ways: &Ways) -> Wanted {
    let mut wanted = Wanted::default();
    for peer in &network.peers {
        for cidr in &peer.pod_cidrs {
            let gateway = peer.ips.iter().find(|ip| ip.is_ipv4() == cidr.addr().is_ipv4());
            let near = |ip: &IpAddr| ways.on_link.iter().any(|net| net.contains(ip));
            let direct = |ip: &&IpAddr| options.backend == Backend::HostGw || (options.direct_routing && near(ip));
            if let Some(gateway) = gateway.filter(direct) {
                wanted.routes.insert(Route::new(cidr.trunc(), ways.uplink).via(*gateway).protocol(PROTO_RK));
            } else if let Some(tunnel) = ways.tunnel {
                // The network address of a node's subnet stands for its tunnel end.
                let end = cidr.network();
                wanted.routes.insert(Route::new(cidr.trunc(), tunnel).via(end).on_link().protocol(PROTO_RK));
                wanted.neighbours.insert(Neighbour { table: Table::Arp, link: tunnel, ip: end, mac: peer.mac });
                wanted.neighbours.insert(Neighbour { table: Table::Forwarding, link: tunnel, ip: peer.ip, mac: peer.mac });
            }
        }
    }
    wanted
}

/// Applies the network; returns the MTU that pods get.
pub fn reconcile(options: &Options, network: &Network) -> anyhow::Result<u32> {
    let socket = Socket::route()?;
    set_sysctls(network)?;
    let addresses = address::list(&socket)?;
    let uplink = addresses
        .iter()
        .find(|address| address.net.addr() == network.ip)
        .with_context(|| format!("no link of this machine has the node's address {}", network.ip))?
        .link;
    let links = link::list(&socket)?;
    let uplink_mtu = links.iter().find(|link| link.index == uplink).map_or(1500, |link| link.mtu);
    let overhead = match options.backend {
        Backend::Vxlan if network.ip.is_ipv4() => OVERHEAD_V4,
        Backend::Vxlan => OVERHEAD_V6,
        Backend::HostGw | Backend::None => 0,
    };
    let mtu = if options.mtu == 0 { uplink_mtu.saturating_sub(overhead) } else { options.mtu };
    let tunnel = if options.backend == Backend::Vxlan {
        let present = links.into_iter().find(|link| link.name == DEVICE);
        Some(ensure_tunnel(&socket, options, network, uplink, mtu, present)?)
    } else {
        link::delete(&socket, DEVICE)?;
        None
    };
    let on_link = addresses.iter().filter(|address| address.link == uplink).map(|address| address.net.trunc()).collect();
    let wanted = wanted(options, network, &Ways { tunnel, uplink, on_link });
    apply(&socket, &wanted, tunnel)?;
    Ok(mtu)
}

fn set_sysctls(network: &Network) -> anyhow::Result<()> {
    for cidr in &network.pod_cidrs {
        let (forward, bridged) = if cidr.addr().is_ipv4() {
            ("net/ipv4/ip_forward", "net/bridge/bridge-nf-call-iptables")
        } else {
            ("net/ipv6/conf/all/forwarding", "net/bridge/bridge-nf-call-ip6tables")
        };
        sysctl::ensure(forward, "1").context("failed to turn on forwarding")?;
        // Without it, replies between pods of one node bypass the translation of Service addresses.
        if let Err(error) = sysctl::ensure(bridged, "1") {
            tracing::warn!(err = %error, "Bridged traffic is not seen by iptables: load the kernel module br_netfilter");
        }
    }
    Ok(())
}

fn ensure_tunnel(
    socket: &Socket,
    options: &Options,
    network: &Network,
    uplink: u32,
    mtu: u32,
    present: Option<Link>,
) -> anyhow::Result<u32> {
    let vxlan = Vxlan { id: options.vni, port: options.vxlan_port, local: network.ip, device: uplink };
    let link = match present {
        Some(link) if link.vxlan == Some(vxlan) => link,
        other => {
            if other.is_some() {
                link::delete(socket, DEVICE)?;
            }
            link::create_vxlan(socket, DEVICE, network.mac, mtu, vxlan)?;
            link::by_name(socket, DEVICE)?
        }
    };
    let change = Change {
        up: Some(true).filter(|_| !link.up),
        mac: Some(network.mac).filter(|mac| link.mac != Some(*mac)),
        mtu: Some(mtu).filter(|mtu| link.mtu != *mtu),
        master: None,
    };
    if change.up.is_some() || change.mac.is_some() || change.mtu.is_some() {
        link::change(socket, link.index, change)?;
    }
    // The source of what the node itself sends to remote pods.
    let own: Vec<IpNet> =
        network.pod_cidrs.iter().filter_map(|cidr| IpNet::new(cidr.network(), cidr.max_prefix_len()).ok()).collect();
    let present: Vec<_> = address::list(socket)?.into_iter().filter(|address| address.link == link.index).collect();
    for net in own.iter().filter(|net| !present.iter().any(|address| address.net == **net)) {
        address::add(socket, link.index, *net)?;
    }
    for stale in present.iter().filter(|address| address.scope == 0 && !own.contains(&address.net)) {
        address::delete(socket, link.index, stale.net)?;
    }
    Ok(link.index)
}

fn apply(socket: &Socket, wanted: &Wanted, tunnel: Option<u32>) -> anyhow::Result<()> {
    if let Some(tunnel) = tunnel {
        let present: BTreeSet<Neighbour> = neighbour::list(socket, tunnel)?.into_iter().collect();
        for entry in wanted.neighbours.difference(&present) {
            neighbour::replace(socket, entry)?;
        }
        for entry in present.difference(&wanted.neighbours) {
            neighbour::delete(socket, entry)?;
        }
    }
    let present: BTreeSet<Route> = route::list(socket)?.into_iter().filter(|route| route.protocol == PROTO_RK).collect();
    for route in wanted.routes.difference(&present) {
        route::replace(socket, route).with_context(|| format!("failed to reach {} via {:?}", route.to, route.via))?;
    }
    for route in present.difference(&wanted.routes) {
        // A route that was replaced by another to the same subnet is already gone.
        if !wanted.routes.iter().any(|other| other.to == route.to) {
            route::delete(socket, route)?;
        }
    }
    Ok(())
}

/// Removes the tunnel and our routes.
pub fn remove(socket: &Socket) -> Result<(), net::Error> {
    for route in route::list(socket)?.iter().filter(|route| route.protocol == PROTO_RK) {
        route::delete(socket, route)?;
    }
    link::delete(socket, DEVICE)
}

#[cfg(test)]
mod tests;

//! Two nodes in namespaces: the agent's network between them, real packets.

use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::time::Duration;

use net::NetNs;
use net::link::VethEnd;

use super::*;
use crate::agent::desired::plan;
use crate::agent::desired::tests::{node, options};

/// Two nodes on one wire, 172.30.0.1 and 172.30.0.2.
fn two_nodes() -> (NetNs, NetNs) {
    let (a, b) = (NetNs::fresh().unwrap(), NetNs::fresh().unwrap());
    let socket = a.socket().unwrap();
    let near = VethEnd { name: "eth0", mac: None, namespace: None };
    let far = VethEnd { name: "eth0", mac: None, namespace: Some(b.as_fd()) };
    link::create_veth(&socket, &near, &far, 1500).unwrap();
    for (socket, net) in [(&socket, "172.30.0.1/24"), (&b.socket().unwrap(), "172.30.0.2/24")] {
        let eth = link::by_name(socket, "eth0").unwrap();
        address::add(socket, eth.index, net.parse().unwrap()).unwrap();
        for name in ["lo", "eth0"] {
            link::change(socket, link::by_name(socket, name).unwrap().index, Change::up()).unwrap();
        }
    }
    (a, b)
}

fn network(own: &str, extra: &[&str]) -> (Options, Network) {
    let mut args = vec!["--cluster-cidr=10.244.0.0/16"];
    args.extend(extra);
    let mut options = options(&args);
    options.node_name = own.to_owned();
    let nodes = [
        node("a", "172.30.0.1", &["10.244.0.0/24", "fd00:10:0:0::/64"]),
        node("b", "172.30.0.2", &["10.244.1.0/24", "fd00:10:0:1::/64"]),
    ];
    let network = plan(&options, &nodes).unwrap();
    (options, network)
}

/// Gives the node a pod address on a bridge, the way the plugin would.
fn pod_bridge(namespace: &NetNs, addresses: &[&str]) {
    let socket = namespace.socket().unwrap();
    link::create_bridge(&socket, "cni0", None, 1450).unwrap();
    let bridge = link::by_name(&socket, "cni0").unwrap();
    for net in addresses {
        address::add(&socket, bridge.index, net.parse().unwrap()).unwrap();
    }
    link::change(&socket, bridge.index, Change::up()).unwrap();
}

/// Whether a datagram arrives; a fresh link may lose the first ones.
fn exchanges(from: &NetNs, source: &str, to: &NetNs, target: &str) -> bool {
    let server = to.run(|| UdpSocket::bind((target, 0)).unwrap()).unwrap();
    server.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let client = from.run(|| UdpSocket::bind((source, 0)).unwrap()).unwrap();
    let address = server.local_addr().unwrap();
    (0..50).any(|_| client.send_to(b"ping", address).is_ok() && server.recv_from(&mut [0; 16]).is_ok())
}

#[test]
fn pod_traffic_crosses_between_nodes_by_tunnel_and_by_direct_route() {
    for extra in [&["--backend=vxlan"][..], &["--backend=host-gw"], &["--backend=vxlan", "--direct-routing"]] {
        let (a, b) = two_nodes();
        for (namespace, name) in [(&a, "a"), (&b, "b")] {
            let (options, network) = network(name, extra);
            let mtu = namespace.run(|| reconcile(&options, &network).unwrap()).unwrap();
            assert_eq!(mtu, if extra[0].contains("vxlan") { 1450 } else { 1500 });
            namespace.run(|| reconcile(&options, &network).unwrap()).unwrap();
        }
        pod_bridge(&a, &["10.244.0.1/24", "fd00:10:0:0::1/64"]);
        pod_bridge(&b, &["10.244.1.1/24", "fd00:10:0:1::1/64"]);
        assert!(exchanges(&a, "10.244.0.1", &b, "10.244.1.1"), "{extra:?}");
        assert!(exchanges(&b, "172.30.0.2", &a, "10.244.0.1"), "{extra:?}");
        if extra[0].contains("vxlan") {
            assert!(exchanges(&a, "fd00:10:0:0::1", &b, "fd00:10:0:1::1"), "{extra:?}");
        }
    }
}

#[test]
fn what_was_removed_by_hand_returns_and_what_is_stale_goes() {
    let (a, _b) = two_nodes();
    let (options, network) = network("a", &[]);
    let socket = a.socket().unwrap();
    let theirs = Route::new("192.0.2.0/24".parse().unwrap(), link::by_name(&socket, "eth0").unwrap().index);
    route::replace(&socket, &theirs).unwrap();
    a.run(|| reconcile(&options, &network).unwrap()).unwrap();
    link::delete(&socket, DEVICE).unwrap();
    a.run(|| reconcile(&options, &network).unwrap()).unwrap();
    let ours = |socket: &Socket| route::list(socket).unwrap().into_iter().filter(|r| r.protocol == PROTO_RK).count();
    assert_eq!(ours(&socket), 2);
    let alone = Network { peers: Vec::new(), ..network.clone() };
    a.run(|| reconcile(&options, &alone).unwrap()).unwrap();
    assert_eq!(ours(&socket), 0);
    let tunnel = link::by_name(&socket, DEVICE).unwrap();
    assert!(neighbour::list(&socket, tunnel.index).unwrap().is_empty());
    assert!(route::list(&socket).unwrap().contains(&theirs), "other people's routes stay");
    remove(&socket).unwrap();
    assert!(link::find(&socket, DEVICE).unwrap().is_none());
}

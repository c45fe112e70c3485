//! Policies against real traffic: what pods reach is compared with a truth table that is computed in another way, from the
//! objects themselves.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use k8s_openapi::api::networking::v1::NetworkPolicy;
use net::link::{self, Change, VethEnd};
use net::route::Route;
use net::{NetNs, address, route, sysctl};
use serde_json::{Value, json};

use super::*;
use crate::agent::policy::engine::Engine;
use crate::agent::policy::model;

/// Name, namespace, labels, node.
const PODS: [(&str, &str, &str, &str); 5] = [
    ("web", "shop", "web", "me"),
    ("db", "shop", "db", "me"),
    ("web2", "blog", "web", "me"),
    ("job", "blog", "job", "me"),
    ("far", "shop", "web", "other"),
];
/// Number, and its name per protocol.
const PORTS: [(u16, [(&str, &str); 2]); 2] =
    [(8080, [("TCP", "http"), ("UDP", "dns")]), (9090, [("TCP", "metrics"), ("UDP", "syslog")])];
const PROTOCOLS: [&str; 2] = ["TCP", "UDP"];
/// From, to, port, protocol.
type Try = (&'static str, &'static str, u16, &'static str);
/// A packet that is not answered within this time was dropped: nothing here is farther than a bridge away.
const PATIENCE: Duration = Duration::from_millis(400);

struct Lab {
    node: NetNs,
    pods: BTreeMap<&'static str, NetNs>,
    engine: Engine,
    policies: usize,
    kernel: Kernel,
    v6: bool,
}

fn ip(pod: &str, v6: bool) -> IpAddr {
    let index = 10 + PODS.iter().position(|(name, ..)| *name == pod).unwrap();
    let subnet = u16::from(pod == "far");
    let text = if v6 { format!("fd00:244:{subnet}::{index}") } else { format!("10.244.{subnet}.{index}") };
    text.parse().unwrap()
}

fn pod_object(name: &str, namespace: &str, app: &str, node: &str, v6: bool) -> k8s_openapi::api::core::v1::Pod {
    let ports: Vec<Value> = PORTS
        .iter()
        .flat_map(|(number, names)| {
            names.map(|(protocol, name)| json!({"name": name, "containerPort": number, "protocol": protocol}))
        })
        .collect();
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": app}},
        "spec": {"nodeName": node, "containers": [{"name": "c", "ports": ports}]},
        "status": {"phase": "Running", "podIP": ip(name, v6), "podIPs": [{"ip": ip(name, v6)}]},
    }))
    .unwrap()
}

impl Lab {
    fn new(v6: bool) -> Self {
        let node = NetNs::fresh().unwrap();
        let socket = node.socket().unwrap();
        node.run(|| {
            for name in [
                "net/ipv4/ip_forward",
                "net/ipv6/conf/all/forwarding",
                "net/bridge/bridge-nf-call-iptables",
                "net/bridge/bridge-nf-call-ip6tables",
            ] {
                sysctl::ensure(name, "1").unwrap();
            }
            sysctl::ensure("net/ipv6/conf/default/accept_dad", "0").unwrap();
        })
        .unwrap();
        link::create_bridge(&socket, "cni0", None, 1500).unwrap();
        let up = |socket: &net::Socket, name: &str, net: Option<&str>| {
            let index = link::by_name(socket, name).unwrap().index;
            if let Some(net) = net {
                address::add(socket, index, net.parse().unwrap()).unwrap();
            }
            link::change(socket, index, Change::up()).unwrap();
            index
        };
        let pick = |v4: &'static str, six: &'static str| if v6 { six } else { v4 };
        let bridge = up(&socket, "cni0", Some(pick("10.244.0.1/24", "fd00:244:0::1/64")));
        up(&socket, "lo", None);
        let mut pods = BTreeMap::new();
        for (name, _, _, on) in PODS {
            let space = NetNs::fresh().unwrap();
            space.run(|| sysctl::ensure("net/ipv6/conf/default/accept_dad", "0").unwrap()).unwrap();
            let host = format!("v{name}");
            let far = VethEnd { name: "eth0", mac: None, namespace: Some(space.as_fd()) };
            link::create_veth(&socket, &VethEnd { name: &host, mac: None, namespace: None }, &far, 1500).unwrap();
            let inside = space.socket().unwrap();
            up(&inside, "lo", None);
            let gateway: IpAddr = if on == "me" {
                let port = up(&socket, &host, None);
                link::change(&socket, port, Change { master: Some(bridge), ..Change::default() }).unwrap();
                pick("10.244.0.1", "fd00:244:0::1").parse().unwrap()
            } else {
                up(&socket, &host, Some(pick("10.244.1.1/24", "fd00:244:1::1/64")));
                pick("10.244.1.1", "fd00:244:1::1").parse().unwrap()
            };
            let eth = up(&inside, "eth0", Some(&format!("{}/{}", ip(name, v6), pick("24", "64"))));
            route::replace(&inside, &Route::new(pick("0.0.0.0/0", "::/0").parse().unwrap(), eth).via(gateway)).unwrap();
            for (port, _) in PORTS {
                let at = SocketAddr::new(ip(name, v6), port);
                let (tcp, udp) = space.run(|| (TcpListener::bind(at).unwrap(), UdpSocket::bind(at).unwrap())).unwrap();
                std::thread::spawn(move || while tcp.accept().is_ok() {});
                std::thread::spawn(move || {
                    while let Ok((_, peer)) = udp.recv_from(&mut [0; 8]) {
                        let _ = udp.send_to(b"x", peer);
                    }
                });
            }
            pods.insert(name, space);
        }
        let mut engine = Engine::new("me");
        for namespace in ["shop", "blog"] {
            engine.set_namespace(namespace, Some([("name".to_owned(), namespace.to_owned())].into()));
        }
        for (name, namespace, app, on) in PODS {
            engine.set_pod(&format!("{namespace}/{name}"), model::reduce_pod(&pod_object(name, namespace, app, on, v6)));
        }
        Self { node, pods, engine, policies: 0, kernel: Kernel::default(), v6 }
    }

    fn apply(&mut self, policies: &[NetworkPolicy]) -> String {
        for number in 0..self.policies.max(policies.len()) {
            self.engine.set_policy(&format!("p{number}"), policies.get(number).and_then(model::reduce_policy));
        }
        self.policies = policies.len();
        self.write()
    }

    /// Brings the kernel up to date; returns the commands.
    fn write(&mut self) -> String {
        let changes = self.engine.take_changes();
        let batch = self.kernel.plan(self.engine.rules(), &changes);
        let kernel = &mut self.kernel;
        self.node.run(|| kernel.apply(&batch).unwrap()).unwrap();
        batch
    }

    /// The table as nft shows it, sorted.
    fn shown(&self) -> Vec<String> {
        let text = self.node.run(|| nft(&["-s", "list", "table", "inet", TABLE], "").unwrap()).unwrap();
        let mut lines: Vec<String> = text.split([',', '\n', '{', '}']).map(|part| part.trim().to_owned()).collect();
        lines.retain(|line| !line.is_empty());
        lines.sort();
        lines
    }

    /// Which tries get an answer. All run at the same time.
    fn observed(&self) -> BTreeMap<Try, bool> {
        let tries = all_tries();
        let start = Arc::new(Barrier::new(tries.len()));
        std::thread::scope(|scope| {
            let running: Vec<_> = tries
                .iter()
                .map(|key| {
                    let (space, start, v6) = (&self.pods[key.0], start.clone(), self.v6);
                    scope.spawn(move || {
                        start.wait();
                        (*key, space.run(|| answers(SocketAddr::new(ip(key.1, v6), key.2), key.3)).unwrap())
                    })
                })
                .collect();
            running.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }
}

fn all_tries() -> Vec<Try> {
    let pairs = PODS.iter().flat_map(|from| PODS.iter().map(move |to| (from.0, to.0)));
    let ports = pairs.flat_map(|(from, to)| PORTS.iter().map(move |(port, _)| (from, to, *port)));
    ports.flat_map(|(from, to, port)| PROTOCOLS.map(|protocol| (from, to, port, protocol))).collect()
}

fn answers(target: SocketAddr, protocol: &str) -> bool {
    if protocol == "TCP" {
        return TcpStream::connect_timeout(&target, PATIENCE).is_ok();
    }
    let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send_to(b"?", target).is_ok() && socket.recv(&mut [0; 8]).is_ok()
}

/// The truth table: straight from the API's words, without compiling anything. Only this node's pods are protected here.
fn truth(policies: &[NetworkPolicy], v6: bool) -> BTreeMap<Try, bool> {
    let selects = |selector: &Value, labels: &Value| -> bool {
        let all = selector["matchLabels"].as_object().is_none_or(|want| want.iter().all(|(key, value)| labels[key] == *value));
        all && selector["matchExpressions"].as_array().is_none_or(|list| {
            list.iter().all(|e| {
                let value = &labels[e["key"].as_str().unwrap()];
                let listed = e["values"].as_array().is_some_and(|values| values.contains(value));
                match e["operator"].as_str().unwrap() {
                    "In" => listed,
                    "NotIn" => !listed,
                    "Exists" => !value.is_null(),
                    _ => value.is_null(),
                }
            })
        })
    };
    let objects: Vec<Value> = policies.iter().map(|policy| serde_json::to_value(policy).unwrap()).collect();
    let allowed = |pod: (&str, &str, &str, &str),
                   peer: (&str, &str, &str, &str),
                   port: u16,
                   protocol: &str,
                   direction: &str,
                   key: &str|
     -> bool {
        if pod.3 != "me" {
            return true;
        }
        let kind = if direction == "ingress" { "Ingress" } else { "Egress" };
        let selecting: Vec<&Value> = objects
            .iter()
            .filter(|p| p["metadata"]["namespace"] == pod.1 && selects(&p["spec"]["podSelector"], &json!({"app": pod.2})))
            .filter(|p| p["spec"]["policyTypes"].as_array().unwrap().iter().any(|t| t == kind))
            .collect();
        selecting.is_empty()
            || selecting.iter().flat_map(|p| p["spec"][direction].as_array().cloned().unwrap_or_default()).any(|rule| {
                let peer_fits = rule[key].as_array().is_none_or(|peers| {
                    peers.is_empty()
                        || peers.iter().any(|p| {
                            if let Some(cidr) = p["ipBlock"]["cidr"].as_str() {
                                let inside = |cidr: &str| cidr.parse::<ipnet::IpNet>().unwrap().contains(&ip(peer.0, v6));
                                let excepted = p["ipBlock"]["except"]
                                    .as_array()
                                    .is_some_and(|e| e.iter().any(|c| inside(c.as_str().unwrap())));
                                return inside(cidr) && !excepted;
                            }
                            let namespace = if p["namespaceSelector"].is_null() {
                                peer.1 == pod.1
                            } else {
                                selects(&p["namespaceSelector"], &json!({"name": peer.1}))
                            };
                            namespace && (p["podSelector"].is_null() || selects(&p["podSelector"], &json!({"app": peer.2})))
                        })
                });
                let port_fits = rule["ports"].as_array().is_none_or(|ports| {
                    ports.is_empty()
                        || ports.iter().any(|p| {
                            if p["protocol"].as_str().unwrap_or("TCP") != protocol {
                                return false;
                            }
                            match &p["port"] {
                                Value::Null => true,
                                Value::String(name) => {
                                    let named = |names: &[(&str, &str); 2]| {
                                        names.iter().any(|(kind, known)| *kind == protocol && known == name)
                                    };
                                    PORTS.iter().any(|(number, names)| *number == port && named(names))
                                }
                                number => {
                                    let first = u16::try_from(number.as_u64().unwrap()).unwrap();
                                    let last = p["endPort"].as_u64().map_or(first, |end| u16::try_from(end).unwrap());
                                    (first..=last).contains(&port)
                                }
                            }
                        })
                });
                peer_fits && port_fits
            })
    };
    let pod = |name: &str| *PODS.iter().find(|pod| pod.0 == name).unwrap();
    let ok = |(from, to, port, protocol): Try| {
        let (source, target) = (pod(from), pod(to));
        from == to
            || (allowed(source, target, port, protocol, "egress", "to")
                && allowed(target, source, port, protocol, "ingress", "from"))
    };
    all_tries().into_iter().map(|key| (key, ok(key))).collect()
}

fn policy(namespace: &str, spec: Value) -> NetworkPolicy {
    serde_json::from_value(json!({"metadata": {"name": "p", "namespace": namespace}, "spec": spec})).unwrap()
}

fn check(lab: &mut Lab, what: &str, policies: &[NetworkPolicy]) {
    // The blocks are written for IPv4.
    let text = serde_json::to_string(policies).unwrap();
    let six = || {
        text.replace("10.244.0.0/16", "fd00:244::/32")
            .replace("10.244.1.0/24", "fd00:244:1::/48")
            .replace("10.244.0.10/31", "fd00:244:0::10/127")
    };
    let policies: Vec<NetworkPolicy> = serde_json::from_str(&if lab.v6 { six() } else { text.clone() }).unwrap();
    lab.apply(&policies);
    let (seen, wanted) = (lab.observed(), truth(&policies, lab.v6));
    let wrong: Vec<_> = seen.iter().filter(|(key, ok)| wanted[*key] != **ok).collect();
    assert!(wrong.is_empty(), "{what}, IPv6: {}: (from, to, port, protocol), answered: {wrong:?}", lab.v6);
}

#[test]
fn traffic_is_as_the_truth_table_says() {
    compare(&mut Lab::new(false));
}

#[test]
fn ipv6_traffic_is_as_the_truth_table_says() {
    compare(&mut Lab::new(true));
}

fn compare(lab: &mut Lab) {
    let all = json!({});
    let deny_in = |namespace| policy(namespace, json!({"podSelector": {}, "policyTypes": ["Ingress"]}));
    let deny_out = |namespace| policy(namespace, json!({"podSelector": {}, "policyTypes": ["Egress"]}));
    let from = |peers: Value, ports: Value| {
        policy(
            "shop",
            json!({"podSelector": {"matchLabels": {"app": "db"}}, "policyTypes": ["Ingress"], "ingress": [{"from": peers, "ports": ports}]}),
        )
    };
    let to = |peers: Value, ports: Value| {
        policy("shop", json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": peers, "ports": ports}]}))
    };
    let web = json!({"podSelector": {"matchLabels": {"app": "web"}}});
    let blog = json!({"namespaceSelector": {"matchLabels": {"name": "blog"}}});
    let both = json!({"namespaceSelector": {"matchLabels": {"name": "blog"}}, "podSelector": {"matchLabels": {"app": "web"}}});
    for (what, policies) in [
        ("none", vec![]),
        ("default deny in", vec![deny_in("shop")]),
        ("default deny out", vec![deny_out("shop")]),
        ("deny everything everywhere", vec![deny_in("shop"), deny_out("shop"), deny_in("blog"), deny_out("blog")]),
        (
            "allow all",
            vec![deny_in("shop"), policy("shop", json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{}]}))],
        ),
        ("pod selector", vec![from(json!([web]), json!([]))]),
        ("namespace selector", vec![from(json!([blog]), json!([]))]),
        ("both at once", vec![from(json!([both]), json!([]))]),
        ("either", vec![from(json!([web, blog]), json!([]))]),
        ("every namespace", vec![from(json!([{"namespaceSelector": all}]), json!([{"port": 8080}]))]),
        ("ports", vec![from(json!([]), json!([{"port": 8080}]))]),
        ("named port", vec![from(json!([]), json!([{"port": "metrics"}]))]),
        ("port range", vec![from(json!([]), json!([{"port": 8000, "endPort": 8999}]))]),
        ("another protocol", vec![from(json!([]), json!([{"protocol": "UDP", "port": 8080}]))]),
        (
            "block with exception",
            vec![from(json!([{"ipBlock": {"cidr": "10.244.0.0/16", "except": ["10.244.1.0/24"]}}]), json!([]))],
        ),
        ("additive", vec![from(json!([web]), json!([{"port": 8080}])), from(json!([blog]), json!([{"port": 9090}]))]),
        ("egress to a namespace", vec![to(json!([blog]), json!([{"port": 8080}]))]),
        ("egress to a named port", vec![to(json!([web]), json!([{"port": "metrics"}]))]),
        ("egress to a named port of anybody", vec![to(json!([]), json!([{"port": "http"}]))]),
        ("udp named port", vec![from(json!([]), json!([{"protocol": "UDP", "port": "dns"}]))]),
        ("a name of the other protocol", vec![from(json!([]), json!([{"protocol": "TCP", "port": "dns"}]))]),
        (
            "both protocols, sctp beside",
            vec![from(
                json!([web]),
                json!([{"protocol": "UDP"}, {"protocol": "TCP", "port": 9090}, {"protocol": "SCTP", "port": 8080}]),
            )],
        ),
        ("sctp only", vec![from(json!([]), json!([{"protocol": "SCTP"}]))]),
        ("udp range", vec![from(json!([]), json!([{"protocol": "UDP", "port": 9000, "endPort": 65535}]))]),
        ("egress to a named udp port", vec![to(json!([blog]), json!([{"protocol": "UDP", "port": "dns"}]))]),
        (
            "several exceptions",
            vec![from(
                json!([{"ipBlock": {"cidr": "10.244.0.0/16", "except": ["10.244.1.0/24", "10.244.0.10/31"]}}]),
                json!([{"port": 8080}]),
            )],
        ),
        ("block and pods", vec![from(json!([{"ipBlock": {"cidr": "10.244.1.0/24"}}, blog]), json!([]))]),
        (
            "expressions: exists and in",
            vec![from(
                json!([{"podSelector": {"matchExpressions": [{"key": "app", "operator": "Exists"}, {"key": "app", "operator": "In", "values": ["job", "web"]}]},
                    "namespaceSelector": {"matchExpressions": [{"key": "name", "operator": "NotIn", "values": ["shop"]}]}}]),
                json!([]),
            )],
        ),
        (
            "expressions: does not exist",
            vec![from(
                json!([{"namespaceSelector": {"matchExpressions": [{"key": "name", "operator": "DoesNotExist"}]}}]),
                json!([]),
            )],
        ),
        ("egress to a block", vec![to(json!([{"ipBlock": {"cidr": "10.244.1.0/24"}}]), json!([]))]),
        (
            "expressions",
            vec![from(
                json!([{"podSelector": {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]}, "namespaceSelector": {}}]),
                json!([]),
            )],
        ),
        (
            "egress and ingress together",
            vec![to(json!([web]), json!([])), deny_in("blog"), from(json!([web]), json!([{"port": "http"}]))],
        ),
        ("none again", vec![]),
    ] {
        check(lab, what, &policies);
    }
}

#[test]
fn the_node_reaches_its_pods_and_live_connections_stay() {
    let mut lab = Lab::new(false);
    let target = SocketAddr::new(ip("db", false), 8080);
    let open = lab.pods["web"].run(|| TcpStream::connect_timeout(&target, PATIENCE).unwrap()).unwrap();
    lab.apply(&[policy("shop", json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}))]);
    assert!(lab.node.run(|| TcpStream::connect_timeout(&target, PATIENCE).is_ok()).unwrap(), "probes");
    let node = SocketAddr::from(([10, 244, 0, 1], 9999));
    let listener = lab.node.run(|| TcpListener::bind(node).unwrap()).unwrap();
    assert!(lab.pods["db"].run(|| TcpStream::connect_timeout(&node, PATIENCE).is_err()).unwrap(), "egress to the node");
    drop(listener);
    // The peer closes because our listener's accept loop drops connections: that this is seen shows that packets pass.
    open.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    assert_eq!(std::io::Read::read(&mut &open, &mut [0]).unwrap(), 0);
}

#[test]
fn a_pod_that_comes_is_added_to_sets_without_touching_rules() {
    let mut lab = Lab::new(false);
    lab.engine.set_pod("blog/web2", None);
    let both = json!({"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "web"}}});
    let policies = [policy("shop", json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"from": [both]}]}))];
    lab.apply(&policies);
    lab.engine.set_pod("blog/web2", model::reduce_pod(&pod_object("web2", "blog", "web", "me", false)));
    let batch = lab.write();
    assert_eq!(batch.lines().count(), 1, "{batch}");
    check(&mut lab, "with the new pod", &policies);
    let intact = |lab: &Lab| {
        let kernel = &lab.kernel;
        lab.node.run(|| kernel.is_intact()).unwrap()
    };
    assert!(intact(&lab));
    lab.node.run(|| remove().unwrap()).unwrap();
    assert!(!intact(&lab));
}

#[test]
fn many_small_changes_end_in_the_same_table_as_one_large_one() {
    let mut lab = Lab::new(false);
    let mut random = 99_u64;
    let mut next = |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    let namespaces = ["shop", "blog"];
    for round in 0..120 {
        match next(4) {
            0 => {
                let (name, namespace, app, on) = PODS[usize::try_from(next(5)).unwrap()];
                let object = pod_object(name, namespace, if next(2) == 0 { app } else { "job" }, on, false);
                let pod = (next(4) > 0).then_some(&object).and_then(model::reduce_pod);
                lab.engine.set_pod(&format!("{namespace}/{name}"), pod);
            }
            1 => {
                let name = namespaces[usize::try_from(next(2)).unwrap()];
                lab.engine.set_namespace(name, (next(3) > 0).then(|| [("name".to_owned(), name.to_owned())].into()));
            }
            _ => {
                let app = ["web", "db", "job"][usize::try_from(next(3)).unwrap()];
                let peers = [
                    json!({"podSelector": {"matchLabels": {"app": app}}}),
                    json!({"namespaceSelector": {"matchLabels": {"name": "blog"}}}),
                    json!({"ipBlock": {"cidr": "10.244.0.0/16", "except": ["10.244.0.12/32"]}}),
                ];
                let peer = peers[usize::try_from(next(3)).unwrap()].clone();
                let port = [json!(8080), json!("http"), json!("metrics")][usize::try_from(next(3)).unwrap()].clone();
                let rule = json!({"ports": [{"port": port}]});
                let (mut ingress, mut egress) = (rule.clone(), rule);
                ingress["from"] = json!([peer]);
                egress["to"] = json!([peer]);
                let types = if next(2) == 0 { json!(["Ingress"]) } else { json!(["Ingress", "Egress"]) };
                let spec = json!({"podSelector": if next(2) == 0 { json!({}) } else { json!({"matchLabels": {"app": app}}) },
                    "policyTypes": types, "ingress": [ingress], "egress": [egress]});
                let object = policy(namespaces[usize::try_from(next(2)).unwrap()], spec);
                let there = (next(3) > 0).then_some(&object).and_then(model::reduce_policy);
                lab.engine.set_policy(&format!("np{}", next(6)), there);
            }
        }
        // Several changes at once are one transaction, too.
        if next(2) == 0 {
            lab.write();
        }
        if round % 30 == 29 {
            lab.write();
            let small = lab.shown();
            lab.kernel = Kernel::default();
            lab.write();
            assert_eq!(small, lab.shown(), "after {round} changes");
        }
    }
}

#[test]
fn a_pod_on_the_nodes_network_is_not_isolated_and_is_nobodys_peer() {
    let mut object = pod_object("web", "shop", "web", "me", false);
    object.spec.as_mut().unwrap().host_network = Some(true);
    assert_eq!(model::reduce_pod(&object), None);
    let mut lab = Lab::new(false);
    // Its address is the node's: what it sends to a pod counts as the node's own, as probes do.
    lab.apply(&[policy("shop", json!({"podSelector": {}, "policyTypes": ["Ingress"]}))]);
    let target = SocketAddr::new(ip("db", false), 8080);
    assert!(lab.node.run(|| answers(target, "TCP") && answers(target, "UDP")).unwrap());
    assert!(!lab.pods["web"].run(|| answers(target, "TCP")).unwrap());
}

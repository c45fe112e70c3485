//! A node with pods, a remote pod and a stranger, each in a network namespace, and a proxy under test on the node.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube_proxy::backend::{BACKENDS, Backend, Kind, Portals, Scope, Settings};
use kube_proxy::conntrack::{self, Allowed};
use kube_proxy::locality::Locality;
use kube_proxy::portal::Place;
use kube_proxy::service::ServiceName;
use kube_proxy::state::State;
pub(crate) use net::iptables::Family;
use net::link::{self, Change, VethEnd};
use net::route::Route;
use net::{NetNs, Socket, address, route, sysctl};
use serde_json::{Value, json};

/// The port that every pod serves, TCP and UDP.
const TARGET_PORT: u16 = 8080;
const PODS: [(&str, u8); 3] = [("p1", 11), ("p2", 12), ("p3", 13)];
/// A connection that gets no answer within this time gets none.
const PATIENCE: Duration = Duration::from_millis(3000);
const SILENCE: Duration = Duration::from_millis(700);

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    From { server: String, client: String },
    Refused,
    Silent,
}

impl Reply {
    pub(crate) fn server(&self) -> String {
        match self {
            Reply::From { server, .. } => server.clone(),
            other => panic!("no answer: {other:?}"),
        }
    }

    pub(crate) fn client(&self) -> String {
        match self {
            Reply::From { client, .. } => client.clone(),
            other => panic!("no answer: {other:?}"),
        }
    }
}

pub(crate) struct Lab {
    pub(crate) kind: &'static Kind,
    pub(crate) family: Family,
    spaces: BTreeMap<&'static str, NetNs>,
    proxy: Mutex<Proxy>,
}

struct Proxy {
    backend: Box<dyn Backend>,
    state: State,
    portals: Portals,
    slices: BTreeMap<String, EndpointSlice>,
}

/// Runs a test once for each backend and family.
pub(crate) fn each(test: impl Fn(&Lab)) {
    for kind in &BACKENDS {
        for family in [Family::V4, Family::V6] {
            test(&Lab::new(kind, family));
        }
    }
}

pub(crate) fn service(name: &str, spec: Value) -> Service {
    serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": name}, "spec": spec})).unwrap()
}

fn pick(family: Family, v4: &str, v6: &str) -> String {
    if family == Family::V4 { v4.to_owned() } else { v6.to_owned() }
}

fn wire(near: &NetNs, near_name: &str, far: &NetNs, far_name: &str) {
    let socket = near.socket().unwrap();
    let end = VethEnd { name: near_name, mac: None, namespace: None };
    let other = VethEnd { name: far_name, mac: None, namespace: Some(far.as_fd()) };
    link::create_veth(&socket, &end, &other, 1500).unwrap();
}

fn bring_up(socket: &Socket, name: &str, net: Option<String>) -> u32 {
    let index = link::by_name(socket, name).unwrap().index;
    if let Some(net) = net {
        address::add(socket, index, net.parse().unwrap()).unwrap();
    }
    link::change(socket, index, Change::up()).unwrap();
    index
}

impl Lab {
    pub(crate) fn new(kind: &'static Kind, family: Family) -> Self {
        let names = ["node", "outside", "remote", "p1", "p2", "p3"];
        let spaces: BTreeMap<_, _> = names.into_iter().map(|name| (name, NetNs::fresh().unwrap())).collect();
        let all = |v4: &str, v6: &str| pick(family, v4, v6);
        let everywhere = all("0.0.0.0/0", "::/0");
        for space in spaces.values() {
            space.run(|| sysctl::ensure("net/ipv6/conf/default/accept_dad", "0")).unwrap().unwrap();
            bring_up(&space.socket().unwrap(), "lo", None);
        }
        let node = &spaces["node"];
        let socket = node.socket().unwrap();
        node.run(|| {
            for (name, value) in [
                ("net/ipv4/ip_forward", "1"),
                ("net/ipv6/conf/all/forwarding", "1"),
                ("net/bridge/bridge-nf-call-iptables", "1"),
                ("net/bridge/bridge-nf-call-ip6tables", "1"),
                ("net/ipv4/conf/all/route_localnet", "1"),
            ] {
                sysctl::ensure(name, value).unwrap();
            }
        })
        .unwrap();
        // Pods on a bridge.
        link::create_bridge(&socket, "cni0", None, 1500).unwrap();
        let bridge = bring_up(&socket, "cni0", Some(all("10.244.0.1/24", "fd00:244::1/64")));
        for (name, host) in PODS {
            let port = format!("veth{name}");
            wire(node, &port, &spaces[name], "eth0");
            let index = bring_up(&socket, &port, None);
            link::change(&socket, index, Change { master: Some(bridge), ..Change::default() }).unwrap();
            link::set_hairpin(&socket, index, true).unwrap();
            let inside = spaces[name].socket().unwrap();
            let eth = bring_up(&inside, "eth0", Some(all(&format!("10.244.0.{host}/24"), &format!("fd00:244::{host}/64"))));
            let gateway = all("10.244.0.1", "fd00:244::1").parse().unwrap();
            route::replace(&inside, &Route::new(everywhere.parse().unwrap(), eth).via(gateway)).unwrap();
        }
        // A stranger outside, and a pod of another node, each on a wire of its own.
        for (name, device, near, far, far_is_pod) in [
            ("outside", "eth0", all("192.0.2.1/24", "2001:db8::1/64"), all("192.0.2.2/24", "2001:db8::2/64"), false),
            ("remote", "eth1", all("172.30.0.1/24", "fd00:30::1/64"), all("172.30.0.2/24", "fd00:30::2/64"), true),
        ] {
            wire(node, device, &spaces[name], "eth0");
            let here = bring_up(&socket, device, Some(near.clone()));
            let there = spaces[name].socket().unwrap();
            let eth = bring_up(&there, "eth0", Some(far.clone()));
            let gateway: IpAddr = near.split('/').next().unwrap().parse().unwrap();
            route::replace(&there, &Route::new(everywhere.parse().unwrap(), eth).via(gateway)).unwrap();
            let beyond: IpAddr = far.split('/').next().unwrap().parse().unwrap();
            if !far_is_pod {
                // The kernel refuses to send to an address without a route before any rule could translate it.
                route::replace(&socket, &Route::new(everywhere.parse().unwrap(), here).via(beyond)).unwrap();
            } else {
                let pod = all("10.244.1.11/32", "fd00:244:1::11/128");
                address::add(&there, eth, pod.parse().unwrap()).unwrap();
                route::replace(&socket, &Route::new(pod.parse().unwrap(), here).via(beyond)).unwrap();
            }
        }
        let lab = Self { kind, family, proxy: Mutex::new(Proxy::new(kind, family)), spaces };
        for name in ["p1", "p2", "p3", "remote"] {
            lab.serve(name);
        }
        lab.sync(Scope::All);
        lab
    }

    pub(crate) fn title(&self) -> String {
        format!("{} {}", self.kind.name, self.family)
    }

    /// The address that a place is known by.
    pub(crate) fn ip(&self, name: &str) -> String {
        let host = PODS.iter().find(|(pod, _)| *pod == name).map(|(_, host)| *host);
        match (name, host) {
            (_, Some(host)) => pick(self.family, &format!("10.244.0.{host}"), &format!("fd00:244::{host}")),
            ("remote", _) => pick(self.family, "10.244.1.11", "fd00:244:1::11"),
            ("node", _) => pick(self.family, "192.0.2.1", "2001:db8::1"),
            ("outside", _) => pick(self.family, "192.0.2.2", "2001:db8::2"),
            _ => panic!("no such place: {name}"),
        }
    }

    /// A cluster IP.
    pub(crate) fn vip(&self, host: u8) -> String {
        pick(self.family, &format!("10.96.0.{host}"), &format!("fd00:96::{host}"))
    }

    /// An address beyond the cluster that the stranger's default route brings to the node.
    pub(crate) fn outer(&self, host: u8) -> String {
        pick(self.family, &format!("198.51.100.{host}"), &format!("2001:db8:5::{host}"))
    }

    pub(crate) fn at(&self, ip: String, port: u16) -> String {
        SocketAddr::new(ip.parse().unwrap(), port).to_string()
    }

    /// Starts the pod's servers; they end with the process.
    fn serve(&self, name: &'static str) {
        let address = SocketAddr::new(self.ip(name).parse().unwrap(), TARGET_PORT);
        let (tcp, udp) =
            self.spaces[name].run(|| (TcpListener::bind(address).unwrap(), UdpSocket::bind(address).unwrap())).unwrap();
        std::thread::spawn(move || {
            for stream in tcp.incoming().flatten() {
                std::thread::spawn(move || greet(stream, name));
            }
        });
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, peer)) = udp.recv_from(&mut buffer) {
                let _ = udp.send_to(format!("{name} {}", peer.ip()).as_bytes(), peer);
            }
        });
    }

    pub(crate) fn tcp(&self, from: &str, target: &str) -> Reply {
        self.tcp_within(from, target, PATIENCE)
    }

    pub(crate) fn tcp_within(&self, from: &str, target: &str, patience: Duration) -> Reply {
        let target: SocketAddr = target.parse().unwrap();
        // A dropped packet is sent again after a second; what is refused is refused at once.
        let stream =
            self.spaces[from].run(|| TcpStream::connect_timeout(&target, patience.min(SILENCE + Duration::from_millis(600))));
        match stream.unwrap() {
            Ok(mut stream) => {
                stream.set_read_timeout(Some(patience)).unwrap();
                let mut text = String::new();
                let mut byte = [0];
                while stream.read_exact(&mut byte).is_ok() && byte[0] != b'\n' {
                    text.push(char::from(byte[0]));
                }
                parse(&text)
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Reply::Refused,
            Err(_) => Reply::Silent,
        }
    }

    pub(crate) fn connect(&self, from: &str, target: &str) -> Connection {
        let target: SocketAddr = target.parse().unwrap();
        let mut stream = self.spaces[from].run(|| TcpStream::connect_timeout(&target, PATIENCE).unwrap()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut byte = [0];
        while byte[0] != b'\n' {
            stream.read_exact(&mut byte).unwrap();
        }
        Connection { stream }
    }

    pub(crate) fn udp_client(&self, from: &str) -> UdpSocket {
        let socket = self.spaces[from].run(|| UdpSocket::bind(pick(self.family, "0.0.0.0:0", "[::]:0")).unwrap()).unwrap();
        socket.set_read_timeout(Some(SILENCE)).unwrap();
        socket
    }

    pub(crate) fn udp(&self, client: &UdpSocket, target: &str) -> Reply {
        let mut buffer = [0; 128];
        if client.send_to(b"?", target).is_err() {
            return Reply::Refused;
        }
        match client.recv(&mut buffer) {
            Ok(read) => parse(&String::from_utf8_lossy(&buffer[..read])),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Reply::Refused,
            Err(_) => Reply::Silent,
        }
    }

    /// Creates or changes a Service and its endpoints, and syncs that one Service.
    pub(crate) fn set(&self, object: &Service, endpoints: &[&str]) {
        let name = object.metadata.name.clone().unwrap();
        let port = object.spec.as_ref().unwrap().ports.as_ref().unwrap()[0].clone();
        let rows: Vec<Value> = endpoints
            .iter()
            .map(|pod| {
                let node = if *pod == "remote" { "other" } else { "me" };
                json!({"addresses": [self.ip(pod)], "nodeName": node, "conditions": {"ready": true}})
            })
            .collect();
        let slice: EndpointSlice = serde_json::from_value(json!({
            "metadata": {"namespace": "ns", "name": name, "labels": {"kubernetes.io/service-name": name}},
            "addressType": if self.family == Family::V4 { "IPv4" } else { "IPv6" },
            "ports": [{"name": port.name, "port": TARGET_PORT, "protocol": port.protocol.unwrap_or_else(|| "TCP".into())}], "endpoints": rows,
        }))
        .unwrap();
        {
            let mut proxy = self.proxy.lock().unwrap();
            proxy.state.set_service(object);
            proxy.state.set_slice(&slice);
            proxy.slices.insert(name, slice);
        }
        self.sync_changes();
    }

    pub(crate) fn delete(&self, name: &str) {
        self.forget(name);
        self.sync_changes();
    }

    /// The Service vanishes without a sync.
    pub(crate) fn forget(&self, name: &str) {
        let mut proxy = self.proxy.lock().unwrap();
        proxy.state.delete_service(&ServiceName::new("ns", name));
        if let Some(slice) = proxy.slices.remove(name) {
            proxy.state.delete_slice("ns", slice.metadata.name.as_deref().unwrap());
        }
    }

    fn sync_changes(&self) {
        let proxy = &mut *self.proxy.lock().unwrap();
        self.spaces["node"].run(|| proxy.sync(self.family, None)).unwrap();
    }

    pub(crate) fn sync(&self, scope: Scope<'_>) {
        let proxy = &mut *self.proxy.lock().unwrap();
        self.spaces["node"].run(|| proxy.sync(self.family, Some(scope))).unwrap();
    }

    /// As [`Lab::restart`], configured otherwise.
    pub(crate) fn restart_with(&self, change: impl FnOnce(&mut Settings)) {
        let mut new = settings(self.family);
        change(&mut new);
        let mut proxy = self.proxy.lock().unwrap();
        proxy.backend = (self.kind.new)(new);
    }

    /// Another proxy process takes over: it knows the objects, and nothing of what the kernel holds.
    pub(crate) fn restart(&self) {
        let mut proxy = self.proxy.lock().unwrap();
        proxy.backend = (self.kind.new)(settings(self.family));
    }

    pub(crate) fn verify(&self) -> bool {
        let proxy = &mut *self.proxy.lock().unwrap();
        self.spaces["node"].run(|| proxy.backend.verify().unwrap()).unwrap()
    }

    pub(crate) fn cleanup(&self) {
        self.spaces["node"].run(|| (self.kind.cleanup)(self.family).unwrap()).unwrap();
    }

    fn shell(&self, script: &str) -> String {
        let output = self.spaces["node"].run(|| Command::new("sh").args(["-ec", script]).output().unwrap()).unwrap();
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn tool(&self) -> &'static str {
        if self.family == Family::V4 { "iptables" } else { "ip6tables" }
    }

    pub(crate) fn add_other_peoples_rules(&self) {
        let tool = self.tool();
        self.shell(&format!(
            "{tool} -t nat -N THEIRS; {tool} -t nat -A THEIRS -p tcp --dport 1 -j ACCEPT; {tool} -t nat -A PREROUTING -j THEIRS; \
             {tool} -N KUBE-KUBELET-CANARY; {tool} -A FORWARD -p tcp --dport 1 -j ACCEPT; \
             nft add table inet theirs; nft add chain inet theirs c; nft add rule inet theirs c tcp dport 1 accept"
        ));
    }

    /// Every rule on the node, sorted: order within shared chains is not promised.
    pub(crate) fn all_rules(&self) -> Vec<String> {
        let tool = self.tool();
        let text =
            self.shell(&format!("{tool}-save -t nat; {tool}-save -t filter; nft -s list table inet theirs 2>/dev/null || true"));
        let own = self
            .shell("nft -s list table ip kube-proxy 2>/dev/null || true; nft -s list table ip6 kube-proxy 2>/dev/null || true");
        let mut lines: Vec<String> = text
            .lines()
            .filter(|line| !line.starts_with('#') && !line.starts_with(":PREROUTING") && !line.starts_with(":INPUT"))
            .filter(|line| !line.starts_with(":OUTPUT") && !line.starts_with(":POSTROUTING") && !line.starts_with(":FORWARD"))
            // Made by the iptables backend for good: others use it too.
            .filter(|line| !line.contains("KUBE-FIREWALL"))
            .map(|line| line.trim().to_owned())
            .chain(own.split([',', '\n', '{', '}']).map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()))
            .collect();
        lines.sort();
        lines
    }

    pub(crate) fn rules_without_ours(&self) -> Vec<String> {
        let ours = |line: &String| line.contains("KUBE-") && !line.contains("KUBE-KUBELET-CANARY");
        let tool = self.tool();
        let text =
            self.shell(&format!("{tool}-save -t nat; {tool}-save -t filter; nft -s list table inet theirs 2>/dev/null || true"));
        let mut lines: Vec<String> = text
            .lines()
            .filter(|line| !line.starts_with('#') && !line.starts_with(":PREROUTING") && !line.starts_with(":INPUT"))
            .filter(|line| !line.starts_with(":OUTPUT") && !line.starts_with(":POSTROUTING") && !line.starts_with(":FORWARD"))
            .map(|line| line.trim().to_owned())
            .filter(|line| !ours(line))
            .collect();
        lines.sort();
        lines
    }

    pub(crate) fn empty_our_chain(&self) {
        match self.kind.name {
            "iptables" => self.shell(&format!("{} -t nat -F KUBE-SERVICES", self.tool())),
            _ => {
                let family = if self.family == Family::V4 { "ip" } else { "ip6" };
                self.shell(&format!("nft flush chain {family} kube-proxy nat-prerouting"))
            }
        };
    }

    /// What a proxy leaves that was killed between two steps of a sync: chains and sets that nothing leads to, and some that
    /// are only half of what they should be.
    pub(crate) fn leave_half_a_sync(&self) {
        let tool = self.tool();
        match self.kind.name {
            "iptables" => self.shell(&format!(
                "{tool} -t nat -N KUBE-SEP-AAAAAAAAAAAAAAAA; {tool} -t nat -N KUBE-SVC-AAAAAAAAAAAAAAAA; \
                 {tool} -t nat -A KUBE-SVC-AAAAAAAAAAAAAAAA -j KUBE-SEP-AAAAAAAAAAAAAAAA; {tool} -t nat -N KUBE-EXT-AAAAAAAAAAAAAAAA; \
                 {tool} -t nat -A KUBE-EXT-AAAAAAAAAAAAAAAA -j KUBE-SVC-AAAAAAAAAAAAAAAA; \
                 for c in $({tool}-save -t nat | sed -n 's/^:\\(KUBE-SEP-[^ ]*\\).*/\\1/p'); do {tool} -t nat -F $c; done"
            )),
            _ => {
                let (family, ip, any) = if self.family == Family::V4 { ("ip", "ipv4_addr", "10.9.9.9") } else { ("ip6", "ipv6_addr", "fd09::9") };
                let table = format!("{family} kube-proxy");
                self.shell(&format!(
                    "nft add chain {table} service-00000000-ns/gone/tcp; nft add chain {table} external-00000000-ns/gone/tcp; \
                     nft add rule {table} external-00000000-ns/gone/tcp goto service-00000000-ns/gone/tcp; \
                     nft 'add set {table} affinity-60-00000000-ns/gone/tcp__x/80 {{ type {ip}; flags dynamic,timeout; timeout 60s; }}'; \
                     nft 'add element {table} service-ips {{ {any} . tcp . 80 : goto external-00000000-ns/gone/tcp }}'; \
                     nft 'add element {table} cluster-ips {{ {any} }}'; nft flush map {table} endpoints-2"
                ))
            }
        };
    }

    pub(crate) fn flush_everything(&self) {
        let tool = self.tool();
        self.shell(&format!("{tool} -t nat -F; {tool} -t nat -X; {tool} -F; {tool} -X; nft flush ruleset"));
    }
}

fn settings(family: Family) -> Settings {
    let cidr = pick(family, "10.244.0.0/16", "fd00:244::/32");
    Settings {
        family,
        locality: Locality::Cidr(cidr.parse().unwrap()),
        masquerade_all: false,
        masquerade_bit: 14,
        localhost_node_ports: true,
        node_port_addresses: Vec::new(),
        node_ips: vec![pick(family, "192.0.2.1", "2001:db8::1").parse().unwrap()],
    }
}

impl Proxy {
    fn new(kind: &Kind, family: Family) -> Self {
        Self {
            backend: (kind.new)(settings(family)),
            state: State::new(Place { node: "me".into(), zone: String::new() }),
            portals: Portals::new(),
            slices: BTreeMap::new(),
        }
    }

    fn sync(&mut self, family: Family, scope: Option<Scope<'_>>) {
        let changes = self.state.take_changes();
        let mut before = Vec::new();
        for name in &changes {
            let portals = self.state.portals(name, family);
            let old =
                if portals.is_empty() { self.portals.remove(name) } else { self.portals.insert(name.clone(), portals.into()) };
            before.extend(old);
        }
        self.backend.sync(&self.portals, scope.unwrap_or(Scope::Only(&changes))).unwrap();
        let now: Vec<_> = changes.iter().filter_map(|name| self.portals.get(name)).cloned().collect::<Vec<Arc<_>>>();
        conntrack::clean(&Allowed::new(before.iter(), now.iter()), family == Family::V6).unwrap();
    }
}

/// An open connection to a pod's server.
pub(crate) struct Connection {
    stream: TcpStream,
}

impl Connection {
    /// Whether a byte comes back.
    pub(crate) fn echo(&mut self) -> bool {
        let mut byte = [0];
        self.stream.write_all(b"x").is_ok() && self.stream.read_exact(&mut byte).is_ok() && byte == *b"x"
    }
}

/// Says who answers whom, then echoes.
fn greet(mut stream: TcpStream, name: &str) {
    let Ok(peer) = stream.peer_addr() else { return };
    if stream.write_all(format!("{name} {}\n", peer.ip()).as_bytes()).is_err() {
        return;
    }
    let mut buffer = [0; 256];
    while let Ok(read) = stream.read(&mut buffer) {
        if read == 0 || stream.write_all(&buffer[..read]).is_err() {
            return;
        }
    }
}

fn parse(text: &str) -> Reply {
    match text.trim().split_once(' ') {
        Some((server, client)) => Reply::From { server: server.to_owned(), client: client.to_owned() },
        None => Reply::Silent,
    }
}

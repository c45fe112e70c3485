//! The plugin's operations against the kernel, in namespaces of our own.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::plugin::run;

struct Lab {
    host: NetNs,
    data: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        Self { host: NetNs::fresh().unwrap(), data: tempfile::tempdir().unwrap() }
    }

    fn conf(&self, version: &str, extra: Value) -> Value {
        let mut conf = json!({
            "cniVersion": version, "name": "rk", "type": "rk-cni", "bridge": "cni0", "mtu": 1450,
            "subnets": ["10.77.1.0/24", "fd00:77::/64"], "dataDir": self.data.path(),
        });
        conf.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        conf
    }

    fn call(&self, command: &str, id: &str, netns: &Path, conf: &Value) -> Result<Option<Value>, CniError> {
        let environment = Environment::new(|name| match name {
            "CNI_COMMAND" => Some(command.to_owned()),
            "CNI_CONTAINERID" => Some(id.to_owned()),
            "CNI_NETNS" => Some(netns.display().to_string()),
            "CNI_IFNAME" => Some("eth0".to_owned()),
            _ => None,
        });
        self.host.run(|| run(&environment, &conf.to_string())).unwrap()
    }

    fn reservations(&self) -> usize {
        Store::open(self.data.path(), "rk").unwrap().reservations().unwrap().len()
    }
}

/// A namespace with a path that other threads can open.
struct Pod {
    namespace: NetNs,
    path: std::path::PathBuf,
}

impl Pod {
    fn new() -> Self {
        use std::os::fd::{AsFd, AsRawFd};
        let namespace = NetNs::fresh().unwrap();
        let path = format!("/proc/{}/fd/{}", std::process::id(), namespace.as_fd().as_raw_fd()).into();
        Self { namespace, path }
    }
}

fn address_of(result: &Value, family: usize) -> IpAddr {
    result["ips"][family]["address"].as_str().unwrap().parse::<IpNet>().unwrap().addr()
}

#[test]
fn pods_reach_each_other_their_gateway_and_themselves() {
    let lab = Lab::new();
    let conf = lab.conf("1.0.0", json!({}));
    let (a, b) = (Pod::new(), Pod::new());
    let first = lab.call("ADD", "pod-a", &a.path, &conf).unwrap().unwrap();
    let second = lab.call("ADD", "pod-b", &b.path, &conf).unwrap().unwrap();
    assert_eq!(first["ips"][0]["address"], "10.77.1.2/24");
    assert_eq!(first["ips"][0]["gateway"], "10.77.1.1");
    assert_eq!(first["interfaces"][2]["sandbox"].as_str(), a.path.to_str());
    for family in [0, 1] {
        let target = address_of(&second, family);
        let listener = b.namespace.run(|| TcpListener::bind((target, 0)).unwrap()).unwrap();
        let port = listener.local_addr().unwrap().port();
        let connect = || TcpStream::connect_timeout(&(target, port).into(), Duration::from_secs(5)).unwrap();
        let stream = a.namespace.run(connect).unwrap();
        assert_eq!(stream.local_addr().unwrap().ip(), address_of(&first, family));
        lab.host.run(connect).unwrap();
        b.namespace.run(connect).unwrap();
    }
    let mut checked = conf.clone();
    checked["prevResult"] = first.clone();
    lab.call("CHECK", "pod-a", &a.path, &checked).unwrap();
    let error = lab.call("CHECK", "pod-b", &b.path, &checked).unwrap_err();
    assert_eq!(error.code, Code::Drifted);
}

#[test]
fn adding_twice_is_refused_and_deleting_is_idempotent() {
    let lab = Lab::new();
    let conf = lab.conf("1.0.0", json!({}));
    let pod = Pod::new();
    lab.call("ADD", "pod-a", &pod.path, &conf).unwrap();
    let error = lab.call("ADD", "pod-a", &pod.path, &conf).unwrap_err();
    assert!(error.message.contains("already has an interface"), "{error}");
    assert_eq!(lab.reservations(), 2, "the refused call took nothing away");
    for _ in 0..2 {
        lab.call("DEL", "pod-a", Path::new("/nowhere"), &conf).unwrap();
        assert_eq!(lab.reservations(), 0);
    }
    assert!(link::find(&pod.namespace.socket().unwrap(), "eth0").unwrap().is_none());
}

#[test]
fn a_failed_add_leaves_nothing_behind() {
    let lab = Lab::new();
    // The bridge's name is taken by something that is no bridge.
    let conf = lab.conf("1.0.0", json!({"bridge": "lo"}));
    let pod = Pod::new();
    let error = lab.call("ADD", "pod-a", &pod.path, &conf).unwrap_err();
    assert_eq!(error.code, Code::InvalidConfig, "{error}");
    assert_eq!(lab.reservations(), 0);
    assert!(!link::list(&lab.host.socket().unwrap()).unwrap().iter().any(|link| link.name.starts_with(HOST_PREFIX)));
    lab.call("ADD", "pod-a", Path::new("/nowhere"), &lab.conf("1.0.0", json!({}))).unwrap_err();
    assert_eq!(lab.reservations(), 0);
}

#[test]
fn garbage_is_collected_and_what_is_valid_stays() {
    let lab = Lab::new();
    let (a, b) = (Pod::new(), Pod::new());
    lab.call("ADD", "pod-a", &a.path, &lab.conf("1.1.0", json!({}))).unwrap();
    lab.call("ADD", "pod-b", &b.path, &lab.conf("1.1.0", json!({}))).unwrap();
    let valid = json!({"cni.dev/valid-attachments": [{"containerID": "pod-a", "ifname": "eth0"}]});
    lab.call("GC", "", Path::new(""), &lab.conf("1.1.0", valid)).unwrap();
    assert_eq!(lab.reservations(), 2);
    assert!(link::find(&a.namespace.socket().unwrap(), "eth0").unwrap().is_some());
    assert!(link::find(&b.namespace.socket().unwrap(), "eth0").unwrap().is_none());
    lab.call("STATUS", "", Path::new(""), &lab.conf("1.1.0", json!({}))).unwrap();
}

#[test]
fn a_bridge_of_another_subnet_is_taken_over() {
    let lab = Lab::new();
    let (a, b) = (Pod::new(), Pod::new());
    lab.call("ADD", "pod-a", &a.path, &lab.conf("1.0.0", json!({"subnets": ["10.78.0.0/24"]}))).unwrap();
    lab.call("ADD", "pod-b", &b.path, &lab.conf("1.0.0", json!({"subnets": ["10.79.0.0/24"]}))).unwrap();
    let socket = lab.host.socket().unwrap();
    let bridge = link::by_name(&socket, "cni0").unwrap();
    let global: Vec<_> = address::list(&socket).unwrap().into_iter().filter(|a| a.link == bridge.index && a.scope == 0).collect();
    assert_eq!(global.iter().map(|a| a.net.to_string()).collect::<Vec<_>>(), ["10.79.0.1/24"]);
}

#[test]
fn a_bridge_that_somebody_removed_is_healed_under_running_pods() {
    let lab = Lab::new();
    let conf = lab.conf("1.0.0", json!({}));
    let (a, b) = (Pod::new(), Pod::new());
    lab.call("ADD", "pod-a", &a.path, &conf).unwrap();
    let second = lab.call("ADD", "pod-b", &b.path, &conf).unwrap().unwrap();
    let listener = b.namespace.run(|| TcpListener::bind("[::]:8080").unwrap()).unwrap();
    let reach = |from: &NetNs, family: usize| {
        let target = (address_of(&second, family), 8080).into();
        from.run(|| TcpStream::connect_timeout(&target, Duration::from_millis(1500)).is_ok()).unwrap()
    };
    let owners: Vec<Owner> = Store::open(lab.data.path(), "rk").unwrap().reservations().unwrap().into_values().collect();
    let parsed = NetConf::parse(&conf.to_string()).unwrap();
    let healed = || lab.host.run(|| heal(&parsed, &owners).unwrap()).unwrap();
    assert_eq!(healed(), 0, "nothing to do");
    let socket = lab.host.socket().unwrap();
    link::delete(&socket, "cni0").unwrap();
    assert!(!reach(&a.namespace, 0));
    assert_eq!(healed(), 2);
    for family in [0, 1] {
        assert!(reach(&a.namespace, family) && reach(&lab.host, family), "family {family}");
    }
    let bridge = link::by_name(&socket, "cni0").unwrap().index;
    address::delete(&socket, bridge, "10.77.1.1/24".parse().unwrap()).unwrap();
    assert!(!reach(&lab.host, 0));
    assert_eq!(healed(), 0, "only the address was missing");
    assert!(reach(&lab.host, 0));
    drop(listener);
}

#[test]
fn host_ports_lead_to_the_pod_from_outside_the_node_itself_and_the_pod() {
    let lab = Lab::new();
    let mappings = json!({"runtimeConfig": {"portMappings": [
        {"hostPort": 18080, "containerPort": 80, "protocol": "tcp"},
        {"hostPort": 18081, "containerPort": 80, "protocol": "tcp", "hostIP": "192.0.2.1"},
    ]}});
    let (pod, other, outside) = (Pod::new(), Pod::new(), Pod::new());
    // A wire between the node and a machine outside.
    let node = lab.host.socket().unwrap();
    let near = VethEnd { name: "eth0", mac: None, namespace: None };
    let far = VethEnd { name: "eth0", mac: None, namespace: Some(std::os::fd::AsFd::as_fd(&outside.namespace)) };
    link::create_veth(&node, &near, &far, 1500).unwrap();
    for (socket, net) in [(&node, "192.0.2.1/24"), (&outside.namespace.socket().unwrap(), "192.0.2.2/24")] {
        let eth = link::by_name(socket, "eth0").unwrap();
        address::add(socket, eth.index, net.parse().unwrap()).unwrap();
        for name in ["lo", "eth0"] {
            link::change(socket, link::by_name(socket, name).unwrap().index, Change::up()).unwrap();
        }
    }
    lab.call("ADD", "pod-a", &pod.path, &lab.conf("1.0.0", mappings.clone())).unwrap();
    lab.call("ADD", "pod-b", &other.path, &lab.conf("1.0.0", json!({}))).unwrap();
    let listener = pod.namespace.run(|| TcpListener::bind("0.0.0.0:80").unwrap()).unwrap();
    let reach = |from: &NetNs, target: &str| {
        let target = target.parse().unwrap();
        from.run(|| TcpStream::connect_timeout(&target, Duration::from_millis(1500)).is_ok()).unwrap()
    };
    assert!(reach(&outside.namespace, "192.0.2.1:18080"));
    assert_eq!(listener.accept().unwrap().1.ip().to_string(), "192.0.2.2", "the client's address is kept");
    assert!(reach(&outside.namespace, "192.0.2.1:18081"));
    assert!(reach(&lab.host, "192.0.2.1:18080"));
    assert!(reach(&lab.host, "127.0.0.1:18080"));
    assert!(!reach(&lab.host, "127.0.0.1:18081"), "bound to another address");
    assert!(reach(&other.namespace, "192.0.2.1:18080"));
    assert!(reach(&pod.namespace, "192.0.2.1:18080"), "hairpin");
    lab.call("DEL", "pod-a", &pod.path, &lab.conf("1.0.0", json!({}))).unwrap();
    assert!(!reach(&outside.namespace, "192.0.2.1:18080"));
    let rules = lab.host.run(|| net::iptables::Iptables::new(net::iptables::Family::V4).save("nat").unwrap()).unwrap();
    assert!(!rules.contains("18080"), "{rules}");
}

//! The plugin as a runtime runs it, killed at any moment: what it leaves behind is taken back by DEL, by the next ADD or by GC.

use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use net::{NetNs, link};
use serde_json::{Value, json};

struct Host {
    namespace: NetNs,
    data: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        Self { namespace: NetNs::fresh().unwrap(), data: tempfile::tempdir().unwrap() }
    }

    fn conf(&self, extra: Value) -> String {
        let mut conf = json!({
            "cniVersion": "1.1.0", "name": "rk", "type": "rk-cni", "bridge": "cni0", "mtu": 1450,
            "subnets": ["10.77.1.0/24", "fd00:77::/64"], "dataDir": self.data.path(),
            "runtimeConfig": {"portMappings": [{"hostPort": 18080, "containerPort": 80, "protocol": "tcp"}]},
        });
        conf.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        conf.to_string()
    }

    fn start(&self, command: &str, id: &str, netns: &Path, conf: &str) -> Child {
        let spawn = || {
            Command::new(env!("CARGO_BIN_EXE_rk-cni"))
                .envs([("CNI_COMMAND", command), ("CNI_CONTAINERID", id), ("CNI_IFNAME", "eth0")])
                .env("CNI_NETNS", netns)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        };
        let mut child = self.namespace.run(spawn).unwrap();
        child.stdin.take().unwrap().write_all(conf.as_bytes()).unwrap();
        child
    }

    fn call(&self, command: &str, id: &str, netns: &Path, conf: &str) -> Output {
        self.start(command, id, netns, conf).wait_with_output().unwrap()
    }

    fn good(&self, command: &str, id: &str, netns: &Path, conf: &str) -> Value {
        let output = self.call(command, id, netns, conf);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{command}: {text}");
        serde_json::from_str(&text).unwrap_or(Value::Null)
    }

    /// Reserved addresses, host ends of veth pairs, lines about host ports.
    fn left(&self) -> (usize, usize, usize) {
        let files = std::fs::read_dir(self.data.path().join("rk")).into_iter().flatten().flatten();
        let addresses =
            files.filter(|entry| entry.file_name().to_str().is_some_and(|name| name.parse::<std::net::IpAddr>().is_ok()));
        let links = link::list(&self.namespace.socket().unwrap()).unwrap();
        let saved = self.namespace.run(|| {
            let save = |family| net::iptables::Iptables::new(family).save("nat").unwrap_or_default();
            save(net::iptables::Family::V4) + &save(net::iptables::Family::V6)
        });
        let ports = saved.unwrap().lines().filter(|line| line.contains("18080")).count();
        (addresses.count(), links.iter().filter(|link| link.name.starts_with("veth")).count(), ports)
    }
}

/// A pod's namespace and a path to it that other processes can open.
fn pod() -> (NetNs, PathBuf) {
    let namespace = NetNs::fresh().unwrap();
    let path = format!("/proc/{}/fd/{}", std::process::id(), namespace.as_fd().as_raw_fd()).into();
    (namespace, path)
}

#[test]
fn an_add_that_is_killed_at_any_moment_leaks_nothing() {
    let host = Host::new();
    let conf = host.conf(json!({}));
    // From before the first system call to after the last one.
    for step in 0..40_u64 {
        let (namespace, path) = pod();
        let mut child = host.start("ADD", "pod-a", &path, &conf);
        std::thread::sleep(Duration::from_micros(step * 700));
        child.kill().unwrap();
        child.wait().unwrap();
        match step % 3 {
            // The runtime gives up.
            0 => {
                host.good("DEL", "pod-a", &path, &conf);
            }
            // The runtime tries again, in a new namespace as it does.
            1 => {
                drop(namespace);
                let (again, path) = pod();
                let result = host.good("ADD", "pod-a", &path, &conf);
                assert_eq!(result["ips"].as_array().unwrap().len(), 2);
                assert!(link::find(&again.socket().unwrap(), "eth0").unwrap().is_some());
                assert_eq!(host.left().0, 2, "step {step}: one address per family");
                let output = host.call("CHECK", "pod-a", &path, &host.conf(json!({"prevResult": result})));
                assert!(output.status.success(), "step {step}: {}", String::from_utf8_lossy(&output.stdout));
                host.good("DEL", "pod-a", &path, &conf);
            }
            // The runtime has forgotten about it.
            _ => {
                host.good("GC", "", Path::new(""), &host.conf(json!({"cni.dev/valid-attachments": []})));
            }
        }
        assert_eq!(host.left(), (0, 0, 0), "step {step}");
    }
}

#[test]
fn a_del_that_is_killed_is_finished_by_the_next() {
    let host = Host::new();
    let conf = host.conf(json!({}));
    for step in 0..20_u64 {
        let (_namespace, path) = pod();
        host.good("ADD", "pod-a", &path, &conf);
        let mut child = host.start("DEL", "pod-a", &path, &conf);
        std::thread::sleep(Duration::from_micros(step * 900));
        child.kill().unwrap();
        child.wait().unwrap();
        host.good("DEL", "pod-a", &path, &conf);
        assert_eq!(host.left(), (0, 0, 0), "step {step}");
    }
}

#[test]
fn many_pods_at_once_have_addresses_of_their_own() {
    let host = Host::new();
    let conf = host.conf(json!({"runtimeConfig": {}}));
    let pods: Vec<_> = (0..16).map(|_| pod()).collect();
    let running: Vec<_> =
        pods.iter().enumerate().map(|(n, (_, path))| host.start("ADD", &format!("pod-{n}"), path, &conf)).collect();
    let mut addresses: Vec<String> = running
        .into_iter()
        .map(|child| {
            let output = child.wait_with_output().unwrap();
            let result: Value = serde_json::from_slice(&output.stdout).unwrap();
            result["ips"][0]["address"].as_str().unwrap_or_else(|| panic!("{result}")).to_owned()
        })
        .collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 16);
}

#[test]
fn limits_are_installed_at_both_ends_and_go_with_the_pod() {
    let host = Host::new();
    let limits = json!({"runtimeConfig": {"bandwidth": {"ingressRate": 8_000_000, "ingressBurst": 8_000_000, "egressRate": 4_000_000, "egressBurst": 4_000_000}}});
    let (namespace, path) = pod();
    let result = host.good("ADD", "pod-a", &path, &host.conf(limits));
    let shown = |space: &NetNs, name: &str| {
        let output = space.run(|| Command::new("tc").args(["qdisc", "show", "dev", name]).output().unwrap()).unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let outside = shown(&host.namespace, result["interfaces"][1]["name"].as_str().unwrap());
    assert!(outside.contains("tbf") && outside.contains("rate 8Mbit"), "{outside}");
    let inside = shown(&namespace, "eth0");
    assert!(inside.contains("tbf") && inside.contains("rate 4Mbit"), "{inside}");
    host.good("DEL", "pod-a", &path, &host.conf(json!({})));
    assert_eq!(host.left(), (0, 0, 0));
}

#[test]
fn a_bridge_or_a_port_that_somebody_removed_comes_back_with_the_next_pod() {
    let host = Host::new();
    let conf = host.conf(json!({"runtimeConfig": {}}));
    let (_a, a_path) = pod();
    let result = host.good("ADD", "pod-a", &a_path, &conf);
    let socket = host.namespace.socket().unwrap();
    link::delete(&socket, "cni0").unwrap();
    let drifted = host.call("CHECK", "pod-a", &a_path, &host.conf(json!({"prevResult": result})));
    assert!(!drifted.status.success());
    let error: Value = serde_json::from_slice(&drifted.stdout).unwrap();
    assert!(error["msg"].as_str().unwrap().contains("is not an active port of cni0"), "{error}");
    let (_b, b_path) = pod();
    host.good("ADD", "pod-b", &b_path, &conf);
    assert!(link::find(&socket, "cni0").unwrap().is_some());
    link::delete(&socket, result["interfaces"][1]["name"].as_str().unwrap()).unwrap();
    host.good("DEL", "pod-a", &a_path, &conf);
    host.good("DEL", "pod-b", &b_path, &conf);
    assert_eq!(host.left(), (0, 0, 0));
}

#[test]
fn whatever_comes_in_is_answered_with_an_error_of_the_specification() {
    let host = Host::new();
    let (_namespace, path) = pod();
    let whole = host.conf(json!({}));
    let mut inputs: Vec<String> = (0..whole.len()).step_by(7).map(|end| whole[..end].to_owned()).collect();
    for wrong in [
        json!({"subnets": "10.0.0.0/24"}),
        json!({"subnets": ["10.0.0.0/33"]}),
        json!({"subnets": ["10.0.0.0/31"]}),
        json!({"subnets": []}),
        json!({"mtu": -1}),
        json!({"mtu": "big"}),
        json!({"bridge": "a/b"}),
        json!({"bridge": "a-name-that-is-too-long"}),
        json!({"name": ""}),
        json!({"cniVersion": "2.0.0"}),
        json!({"ipam": {"type": "dhcp"}}),
        json!({"runtimeConfig": {"portMappings": [{"hostPort": 99999, "containerPort": 80}]}}),
        json!({"runtimeConfig": {"portMappings": [{"hostPort": 80, "containerPort": 80, "protocol": "icmp"}]}}),
    ] {
        inputs.push(host.conf(wrong));
    }
    inputs.push("\u{0}".repeat(64));
    inputs.push("[".repeat(100_000));
    for input in inputs {
        let output = host.call("ADD", "pod-a", &path, &input);
        let short: String = input.chars().take(200).collect();
        assert_eq!(output.status.code(), Some(1), "{short}");
        let error: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{short}"));
        assert!(error["code"].as_u64().unwrap() > 0 && !error["msg"].as_str().unwrap().is_empty(), "{short}: {error}");
        assert!(error["cniVersion"].is_string(), "{error}");
    }
    assert_eq!(host.left(), (0, 0, 0));
}

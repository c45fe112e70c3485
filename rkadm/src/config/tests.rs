use super::*;

fn reference(name: &str) -> Option<String> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/reference/kubeadm").join(name);
    let text = std::fs::read_to_string(&path).ok();
    if text.is_none() {
        eprintln!("SKIPPED: no reference data at {}", path.display());
    }
    text
}

#[test]
fn the_defaults_that_are_printed_are_kubeadms() {
    let Some(text) = reference("config-defaults.yaml") else { return };
    let mut seen = 0;
    for document in text.split("---\n").filter(|document| !document.trim().is_empty()) {
        let mut wanted: Value = serde_yaml::from_str(document).unwrap();
        let kind = wanted["kind"].as_str().unwrap().to_string();
        // The node's name is the host's there and is filled in by the command.
        let node = if kind == "JoinConfiguration" { "vm" } else { "node" };
        if kind == "ClusterConfiguration" {
            wanted["kubernetesVersion"] = json!(component::version::current().trim_start_matches('v'));
        }
        let text = crate::command::config::defaults_of(&kind, node).unwrap();
        let got: Value = serde_yaml::from_str(&text).unwrap();
        assert_eq!(got, wanted, "{kind}");
        assert_eq!(text, yaml(&wanted).unwrap(), "{kind}: order of keys");
        parse(document).unwrap_or_else(|e| panic!("{kind}: {e:#}"));
        seen += 1;
    }
    assert_eq!(seen, 5);
}

#[test]
fn v1beta3_reads_as_v1beta4() {
    let documents = parse(
        r#"
apiVersion: kubeadm.k8s.io/v1beta3
kind: ClusterConfiguration
apiServer:
  timeoutForControlPlane: 3m30s
  extraArgs: {v: "4", audit-log-path: /a}
  certSANs: [api.example]
etcd: {local: {dataDir: /e, extraArgs: {heartbeat-interval: "200"}}}
---
apiVersion: kubeadm.k8s.io/v1beta3
kind: InitConfiguration
nodeRegistration: {name: n1, kubeletExtraArgs: {node-ip: 10.0.0.1}}
---
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
maxPods: 50
"#,
    )
    .unwrap();
    let cluster = documents.cluster.unwrap();
    let args: Vec<_> = cluster.api_server.extra_args.iter().map(|a| (a.name.as_str(), a.value.as_str())).collect();
    assert_eq!(args, [("audit-log-path", "/a"), ("v", "4")]);
    assert_eq!(cluster.etcd.local.unwrap().extra_args[0].value, "200");
    let init = documents.init.unwrap();
    assert_eq!(init.timeouts.control_plane_component_health_check.as_secs(), 210);
    assert_eq!(init.node_registration.kubelet_extra_args[0].name, "node-ip");
    assert_eq!(documents.kubelet.unwrap()["maxPods"], 50);
    assert!(documents.old);
}

#[test]
fn mistakes_are_named() {
    for (text, wanted) in [
        (
            "apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\nnetworking: {podSubnets: a}\n",
            "did you mean \"podSubnet\"",
        ),
        ("apiVersion: kubeadm.k8s.io/v1beta2\nkind: ClusterConfiguration\n", "v1beta2 is not supported"),
        ("apiVersion: kubeadm.k8s.io/v1beta4\nkind: Nonsense\n", "no kind \"Nonsense\""),
        ("apiVersion: v1\nkind: Pod\n", "unknown apiVersion"),
        ("apiVersion: kubeadm.k8s.io/v1beta3\nkind: ClusterConfiguration\nscheduler: {extraArgs: {v: 4}}\n", "in quotes"),
        ("apiVersion: kubeadm.k8s.io/v1beta3\nkind: ClusterConfiguration\nscheduler: {extraArgs: []}\n", "v1beta4"),
        ("- a\n", "not an object"),
        ("a: [", "not YAML"),
    ] {
        let error = format!("{:#}", parse(text).unwrap_err());
        assert!(error.contains(wanted), "{text:?}: {error}");
    }
}

#[test]
fn every_problem_is_listed() {
    let init = InitConfiguration {
        node_registration: NodeRegistration { name: "Node_1".into(), cri_socket: "/run/x".into(), ..Default::default() },
        local_api_endpoint: ApiEndpoint { advertise_address: "127.0.0.1".into(), bind_port: 6443 },
        ..Default::default()
    };
    let mut cluster = ClusterConfiguration::default();
    cluster.networking.pod_subnet = "10.100.0.0/16".into();
    cluster.networking.dns_domain = "-".into();
    cluster.kubernetes_version = "latest".into();
    let error = validate::init(&init, &cluster).into_result().unwrap_err().to_string();
    for part in [
        "nodeRegistration.name",
        "criSocket",
        "advertiseAddress",
        "overlaps with serviceSubnet",
        "dnsDomain",
        "kubernetesVersion",
    ] {
        assert!(error.contains(part), "{error} lacks {part}");
    }
    let error = validate::join(&JoinConfiguration::default()).into_result().unwrap_err().to_string();
    assert!(error.contains("--print-join-command"), "{error}");
}

#[test]
fn merging_keeps_what_is_not_named() {
    let mut base = json!({"a": {"b": 1, "c": 2}, "d": [1]});
    merge(&mut base, &json!({"a": {"b": 5}, "d": [2, 3], "e": true}));
    assert_eq!(base, json!({"a": {"b": 5, "c": 2}, "d": [2, 3], "e": true}));
}

#[test]
fn ambiguous_strings_are_quoted_and_read_back() {
    let value = json!({"a": "0", "b": "", "c": "yes", "d": "v1.36.0", "e": "1e3", "f": "a: b", "g": "null", "h": ["*", "10.0.0.1"], "i": "x\ny\n"});
    let text = yaml(&value).unwrap();
    assert!(text.contains("a: \"0\"\nb: \"\"\nc: \"yes\"\nd: v1.36.0\n"), "{text}");
    assert_eq!(serde_yaml::from_str::<Value>(&text).unwrap(), value);
}

use super::*;

fn facts<'a>(cluster: &'a ClusterConfiguration, images: &'a Images) -> Facts<'a> {
    Facts {
        cluster,
        images,
        node_name: "node1",
        advertise_address: "172.30.0.1".parse().unwrap(),
        bind_port: 6443,
        ca_dirs: &["/etc/ca-certificates", "/usr/share/ca-certificates", "/usr/local/share/ca-certificates"],
        etcd_members: &[],
        etcd_existing: false,
    }
}

fn cluster() -> ClusterConfiguration {
    let mut cluster = ClusterConfiguration { kubernetes_version: "v1.36.0".into(), ..Default::default() };
    cluster.networking.pod_subnet = "10.244.0.0/16".into();
    cluster
}

#[test]
fn manifests_are_kubeadms_byte_for_byte() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/reference/kubeadm/manifests");
    if !dir.is_dir() {
        eprintln!("SKIPPED: no reference data at {}", dir.display());
        return;
    }
    let cluster = cluster();
    // The reference was made with etcd 3.6.
    let images = Images::of(&cluster, "3.6.8-0");
    for component in COMPONENTS {
        let wanted = std::fs::read_to_string(dir.join(format!("{component}.yaml"))).unwrap();
        let got = crate::config::yaml(&of(component, &facts(&cluster, &images)).unwrap()).unwrap();
        assert_eq!(got, wanted, "{component}");
    }
}

#[test]
fn flags_and_probes_fit_the_etcd_at_hand() {
    let cluster = cluster();
    for (tag, flag, live) in [
        ("3.4.23-0", "--experimental-initial-corrupt-check=true", "/health?exclude=NOSPACE&serializable=true"),
        ("3.4.30-0", "--experimental-watch-progress-notify-interval=5s", "/livez"),
        ("3.5.10-0", "--experimental-initial-corrupt-check=true", "/health?exclude=NOSPACE&serializable=true"),
        ("3.5.16-0", "--experimental-initial-corrupt-check=true", "/livez"),
        ("3.6.0-0", "--feature-gates=InitialCorruptCheck=true", "/livez"),
        ("custom", "--watch-progress-notify-interval=5s", "/livez"),
    ] {
        let images = Images::of(&cluster, tag);
        let pod = of("etcd", &facts(&cluster, &images)).unwrap();
        let container = &pod["spec"]["containers"][0];
        assert!(container["command"].as_array().unwrap().contains(&json!(flag)), "{tag}: {container}");
        assert_eq!(container["livenessProbe"]["httpGet"]["path"], live, "{tag}");
    }
}

#[test]
fn the_distributions_etcd_takes_every_flag() {
    // A flag that this etcd does not know would only show as a crash loop.
    let Ok(output) = std::process::Command::new("etcd").arg("--version").output() else {
        eprintln!("SKIPPED: no etcd here");
        return;
    };
    let text = String::from_utf8_lossy(&output.stdout).to_string();
    let version =
        text.lines().find_map(|line| line.strip_prefix("etcd Version: ")).expect("etcd says its version").trim().to_string();
    let cluster = cluster();
    let images = Images::of(&cluster, &format!("{version}-0"));
    let pod = of("etcd", &facts(&cluster, &images)).unwrap();
    let help = std::process::Command::new("etcd").arg("--help").output().unwrap();
    let help = format!("{}{}", String::from_utf8_lossy(&help.stdout), String::from_utf8_lossy(&help.stderr));
    for argument in pod["spec"]["containers"][0]["command"].as_array().unwrap().iter().skip(1) {
        let flag = argument.as_str().unwrap().split('=').next().unwrap();
        assert!(help.contains(flag), "etcd {version} has no {flag}");
    }
}

#[test]
fn extra_arguments_replace_volumes_and_envs_add() {
    let mut cluster = cluster();
    let arg = |name: &str, value: &str| Arg { name: name.into(), value: value.into() };
    cluster.api_server.extra_args = vec![
        arg("secure-port", "7443"),
        arg("audit-log-path", "/var/log/audit"),
        arg("service-account-issuer", "https://b"),
        arg("service-account-issuer", "https://a"),
    ];
    cluster.api_server.extra_volumes = vec![HostPathMount {
        name: "audit".into(),
        host_path: "/var/log".into(),
        mount_path: "/logs".into(),
        read_only: false,
        path_type: "Directory".into(),
    }];
    cluster.api_server.extra_envs = vec![json!({"name": "HTTP_PROXY", "value": "x"})];
    let images = Images::of(&cluster, "3.6.8-0");
    let pod = of("kube-apiserver", &facts(&cluster, &images)).unwrap();
    let container = &pod["spec"]["containers"][0];
    let command: Vec<&str> = container["command"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(command.contains(&"--secure-port=7443") && !command.contains(&"--secure-port=6443"));
    assert_eq!(command.iter().filter(|arg| arg.starts_with("--service-account-issuer=")).count(), 2);
    assert_eq!(container["ports"][0]["containerPort"], 7443);
    assert_eq!(container["env"][0]["name"], "HTTP_PROXY");
    assert!(pod["spec"]["volumes"].as_array().unwrap().iter().any(|v| v["hostPath"]["type"] == "Directory"));
}

#[test]
fn external_etcd_has_no_manifest_and_its_files_are_mounted() {
    let mut cluster = cluster();
    cluster.etcd.local = None;
    cluster.etcd.external = Some(crate::config::types::ExternalEtcd {
        endpoints: vec!["https://10.0.0.5:2379".into()],
        ca_file: "/etc/etcd/ca.crt".into(),
        cert_file: "/etc/etcd/client.crt".into(),
        key_file: "/etc/etcd/client.key".into(),
        ..Default::default()
    });
    let images = Images::of(&cluster, "3.6.8-0");
    assert!(of("etcd", &facts(&cluster, &images)).is_none());
    let pod = of("kube-apiserver", &facts(&cluster, &images)).unwrap();
    assert!(pod["spec"]["containers"][0]["command"].as_array().unwrap().contains(&json!("--etcd-servers=https://10.0.0.5:2379")));
    assert!(pod["spec"]["volumes"].as_array().unwrap().iter().any(|v| v["hostPath"]["path"] == "/etc/etcd"));
}

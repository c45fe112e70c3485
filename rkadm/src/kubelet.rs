//! The kubelet's files: configuration, flags, unit. Pure.
//! Upstream: cmd/kubeadm/app/phases/kubelet, cmd/kubeadm/app/componentconfigs/kubelet.go; the unit is the kubelet package's.

use serde_json::{Value, json};

use crate::config::merge;
use crate::config::types::{Arg, ClusterConfiguration, NodeRegistration, Taint};
use crate::host::Host;

pub const DIR: &str = "/var/lib/kubelet";
pub const CONFIG: &str = "/var/lib/kubelet/config.yaml";
pub const INSTANCE_CONFIG: &str = "/var/lib/kubelet/instance-config.yaml";
pub const ENV: &str = "/var/lib/kubelet/kubeadm-flags.env";
pub const EXTRA_ENV: &str = "/etc/default/kubelet";
pub const KUBECONFIG: &str = "/etc/kubernetes/kubelet.conf";
pub const BOOTSTRAP_KUBECONFIG: &str = "/etc/kubernetes/bootstrap-kubelet.conf";
/// Where the kubelet keeps the certificate that it rotates.
pub const CLIENT_CERTIFICATE: &str = "/var/lib/kubelet/pki/kubelet-client-current.pem";
pub const UNIT: &str = "/etc/systemd/system/kubelet.service";
pub const DROP_IN: &str = "/etc/systemd/system/kubelet.service.d/10-kubeadm.conf";

/// The cluster's kubelet configuration: kubeadm's defaults, then what the user wrote.
pub fn configuration(cluster: &ClusterConfiguration, host: &Host, user: &Value) -> Value {
    let zero = "0s";
    let mut config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"cacheTTL": zero, "enabled": true},
            "x509": {"clientCAFile": format!("{}/ca.crt", cluster.certificates_dir)},
        },
        "authorization": {"mode": "Webhook", "webhook": {"cacheAuthorizedTTL": zero, "cacheUnauthorizedTTL": zero}},
        "cgroupDriver": if host.systemd { "systemd" } else { "cgroupfs" },
        "clusterDNS": dns_addresses(cluster),
        "clusterDomain": cluster.networking.dns_domain,
        "containerRuntimeEndpoint": "",
        "cpuManagerReconcilePeriod": zero,
        "crashLoopBackOff": {},
        "evictionPressureTransitionPeriod": zero,
        "fileCheckFrequency": zero,
        "healthzBindAddress": "127.0.0.1",
        "healthzPort": 10248,
        "httpCheckFrequency": zero,
        "imageMaximumGCAge": zero,
        "imageMinimumGCAge": zero,
        "logging": {"flushFrequency": 0, "options": {"json": {"infoBufferSize": "0"}, "text": {"infoBufferSize": "0"}}, "verbosity": 0},
        "memorySwap": {},
        "nodeStatusReportFrequency": zero,
        "nodeStatusUpdateFrequency": zero,
        "rotateCertificates": true,
        "runtimeRequestTimeout": zero,
        "shutdownGracePeriod": zero,
        "shutdownGracePeriodCriticalPods": zero,
        "staticPodPath": crate::manifest::DIR,
        "streamingConnectionIdleTimeout": zero,
        "syncFrequency": zero,
        "volumeStatsAggPeriod": zero,
    });
    if host.resolved {
        config["resolvConf"] = json!("/run/systemd/resolve/resolv.conf");
    }
    if user.is_object() {
        merge(&mut config, user);
    }
    config
}

/// The tenth address of every service range.
pub fn dns_addresses(cluster: &ClusterConfiguration) -> Vec<String> {
    service_addresses(cluster, 10).iter().map(ToString::to_string).collect()
}

/// The `n`th address of every service range.
pub fn service_addresses(cluster: &ClusterConfiguration, n: u32) -> Vec<std::net::IpAddr> {
    let ranges = cluster.networking.service_subnet.split(',').filter_map(|range| range.trim().parse::<ipnet::IpNet>().ok());
    ranges
        .map(|range| match range {
            ipnet::IpNet::V4(net) => std::net::IpAddr::V4(u32::from(net.network()).wrapping_add(n).into()),
            ipnet::IpNet::V6(net) => std::net::IpAddr::V6(u128::from(net.network()).wrapping_add(n.into()).into()),
        })
        .collect()
}

/// What differs from node to node, and is laid on the cluster's configuration.
pub fn instance_configuration(node: &NodeRegistration) -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": runtime_endpoint(&node.cri_socket),
    })
}

/// `/var/run` is a link to `/run`: the kubelet gets the plain path.
pub fn runtime_endpoint(socket: &str) -> String {
    socket.replace("unix:///var/run/", "unix:///run/")
}

/// The configuration of this very node, as written to config.yaml.
pub fn node_configuration(cluster_wide: &Value, host: &Host, node: &NodeRegistration) -> Value {
    let mut config = cluster_wide.clone();
    // The driver follows this host's init system where the cluster's was another's (a lab node beside real ones).
    if !host.systemd && config["cgroupDriver"] == "systemd" {
        config["cgroupDriver"] = json!("cgroupfs");
    }
    // A kubelet refuses cgroup v1 unless told otherwise; preflight has warned, and this host has nothing else.
    if !host.cgroup_v2 && config["failCgroupV1"].is_null() {
        config["failCgroupV1"] = json!(false);
    }
    if !host.resolved
        && config["resolvConf"] == "/run/systemd/resolve/resolv.conf"
        && let Some(map) = config.as_object_mut()
    {
        map.remove("resolvConf");
    }
    merge(&mut config, &instance_configuration(node));
    config
}

/// kubeadm-flags.env.
pub fn flags_env(node: &NodeRegistration, host: &Host, taints: &[Taint]) -> String {
    let mut flags: Vec<(String, String)> = Vec::new();
    if node.name != host.hostname {
        flags.push(("hostname-override".into(), node.name.clone()));
    }
    if !taints.is_empty() {
        let list: Vec<String> = taints.iter().map(|t| format!("{}={}:{}", t.key, t.value, t.effect)).collect();
        flags.push(("register-with-taints".into(), list.join(",")));
    }
    for Arg { name, value } in &node.kubelet_extra_args {
        flags.retain(|(known, _)| known != name);
        flags.push((name.clone(), value.clone()));
    }
    flags.sort();
    let flags: Vec<String> = flags.into_iter().map(|(name, value)| format!("--{name}={value}")).collect();
    format!("KUBELET_KUBEADM_ARGS=\"{}\"\n", flags.join(" "))
}

/// The unit, for hosts whose packages brought none.
pub fn unit(program: &str) -> String {
    format!(
        "[Unit]\nDescription=kubelet: The Kubernetes Node Agent\nDocumentation=https://kubernetes.io/docs/\n\
         Wants=network-online.target\nAfter=network-online.target\n\n[Service]\nExecStart={program}\nRestart=always\nStartLimitInterval=0\n\
         RestartSec=10\n\n[Install]\nWantedBy=multi-user.target\n"
    )
}

/// kubeadm's drop-in.
pub fn drop_in(program: &str) -> String {
    format!(
        "# Written by rkadm.\n[Service]\n\
         Environment=\"KUBELET_KUBECONFIG_ARGS=--bootstrap-kubeconfig={BOOTSTRAP_KUBECONFIG} --kubeconfig={KUBECONFIG}\"\n\
         Environment=\"KUBELET_CONFIG_ARGS=--config={CONFIG}\"\n\
         # Written by \"rkadm init\" and \"rkadm join\", with KUBELET_KUBEADM_ARGS\nEnvironmentFile=-{ENV}\n\
         # For the user's own KUBELET_EXTRA_ARGS, the last resort\nEnvironmentFile=-{EXTRA_ENV}\n\
         ExecStart=\nExecStart={program} $KUBELET_KUBECONFIG_ARGS $KUBELET_CONFIG_ARGS $KUBELET_KUBEADM_ARGS $KUBELET_EXTRA_ARGS\n"
    )
}

/// The arguments that the drop-in gives, for hosts without systemd; `env` are the two environment files' texts.
pub fn arguments(env: &[&str]) -> Vec<String> {
    let mut args = vec![
        format!("--bootstrap-kubeconfig={BOOTSTRAP_KUBECONFIG}"),
        format!("--kubeconfig={KUBECONFIG}"),
        format!("--config={CONFIG}"),
    ];
    for name in ["KUBELET_KUBEADM_ARGS", "KUBELET_EXTRA_ARGS"] {
        // The later file wins, as for systemd's EnvironmentFile.
        let value = env.iter().rev().find_map(|text| variable(text, name));
        args.extend(words(&value.unwrap_or_default()));
    }
    args
}

/// The value of a variable in the text of an environment file.
fn variable(text: &str, name: &str) -> Option<String> {
    text.lines().rev().find_map(|line| {
        let value = line.trim().strip_prefix(name)?.strip_prefix('=')?.trim();
        let quoted = |quote: char| value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
        Some(quoted('"').or_else(|| quoted('\'')).unwrap_or(value).to_string())
    })
}

/// Splits at white space, quotes keep words together.
fn words(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    for c in text.chars() {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, None) if c.is_whitespace() => out.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    out.extend(word);
    out
}

/// The taint of control-plane nodes.
pub fn control_plane_taint() -> Taint {
    Taint { effect: "NoSchedule".into(), key: "node-role.kubernetes.io/control-plane".into(), ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeRegistration {
        NodeRegistration { name: name.into(), ..Default::default() }
    }

    #[test]
    fn the_configuration_is_kubeadms() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/reference/kubeadm/init-objects.txt");
        let Ok(text) = std::fs::read_to_string(&path) else {
            eprintln!("SKIPPED: no reference data at {}", path.display());
            return;
        };
        let part = text.split("Would write file \"/var/lib/kubelet/config.yaml\" with content:\n").nth(1).unwrap();
        let wanted = part.split("[dryrun]").next().unwrap();
        let host = Host { systemd: true, cgroup_v2: true, hostname: "vm".into(), ..Default::default() };
        let cluster = ClusterConfiguration::default();
        let config = node_configuration(&configuration(&cluster, &host, &Value::Null), &host, &node("node1"));
        assert_eq!(crate::config::yaml(&config).unwrap(), wanted);
        let env = part.split("kubeadm-flags.env\" with content:\n").nth(1).unwrap().lines().next().unwrap();
        assert_eq!(flags_env(&node("node1"), &host, &[]).trim_end(), env);
    }

    #[test]
    fn the_users_configuration_and_the_hosts_nature_win() {
        let host = Host { hostname: "n".into(), ..Default::default() };
        let cluster = ClusterConfiguration::default();
        let config = configuration(&cluster, &host, &json!({"maxPods": 50, "authentication": {"anonymous": {"enabled": true}}}));
        assert_eq!((&config["maxPods"], &config["cgroupDriver"]), (&json!(50), &json!("cgroupfs")));
        assert_eq!(config["authentication"]["webhook"]["enabled"], true);
        let elsewhere = json!({"cgroupDriver": "systemd", "resolvConf": "/run/systemd/resolve/resolv.conf"});
        let config = node_configuration(&elsewhere, &host, &node("n"));
        assert_eq!((&config["cgroupDriver"], &config["resolvConf"]), (&json!("cgroupfs"), &Value::Null));
        assert_eq!(config["failCgroupV1"], false);
    }

    #[test]
    fn flags_come_from_both_files() {
        let mut node = node("n1");
        node.kubelet_extra_args = vec![Arg { name: "node-ip".into(), value: "10.0.0.1".into() }];
        let env = flags_env(&node, &Host::default(), &[control_plane_taint()]);
        assert_eq!(
            env,
            "KUBELET_KUBEADM_ARGS=\"--hostname-override=n1 --node-ip=10.0.0.1 --register-with-taints=node-role.kubernetes.io/control-plane=:NoSchedule\"\n"
        );
        let args = arguments(&[&env, "# x\nKUBELET_EXTRA_ARGS=--v=4 --node-labels='a=b c'\n"]);
        assert_eq!(args[2], "--config=/var/lib/kubelet/config.yaml");
        assert_eq!(&args[args.len() - 2..], ["--v=4", "--node-labels=a=b c"]);
        assert_eq!(arguments(&[]).len(), 3);
    }

    #[test]
    fn service_addresses_are_counted() {
        let mut cluster = ClusterConfiguration::default();
        cluster.networking.service_subnet = "10.96.0.0/12,fd00:1::/112".into();
        assert_eq!(dns_addresses(&cluster), ["10.96.0.10", "fd00:1::a"]);
        assert_eq!(service_addresses(&cluster, 1)[0].to_string(), "10.96.0.1");
    }
}

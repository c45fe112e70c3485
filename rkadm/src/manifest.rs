//! Static pod manifests: from configuration to the YAML that the kubelet runs. Pure.
//! Upstream: cmd/kubeadm/app/phases/controlplane, cmd/kubeadm/app/phases/etcd, cmd/kubeadm/app/util/staticpod.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::{Value, json};

use crate::config::types::{Arg, ClusterConfiguration, HostPathMount};
use crate::images::Images;
use crate::{endpoint, version};

pub const DIR: &str = "/etc/kubernetes/manifests";

/// What the manifests of one control-plane node depend on.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    pub cluster: &'a ClusterConfiguration,
    pub images: &'a Images,
    pub node_name: &'a str,
    pub advertise_address: IpAddr,
    pub bind_port: u16,
    /// Directories of CA certificates that exist on this host, besides /etc/ssl/certs.
    pub ca_dirs: &'a [&'static str],
    /// Members that etcd starts with (`name=peer URL`), this node's included; empty: this node alone, a new cluster.
    pub etcd_members: &'a [(String, String)],
    /// This etcd joins a cluster that exists.
    pub etcd_existing: bool,
}

/// Directories that upstream mounts where the host has them. Upstream: caCertsExtraVolumePaths.
pub const CA_DIRS: [&str; 5] = [
    "/etc/pki/ca-trust",
    "/etc/pki/tls/certs",
    "/etc/ca-certificates",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
];

/// The control-plane components in the order in which they are written.
pub const COMPONENTS: [&str; 4] = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"];

/// The manifest of a component; `None` for etcd where etcd is external.
pub fn of(component: &str, facts: &Facts<'_>) -> Option<Value> {
    match component {
        "etcd" => etcd(facts),
        "kube-apiserver" => Some(apiserver(facts)),
        "kube-controller-manager" => Some(controller_manager(facts)),
        "kube-scheduler" => Some(scheduler(facts)),
        _ => None,
    }
}

pub fn path(component: &str) -> String {
    format!("{DIR}/{component}.yaml")
}

fn apiserver(facts: &Facts<'_>) -> Value {
    let cluster = facts.cluster;
    let pki = &cluster.certificates_dir;
    let advertise = facts.advertise_address.to_string();
    let mut args: Vec<(&str, String)> = vec![
        ("advertise-address", advertise.clone()),
        ("enable-admission-plugins", "NodeRestriction".into()),
        ("service-account-issuer", format!("https://kubernetes.default.svc.{}", cluster.networking.dns_domain)),
        ("service-cluster-ip-range", cluster.networking.service_subnet.clone()),
        ("service-account-key-file", format!("{pki}/sa.pub")),
        ("service-account-signing-key-file", format!("{pki}/sa.key")),
        ("client-ca-file", format!("{pki}/ca.crt")),
        ("tls-cert-file", format!("{pki}/apiserver.crt")),
        ("tls-private-key-file", format!("{pki}/apiserver.key")),
        ("kubelet-client-certificate", format!("{pki}/apiserver-kubelet-client.crt")),
        ("kubelet-client-key", format!("{pki}/apiserver-kubelet-client.key")),
        ("enable-bootstrap-token-auth", "true".into()),
        ("secure-port", facts.bind_port.to_string()),
        ("allow-privileged", "true".into()),
        ("kubelet-preferred-address-types", "InternalIP,ExternalIP,Hostname".into()),
        ("requestheader-username-headers", "X-Remote-User".into()),
        ("requestheader-group-headers", "X-Remote-Group".into()),
        ("requestheader-extra-headers-prefix", "X-Remote-Extra-".into()),
        ("requestheader-client-ca-file", format!("{pki}/front-proxy-ca.crt")),
        ("requestheader-allowed-names", "front-proxy-client".into()),
        ("proxy-client-cert-file", format!("{pki}/front-proxy-client.crt")),
        ("proxy-client-key-file", format!("{pki}/front-proxy-client.key")),
        ("authorization-mode", "Node,RBAC".into()),
    ];
    match &cluster.etcd.external {
        Some(external) => {
            args.push(("etcd-servers", external.endpoints.join(",")));
            for (flag, file) in
                [("etcd-cafile", &external.ca_file), ("etcd-certfile", &external.cert_file), ("etcd-keyfile", &external.key_file)]
            {
                if !file.is_empty() {
                    args.push((flag, file.clone()));
                }
            }
        }
        None => {
            let local = if facts.advertise_address.is_ipv6() { "[::1]" } else { "127.0.0.1" };
            args.push(("etcd-servers", format!("https://{local}:2379")));
            args.push(("etcd-cafile", format!("{pki}/etcd/ca.crt")));
            args.push(("etcd-certfile", format!("{pki}/apiserver-etcd-client.crt")));
            args.push(("etcd-keyfile", format!("{pki}/apiserver-etcd-client.key")));
        }
    }
    let probe = |path: &str| Probe { host: advertise.clone(), path: path.to_string(), scheme: "HTTPS" };
    let mut mounts = common_mounts(facts, pki);
    if let Some(external) = &cluster.etcd.external {
        for (n, file) in [&external.ca_file, &external.cert_file, &external.key_file].into_iter().enumerate() {
            if let Some((dir, _)) = file.rsplit_once('/').filter(|(dir, _)| !dir.starts_with(pki.as_str()))
                && !mounts.iter().any(|mount| mount.path == dir)
            {
                mounts.push(Mount::read_only(&format!("etcd-certs-{n}"), dir, "DirectoryOrCreate"));
            }
        }
    }
    let server = &cluster.api_server;
    Pod {
        name: "kube-apiserver",
        annotations: &[(
            "kubeadm.kubernetes.io/kube-apiserver.advertise-address.endpoint",
            endpoint::join(&advertise, facts.bind_port),
        )],
        image: facts.images.component("kube-apiserver"),
        command: command("kube-apiserver", args, &server.extra_args),
        port: port(&server.extra_args, "secure-port", facts.bind_port),
        liveness: probe("/livez"),
        readiness: Some(probe("/readyz")),
        startup: probe("/livez"),
        requests: &[("cpu", "250m")],
        mounts,
        extra_volumes: &server.extra_volumes,
        extra_envs: &server.extra_envs,
    }
    .render()
}

fn controller_manager(facts: &Facts<'_>) -> Value {
    let cluster = facts.cluster;
    let pki = &cluster.certificates_dir;
    let kubeconfig = "/etc/kubernetes/controller-manager.conf";
    let mut args: Vec<(&str, String)> = vec![
        ("bind-address", loopback(facts).into()),
        ("leader-elect", "true".into()),
        ("kubeconfig", kubeconfig.into()),
        ("authentication-kubeconfig", kubeconfig.into()),
        ("authorization-kubeconfig", kubeconfig.into()),
        ("client-ca-file", format!("{pki}/ca.crt")),
        ("requestheader-client-ca-file", format!("{pki}/front-proxy-ca.crt")),
        ("root-ca-file", format!("{pki}/ca.crt")),
        ("service-account-private-key-file", format!("{pki}/sa.key")),
        ("cluster-signing-cert-file", format!("{pki}/ca.crt")),
        ("cluster-signing-key-file", format!("{pki}/ca.key")),
        ("use-service-account-credentials", "true".into()),
        ("controllers", "*,bootstrapsigner,tokencleaner".into()),
    ];
    if !cluster.networking.pod_subnet.is_empty() {
        args.push(("allocate-node-cidrs", "true".into()));
        args.push(("cluster-cidr", cluster.networking.pod_subnet.clone()));
        args.push(("service-cluster-ip-range", cluster.networking.service_subnet.clone()));
    }
    if !cluster.cluster_name.is_empty() {
        args.push(("cluster-name", cluster.cluster_name.clone()));
    }
    let extra = &cluster.controller_manager;
    let probe = || Probe { host: loopback(facts).into(), path: "/healthz".into(), scheme: "HTTPS" };
    let mut mounts = common_mounts(facts, pki);
    mounts.push(Mount::read_only("kubeconfig", kubeconfig, "FileOrCreate"));
    Pod {
        name: "kube-controller-manager",
        annotations: &[],
        image: facts.images.component("kube-controller-manager"),
        command: command("kube-controller-manager", args, &extra.extra_args),
        port: port(&extra.extra_args, "secure-port", 10257),
        liveness: probe(),
        readiness: None,
        startup: probe(),
        requests: &[("cpu", "200m")],
        mounts,
        extra_volumes: &extra.extra_volumes,
        extra_envs: &extra.extra_envs,
    }
    .render()
}

fn scheduler(facts: &Facts<'_>) -> Value {
    let kubeconfig = "/etc/kubernetes/scheduler.conf";
    let args: Vec<(&str, String)> = vec![
        ("bind-address", loopback(facts).into()),
        ("leader-elect", "true".into()),
        ("kubeconfig", kubeconfig.into()),
        ("authentication-kubeconfig", kubeconfig.into()),
        ("authorization-kubeconfig", kubeconfig.into()),
    ];
    let extra = &facts.cluster.scheduler;
    let probe = |path: &str| Probe { host: loopback(facts).into(), path: path.into(), scheme: "HTTPS" };
    Pod {
        name: "kube-scheduler",
        annotations: &[],
        image: facts.images.component("kube-scheduler"),
        command: command("kube-scheduler", args, &extra.extra_args),
        port: port(&extra.extra_args, "secure-port", 10259),
        liveness: probe("/livez"),
        readiness: Some(probe("/readyz")),
        startup: probe("/livez"),
        requests: &[("cpu", "100m")],
        mounts: vec![Mount::read_only("kubeconfig", kubeconfig, "FileOrCreate")],
        extra_volumes: &extra.extra_volumes,
        extra_envs: &extra.extra_envs,
    }
    .render()
}

fn etcd(facts: &Facts<'_>) -> Option<Value> {
    let local = facts.cluster.etcd.local.as_ref()?;
    let image = facts.images.etcd()?.to_string();
    let pki = format!("{}/etcd", facts.cluster.certificates_dir);
    let host = facts.advertise_address.to_string();
    let url = |port: u16| format!("https://{}", endpoint::join(&host, port));
    let (client, peer) = (url(2379), url(2380));
    let (loopback_url, metrics_host) =
        if facts.advertise_address.is_ipv6() { ("https://[::1]:2379", "::1") } else { ("https://127.0.0.1:2379", "127.0.0.1") };
    let own = (facts.node_name.to_string(), peer.clone());
    let members = if facts.etcd_members.is_empty() { std::slice::from_ref(&own) } else { facts.etcd_members };
    let members: Vec<String> = members.iter().map(|(name, url)| format!("{name}={url}")).collect();
    let tag = image.rsplit_once(':').map_or("", |(_, tag)| tag);
    let era = EtcdEra::of(tag);
    let mut args: Vec<(&str, String)> = vec![
        ("name", facts.node_name.to_string()),
        ("listen-client-urls", format!("{loopback_url},{client}")),
        ("advertise-client-urls", client.clone()),
        ("listen-peer-urls", peer.clone()),
        ("initial-advertise-peer-urls", peer),
        ("data-dir", local.data_dir.clone()),
        ("cert-file", format!("{pki}/server.crt")),
        ("key-file", format!("{pki}/server.key")),
        ("trusted-ca-file", format!("{pki}/ca.crt")),
        ("client-cert-auth", "true".into()),
        ("peer-cert-file", format!("{pki}/peer.crt")),
        ("peer-key-file", format!("{pki}/peer.key")),
        ("peer-trusted-ca-file", format!("{pki}/ca.crt")),
        ("peer-client-cert-auth", "true".into()),
        ("snapshot-count", "10000".into()),
        ("listen-metrics-urls", format!("http://{}", endpoint::join(metrics_host, 2381))),
        ("initial-cluster", members.join(",")),
    ];
    args.extend(era.flags.iter().map(|(flag, value)| (*flag, (*value).to_string())));
    if facts.etcd_existing {
        args.push(("initial-cluster-state", "existing".into()));
    }
    let probe = |path: &str| Probe { host: metrics_host.into(), path: path.into(), scheme: "HTTP" };
    Some(
        Pod {
            name: "etcd",
            annotations: &[("kubeadm.kubernetes.io/etcd.advertise-client-urls", client)],
            image,
            command: command("etcd", args, &local.extra_args),
            port: 2381,
            liveness: probe(era.live),
            readiness: Some(probe(era.ready)),
            startup: probe(era.ready),
            requests: &[("cpu", "100m"), ("memory", "100Mi")],
            mounts: vec![
                Mount { name: "etcd-data".into(), path: local.data_dir.clone(), kind: "DirectoryOrCreate", read_only: false },
                Mount { name: "etcd-certs".into(), path: pki, kind: "DirectoryOrCreate", read_only: false },
            ],
            extra_volumes: &[],
            extra_envs: &local.extra_envs,
        }
        .render(),
    )
}

/// What differs between etcd versions.
struct EtcdEra {
    flags: &'static [(&'static str, &'static str)],
    live: &'static str,
    ready: &'static str,
}

impl EtcdEra {
    /// 3.6 renamed the experimental flags; /livez and /readyz came with 3.4.29 and 3.5.11. A tag that is no version counts as new.
    fn of(tag: &str) -> EtcdEra {
        let version = version::parse(tag);
        let at_least = |major, minor, patch| version.as_ref().is_none_or(|version| version.at_least(major, minor, patch));
        let in_34 = version.as_ref().is_some_and(|version| (version.major, version.minor) == (3, 4));
        let flags: &[(&str, &str)] = if at_least(3, 6, 0) {
            &[("feature-gates", "InitialCorruptCheck=true"), ("watch-progress-notify-interval", "5s")]
        } else {
            &[("experimental-initial-corrupt-check", "true"), ("experimental-watch-progress-notify-interval", "5s")]
        };
        if at_least(3, 5, 11) || (in_34 && at_least(3, 4, 29)) {
            EtcdEra { flags, live: "/livez", ready: "/readyz" }
        } else {
            EtcdEra { flags, live: "/health?exclude=NOSPACE&serializable=true", ready: "/health?serializable=false" }
        }
    }
}

fn loopback(facts: &Facts<'_>) -> &'static str {
    if facts.advertise_address.is_ipv6() { "::1" } else { "127.0.0.1" }
}

/// The program and its flags by name; an extra argument replaces all flags of its name. Upstream: ArgumentsToCommand.
fn command(program: &str, base: Vec<(&str, String)>, extra: &[Arg]) -> Vec<String> {
    let mut by_name: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (name, value) in base {
        by_name.entry(name).or_default().push(value);
    }
    for arg in extra {
        by_name.remove(arg.name.as_str());
    }
    for arg in extra {
        by_name.entry(&arg.name).or_default().push(arg.value.clone());
    }
    let flags = by_name.into_iter().flat_map(|(name, mut values)| {
        values.sort();
        values.into_iter().map(move |value| format!("--{name}={value}"))
    });
    std::iter::once(program.to_string()).chain(flags).collect()
}

/// The port that an extra argument moved the component to.
fn port(extra: &[Arg], flag: &str, default: u16) -> u16 {
    extra.iter().rev().find(|arg| arg.name == flag).and_then(|arg| arg.value.parse().ok()).unwrap_or(default)
}

struct Mount {
    name: String,
    path: String,
    kind: &'static str,
    read_only: bool,
}

impl Mount {
    fn read_only(name: &str, path: &str, kind: &'static str) -> Mount {
        Mount { name: name.into(), path: path.into(), kind, read_only: true }
    }
}

fn common_mounts(facts: &Facts<'_>, pki: &str) -> Vec<Mount> {
    let mut mounts = vec![
        Mount::read_only("k8s-certs", pki, "DirectoryOrCreate"),
        Mount::read_only("ca-certs", "/etc/ssl/certs", "DirectoryOrCreate"),
    ];
    for dir in facts.ca_dirs {
        mounts.push(Mount::read_only(&dir.trim_start_matches('/').replace('/', "-"), dir, "DirectoryOrCreate"));
    }
    mounts
}

struct Probe {
    host: String,
    path: String,
    scheme: &'static str,
}

struct Pod<'a> {
    name: &'static str,
    annotations: &'a [(&'static str, String)],
    image: String,
    command: Vec<String>,
    port: u16,
    liveness: Probe,
    readiness: Option<Probe>,
    startup: Probe,
    requests: &'a [(&'static str, &'static str)],
    mounts: Vec<Mount>,
    extra_volumes: &'a [HostPathMount],
    extra_envs: &'a [Value],
}

impl Pod<'_> {
    fn render(self) -> Value {
        // By the name of the volume, as upstream sorts them.
        let mut volumes: BTreeMap<String, (Value, Value)> = BTreeMap::new();
        for mount in &self.mounts {
            let mut at = json!({"name": mount.name, "mountPath": mount.path});
            if mount.read_only {
                at["readOnly"] = json!(true);
            }
            volumes.insert(
                mount.name.clone(),
                (json!({"name": mount.name, "hostPath": {"path": mount.path, "type": mount.kind}}), at),
            );
        }
        for extra in self.extra_volumes {
            let mut source = json!({"path": extra.host_path});
            if !extra.path_type.is_empty() {
                source["type"] = json!(extra.path_type);
            }
            let mut at = json!({"name": extra.name, "mountPath": extra.mount_path});
            if extra.read_only {
                at["readOnly"] = json!(true);
            }
            volumes.insert(extra.name.clone(), (json!({"name": extra.name, "hostPath": source}), at));
        }
        // Mounts are sorted by name like the volumes; etcd's stay in their own order.
        let mut mounts: Vec<Value> = volumes.values().map(|(_, at)| at.clone()).collect();
        if self.name == "etcd" {
            mounts.reverse();
        }
        let probe = |probe: &Probe| json!({"host": probe.host, "path": probe.path, "port": "probe-port", "scheme": probe.scheme});
        let mut container = json!({
            "name": self.name,
            "image": self.image,
            "imagePullPolicy": "IfNotPresent",
            "command": self.command,
            "ports": [{"containerPort": self.port, "name": "probe-port", "protocol": "TCP"}],
            "livenessProbe": {
                "failureThreshold": 8, "httpGet": probe(&self.liveness), "initialDelaySeconds": 10, "periodSeconds": 10, "timeoutSeconds": 15,
            },
            "startupProbe": {
                "failureThreshold": 24, "httpGet": probe(&self.startup), "initialDelaySeconds": 10, "periodSeconds": 10, "timeoutSeconds": 15,
            },
            "resources": {"requests": self.requests.iter().map(|(k, v)| ((*k).to_string(), json!(v))).collect::<serde_json::Map<_, _>>()},
            "volumeMounts": mounts,
        });
        if let Some(readiness) = &self.readiness {
            container["readinessProbe"] =
                json!({"failureThreshold": 3, "httpGet": probe(readiness), "periodSeconds": 1, "timeoutSeconds": 15});
        }
        if !self.extra_envs.is_empty() {
            container["env"] = json!(self.extra_envs);
        }
        let mut metadata = json!({
            "name": self.name,
            "namespace": "kube-system",
            "labels": {"component": self.name, "tier": "control-plane"},
        });
        if !self.annotations.is_empty() {
            metadata["annotations"] =
                self.annotations.iter().map(|(k, v)| ((*k).to_string(), json!(v))).collect::<serde_json::Map<_, _>>().into();
        }
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": metadata,
            "spec": {
                "containers": [container],
                "hostNetwork": true,
                "priority": 2_000_001_000,
                "priorityClassName": "system-node-critical",
                "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
                "volumes": volumes.into_values().map(|(volume, _)| volume).collect::<Vec<_>>(),
            },
            "status": {},
        })
    }
}

#[cfg(test)]
mod tests;

//! Whether a configuration makes sense, before anything is touched. Every problem is reported, not only the first.

use std::net::IpAddr;

use ipnet::IpNet;

use super::types::*;

/// All problems, each with its field's path.
#[derive(Debug, Default)]
pub struct Problems(Vec<String>);

impl Problems {
    fn add(&mut self, field: &str, value: impl std::fmt::Debug, why: &str) {
        self.0.push(format!("{field}: invalid value {value:?}: {why}"));
    }

    /// An error that lists every problem on a line of its own.
    pub fn into_result(self) -> anyhow::Result<()> {
        match self.0.as_slice() {
            [] => Ok(()),
            [one] => anyhow::bail!("{one}"),
            many => anyhow::bail!("{} problems in the configuration:\n  - {}", many.len(), many.join("\n  - ")),
        }
    }
}

/// Checks what `init` is about to use.
pub fn init(config: &InitConfiguration, cluster: &ClusterConfiguration) -> Problems {
    let mut problems = Problems::default();
    registration(&config.node_registration, &mut problems);
    endpoint(&config.local_api_endpoint, "localAPIEndpoint", &mut problems);
    for token in &config.bootstrap_tokens {
        if crate::token::parse(&token.token).is_none() {
            problems.add("bootstrapTokens.token", &token.token, r#"must match "[a-z0-9]{6}\.[a-z0-9]{16}""#);
        }
        for usage in &token.usages {
            if !["signing", "authentication"].contains(&usage.as_str()) {
                problems.add("bootstrapTokens.usages", usage, "must be signing or authentication");
            }
        }
        for group in &token.groups {
            if !crate::token::is_group(group) {
                problems.add("bootstrapTokens.groups", group, "must start with system:bootstrappers:");
            }
        }
    }
    if !config.certificate_key.is_empty() && hex::decode(&config.certificate_key).map_or(true, |key| key.len() != 32) {
        problems.add("certificateKey", "…", "must be 32 bytes in hexadecimal (rkadm certs certificate-key prints one)");
    }
    self::cluster(cluster, &mut problems);
    problems
}

/// Checks the cluster-wide part.
pub fn cluster(cluster: &ClusterConfiguration, problems: &mut Problems) {
    let services = subnets(&cluster.networking.service_subnet, "networking.serviceSubnet", problems);
    let pods = subnets(&cluster.networking.pod_subnet, "networking.podSubnet", problems);
    for service in &services {
        for pod in &pods {
            if service.contains(pod) || pod.contains(service) {
                problems.add("networking.podSubnet", pod.to_string(), &format!("overlaps with serviceSubnet {service}"));
            }
        }
        // Room for the API server's and the DNS server's fixed addresses (.1 and .10).
        if u32::from(service.max_prefix_len() - service.prefix_len()) < 4 {
            problems.add("networking.serviceSubnet", service.to_string(), "is too small: 16 addresses are needed at least");
        }
    }
    if services.is_empty() {
        problems.add("networking.serviceSubnet", &cluster.networking.service_subnet, "must not be empty");
    }
    if !is_subdomain(&cluster.networking.dns_domain) {
        problems.add("networking.dnsDomain", &cluster.networking.dns_domain, "must be a DNS name");
    }
    if !cluster.control_plane_endpoint.is_empty() && crate::endpoint::parse(&cluster.control_plane_endpoint).is_none() {
        problems.add("controlPlaneEndpoint", &cluster.control_plane_endpoint, "must be HOST or HOST:PORT");
    }
    if let Err(e) = cluster.encryption_algorithm.parse::<pki::Algorithm>() {
        problems.add("encryptionAlgorithm", &cluster.encryption_algorithm, &e.to_string());
    }
    if crate::version::parse(&cluster.kubernetes_version).is_none() {
        problems.add("kubernetesVersion", &cluster.kubernetes_version, "must be a version like v1.36.0");
    }
    if !cluster.certificates_dir.starts_with('/') {
        problems.add("certificatesDir", &cluster.certificates_dir, "must be an absolute path");
    }
    match (&cluster.etcd.local, &cluster.etcd.external) {
        (Some(_), Some(_)) => problems.add("etcd", "local and external", "only one of them may be given"),
        (None, Some(external)) if external.endpoints.is_empty() => {
            problems.add("etcd.external.endpoints", "", "must not be empty")
        }
        (Some(local), None) if !local.data_dir.starts_with('/') => {
            problems.add("etcd.local.dataDir", &local.data_dir, "must be an absolute path");
        }
        _ => {}
    }
    for (field, args) in [
        ("apiServer.extraArgs", &cluster.api_server.extra_args),
        ("controllerManager.extraArgs", &cluster.controller_manager.extra_args),
        ("scheduler.extraArgs", &cluster.scheduler.extra_args),
    ] {
        arguments(args, field, problems);
    }
}

/// Checks what `join` is about to use.
pub fn join(config: &JoinConfiguration) -> Problems {
    let mut problems = Problems::default();
    registration(&config.node_registration, &mut problems);
    if let Some(control_plane) = &config.control_plane {
        endpoint(&control_plane.local_api_endpoint, "controlPlane.localAPIEndpoint", &mut problems);
    }
    match (&config.discovery.bootstrap_token, &config.discovery.file) {
        (None, None) => problems.0.push(
            "discovery: say how to find the cluster: HOST:PORT with --token and --discovery-token-ca-cert-hash, or --discovery-file \
             (`rkadm token create --print-join-command` on a control-plane node prints the whole line)"
                .into(),
        ),
        (Some(_), Some(_)) => problems.0.push("discovery: a token and a file exclude each other".into()),
        (Some(token), None) => {
            if crate::token::parse(&token.token).is_none() {
                problems.add("discovery.bootstrapToken.token", &token.token, r#"must match "[a-z0-9]{6}\.[a-z0-9]{16}""#);
            }
            if crate::endpoint::parse(&token.api_server_endpoint).is_none_or(|endpoint| endpoint.port.is_none()) {
                problems.add("discovery.bootstrapToken.apiServerEndpoint", &token.api_server_endpoint, "must be HOST:PORT");
            }
            if token.ca_cert_hashes.is_empty() && !token.unsafe_skip_ca_verification {
                problems.0.push(
                    "discovery.bootstrapToken.caCertHashes: required to know the right cluster from a false one: give \
                     --discovery-token-ca-cert-hash, or accept the risk with --discovery-token-unsafe-skip-ca-verification"
                        .into(),
                );
            }
            for hash in &token.ca_cert_hashes {
                if hash.strip_prefix("sha256:").is_none_or(|hex| hex::decode(hex).map_or(true, |digest| digest.len() != 32)) {
                    problems.add("discovery.bootstrapToken.caCertHashes", hash, "must be sha256: and 64 hexadecimal digits");
                }
            }
        }
        (None, Some(file)) => {
            if file.kube_config_path.is_empty() {
                problems.add("discovery.file.kubeConfigPath", "", "must not be empty");
            }
        }
    }
    problems
}

fn registration(node: &NodeRegistration, problems: &mut Problems) {
    if !is_subdomain(&node.name) {
        let why = "must be a lower-case RFC 1123 name: letters, digits, '-' and '.'; choose one with --node-name";
        problems.add("nodeRegistration.name", &node.name, why);
    }
    if !node.cri_socket.starts_with("unix:///") {
        problems.add("nodeRegistration.criSocket", &node.cri_socket, "must be like unix:///run/containerd/containerd.sock");
    }
    if !["Always", "IfNotPresent", "Never"].contains(&node.image_pull_policy.as_str()) {
        problems.add("nodeRegistration.imagePullPolicy", &node.image_pull_policy, "must be Always, IfNotPresent or Never");
    }
    for taint in node.taints.iter().flatten() {
        if !["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&taint.effect.as_str()) {
            problems.add("nodeRegistration.taints.effect", &taint.effect, "must be NoSchedule, PreferNoSchedule or NoExecute");
        }
    }
    arguments(&node.kubelet_extra_args, "nodeRegistration.kubeletExtraArgs", problems);
}

fn endpoint(endpoint: &ApiEndpoint, field: &str, problems: &mut Problems) {
    match endpoint.advertise_address.parse::<IpAddr>() {
        Err(_) => {
            let why = "must be an IP address of this host (--apiserver-advertise-address)";
            problems.add(&format!("{field}.advertiseAddress"), &endpoint.advertise_address, why);
        }
        Ok(ip) if ip.is_loopback() || ip.is_unspecified() => {
            problems.add(&format!("{field}.advertiseAddress"), ip.to_string(), "other nodes cannot reach this address");
        }
        Ok(_) => {}
    }
    if endpoint.bind_port == 0 {
        problems.add(&format!("{field}.bindPort"), 0, "must be between 1 and 65535");
    }
}

fn arguments(args: &[Arg], field: &str, problems: &mut Problems) {
    for arg in args {
        if arg.name.is_empty() || arg.name.starts_with('-') || arg.name.contains(['=', ' ']) {
            problems.add(field, &arg.name, "must be a flag's name without dashes");
        }
    }
}

/// A comma-separated list of at most two ranges, one per family. Empty is fine.
fn subnets(text: &str, field: &str, problems: &mut Problems) -> Vec<IpNet> {
    let mut out: Vec<IpNet> = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        match part.parse::<IpNet>() {
            Ok(net) => {
                let v4 = |net: &IpNet| matches!(net, IpNet::V4(_));
                if out.len() == 2 || out.iter().any(|known| v4(known) == v4(&net)) {
                    problems.add(field, text, "must be one range, or one IPv4 and one IPv6 range");
                }
                out.push(net);
            }
            Err(_) => problems.add(field, part, "must be a range like 10.244.0.0/16"),
        }
    }
    out
}

/// RFC 1123 subdomain.
pub fn is_subdomain(name: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    !name.is_empty() && name.len() <= 253 && name.split('.').all(label)
}

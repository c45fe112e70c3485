//! A pod's sandbox in CRI's words. Pure. Upstream: pkg/kubelet/kuberuntime/kuberuntime_sandbox.go

use k8s_openapi::api::core::v1::Pod;

use crate::cri::v1;
use crate::pod::{self, init_containers, is_sidecar, spec};
use crate::runtime::{label, security};

/// What the sandbox depends on besides the pod.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// Name servers and search domains.
    pub dns: v1::DnsConfig,
    /// `cluster.local`.
    pub cluster_domain: String,
    /// The pod's cgroup; empty: the runtime's own choice.
    pub cgroup_parent: String,
    /// `/var/log/pods`.
    pub logs_dir: String,
}

/// `<logs>/<namespace>_<name>_<uid>`.
pub fn log_directory(logs_dir: &str, pod: &Pod) -> String {
    format!("{logs_dir}/{}_{}_{}", pod::namespace(pod), pod::name(pod), pod::uid(pod))
}

/// The sandbox to ask for.
pub fn config(pod: &Pod, attempt: u32, around: &Surroundings) -> v1::PodSandboxConfig {
    let spec = spec(pod);
    let host_network = pod::is_host_network(pod);
    let hostname = if host_network { String::new() } else { pod::host_name(pod, &around.cluster_domain).0 };
    let sysctls = spec.security_context.iter().flat_map(|context| context.sysctls.iter().flatten());
    let sysctls = sysctls.map(|sysctl| (sysctl.name.replace('/', "."), sysctl.value.clone())).collect();
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: pod::name(pod).into(),
            uid: pod::uid(pod).into(),
            namespace: pod::namespace(pod).into(),
            attempt,
        }),
        hostname,
        log_directory: log_directory(&around.logs_dir, pod),
        dns_config: Some(around.dns.clone()),
        port_mappings: if host_network { Vec::new() } else { ports(pod) },
        labels: label::sandbox_labels(pod),
        annotations: pod.metadata.annotations.iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect(),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: around.cgroup_parent.clone(),
            security_context: Some(security::sandbox(pod)),
            sysctls,
            ..Default::default()
        }),
        windows: None,
    }
}

fn ports(pod: &Pod) -> Vec<v1::PortMapping> {
    let sidecars = init_containers(pod).iter().filter(|container| is_sidecar(container));
    let mut out = Vec::new();
    for port in sidecars.chain(&spec(pod).containers).flat_map(|container| container.ports.iter().flatten()) {
        let Some(host_port) = port.host_port.filter(|port| *port > 0) else { continue };
        let protocol = match port.protocol.as_deref() {
            Some("UDP") => v1::Protocol::Udp,
            Some("SCTP") => v1::Protocol::Sctp,
            _ => v1::Protocol::Tcp,
        };
        out.push(v1::PortMapping {
            protocol: protocol as i32,
            container_port: port.container_port,
            host_port,
            host_ip: port.host_ip.clone().unwrap_or_default(),
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_sandbox_says_who_it_is_for() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u", "annotations": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 8080}, {"containerPort": 81}]}],
                "securityContext": {"sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}]}},
        }))
        .unwrap();
        let around = Surroundings { logs_dir: "/l".into(), cgroup_parent: "/k/podu".into(), ..Default::default() };
        let got = config(&pod, 2, &around);
        assert_eq!(got.log_directory, "/l/n_p_u");
        assert_eq!(got.hostname, "p");
        assert_eq!(got.port_mappings.len(), 1);
        assert_eq!(got.linux.unwrap().sysctls["net.ipv4.ip_unprivileged_port_start"], "0");
        let mut host = pod.clone();
        host.spec.as_mut().unwrap().host_network = Some(true);
        let got = config(&host, 0, &around);
        assert!(got.hostname.is_empty() && got.port_mappings.is_empty());
    }
}

//! The node itself: its address, its place, and kernel settings that Services depend on.

use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use net::sysctl;

use crate::config::ConntrackSettings;
use crate::portal::Place;

/// Nodes with this taint are about to go. Upstream: ToBeDeletedTaint of the cluster autoscaler.
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// Where the node is.
pub fn place(name: &str, node: Option<&Node>) -> Place {
    let zone = node.and_then(|node| node.metadata.labels.as_ref()).and_then(|labels| labels.get(ZONE_LABEL)).cloned();
    Place { node: name.to_owned(), zone: zone.unwrap_or_default() }
}

/// The node's addresses: InternalIP before ExternalIP.
pub fn addresses(node: &Node) -> Vec<IpAddr> {
    let all = node.status.as_ref().and_then(|status| status.addresses.as_deref()).unwrap_or_default();
    let of = |kind: &'static str| all.iter().filter(move |a| a.type_ == kind).filter_map(|a| a.address.parse().ok());
    of("InternalIP").chain(of("ExternalIP")).collect()
}

/// Whether load balancers should send traffic here.
pub fn eligible(node: Option<&Node>) -> bool {
    let Some(node) = node else { return true };
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    node.metadata.deletion_timestamp.is_none() && !taints.iter().any(|taint| taint.key == TO_BE_DELETED)
}

/// Sets connection tracking up. Settings that cannot be changed here (a container's namespace, another owner) are warnings:
/// rules work with any of them.
pub fn set_conntrack(settings: &ConntrackSettings, cores: u32) {
    let warn = |result: std::io::Result<()>| {
        if let Err(error) = result {
            tracing::warn!(err = %error, "Failed to change a connection tracking setting, keeping the kernel's");
        }
    };
    let max = settings.max_per_core.saturating_mul(cores);
    let wanted = if settings.max_per_core > 0 { max.max(settings.min) } else { 0 };
    let current: u32 = sysctl::read("net/netfilter/nf_conntrack_max").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    if wanted > current {
        warn(sysctl::ensure("net/netfilter/nf_conntrack_max", &wanted.to_string()));
    }
    if settings.tcp_be_liberal {
        warn(sysctl::ensure("net/netfilter/nf_conntrack_tcp_be_liberal", "1"));
    }
    let timeouts: [(&str, Option<Duration>); 4] = [
        ("net/netfilter/nf_conntrack_tcp_timeout_established", settings.tcp_established_timeout),
        ("net/netfilter/nf_conntrack_tcp_timeout_close_wait", settings.tcp_close_wait_timeout),
        ("net/netfilter/nf_conntrack_udp_timeout", settings.udp_timeout),
        ("net/netfilter/nf_conntrack_udp_timeout_stream", settings.udp_stream_timeout),
    ];
    for (name, timeout) in timeouts {
        if let Some(timeout) = timeout {
            warn(sysctl::ensure(name, &timeout.as_secs().to_string()));
        }
    }
}

/// Lets connections from 127.0.0.1 to NodePorts leave through real links.
pub fn allow_localhost_node_ports() {
    if let Err(error) = sysctl::ensure("net/ipv4/conf/all/route_localnet", "1") {
        tracing::warn!(err = %error, "NodePorts will not work on 127.0.0.1");
    }
}

/// Makes the kernel spare this process when memory runs out.
pub fn set_oom_score(score: i32) {
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", score.to_string()) {
        tracing::warn!(err = %error, score, "Failed to set the OOM score");
    }
}

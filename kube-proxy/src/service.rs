//! What the proxy needs to know of a Service.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Service;
use net::iptables::Family;

/// Seconds that a client sticks to an endpoint unless the Service says otherwise. Upstream: DefaultClientIPServiceAffinitySeconds.
const DEFAULT_AFFINITY_SECONDS: u32 = 10_800;
/// Services with this label are somebody else's to implement.
pub const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";
/// Set by the control plane on slices of headless Services.
pub const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// Namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceName {
    pub namespace: String,
    pub name: String,
}

impl ServiceName {
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    pub fn parse(text: Option<&str>) -> Option<Self> {
        match text {
            None | Some("TCP" | "") => Some(Self::Tcp),
            Some("UDP") => Some(Self::Udp),
            Some("SCTP") => Some(Self::Sctp),
            Some(_) => None,
        }
    }

    /// As iptables and nft write it.
    pub fn lower(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }

    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => net::conntrack::TCP,
            Self::Udp => net::conntrack::UDP,
            Self::Sctp => net::conntrack::SCTP,
        }
    }
}

/// One port of a Service, with everything that the Service says for all of its ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    pub service: ServiceName,
    /// The port's name; empty when the only port has none.
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
    /// 0: none.
    pub node_port: u16,
    pub cluster_ips: Vec<IpAddr>,
    pub external_ips: Vec<IpAddr>,
    /// Addresses of load balancers whose packets arrive unchanged (`ipMode: VIP`).
    pub load_balancer_ips: Vec<IpAddr>,
    pub source_ranges: Vec<IpNet>,
    /// Seconds that a client keeps its endpoint.
    pub affinity: Option<u32>,
    pub internal_local: bool,
    pub external_local: bool,
    /// 0: none.
    pub health_check_node_port: u16,
}

impl ServicePort {
    pub fn cluster_ip(&self, family: Family) -> Option<IpAddr> {
        self.cluster_ips.iter().copied().find(|ip| family_of(*ip) == family)
    }

    /// Whether clients outside of the cluster can reach it.
    pub fn externally_accessible(&self) -> bool {
        self.node_port != 0 || !self.external_ips.is_empty() || !self.load_balancer_ips.is_empty()
    }

    /// Also for policy Local: what comes from inside the cluster to an external address is short-circuited to all endpoints.
    pub fn uses_cluster_endpoints(&self) -> bool {
        !self.internal_local || self.externally_accessible()
    }

    pub fn uses_local_endpoints(&self) -> bool {
        self.internal_local || (self.external_local && self.externally_accessible())
    }
}

impl fmt::Display for ServicePort {
    /// `namespace/name:port`, the name by which people find rules.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.service)?;
        if self.name.is_empty() { Ok(()) } else { write!(f, ":{}", self.name) }
    }
}

pub fn family_of(ip: IpAddr) -> Family {
    if ip.is_ipv4() { Family::V4 } else { Family::V6 }
}

/// The ports of a Service that need rules; none for headless Services, ExternalName, and other proxies' Services.
pub fn ports_of(service: &Service) -> Vec<ServicePort> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let labels = service.metadata.labels.as_ref();
    if labels.is_some_and(|labels| labels.contains_key(PROXY_NAME_LABEL)) || spec.type_.as_deref() == Some("ExternalName") {
        return Vec::new();
    }
    let listed = spec.cluster_ips.iter().flatten().map(String::as_str);
    let single = spec.cluster_ip.as_deref();
    let mut cluster_ips: Vec<IpAddr> = listed.chain(single).filter_map(|ip| ip.parse().ok()).collect();
    cluster_ips.dedup();
    if cluster_ips.is_empty() {
        return Vec::new();
    }
    let parse =
        |texts: &Option<Vec<String>>| -> Vec<IpAddr> { texts.iter().flatten().filter_map(|ip| ip.parse().ok()).collect() };
    let balancers = service.status.as_ref().and_then(|status| status.load_balancer.as_ref()).and_then(|lb| lb.ingress.as_ref());
    let load_balancer_ips: Vec<IpAddr> = balancers
        .into_iter()
        .flatten()
        .filter(|ingress| ingress.ip_mode.as_deref().is_none_or(|mode| mode == "VIP"))
        .filter_map(|ingress| ingress.ip.as_deref()?.parse().ok())
        .collect();
    let timeout =
        spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref()).and_then(|c| c.timeout_seconds);
    let affinity = (spec.session_affinity.as_deref() == Some("ClientIP"))
        .then(|| timeout.and_then(|seconds| u32::try_from(seconds).ok()).unwrap_or(DEFAULT_AFFINITY_SECONDS));
    let port_number = |number: Option<i32>| number.and_then(|n| u16::try_from(n).ok()).unwrap_or(0);
    let external_local = spec.external_traffic_policy.as_deref() == Some("Local");
    let base = ServicePort {
        service: ServiceName::new(
            service.metadata.namespace.as_deref().unwrap_or_default(),
            service.metadata.name.as_deref().unwrap_or_default(),
        ),
        name: String::new(),
        protocol: Protocol::Tcp,
        port: 0,
        node_port: 0,
        cluster_ips,
        external_ips: parse(&spec.external_ips),
        load_balancer_ips,
        source_ranges: spec.load_balancer_source_ranges.iter().flatten().filter_map(|range| range.trim().parse().ok()).collect(),
        affinity,
        internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
        external_local,
        health_check_node_port: if external_local && spec.type_.as_deref() == Some("LoadBalancer") {
            port_number(spec.health_check_node_port)
        } else {
            0
        },
    };
    spec.ports
        .iter()
        .flatten()
        .filter_map(|port| {
            Some(ServicePort {
                name: port.name.clone().unwrap_or_default(),
                protocol: Protocol::parse(port.protocol.as_deref())?,
                port: u16::try_from(port.port).ok()?,
                node_port: port_number(port.node_port),
                ..base.clone()
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ports(spec: serde_json::Value) -> Vec<ServicePort> {
        let service = serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": "svc"}, "spec": spec})).unwrap();
        ports_of(&service)
    }

    #[test]
    fn headless_and_external_name_services_have_no_rules() {
        assert!(ports(json!({"clusterIP": "None", "ports": [{"port": 80}]})).is_empty());
        assert!(ports(json!({"type": "ExternalName", "externalName": "x", "ports": [{"port": 80}]})).is_empty());
    }

    #[test]
    fn dual_stack_addresses_are_kept_per_family() {
        let all = ports(
            json!({"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"], "ports": [{"port": 80, "name": "a"}]}),
        );
        assert_eq!(all[0].cluster_ip(Family::V6), Some("fd00::1".parse().unwrap()));
        assert_eq!(all[0].cluster_ip(Family::V4), Some("10.96.0.1".parse().unwrap()));
        assert_eq!(all[0].to_string(), "ns/svc:a");
    }

    #[test]
    fn affinity_has_upstreams_default_timeout() {
        let all = ports(json!({"clusterIP": "10.96.0.1", "sessionAffinity": "ClientIP", "ports": [{"port": 80}]}));
        assert_eq!(all[0].affinity, Some(10_800));
        assert_eq!(all[0].to_string(), "ns/svc");
    }
}

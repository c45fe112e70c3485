//! What the proxy needs to know of an EndpointSlice.

use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::discovery::v1::EndpointSlice;
use net::iptables::Family;

use super::service::{Protocol, ServiceName};

/// The label that leads from a slice to its Service.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// One endpoint at one port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    pub address: SocketAddr,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
    /// On the proxy's own node.
    pub local: bool,
    pub zone_hints: Vec<String>,
    pub node_hints: Vec<String>,
}

/// The endpoints of one slice for one named port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    pub name: String,
    pub protocol: Protocol,
    pub endpoints: Vec<Endpoint>,
}

/// A slice, reduced to what matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    pub family: Family,
    pub ports: Vec<Port>,
}

/// Whose slice it is.
pub fn service_of(slice: &EndpointSlice) -> Option<ServiceName> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME_LABEL)?;
    Some(ServiceName::new(slice.metadata.namespace.as_deref().unwrap_or_default(), name))
}

/// Reduces a slice; `None` for slices of names instead of addresses.
pub fn reduce(slice: &EndpointSlice, node_name: &str) -> Option<Slice> {
    let family = match slice.address_type.as_str() {
        "IPv4" => Family::V4,
        "IPv6" => Family::V6,
        _ => return None,
    };
    let mut ports = Vec::new();
    for port in slice.ports.iter().flatten() {
        let Some(number) = port.port.and_then(|number| u16::try_from(number).ok()) else { continue };
        let Some(protocol) = Protocol::parse(port.protocol.as_deref()) else { continue };
        let mut endpoints = Vec::new();
        for endpoint in slice.endpoints.iter().flatten() {
            // All addresses of an endpoint are the same place; the first is used.
            let Some(ip) = endpoint.addresses.first().and_then(|ip| ip.parse::<IpAddr>().ok()) else { continue };
            let conditions = endpoint.conditions.as_ref();
            let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
            let hints = endpoint.hints.as_ref();
            endpoints.push(Endpoint {
                address: SocketAddr::new(ip, number),
                ready,
                // Unknown serving means the same as ready.
                serving: conditions.and_then(|c| c.serving).unwrap_or(ready),
                terminating: conditions.and_then(|c| c.terminating).unwrap_or(false),
                local: !node_name.is_empty() && endpoint.node_name.as_deref() == Some(node_name),
                zone_hints: hints
                    .and_then(|h| h.for_zones.as_ref())
                    .into_iter()
                    .flatten()
                    .map(|zone| zone.name.clone())
                    .collect(),
                node_hints: hints
                    .and_then(|h| h.for_nodes.as_ref())
                    .into_iter()
                    .flatten()
                    .map(|node| node.name.clone())
                    .collect(),
            });
        }
        ports.push(Port { name: port.name.clone().unwrap_or_default(), protocol, endpoints });
    }
    Some(Slice { family, ports })
}

//! On which of the node's addresses NodePorts answer.

use std::net::IpAddr;

use ipnet::IpNet;
use net::iptables::Family;

use super::{Settings, SyncError};

/// `None`: on all of them. Else the local addresses within the configured subnets.
pub fn addresses(settings: &Settings) -> Result<Option<Vec<IpAddr>>, SyncError> {
    let wanted: Vec<&IpNet> =
        settings.node_port_addresses.iter().filter(|net| net.addr().is_ipv4() == (settings.family == Family::V4)).collect();
    if settings.node_port_addresses.is_empty() || wanted.iter().any(|net| net.prefix_len() == 0) {
        return Ok(None);
    }
    let failed = |error: net::Error| SyncError { family: settings.family, message: error.to_string() };
    let socket = net::Socket::route().map_err(failed)?;
    let mut local: Vec<IpAddr> = net::address::list(&socket)
        .map_err(failed)?
        .into_iter()
        .map(|address| address.net.addr())
        .filter(|ip| wanted.iter().any(|net| net.contains(ip)))
        .collect();
    local.sort();
    local.dedup();
    Ok(Some(local))
}

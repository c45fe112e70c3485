//! One address = one `IPAddress` object.

use std::net::IpAddr;

use ipnet::IpNet;
use jiff::Timestamp;
use rand::Rng;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::call::timestamp;
use crate::server::Server;
use crate::storage::Error;

/// Random tries before the range is walked.
const RANDOM_TRIES: usize = 16;

/// The path of an address below the etcd prefix. Upstream: networking.k8s.io/v1 IPAddress.
pub(super) fn path(address: IpAddr) -> String {
    format!("ipaddresses/{address}")
}

/// The object that marks an address as taken.
pub(super) fn object(address: IpAddr, (namespace, name): &(String, String)) -> Value {
    let family = super::family(address);
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
        "metadata": {
            "name": address.to_string(), "uid": Uuid::new_v4().to_string(), "creationTimestamp": timestamp(Timestamp::now()),
            "labels": {
                "ipaddress.kubernetes.io/ip-family": family,
                "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
            },
        },
        "spec": {"parentRef": {"group": "", "resource": "services", "namespace": namespace, "name": name}},
    })
}

/// Takes this address.
pub(super) async fn take(
    server: &Server,
    cidr: IpNet,
    address: IpAddr,
    owner: &(String, String),
    dry_run: bool,
) -> Result<(), String> {
    if !usable(cidr, address) {
        return Err("the provided network does not match the current range".to_owned());
    }
    let storage = &server.caches.storage;
    let key = storage.key(&path(address));
    if dry_run {
        return match storage.get(&key).await {
            Ok((Some(_), _)) => Err("provided IP is already allocated".to_owned()),
            Ok((None, _)) => Ok(()),
            Err(error) => Err(error.to_string()),
        };
    }
    match storage.create(&key, object(address, owner).to_string().as_bytes(), None).await {
        Ok(_) => Ok(()),
        Err(Error::Exists) => Err("provided IP is already allocated".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Takes any free address: at random from the upper part of the range, which leaves the lower one to those who ask by name, then any.
pub(super) async fn any(server: &Server, cidr: IpNet, owner: &(String, String), dry_run: bool) -> Result<IpAddr, String> {
    let size = size(cidr);
    if size == 0 {
        return Err("range is full".to_owned());
    }
    let reserved = static_band(size);
    let known =
        |address: IpAddr| server.caches.by_path("ipaddresses").is_some_and(|cache| cache.get(&address.to_string()).is_some());
    let mut offset = 0;
    for _ in 0..RANDOM_TRIES {
        offset = rand::rng().random_range(reserved..size);
        let address = nth(cidr, offset);
        if known(address) {
            continue;
        }
        match take(server, cidr, address, owner, dry_run).await {
            Ok(()) => return Ok(address),
            Err(why) if why.contains("already allocated") => {}
            Err(why) => return Err(why),
        }
    }
    // Nearly full: walk from the last try to the end of the upper part, then around through all of it and the lower part.
    let upper = (offset..size).chain(reserved..offset.min(size));
    let lower = 0..reserved;
    for offset in upper.chain(lower).take(1 << 20) {
        let address = nth(cidr, offset);
        if known(address) {
            continue;
        }
        match take(server, cidr, address, owner, dry_run).await {
            Ok(()) => return Ok(address),
            Err(why) if why.contains("already allocated") => {}
            Err(why) => return Err(why),
        }
    }
    Err("range is full".to_owned())
}

/// Gives an address back.
pub(super) async fn release(server: &Server, address: IpAddr) {
    let storage = &server.caches.storage;
    let key = storage.key(&path(address));
    match storage.get(&key).await {
        Ok((Some(stored), _)) => {
            if let Err(error) = storage.delete(&key, stored.revision).await {
                tracing::warn!(%address, err = %error, "Failed to release a service address; the repair loop will");
            }
        }
        Ok((None, _)) => {}
        Err(error) => tracing::warn!(%address, err = %error, "Failed to release a service address; the repair loop will"),
    }
}

/// Addresses that may be handed out: without the network's own and, for IPv4, its broadcast address. Upstream caps a range at 2^16 for
/// IPv6 bitmaps; here any size will do, offsets beyond 2^63 are not used.
fn size(cidr: IpNet) -> u64 {
    let bits = u32::from(cidr.max_prefix_len() - cidr.prefix_len()).min(63);
    let all = 1_u64 << bits;
    if cidr.addr().is_ipv4() { all.saturating_sub(2) } else { all - 1 }
}

/// The number of low addresses left to those who ask by name: between 16 and 256, a sixteenth of the range. Upstream: KEP-3070.
fn static_band(size: u64) -> u64 {
    if size < 16 { 0 } else { (size / 16).clamp(16, 256).min(size - 1) }
}

fn nth(cidr: IpNet, offset: u64) -> IpAddr {
    match cidr.network() {
        IpAddr::V4(base) => IpAddr::from((u32::from(base) + 1 + u32::try_from(offset).unwrap_or(0)).to_be_bytes()),
        IpAddr::V6(base) => IpAddr::from((u128::from(base) + 1 + u128::from(offset)).to_be_bytes()),
    }
}

fn usable(cidr: IpNet, address: IpAddr) -> bool {
    cidr.contains(&address) && address != cidr.network() && (address.is_ipv6() || address != cidr.broadcast())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_leave_out_their_ends() {
        let cidr: IpNet = "10.96.0.0/24".parse().unwrap();
        assert_eq!(size(cidr), 254);
        assert_eq!(nth(cidr, 0).to_string(), "10.96.0.1");
        assert_eq!(nth(cidr, 253).to_string(), "10.96.0.254");
        assert!(!usable(cidr, "10.96.0.0".parse().unwrap()) && !usable(cidr, "10.96.0.255".parse().unwrap()));
        assert_eq!((static_band(size(cidr)), static_band(8), static_band(1 << 20)), (16, 0, 256));
        let cidr: IpNet = "fd00::/108".parse().unwrap();
        assert_eq!(nth(cidr, 1).to_string(), "fd00::2");
    }
}

//! Finds addresses and ports that nobody holds, and Services whose address is not marked.
//!
//! Upstream: pkg/registry/core/service/{ipallocator,portallocator}/controller

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use api::lister::Lister;
use serde_json::Value;

use super::{address, addresses_of, port, ports_of};
use crate::metadata;
use crate::server::Server;

/// Between rounds. Upstream: 3 minutes.
const INTERVAL: Duration = Duration::from_secs(180);

/// Repairs until dropped. What looks leaked is given back only when it looked so in the round before: a create may be under way.
pub async fn run(server: Arc<Server>) {
    let mut suspects: (HashSet<String>, HashSet<u16>) = Default::default();
    loop {
        if server.caches.fresh().await.is_ok() {
            suspects = round(&server, &suspects).await;
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

async fn round(server: &Server, (old_addresses, old_ports): &(HashSet<String>, HashSet<u16>)) -> (HashSet<String>, HashSet<u16>) {
    let services = server.caches.list("", "services", None);
    let mut holders: HashMap<String, (String, String)> = HashMap::new();
    let mut held_ports: HashSet<u16> = HashSet::new();
    for service in &services {
        let owner = (metadata::namespace(service).to_owned(), metadata::name(service).to_owned());
        for ip in addresses_of(service) {
            holders.insert(ip.to_string(), owner.clone());
        }
        held_ports.extend(ports_of(service));
    }
    let storage = &server.caches.storage;
    let marked = server.caches.list("networking.k8s.io", "ipaddresses", None);
    let mut suspects: (HashSet<String>, HashSet<u16>) = Default::default();
    let mut known: HashSet<String> = HashSet::new();
    for mark in &marked {
        let name = metadata::name(mark).to_owned();
        known.insert(name.clone());
        let ours = mark.pointer("/metadata/labels/ipaddress.kubernetes.io~1managed-by").and_then(Value::as_str)
            == Some("ipallocator.k8s.io");
        if ours && !holders.contains_key(&name) {
            if old_addresses.contains(&name)
                && let Ok(address) = name.parse()
            {
                tracing::info!(address = name, "Released a service address that nobody holds");
                address::release(server, address).await;
            } else {
                suspects.0.insert(name);
            }
        }
    }
    for (ip, owner) in &holders {
        if let Ok(address) = ip.parse()
            && !known.contains(ip)
        {
            let object = address::object(address, owner);
            let _ = storage.create(&storage.key(&address::path(address)), object.to_string().as_bytes(), None).await;
        }
    }
    if let Ok(used) = port::in_use(server).await {
        let leaked: HashSet<u16> = used.iter().copied().filter(|port| !held_ports.contains(port)).collect();
        let free: Vec<u16> = leaked.intersection(old_ports).copied().collect();
        let missing = held_ports.iter().any(|port| !used.contains(port));
        if !free.is_empty() || missing {
            let held: Vec<u16> = held_ports.iter().copied().collect();
            port::repair(server, &held, &free).await;
        }
        suspects.1 = leaked;
    }
    suspects
}

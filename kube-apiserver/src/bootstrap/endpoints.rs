//! The Service `kubernetes` and its endpoints: every server keeps a key that expires below `masterleases/`, and all servers write the
//! endpoints that those keys name. A server that died drops out with its key.
//!
//! Upstream: pkg/controlplane/reconcilers/lease.go, pkg/controlplane/controller/kubernetesservice

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use api::lister::Lister;
use api::status::Status;
use serde_json::{Value, json};

use super::{change, create, ensure};
use crate::cache::unavailable;
use crate::codec;
use crate::server::Server;

/// How long a server counts without renewing, and how often it renews. Upstream: DefaultEndpointReconcilerTTL 15 s, interval 10 s.
const TTL: Duration = Duration::from_secs(15);
const INTERVAL: Duration = Duration::from_secs(10);

/// Makes the Service.
pub(super) async fn service(server: &Arc<Server>) -> Result<(), Status> {
    let address = server.allocators.first_address().to_string();
    let mut port = json!({"name": "https", "port": 443, "protocol": "TCP", "targetPort": server.config.bind_address.port()});
    let node_port = server.config.kubernetes_node_port;
    if node_port > 0 {
        port["nodePort"] = node_port.into();
    }
    let object = json!({
        "metadata": {"namespace": "default", "name": "kubernetes", "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {
            "type": if node_port > 0 { "NodePort" } else { "ClusterIP" }, "clusterIP": address, "clusterIPs": [address],
            "ports": [port], "sessionAffinity": "None",
        },
    });
    ensure(server, "", "services", object).await
}

/// Keeps this server among the endpoints until the end.
pub(super) async fn run(server: Arc<Server>) {
    if !server.config.reconcile_endpoints {
        return;
    }
    loop {
        if let Err(error) = round(&server, true).await {
            tracing::warn!(err = %error, "Failed to reconcile the endpoints of kubernetes");
        }
        if let Err(error) = service(&server).await {
            tracing::warn!(err = %error, "Failed to keep the service kubernetes");
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = server.tasks.stopping() => return,
        }
    }
}

/// Takes this server out.
pub(super) async fn leave(server: &Arc<Server>) {
    if !server.config.reconcile_endpoints {
        return;
    }
    let storage = &server.caches.storage;
    let key = lease_key(server);
    if let Ok((Some(stored), _)) = storage.get(&key).await {
        let _ = storage.delete(&key, stored.revision).await;
    }
    let _ = tokio::time::timeout(Duration::from_secs(3), round(server, false)).await;
}

fn lease_key(server: &Server) -> String {
    server.caches.storage.key(&format!("masterleases/{}", server.config.advertise_address))
}

async fn round(server: &Arc<Server>, stay: bool) -> Result<(), Status> {
    let storage = &server.caches.storage;
    let own = server.config.advertise_address;
    if stay {
        let key = lease_key(server);
        let value = json!({
            "kind": "Endpoints", "apiVersion": "v1", "metadata": {},
            "subsets": [{"addresses": [{"ip": own.to_string()}]}],
        })
        .to_string();
        let (found, _) = storage.get(&key).await.map_err(unavailable)?;
        match found {
            None => storage.create(&key, value.as_bytes(), Some(TTL)).await.map_err(unavailable)?,
            Some(found) => storage.update(&key, found.revision, value.as_bytes(), Some(TTL)).await.map_err(unavailable)?,
        };
    }
    let page = storage.page(&storage.key("masterleases/"), &storage.key("masterleases0"), 0, 0).await.map_err(unavailable)?;
    let mut addresses: Vec<IpAddr> = page
        .items
        .iter()
        .filter_map(|item| {
            let object: Value = serde_json::from_slice(&codec::stored_json(&item.value).ok()?).ok()?;
            object.pointer("/subsets/0/addresses/0/ip")?.as_str()?.parse().ok()
        })
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    if addresses.is_empty() {
        return Ok(());
    }
    let port = server.config.bind_address.port();
    let texts: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
    let subsets = json!([{
        "addresses": texts.iter().map(|ip| json!({"ip": ip})).collect::<Vec<_>>(),
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
    }]);
    keep(
        server,
        "",
        "endpoints",
        json!({
            "metadata": {"namespace": "default", "name": "kubernetes", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
            "subsets": subsets,
        }),
        &["subsets"],
    )
    .await?;
    let family = if own.is_ipv4() { "IPv4" } else { "IPv6" };
    keep(
        server,
        "discovery.k8s.io",
        "endpointslices",
        json!({
            "metadata": {"namespace": "default", "name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
            "addressType": family,
            "endpoints": texts.iter().map(|ip| json!({"addresses": [ip], "conditions": {"ready": true}})).collect::<Vec<_>>(),
            "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
        }),
        &["endpoints", "ports"],
    )
    .await
}

/// Makes the object be there with these fields.
async fn keep(server: &Arc<Server>, group: &str, plural: &str, wanted: Value, fields: &[&str]) -> Result<(), Status> {
    let Some(have) = server.caches.get(group, plural, "default", "kubernetes") else {
        return match create(server, group, plural, wanted).await {
            Ok(_) => Ok(()),
            Err(status) if status.reason == "AlreadyExists" => Ok(()),
            Err(status) => Err(status),
        };
    };
    if fields.iter().all(|field| have.get(field) == wanted.get(field)) {
        return Ok(());
    }
    let make = |old: &Value| {
        let mut new = old.clone();
        for field in fields {
            new[*field] = wanted[*field].clone();
        }
        new
    };
    change(server, group, plural, "default", "kubernetes", make).await.map(|_| ())
}

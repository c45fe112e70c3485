//! The way of a node's daemons to the API servers where no load balancer stands before them: `rkadm balance`, a process per node that
//! listens on loopback and passes connections on to an API server that is ready.
//!
//! It forwards TCP and looks at nothing: TLS is between client and API server, whose certificate is valid for `kubernetes`
//! (`tls-server-name` in the kubeconfigs). The API servers are found in the EndpointSlice `kubernetes`, read with the kubelet's credentials,
//! and remembered for the time after a power cut.

mod pool;

use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use pki::Files;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};

use crate::apply::Api;
use crate::node::{Node, systemctl};
use crate::supervise::{self, Unit};
use crate::{endpoint, kubelet, say};
use pool::Pool;

/// On loopback; next to 6443, which the API server of a control-plane node holds.
pub const PORT: u16 = 7443;
/// What kubeconfigs of balanced nodes say.
pub const URL: &str = "https://127.0.0.1:7443";
/// A name in the certificate of every API server.
pub const SERVER_NAME: &str = "kubernetes";
pub const UNIT: &str = "rk-balancer";
const SYSTEMD_UNIT: &str = "/etc/systemd/system/rk-balancer.service";
const MEMORY: &str = "/var/lib/rk/balancer/servers.json";
const LOG: &str = "/var/log/rk-balancer.log";
/// Between two looks at the EndpointSlice. An API server that joins is used after this long at the latest.
const REFRESH: Duration = Duration::from_secs(5);
/// Connections forwarded at once: a kubelet, kube-proxy and rk-cni hold one or two each, exec and logs come on top. More wait in the backlog.
const MAX_CONNECTIONS: usize = 1024;
/// The collection of the EndpointSlice that API servers keep about themselves.
const SLICE: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";

/// What survives a power cut.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Memory {
    /// As `init` and `join` were told: asked when nothing else answers.
    seeds: Vec<String>,
    /// As the cluster said last.
    servers: Vec<String>,
}

/// Whether nodes need one: the control plane is meant to be shared, and its endpoint is one of its hosts and no load balancer.
pub fn is_wanted(control_plane_endpoint: &str, servers: &[IpAddr]) -> bool {
    let Some(endpoint) = endpoint::parse(control_plane_endpoint) else { return false };
    match endpoint.host.parse::<IpAddr>() {
        Ok(address) => servers.contains(&address),
        Err(_) => {
            let found = (endpoint.host.as_str(), endpoint.port.unwrap_or(6443)).to_socket_addrs();
            found.is_ok_and(|mut found| found.any(|address| servers.contains(&address.ip())))
        }
    }
}

/// Whether this node has one.
pub fn is_installed(files: &Files) -> bool {
    files.exists(SYSTEMD_UNIT) || files.exists(format!("{}/{UNIT}.json", supervise::UNIT_DIR))
}

/// Installs and starts it, first on these API servers (`host:port`).
pub async fn install(node: &mut Node, servers: &[String]) -> anyhow::Result<()> {
    let memory = Memory { seeds: servers.to_vec(), servers: servers.to_vec() };
    node.files.write(MEMORY, pki::files::PUBLIC, serde_json::to_string_pretty(&memory)? + "\n")?;
    if node.dry_run {
        println!("[dryrun] Would start {UNIT} on 127.0.0.1:{PORT} for {}", servers.join(", "));
        return Ok(());
    }
    let program = std::env::current_exe().context("finding rkadm's own executable")?;
    if node.host.systemd {
        node.files.write(SYSTEMD_UNIT, pki::files::PUBLIC, unit(&program.display().to_string()))?;
        for args in [&["daemon-reload"][..], &["enable", UNIT], &["restart", UNIT]] {
            systemctl(args).await?;
        }
    } else {
        supervise::start(&Unit { name: UNIT.into(), program, args: vec!["balance".into()], log: LOG.into() })?;
    }
    say::phase(
        "balancer",
        &format!("The daemons of this node reach the API servers by 127.0.0.1:{PORT} ({})", servers.join(", ")),
    );
    Ok(())
}

/// Stops and removes it.
pub async fn remove(systemd: bool) -> anyhow::Result<()> {
    if systemd {
        if Path::new(SYSTEMD_UNIT).exists() {
            let _ = systemctl(&["disable", "--now", UNIT]).await;
            std::fs::remove_file(SYSTEMD_UNIT).with_context(|| format!("cannot remove {SYSTEMD_UNIT}"))?;
            let _ = systemctl(&["daemon-reload"]).await;
        }
        return Ok(());
    }
    supervise::stop(UNIT).map(drop)
}

fn unit(program: &str) -> String {
    format!(
        "[Unit]\nDescription=rk: the way of this node's daemons to the API servers\nWants=network-online.target\nAfter=network-online.target\n\
         Before=kubelet.service\n\n[Service]\nExecStart={program} balance\nRestart=always\nRestartSec=1\nStartLimitInterval=0\n\n\
         [Install]\nWantedBy=multi-user.target\n"
    )
}

/// The API servers of the EndpointSlice `kubernetes`. Pure.
pub fn servers_of(slice: &Value) -> Vec<String> {
    let port = slice["ports"].as_array().into_iter().flatten().find_map(|port| port["port"].as_u64()).unwrap_or(6443);
    let Ok(port) = u16::try_from(port) else { return Vec::new() };
    let endpoints = slice["endpoints"].as_array().into_iter().flatten();
    let addresses = endpoints.flat_map(|endpoint| endpoint["addresses"].as_array().into_iter().flatten());
    let mut list: Vec<String> = addresses.filter_map(Value::as_str).map(|address| endpoint::join(address, port)).collect();
    list.sort();
    list.dedup();
    list
}

/// The API servers as the cluster knows them; empty where it does not say.
pub async fn ask(api: &Api) -> Vec<String> {
    match api.get(SLICE).await {
        Ok(slice) => servers_of(&slice),
        Err(error) => {
            tracing::debug!(err = %component::chain(&error), "The API servers are not known");
            Vec::new()
        }
    }
}

fn addresses(list: &[String]) -> Vec<SocketAddr> {
    list.iter().filter_map(|text| text.parse().ok().or_else(|| text.to_socket_addrs().ok()?.next())).collect()
}

/// The process. Ends only with an error: the supervisor and systemd end it by a signal.
pub async fn run() -> anyhow::Result<()> {
    let memory: Memory = std::fs::read(MEMORY)
        .with_context(|| format!("cannot read {MEMORY}: `rkadm join` writes it"))
        .and_then(|text| serde_json::from_slice(&text).with_context(|| format!("{MEMORY} is damaged")))?;
    let listener = TcpListener::bind(("127.0.0.1", PORT)).await.with_context(|| format!("cannot listen on 127.0.0.1:{PORT}"))?;
    let pool = Arc::new(Pool::new(own_addresses()));
    pool.set(&addresses(&[memory.servers.clone(), memory.seeds.clone()].concat()));
    tracing::info!(servers = memory.servers.join(","), "Balancing");
    tokio::select! {
        () = pool::watch(&pool) => {}
        () = refresh(&pool, memory) => {}
        () = accept(&pool, &listener) => {}
    }
    Ok(())
}

/// Addresses of this host: an API server here is the nearest.
fn own_addresses() -> Vec<IpAddr> {
    let of = |interface: nix::ifaddrs::InterfaceAddress| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    };
    nix::ifaddrs::getifaddrs().into_iter().flatten().filter_map(of).collect()
}

async fn accept(pool: &Arc<Pool>, listener: &TcpListener) {
    let slots = Arc::new(tokio::sync::Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let client = match listener.accept().await {
            Ok((client, _)) => client,
            Err(error) => {
                // Too many open files: closing ones make room.
                tracing::warn!(err = %error, "Accepting a connection failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let pool = pool.clone();
        tokio::spawn(async move {
            forward(&pool, client).await;
            drop(slot);
        });
    }
}

/// Passes one connection on until either side ends or its API server is given up.
async fn forward(pool: &Pool, mut client: TcpStream) {
    let _ = client.set_nodelay(true);
    let Some((mut server, mut lease)) = pool.connect().await else { return };
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
        () = lease.given_up() => {}
    }
}

/// Follows the cluster's own list, and remembers it.
async fn refresh(pool: &Pool, mut memory: Memory) {
    let mut api: Option<Api> = None;
    loop {
        tokio::time::sleep(if api.is_some() { REFRESH } else { Duration::from_secs(1) }).await;
        if api.is_none() {
            // Written by the kubelet's bootstrap; its certificate file is followed by the client.
            api = Api::connect(Path::new(kubelet::KUBECONFIG), Duration::ZERO).await.ok();
        }
        let Some(known) = &api else { continue };
        let Ok(servers) = tokio::time::timeout(REFRESH, ask(known)).await else { continue };
        if servers.is_empty() || servers == memory.servers {
            continue;
        }
        tracing::info!(servers = servers.join(","), "The API servers have changed");
        memory.servers = servers;
        pool.set(&addresses(&[memory.servers.clone(), memory.seeds.clone()].concat()));
        let text = serde_json::to_string_pretty(&memory).unwrap_or_default();
        if let Err(error) = Files::host().write(MEMORY, pki::files::PUBLIC, text) {
            tracing::warn!(err = %component::chain(&error), "The API servers cannot be remembered");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_an_endpoint_that_is_a_control_plane_host_needs_balancing() {
        let servers: [IpAddr; 2] = [[172, 30, 0, 1].into(), [172, 30, 0, 2].into()];
        assert!(is_wanted("172.30.0.1:6443", &servers) && is_wanted("172.30.0.2", &servers));
        assert!(!is_wanted("172.30.0.100:6443", &servers), "a load balancer of the user's");
        assert!(!is_wanted("", &servers), "a single control plane");
        assert!(is_wanted("localhost:6443", &[[127, 0, 0, 1].into()]), "names are resolved");
    }

    #[test]
    fn servers_are_read_from_the_slice() {
        let slice = json!({"endpoints": [{"addresses": ["10.0.0.2"]}, {"addresses": ["10.0.0.1"]}], "ports": [{"name": "https", "port": 8443}]});
        assert_eq!(servers_of(&slice), ["10.0.0.1:8443", "10.0.0.2:8443"]);
        assert!(servers_of(&Value::Null).is_empty());
    }
}

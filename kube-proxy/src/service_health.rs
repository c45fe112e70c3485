//! Health check NodePorts: tell load balancers whether this node has endpoints of a Service with policy Local.
//!
//! Upstream: pkg/proxy/healthcheck/service_health.go

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use component::tasks::Tasks;
use http::{HeaderValue, StatusCode};
use serde_json::json;

use crate::health::Health;
use crate::service::ServiceName;

struct Server {
    port: u16,
    endpoints: Arc<AtomicUsize>,
    tasks: Tasks,
}

/// The servers that run now.
pub struct ServiceHealth {
    tasks: Tasks,
    address: IpAddr,
    health: Health,
    servers: BTreeMap<ServiceName, Server>,
}

impl ServiceHealth {
    pub fn new(tasks: Tasks, address: IpAddr, health: Health) -> Self {
        Self { tasks, address, health, servers: BTreeMap::new() }
    }

    /// Makes exactly these Services have a server: name, port, ready endpoints on this node.
    /// Returns the ports that could not be opened, with the reason.
    pub fn sync(&mut self, wanted: &BTreeMap<ServiceName, (u16, usize)>) -> Vec<(ServiceName, String)> {
        self.servers.retain(|name, server| {
            let keep = wanted.get(name).is_some_and(|(port, _)| *port == server.port);
            if !keep {
                server.tasks.stop();
            }
            keep
        });
        let mut failed = Vec::new();
        for (name, (port, endpoints)) in wanted {
            if let Some(server) = self.servers.get(name) {
                server.endpoints.store(*endpoints, Ordering::Relaxed);
                continue;
            }
            match self.start(name, *port, *endpoints) {
                Ok(server) => {
                    self.servers.insert(name.clone(), server);
                }
                Err(error) => failed.push((name.clone(), format!("failed to listen on port {port}: {error}"))),
            }
        }
        failed
    }

    fn start(&self, name: &ServiceName, port: u16, endpoints: usize) -> std::io::Result<Server> {
        let listener = std::net::TcpListener::bind(SocketAddr::new(self.address, port))?;
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let tasks = self.tasks.child();
        let endpoints = Arc::new(AtomicUsize::new(endpoints));
        let (name, health, count) = (name.clone(), self.health.clone(), endpoints.clone());
        component::serve::serve(&tasks, listener, None, move |_request| {
            let local = count.load(Ordering::Relaxed);
            let healthy = health.complaint().is_none();
            let body = json!({
                "service": {"namespace": name.namespace, "name": name.name}, "localEndpoints": local, "serviceProxyHealthy": healthy,
            });
            let code = if local > 0 && healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            let mut response = component::serve::text(code, "application/json", body.to_string());
            response.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
            if let Ok(weight) = HeaderValue::from_str(&local.to_string()) {
                response.headers_mut().insert("x-load-balancing-endpoint-weight", weight);
            }
            async move { response }
        })?;
        Ok(Server { port, endpoints, tasks })
    }
}

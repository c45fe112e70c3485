//! `/health`, `/ready` and `/metrics`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::Context;
use bytes::Bytes;
use component::tasks::Tasks;
use http::{Response, StatusCode};
use http_body_util::Full;

use crate::config::Config;
use crate::handler::Shared;

type Answer = fn(&Shared, &str) -> Response<Full<Bytes>>;

fn text(code: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    component::serve::text(code, "text/plain; charset=utf-8", body)
}

fn missing() -> Response<Full<Bytes>> {
    text(StatusCode::NOT_FOUND, "404 page not found\n")
}

fn health(_: &Shared, path: &str) -> Response<Full<Bytes>> {
    if path == "/health" { text(StatusCode::OK, "OK") } else { missing() }
}

fn ready(shared: &Shared, path: &str) -> Response<Full<Bytes>> {
    if path != "/ready" {
        return missing();
    }
    let waits = shared.running.load().blocks.iter().any(|block| block.server.kubernetes.is_some());
    if waits && !shared.synced.load(Ordering::Acquire) {
        return text(StatusCode::SERVICE_UNAVAILABLE, "kubernetes");
    }
    text(StatusCode::OK, "OK")
}

fn metrics(shared: &Shared, path: &str) -> Response<Full<Bytes>> {
    if path != "/metrics" {
        return missing();
    }
    for block in &shared.running.load().blocks {
        if let Some(cache) = &block.cache {
            crate::metrics::cache_entries(&block.title, cache.len());
        }
    }
    component::serve::text(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", component::metrics::render())
}

/// Starts the servers that the configuration asks for.
pub async fn serve(config: &Config, shared: &Arc<Shared>, tasks: &Tasks) -> anyhow::Result<()> {
    let wanted: [(Option<SocketAddr>, Answer); 3] = [
        (config.first(|server| server.health), health),
        (config.first(|server| server.ready), ready),
        (config.first(|server| server.prometheus), metrics),
    ];
    for (address, answer) in wanted {
        let Some(address) = address else { continue };
        let listener = tokio::net::TcpListener::bind(address).await.with_context(|| format!("failed to listen on {address}"))?;
        let shared = shared.clone();
        component::serve::serve(tasks, listener, None, move |request| {
            let response = answer(&shared, request.uri().path());
            async move { response }
        })?;
    }
    Ok(())
}

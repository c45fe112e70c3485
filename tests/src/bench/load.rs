//! Requests in numbers: what each costs the server.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use http_body_util::BodyExt;

use super::process::cpu;

/// What a run of requests showed.
pub struct Figures {
    /// How many.
    pub count: usize,
    /// How long all took.
    pub wall: Duration,
    /// The server's CPU time for all.
    pub cpu: Duration,
    /// The slowest of a hundred (99th percentile).
    pub p99: Duration,
}

impl Figures {
    /// Milliseconds of the server's CPU per request.
    pub fn cpu_millis(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e3 / self.count.max(1) as f64
    }

    /// Requests per second.
    pub fn rate(&self) -> f64 {
        self.count as f64 / self.wall.as_secs_f64()
    }
}

/// Runs `request(0..count)` from `workers` at once, each on a connection of its own, and measures the process `pid`.
///
/// # Errors
/// A request failed.
pub async fn run<F, Fut>(pid: u32, clients: Vec<kube::Client>, count: usize, request: F) -> Result<Figures>
where
    F: Fn(kube::Client, usize) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<()>> + Send,
{
    let (next, request) = (Arc::new(AtomicUsize::new(0)), Arc::new(request));
    let (before, started) = (cpu(pid), Instant::now());
    let workers: Vec<_> = clients
        .into_iter()
        .map(|client| {
            let (next, request) = (next.clone(), request.clone());
            tokio::spawn(async move {
                let mut times = Vec::new();
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count {
                        return anyhow::Ok(times);
                    }
                    let started = Instant::now();
                    request(client.clone(), index).await?;
                    times.push(started.elapsed());
                }
            })
        })
        .collect();
    let mut times = Vec::new();
    for worker in workers {
        times.extend(worker.await??);
    }
    let (wall, cpu) = (started.elapsed(), cpu(pid).saturating_sub(before));
    times.sort();
    let p99 = times.get(times.len() * 99 / 100).copied().unwrap_or_default();
    Ok(Figures { count, wall, cpu, p99 })
}

/// Reads an answer to its end; how many bytes it had.
///
/// # Errors
/// The request failed, or was not answered with 2xx.
pub async fn drain(client: &kube::Client, path: &str, accept: &str) -> Result<usize> {
    let request = http::Request::get(path).header("accept", accept).body(kube::client::Body::empty())?;
    let response = client.send(request).await?;
    anyhow::ensure!(response.status().is_success(), "{path}: {}", response.status());
    let mut body = response.into_body();
    let mut total = 0;
    while let Some(frame) = body.frame().await {
        total += frame?.data_ref().map_or(0, |data| data.len());
    }
    Ok(total)
}

/// Sends a request with a body and reads the answer to its end.
///
/// # Errors
/// As [`drain`].
pub async fn send(client: &kube::Client, method: &str, path: &str, content_type: &str, body: Vec<u8>) -> Result<()> {
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", content_type)
        .body(kube::client::Body::from(body))?;
    let response = client.send(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    anyhow::ensure!(status.is_success(), "{method} {path}: {status}: {}", String::from_utf8_lossy(&body[..body.len().min(400)]));
    Ok(())
}

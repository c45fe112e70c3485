//! kube-apiserver with very many objects: memory, start, lists by many at once, a watcher for every node.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use http_body_util::BodyExt;

use super::api::{JSON, clients, patch, pod};
use super::load;
use super::process::{cpu, memory, reset_peak};
use super::row;
use super::server::Server;

const MB: f64 = 1e6;
const FIRST: usize = 10_000;
const PODS: usize = 100_000;
const LISTERS: usize = 20;
const CONNECTIONS: usize = 50;
const WATCHERS: usize = 5_000;
const UPDATES: usize = 3_000;

/// Runs all rows of the section.
///
/// # Errors
/// The server or a request failed.
pub async fn run(bins: &Path) -> Result<()> {
    let mut server = Server::start(bins).await?;
    create(&server, 0, FIRST).await?;
    server.restart().await?;
    row("start to /readyz, 10,000 pods in etcd", format!("{:.2} s", server.ready_after.as_secs_f64()), "aim 0.5 s");
    create(&server, FIRST, PODS).await?;
    let bytes = load::drain(&server.client()?, "/api/v1/pods?limit=1000", JSON).await? * (PODS / 1000);
    let rss = |server: &Server| memory(server.pid(), "VmRSS") as f64 / MB;
    row("100,000 pods: memory", format!("{:.0} MB for {:.0} MB of JSON", rss(&server), bytes as f64 / MB), "aim 600 MB");
    server.restart().await?;
    let ready = server.ready_after.as_secs_f64();
    row("the same after a restart", format!("{:.0} MB, ready after {ready:.2} s", rss(&server)), "");
    lists(&server).await?;
    watchers(&server).await
}

async fn create(server: &Server, from: usize, to: usize) -> Result<()> {
    load::run(server.pid(), clients(server, 16)?, to - from, move |client, index| async move {
        load::send(&client, "POST", "/api/v1/namespaces/default/pods", JSON, pod(from + index)).await
    })
    .await
    .map(drop)
}

async fn lists(server: &Server) -> Result<()> {
    reset_peak(server.pid())?;
    let before = memory(server.pid(), "VmRSS");
    let figures = load::run(server.pid(), clients(server, LISTERS)?, LISTERS, |client, _| async move {
        load::drain(&client, "/api/v1/pods", JSON).await.map(drop)
    });
    let figures = figures.await?;
    let grown = memory(server.pid(), "VmHWM").saturating_sub(before) as f64 / MB;
    row(
        "20 clients list 100,000 pods at once",
        format!("+{grown:.0} MB at most, {:.0} ms CPU each", figures.cpu_millis()),
        "aim +100 MB",
    );
    Ok(())
}

async fn watchers(server: &Server) -> Result<()> {
    let update = |mark: &'static str| {
        move |client: kube::Client, index: usize| async move { patch(&client, index, format!("{mark}{index}")).await }
    };
    let alone = load::run(server.pid(), clients(server, 4)?, UPDATES, update("a")).await?;
    let now: serde_json::Value = server.client()?.request(http::Request::get("/api/v1/pods?limit=1").body(Vec::new())?).await?;
    let version = now["metadata"]["resourceVersion"].as_str().unwrap_or("0").to_owned();
    let before = memory(server.pid(), "VmRSS");
    let seen = Arc::new(AtomicUsize::new(0));
    let mut tasks = Vec::new();
    for (connection, client) in clients(server, CONNECTIONS)?.into_iter().enumerate() {
        for stream in 0..WATCHERS / CONNECTIONS {
            let node = connection * (WATCHERS / CONNECTIONS) + stream;
            let path = format!("/api/v1/pods?watch=true&resourceVersion={version}&fieldSelector=spec.nodeName%3Dnode-{node}");
            let response = client.send(http::Request::get(path).body(kube::client::Body::empty())?).await?;
            let seen = seen.clone();
            tasks.push(tokio::spawn(async move {
                let mut body = response.into_body();
                while let Some(Ok(frame)) = body.frame().await {
                    seen.fetch_add(
                        frame.data_ref().map_or(0, |data| data.iter().filter(|byte| **byte == b'\n').count()),
                        Ordering::Relaxed,
                    );
                }
            }));
        }
    }
    let grown = memory(server.pid(), "VmRSS").saturating_sub(before) as f64 / 1e3 / WATCHERS as f64;
    let start = cpu(server.pid());
    load::run(server.pid(), clients(server, 4)?, UPDATES, update("b")).await?;
    let deadline = Instant::now() + Duration::from_secs(30);
    while seen.load(Ordering::Relaxed) < UPDATES && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let delivered = seen.load(Ordering::Relaxed);
    let spent = (cpu(server.pid()) - start).as_secs_f64() * 1e3 / UPDATES as f64;
    row(
        "PATCH with 5,000 watchers on spec.nodeName",
        format!("{spent:.3} ms CPU, {:.3} without ({delivered} events)", alone.cpu_millis()),
        "",
    );
    row("memory of a watcher, 100 to a connection", format!("{grown:.1} KB"), "");
    tasks.iter().for_each(|task| task.abort());
    Ok(())
}

//! kube-apiserver alone: start, idle, writes, reads, watches.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use http_body_util::BodyExt;
use serde_json::json;

use super::load::{self, Figures};
use super::process::{cpu, memory};
use super::row;
use super::server::Server;

const PODS: usize = 5_000;
const CLIENTS: usize = 16;
const WATCHERS: usize = 200;
const MB: f64 = 1e6;
/// The media type.
pub const JSON: &str = "application/json";

fn cost(figures: &Figures) -> String {
    format!("{:.3} ms CPU, {:.0}/s, p99 {} ms", figures.cpu_millis(), figures.rate(), figures.p99.as_millis())
}

/// A pod of about 4.8 KB on the server.
pub fn pod(index: usize) -> Vec<u8> {
    let env: Vec<_> =
        (0..6).map(|n| json!({"name": format!("SETTING_{n}"), "value": format!("value-{n}-of-pod-{index}")})).collect();
    let container = |name: &str| {
        json!({
            "name": name, "image": "registry.k8s.io/rk-test:v1.36.0", "env": env, "ports": [{"containerPort": 8080, "name": format!("p-{name}")}],
            "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
            "readinessProbe": {"httpGet": {"path": "/readyz", "port": 8080}},
        })
    };
    let labels = json!({"app": format!("app-{}", index % 100), "group": format!("g{}", index % 50), "number": index.to_string()});
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("pod-{index:05}"), "labels": labels, "annotations": {"note": "x".repeat(200)}},
        "spec": {"nodeName": format!("node-{}", index % 100), "containers": [container("main"), container("side")]},
    });
    pod.to_string().into_bytes()
}

/// Runs all rows of the section.
///
/// # Errors
/// The server or a request failed.
pub async fn run(bins: &Path) -> Result<()> {
    let server = Server::start(bins).await?;
    row("start to /readyz, empty etcd", format!("{:.2} s", server.ready_after.as_secs_f64()), "2.3-2.8 s");
    tokio::time::sleep(Duration::from_secs(3)).await;
    row("idle memory of kube-apiserver", format!("{:.0} MB", memory(server.pid(), "VmRSS") as f64 / MB), "274 MB");
    let before = cpu(server.pid());
    tokio::time::sleep(Duration::from_secs(10)).await;
    row(
        "idle CPU of kube-apiserver, per minute",
        format!("{:.2} s", (cpu(server.pid()) - before).as_secs_f64() * 6.0),
        "1.9 s (all three)",
    );
    writes(&server).await?;
    reads(&server).await?;
    watch(&server).await?;
    let now = memory(server.pid(), "VmRSS") as f64 / MB;
    row(
        "memory after all that: now / peak",
        format!("{now:.0} / {:.0} MB", memory(server.pid(), "VmHWM") as f64 / MB),
        "688 / 774 MB",
    );
    Ok(())
}

/// `count` clients, each on a connection of its own.
///
/// # Errors
/// As [`Server::client`].
pub fn clients(server: &Server, count: usize) -> Result<Vec<kube::Client>> {
    (0..count).map(|_| server.client()).collect()
}

async fn writes(server: &Server) -> Result<()> {
    let create = load::run(server.pid(), clients(server, CLIENTS)?, PODS, |client, index| async move {
        load::send(&client, "POST", "/api/v1/namespaces/default/pods", JSON, pod(index)).await
    });
    row("CREATE pod", cost(&create.await?), "1.9-2.0 ms CPU, 734/s, p99 50 ms");
    let patch = load::run(server.pid(), clients(server, CLIENTS)?, PODS, |client, index| async move {
        let patch = json!({"metadata": {"annotations": {"touched": index.to_string()}}}).to_string().into_bytes();
        let path = format!("/api/v1/namespaces/default/pods/pod-{index:05}");
        load::send(&client, "PATCH", &path, "application/strategic-merge-patch+json", patch).await
    });
    row("PATCH pod (strategic merge)", cost(&patch.await?), "3.1 ms CPU, 517/s");
    Ok(())
}

async fn reads(server: &Server) -> Result<()> {
    let get = load::run(server.pid(), clients(server, CLIENTS)?, 20_000, |client, index| async move {
        load::drain(&client, &format!("/api/v1/namespaces/default/pods/pod-{:05}", index % PODS), JSON).await.map(drop)
    });
    row("GET pod", cost(&get.await?), "0.52 ms CPU, 2560/s");
    const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";
    const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
    let lists: [(&str, &'static str, &'static str, usize, &str); 7] = [
        ("LIST 5,000 pods, consistent", "/api/v1/pods", JSON, 20, "350 ms CPU"),
        ("LIST 5,000 pods, resourceVersion=0", "/api/v1/pods?resourceVersion=0", JSON, 20, "313 ms CPU"),
        ("LIST 5,000 pods, protobuf", "/api/v1/pods", PROTOBUF, 20, "178 ms CPU"),
        ("LIST limit=500", "/api/v1/pods?limit=500", JSON, 200, "33 ms CPU"),
        ("LIST one node's 50 pods", "/api/v1/pods?fieldSelector=spec.nodeName%3Dnode-7", JSON, 1_000, "3.4 ms CPU"),
        ("LIST one label's 50 pods", "/api/v1/pods?labelSelector=app%3Dapp-7", JSON, 1_000, "2.6 ms CPU"),
        ("Table of 500 pods", "/api/v1/pods?limit=500", TABLE, 200, "24 ms CPU"),
    ];
    for (what, path, accept, count, upstream) in lists {
        let bytes = load::drain(&server.client()?, path, accept).await?;
        let figures = load::run(server.pid(), clients(server, 2)?, count, move |client, _| async move {
            load::drain(&client, path, accept).await.map(drop)
        });
        let figures = figures.await?;
        row(what, format!("{:.2} ms CPU, {:.1}/s, {:.1} MB", figures.cpu_millis(), figures.rate(), bytes as f64 / MB), upstream);
    }
    Ok(())
}

/// CPU per event delivered: the cost of updates with watchers less that without.
async fn watch(server: &Server) -> Result<()> {
    const UPDATES: usize = 3_000;
    let update = |mark: &'static str| {
        move |client: kube::Client, index: usize| async move { patch(&client, index, format!("{mark}{index}")).await }
    };
    let alone = load::run(server.pid(), clients(server, 4)?, UPDATES, update("a")).await?;
    let seen = Arc::new(AtomicUsize::new(0));
    let mut watchers = Vec::new();
    let now: serde_json::Value = server.client()?.request(http::Request::get("/api/v1/pods?limit=1").body(Vec::new())?).await?;
    let version = now["metadata"]["resourceVersion"].as_str().unwrap_or("0").to_owned();
    for client in clients(server, 20)? {
        for _ in 0..WATCHERS / 20 {
            let request = http::Request::get(format!("/api/v1/namespaces/default/pods?watch=true&resourceVersion={version}"));
            let response = client.send(request.body(kube::client::Body::empty())?).await?;
            let seen = seen.clone();
            watchers.push(tokio::spawn(async move {
                let mut body = response.into_body();
                while let Some(Ok(frame)) = body.frame().await {
                    let lines = frame.data_ref().map_or(0, |data| data.iter().filter(|byte| **byte == b'\n').count());
                    seen.fetch_add(lines, Ordering::Relaxed);
                }
            }));
        }
    }
    let deadline = Instant::now() + Duration::from_secs(120);
    let start = seen.load(Ordering::Relaxed);
    let before = cpu(server.pid());
    load::run(server.pid(), clients(server, 4)?, UPDATES, update("b")).await?;
    while seen.load(Ordering::Relaxed) < start + WATCHERS * UPDATES && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let delivered = seen.load(Ordering::Relaxed) - start;
    let spent = (cpu(server.pid()) - before).saturating_sub(alone.cpu);
    let each = spent.as_secs_f64() * 1e3 / delivered.max(1) as f64;
    row("WATCH: one event to one of 200 watchers", format!("{each:.4} ms CPU ({delivered} events)"), "0.0136 ms CPU");
    watchers.iter().for_each(|watcher| watcher.abort());
    Ok(())
}

/// Changes an annotation of pod number `index`.
///
/// # Errors
/// The request failed.
pub async fn patch(client: &kube::Client, index: usize, value: String) -> Result<()> {
    let patch = json!({"metadata": {"annotations": {"touched": value}}}).to_string().into_bytes();
    let path = format!("/api/v1/namespaces/default/pods/pod-{index:05}");
    load::send(client, "PATCH", &path, "application/merge-patch+json", patch).await
}

//! `make bench`: what rk costs on this machine, beside upstream's figures (shared/facts/upstream-baseline.md).

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use http_body_util::BodyExt;
use serde_json::json;
use tests::bench::load::{self, Figures};
use tests::bench::process::{cpu, memory};
use tests::bench::server::Server;

const PODS: usize = 5_000;
const CLIENTS: usize = 16;
const WATCHERS: usize = 200;
const MB: f64 = 1e6;
const JSON: &str = "application/json";

fn row(what: &str, ours: String, upstream: &str) {
    println!("{what:<46} {ours:>34}   {upstream}");
}

fn cost(figures: &Figures) -> String {
    format!("{:.3} ms CPU, {:.0}/s, p99 {} ms", figures.cpu_millis(), figures.rate(), figures.p99.as_millis())
}

/// A pod of about 4.8 KB on the server.
fn pod(index: usize) -> Vec<u8> {
    let env: Vec<_> =
        (0..20).map(|n| json!({"name": format!("SETTING_{n}"), "value": format!("value-{n}-of-pod-{index}")})).collect();
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
        "metadata": {"name": format!("pod-{index:05}"), "labels": labels, "annotations": {"note": "x".repeat(300)}},
        "spec": {"nodeName": format!("node-{}", index % 100), "containers": [container("main"), container("side")]},
    });
    pod.to_string().into_bytes()
}

#[tokio::main]
async fn main() -> Result<()> {
    let bins = PathBuf::from(std::env::var_os("RK_BIN").context("RK_BIN is not set: use `make bench`")?);
    row("measure", "rk".to_owned(), "upstream");
    let server = Server::start(&bins).await?;
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
    drop(server);
    cluster()
}

fn clients(server: &Server, count: usize) -> Result<Vec<kube::Client>> {
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
    const UPDATES: usize = 1_000;
    let update = |mark: &'static str| {
        move |client: kube::Client, index: usize| async move {
            let patch = json!({"metadata": {"annotations": {"touched": format!("{mark}{index}")}}}).to_string().into_bytes();
            load::send(
                &client,
                "PATCH",
                &format!("/api/v1/namespaces/default/pods/pod-{index:05}"),
                "application/merge-patch+json",
                patch,
            )
            .await
        }
    };
    let alone = load::run(server.pid(), clients(server, 4)?, UPDATES, update("a")).await?;
    let seen = Arc::new(AtomicUsize::new(0));
    let mut watchers = Vec::new();
    for client in clients(server, 20)? {
        for _ in 0..WATCHERS / 20 {
            let request =
                http::Request::get("/api/v1/pods?watch=true&resourceVersion=0&fieldSelector=metadata.namespace%3Ddefault");
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
    // The objects that are there come first.
    let deadline = Instant::now() + Duration::from_secs(120);
    while seen.load(Ordering::Relaxed) < WATCHERS * PODS && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
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

/// A two-node lab: how long it takes, and what its parts weigh when idle.
fn cluster() -> Result<()> {
    let (lab, text) = tests::lab::Lab::up("rk-bench", &["--nodes", "1", "--bare"])?;
    for line in text.lines().filter(|line| line.starts_with("[lab]")) {
        println!("  {line}");
    }
    const READY: &str = "until kubectl --kubeconfig /etc/kubernetes/admin.conf get node $(hostname) 2>/dev/null | grep -qw Ready; do sleep 0.05; done";
    let init = "rkadm init --apiserver-advertise-address 172.30.0.1 --pod-network-cidr 10.244.0.0/16 >/root/init.log 2>&1";
    let started = Instant::now();
    lab.sh("cp1", &format!("{init} && {READY}"))?;
    row("rkadm init to Ready, images present", format!("{:.1} s", started.elapsed().as_secs_f64()), "7.5 s");
    let join = lab.sh("cp1", "rkadm token create --print-join-command")?;
    let started = Instant::now();
    lab.sh("node1", &format!("{} >/root/join.log 2>&1", join.trim()))?;
    lab.sh("cp1", &READY.replace("$(hostname)", "node1"))?;
    row("rkadm join to Ready", format!("{:.1} s", started.elapsed().as_secs_f64()), "1.7 s");
    std::thread::sleep(Duration::from_secs(10));
    let upstream = [
        ("kube-apiserver", "279 MB"),
        ("kube-controller-manager", "123 MB"),
        ("kube-scheduler", "70 MB"),
        ("kubelet", "95 / 86 MB"),
        ("kube-proxy", "58 / 57 MB"),
        ("rk-cni", ""),
        ("rk-dns", ""),
        ("etcd", "51 MB"),
        ("containerd", "51 MB"),
    ];
    for (name, theirs) in upstream {
        let sizes: Vec<String> = tests::bench::process::named(name)
            .into_iter()
            .map(|pid| format!("{:.0}", memory(pid, "VmRSS") as f64 / MB))
            .collect();
        row(&format!("idle memory in a cluster: {name}"), format!("{} MB", sizes.join(" / ")), theirs);
    }
    drop(lab);
    Ok(())
}

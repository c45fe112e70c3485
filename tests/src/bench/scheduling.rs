//! How fast pods are placed: kube-scheduler and kube-controller-manager over a real API server and etcd, 1,000 nodes without kubelets.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use http_body_util::BodyExt;
use serde_json::{Value, json};

use super::load;
use super::process::{cpu, memory};
use super::row;
use super::server::Server;

const NODES: usize = 1_000;
const CLIENTS: usize = 16;
const MB: f64 = 1e6;
const JSON: &str = "application/json";
/// Longest wait for all pods of a row.
const PATIENCE: Duration = Duration::from_secs(180);

/// Runs all rows of the section.
///
/// # Errors
/// A component did not start, or pods stayed unbound.
pub async fn run(bins: &Path) -> Result<()> {
    idle(bins).await?;
    for (kind, count, upstream) in [
        ("basic", 5_000, "326/s, 2.1 + 2.9 ms CPU"),
        ("topology spreading", 3_000, "194/s"),
        ("required anti-affinity", 3_000, "170/s"),
    ] {
        pods(bins, kind, count, upstream).await?;
    }
    deployment(bins).await
}

/// A component that ends when this is dropped.
struct Component(Child);

impl Component {
    fn start(bins: &Path, server: &Server, name: &str, args: &[&str]) -> Result<Self> {
        let child = Command::new(bins.join(name))
            .arg("--kubeconfig")
            .arg(server.kubeconfig()?)
            .args(["--leader-elect=false", "--secure-port=0"])
            .args(args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("start {name}"))?;
        Ok(Self(child))
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Component {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the scheduler weighs and does in an empty cluster, and what 10,000 bound pods add.
async fn idle(bins: &Path) -> Result<()> {
    const PODS: usize = 10_000;
    let server = Server::start(bins).await?;
    create_nodes(&server).await?;
    let scheduler = Component::start(bins, &server, "kube-scheduler", &[])?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let empty = memory(scheduler.pid(), "VmRSS") as f64 / MB;
    let before = cpu(scheduler.pid());
    tokio::time::sleep(Duration::from_secs(10)).await;
    let share = (cpu(scheduler.pid()) - before).as_secs_f64() * 10.0;
    row("kube-scheduler with 1,000 nodes, idle", format!("{empty:.0} MB, {share:.2} % of a core"), "63 MB (no nodes)");
    let clients = (0..CLIENTS).map(|_| server.client()).collect::<Result<Vec<_>>>()?;
    load::run(server.pid(), clients, PODS, |client, index| async move {
        let mut pod = pod("basic", index);
        pod["spec"]["nodeName"] = format!("node-{}", index % NODES).into();
        load::send(&client, "POST", "/api/v1/namespaces/default/pods", JSON, pod.to_string().into_bytes()).await
    })
    .await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let full = memory(scheduler.pid(), "VmRSS") as f64 / MB;
    row("kube-scheduler, growth by 10,000 pods", format!("{:.0} MB", full - empty), "");
    Ok(())
}

/// Pods created by clients at once, until the last is bound.
async fn pods(bins: &Path, kind: &'static str, count: usize, upstream: &str) -> Result<()> {
    let server = Server::start(bins).await?;
    create_nodes(&server).await?;
    let scheduler = Component::start(bins, &server, "kube-scheduler", &[])?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let bound = Bound::watch(&server).await?;
    let clients = (0..CLIENTS).map(|_| server.client()).collect::<Result<Vec<_>>>()?;
    let before = (cpu(scheduler.pid()), cpu(server.pid()));
    let started = Instant::now();
    let creating = load::run(server.pid(), clients, count, move |client, index| async move {
        load::send(&client, "POST", "/api/v1/namespaces/default/pods", JSON, pod(kind, index).to_string().into_bytes()).await
    });
    let figures = creating.await?;
    bound.reach(count).await?;
    let wall = started.elapsed().as_secs_f64();
    let each = |used: Duration| used.as_secs_f64() * 1e3 / count as f64;
    let (own, theirs) = (each(cpu(scheduler.pid()) - before.0), each(cpu(server.pid()) - before.1));
    let text = format!("{:.0} bound/s ({:.0} created/s), {own:.2} + {theirs:.2} ms CPU", count as f64 / wall, figures.rate());
    row(&format!("{kind}, {NODES} nodes, {count} pods"), text, upstream);
    Ok(())
}

/// A Deployment, until its last replica is bound.
async fn deployment(bins: &Path) -> Result<()> {
    const REPLICAS: usize = 2_000;
    let server = Server::start(bins).await?;
    create_nodes(&server).await?;
    let _scheduler = Component::start(bins, &server, "kube-scheduler", &[])?;
    // Nodes have no kubelets here: their silence must not count against them.
    let quiet = "--controllers=deployment-controller,replicaset-controller";
    let _manager = Component::start(bins, &server, "kube-controller-manager", &[quiet])?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let bound = Bound::watch(&server).await?;
    let template = pod("basic", 0);
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "many"},
        "spec": {
            "replicas": REPLICAS, "selector": {"matchLabels": template["metadata"]["labels"]},
            "template": {"metadata": {"labels": template["metadata"]["labels"]}, "spec": template["spec"]},
        },
    });
    let started = Instant::now();
    let path = "/apis/apps/v1/namespaces/default/deployments";
    load::send(&server.client()?, "POST", path, JSON, deployment.to_string().into_bytes()).await?;
    bound.reach(REPLICAS).await?;
    let rate = REPLICAS as f64 / started.elapsed().as_secs_f64();
    row(&format!("Deployment of {REPLICAS} replicas, {NODES} nodes"), format!("{rate:.0} bound/s"), "169/s (369 created/s)");
    Ok(())
}

/// Counts pods that have a node.
struct Bound {
    seen: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Bound {
    async fn watch(server: &Server) -> Result<Self> {
        let path = "/api/v1/pods?watch=true&fieldSelector=spec.nodeName%21%3D";
        let response = server.client()?.send(http::Request::get(path).body(kube::client::Body::empty())?).await?;
        anyhow::ensure!(response.status().is_success(), "{path}: {}", response.status());
        let seen = Arc::new(AtomicUsize::new(0));
        let count = seen.clone();
        let task = tokio::spawn(async move {
            let mut body = response.into_body();
            let mut head: Vec<u8> = Vec::new();
            while let Some(Ok(frame)) = body.frame().await {
                for byte in frame.data_ref().into_iter().flatten() {
                    if head.len() < 15 {
                        head.push(*byte);
                        if head.len() == 15 && head == br#"{"type":"ADDED""# {
                            count.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    if *byte == b'\n' {
                        head.clear();
                    }
                }
            }
        });
        Ok(Self { seen, task })
    }

    async fn reach(&self, count: usize) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.seen.load(Ordering::Relaxed) < count {
            if Instant::now() > deadline {
                bail!("{} of {count} pods are bound after {PATIENCE:?}", self.seen.load(Ordering::Relaxed));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn create_nodes(server: &Server) -> Result<()> {
    let clients = (0..CLIENTS).map(|_| server.client()).collect::<Result<Vec<_>>>()?;
    load::run(server.pid(), clients, NODES, |client, index| async move {
        let name = format!("node-{index}");
        let resources = json!({"cpu": "32", "memory": "256Gi", "pods": "110"});
        let node = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": format!("zone-{}", index % 3)}},
            "status": {"capacity": resources, "allocatable": resources, "conditions": [{"type": "Ready", "status": "True"}]},
        });
        load::send(&client, "POST", "/api/v1/nodes", JSON, node.to_string().into_bytes()).await?;
        // New nodes are tainted until somebody says that they are ready; here nobody would.
        let path = format!("/api/v1/nodes/{name}");
        let untaint = json!({"spec": {"taints": null}}).to_string().into_bytes();
        load::send(&client, "PATCH", &path, "application/merge-patch+json", untaint).await
    })
    .await
    .map(drop)
}

fn pod(kind: &str, index: usize) -> Value {
    let app = format!("app-{}", index % 10);
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("pod-{index:05}"), "labels": {"app": app}},
        "spec": {"containers": [{
            "name": "main", "image": "registry.k8s.io/pause:3.10",
            "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}},
        }]},
    });
    let selector = json!({"matchLabels": {"app": app}});
    match kind {
        "topology spreading" => {
            pod["spec"]["topologySpreadConstraints"] = json!([
                {"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": selector},
            ]);
        }
        "required anti-affinity" => {
            pod["spec"]["affinity"] = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
                {"topologyKey": "kubernetes.io/hostname", "labelSelector": selector},
            ]}});
        }
        _ => {}
    }
    pod
}

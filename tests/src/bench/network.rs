//! The CNI plugin, and kube-proxy at 10,000 Services with 5 endpoints each over a real API server, in a network namespace of
//! their own.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::load;
use super::process::memory;
use super::row;
use super::server::Server;

/// The section's name when it runs inside the namespace.
pub const INSIDE: &str = "network-inside";

const SERVICES: usize = 10_000;
const ENDPOINTS: usize = 5;
const CLIENTS: usize = 16;
/// Changes that are averaged.
const CHANGES: usize = 50;
/// Between two changes: each is a sync of its own.
const BETWEEN: Duration = Duration::from_millis(600);
const MB: f64 = 1e6;
const JSON: &str = "application/json";
const METRICS: &str = "127.0.0.1:10249";
/// Longest wait for kube-proxy to have synced.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs the section in a new network namespace: rules never touch the machine's own.
///
/// # Errors
/// A part of it failed.
pub fn run() -> Result<()> {
    let status = Command::new("unshare")
        .args(["--net", "sh", "-c", r#"ip link set lo up && exec "$0" "$@""#])
        .arg(std::env::current_exe()?)
        .arg(INSIDE)
        .status()
        .context("run unshare")?;
    ensure!(status.success(), "the network section ended with {status}");
    Ok(())
}

/// Runs all rows, inside the namespace.
///
/// # Errors
/// A component did not start or did not sync.
pub async fn run_inside(bins: &Path) -> Result<()> {
    plugins(bins)?;
    let server = Server::start(bins).await?;
    let client = server.client()?;
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "bench"},
        "status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}]}});
    load::send(&client, "POST", "/api/v1/nodes", JSON, node.to_string().into_bytes()).await?;
    for mode in ["iptables", "nftables"] {
        let proxy = Proxy::start(bins, &server, mode)?;
        proxy.syncs_beyond(0, PATIENCE).await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        row(&format!("kube-proxy {mode}: idle memory"), format!("{:.1} MB", memory(proxy.pid(), "VmRSS") as f64 / MB), "58 MB");
    }
    let clients = (0..CLIENTS).map(|_| server.client()).collect::<Result<Vec<_>>>()?;
    load::run(server.pid(), clients, SERVICES, |client, index| async move {
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("s{index}")},
            "spec": {"selector": {"app": format!("s{index}")}, "ports": [{"port": 80}]}});
        load::send(&client, "POST", "/api/v1/namespaces/default/services", JSON, service.to_string().into_bytes()).await?;
        let path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
        load::send(&client, "POST", path, JSON, slice(index, 0).to_string().into_bytes()).await
    })
    .await?;
    for (at, mode, first, change) in
        [(0, "iptables", "aim 5 s", "aim 20 ms"), (CHANGES, "nftables", "aim 2 s", "1,300 ms at 44,000 services")]
    {
        at_scale(bins, &server, mode, at, first, change).await?;
        // The next mode would do it after its first sync, and be charged for it.
        let cleaned =
            Command::new(bins.join("kube-proxy")).arg("--cleanup").stdout(Stdio::null()).stderr(Stdio::null()).status()?;
        ensure!(cleaned.success(), "kube-proxy --cleanup ended with {cleaned}");
    }
    Ok(())
}

/// `shift`: by how much endpoints have been moved before.
async fn at_scale(bins: &Path, server: &Server, mode: &str, shift: usize, first: &str, change: &str) -> Result<()> {
    let title = |what: &str| format!("kube-proxy {mode}, {SERVICES} × {ENDPOINTS}: {what}");
    let started = Instant::now();
    let proxy = Proxy::start(bins, server, mode)?;
    let (_, sync) = proxy.syncs_beyond(0, PATIENCE).await?;
    let text = format!("{:.2} s, {:.1} s from the start", sync, started.elapsed().as_secs_f64());
    row(&title("first sync"), text, first);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let sizes = ["VmRSS", "VmHWM"].map(|line| format!("{:.0}", memory(proxy.pid(), line) as f64 / MB));
    row(&title("memory now / peak"), format!("{} MB", sizes.join(" / ")), "aim 80 MB");
    let client = server.client()?;
    let (begun, before) = proxy.syncs_beyond(0, PATIENCE).await?;
    let used = cpu(proxy.pid());
    for number in 0..CHANGES {
        let index = number * 97 % SERVICES;
        let path = format!("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/s{index}");
        load::send(&client, "PUT", &path, JSON, slice(index, shift + number + 1).to_string().into_bytes()).await?;
        tokio::time::sleep(BETWEEN).await;
    }
    let (count, after) = proxy.syncs_beyond(begun, PATIENCE).await?;
    let each = (after - before) * 1e3 / (count - begun).max(1) as f64;
    let cpu = (cpu(proxy.pid()) - used).as_secs_f64() * 1e3 / CHANGES as f64;
    row(&title("one endpoint changes"), format!("{each:.2} ms, {cpu:.2} ms CPU in all"), change);
    Ok(())
}

fn slice(index: usize, shift: usize) -> Value {
    let endpoint = |number: usize| {
        let host = index * ENDPOINTS + number;
        let ip = format!("10.{}.{}.{}", 128 + host / 65_536 + shift % 120, host / 256 % 256, host % 256);
        json!({"addresses": [ip], "nodeName": "elsewhere", "conditions": {"ready": true}})
    };
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": format!("s{index}"), "labels": {"kubernetes.io/service-name": format!("s{index}")}},
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}], "endpoints": (0..ENDPOINTS).map(endpoint).collect::<Vec<_>>()})
}

/// CPU time of a process so far, with that of threads and programs that have ended: syncs run in both.
fn cpu(pid: u32) -> Duration {
    const TICK: Duration = Duration::from_millis(10);
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().skip(11).take(4)).into_iter().flatten();
    TICK * fields.filter_map(|n| n.parse::<u32>().ok()).sum()
}

/// How long a CNI ADD and DEL take, ours and the stock bridge plugin where that is installed.
fn plugins(bins: &Path) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let ours = json!({"cniVersion": "1.0.0", "name": "rk", "type": "rk-cni", "bridge": "bench0", "mtu": 1500,
        "subnets": ["10.77.0.0/16"], "dataDir": dir.path().join("rk")});
    plugin("rk-cni", &bins.join("rk-cni"), bins, &ours)?;
    for stock in ["/opt/cni/bin", "/usr/lib/cni"].map(Path::new) {
        if stock.join("bridge").exists() && stock.join("host-local").exists() {
            let conf = json!({"cniVersion": "1.0.0", "name": "stock", "type": "bridge", "bridge": "bench1", "isDefaultGateway": true,
                "hairpinMode": true, "ipam": {"type": "host-local", "subnet": "10.78.0.0/16", "dataDir": dir.path().join("stock")}});
            return plugin("stock bridge and host-local", &stock.join("bridge"), stock, &conf);
        }
    }
    Ok(())
}

fn plugin(name: &str, program: &Path, path: &Path, conf: &Value) -> Result<()> {
    const PODS: usize = 40;
    use std::io::Write;
    let call = |command: &str, id: &str, netns: &str| -> Result<Duration> {
        let started = Instant::now();
        let mut child = Command::new(program)
            .envs([("CNI_COMMAND", command), ("CNI_CONTAINERID", id), ("CNI_IFNAME", "eth0"), ("CNI_NETNS", netns)])
            .env("CNI_PATH", path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        child.stdin.take().context("stdin was asked to be a pipe")?.write_all(conf.to_string().as_bytes())?;
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stdout));
        Ok(started.elapsed())
    };
    let mut times = [Vec::new(), Vec::new()];
    for number in 0..PODS {
        let mut pod =
            Command::new("unshare").args(["--net", "sh", "-c", "echo; exec sleep 60"]).stdout(Stdio::piped()).spawn()?;
        // Its line tells that the namespace is there.
        std::io::Read::read_exact(&mut pod.stdout.take().context("stdout was asked to be a pipe")?, &mut [0])?;
        let netns = format!("/proc/{}/ns/net", pod.id());
        let results = ["ADD", "DEL"].map(|command| call(command, &format!("pod-{number}"), &netns));
        pod.kill()?;
        pod.wait()?;
        for (times, result) in times.iter_mut().zip(results) {
            times.push(result?);
        }
    }
    let [add, del] = times.map(|mut times| {
        times.sort();
        format!("{:.1} / {:.1} ms", times[PODS / 2].as_secs_f64() * 1e3, times[PODS * 9 / 10].as_secs_f64() * 1e3)
    });
    row(&format!("CNI {name}: ADD, p50 / p90"), add, "aim 30 ms beyond the kernel's");
    row(&format!("CNI {name}: DEL, p50 / p90"), del, "");
    Ok(())
}

/// A kube-proxy that ends when this is dropped.
struct Proxy(Child);

impl Proxy {
    fn start(bins: &Path, server: &Server, mode: &str) -> Result<Self> {
        let child = Command::new(bins.join("kube-proxy"))
            .arg("--kubeconfig")
            .arg(server.kubeconfig()?)
            .args([
                "--hostname-override=bench",
                "--cluster-cidr=10.128.0.0/9",
                "--oom-score-adj=0",
                "--iptables-min-sync-period=0s",
            ])
            .args(["--healthz-bind-address=127.0.0.1:10256", &format!("--metrics-bind-address={METRICS}")])
            .args(["--conntrack-max-per-core=0", "--conntrack-min=0", &format!("--proxy-mode={mode}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start kube-proxy")?;
        Ok(Self(child))
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Waits for more than `count` IPv4 syncs; their number and seconds so far.
    async fn syncs_beyond(&self, count: u64, patience: Duration) -> Result<(u64, f64)> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some((now, seconds)) = self.syncs()
                && now > count
            {
                return Ok((now, seconds));
            }
            if Instant::now() > deadline {
                bail!("kube-proxy has not synced after {patience:?}");
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn syncs(&self) -> Option<(u64, f64)> {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(METRICS).ok()?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let total = |what: &str| -> Option<f64> {
            let name = format!("kubeproxy_sync_proxy_rules_duration_seconds_{what}");
            let rows = text.lines().filter(|line| line.starts_with(&name));
            let values: Vec<f64> = rows.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
            (!values.is_empty()).then(|| values.iter().sum())
        };
        let count: f64 = total("count")?;
        // The count is a whole number far below 2^53.
        Some((format!("{count:.0}").parse().ok()?, total("sum")?))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

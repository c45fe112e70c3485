//! `rk-cni agent`: one per node. Installs the plugin, waits for the node's pod subnet, connects the node with the others,
//! and only then writes the CNI configuration, so that a node is Ready no earlier than its network works.

pub mod cleanup;
pub mod conflist;
pub mod desired;
pub mod forwarding;
pub mod leases;
pub mod overlay;
pub mod policy;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use client::informer::{Informer, Informers};
use component::health::Checks;
use component::tasks::Tasks;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use desired::{Backend, Network};

/// How often the kernel's state is compared with the wanted one when nothing changed: a device or route that somebody
/// removed by hand is back after this long.
const RESYNC: Duration = Duration::from_secs(10);
/// Rules are looked at less often: each look starts a few processes.
const RULES_RESYNC: Duration = Duration::from_secs(60);
/// Addresses without an interface are taken back this often.
const LEASES_RESYNC: Duration = Duration::from_secs(300);
/// The agent is unhealthy when it has not looked at the kernel for so long: something hangs.
const STALLED: Duration = Duration::from_secs(120);

/// `rk-cni agent`
#[derive(clap::Args, Debug, Clone)]
pub struct Options {
    /// Kubeconfig to reach the API server with; the pod's service account when absent.
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
    /// Name of the Node this runs on.
    #[arg(long, env = "NODE_NAME")]
    pub node_name: String,
    /// All pod subnets of the cluster. Traffic inside keeps its source address; when empty, the subnets of the known nodes are taken.
    #[arg(long, value_delimiter = ',')]
    pub cluster_cidr: Vec<IpNet>,
    /// How packets travel between nodes.
    #[arg(long, value_enum, default_value_t = Backend::Vxlan)]
    pub backend: Backend,
    /// Route directly to nodes in the same layer-2 segment, and use VXLAN for the others only.
    #[arg(long)]
    pub direct_routing: bool,
    /// VXLAN network identifier.
    #[arg(long, default_value_t = 1)]
    pub vni: u32,
    /// UDP port of the VXLAN tunnels.
    #[arg(long, default_value_t = 8472)]
    pub vxlan_port: u16,
    /// MTU of pods; 0 derives it from the node's link.
    #[arg(long, default_value_t = 0)]
    pub mtu: u32,
    /// Masquerade traffic from pods that leaves the pod network.
    #[arg(long, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub masquerade: bool,
    /// Enforce NetworkPolicy.
    #[arg(long, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub network_policy: bool,
    /// Where to install the plugin (the host's directory, as mounted here).
    #[arg(long, default_value = "/host/opt/cni/bin")]
    pub bin_dir: PathBuf,
    /// Where to write the CNI configuration (the host's directory, as mounted here).
    #[arg(long, default_value = "/host/etc/cni/net.d")]
    pub conf_dir: PathBuf,
    /// Where the plugin keeps reservations; the same path here and on the host.
    #[arg(long, default_value = crate::plugin::conf::DATA_DIR)]
    pub data_dir: PathBuf,
    /// Address of /healthz and /metrics.
    #[arg(long, default_value = "127.0.0.1:10246")]
    pub healthz_bind_address: SocketAddr,
    /// Log verbosity.
    #[arg(short, long, default_value_t = 0)]
    pub v: u8,
}

/// Runs the agent until a signal ends it.
pub fn main(options: Options) -> anyhow::Result<()> {
    component::logging::init(options.v);
    component::install_crypto();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("failed to start the runtime")?;
    runtime.block_on(async {
        let tasks = Tasks::new();
        start(options, &tasks).await?;
        tasks.until_signal().await;
        tasks.stop_and_wait(Duration::from_secs(3)).await;
        Ok(())
    })
}

/// What has been done so far, for the next round and for the health check.
struct Progress {
    looked_at: Instant,
    rules_at: Option<Instant>,
    leases_at: Option<Instant>,
    applied: Option<Network>,
}

/// Installs the plugin and starts the loops.
pub async fn start(options: Options, tasks: &Tasks) -> anyhow::Result<()> {
    tracing::info!(?options, "Starting rk-cni agent {}", component::version::current());
    crate::install::install(&options.bin_dir)
        .with_context(|| format!("failed to install the plugin in {}", options.bin_dir.display()))?;
    let connect = client::connect::Options {
        kubeconfig: options.kubeconfig.clone(),
        component: "rk-cni".to_owned(),
        ..client::connect::Options::default()
    };
    let client = client::connect::connect(&connect).await.context("failed to set up the connection to the API server")?;
    if options.network_policy {
        policy::start(&client, &options.node_name, tasks);
    }
    let informers = Informers::new(client, tasks.clone());
    let nodes = informers.get::<Node>();

    let progress = Arc::new(Mutex::new(Progress { looked_at: Instant::now(), rules_at: None, leases_at: None, applied: None }));
    serve_health(&options, tasks, progress.clone()).await?;
    let changed = Arc::new(Notify::new());
    let notify = changed.clone();
    nodes.on_change(move |_| notify.notify_one());

    let stop = tasks.token();
    tasks.spawn("network", async move {
        let work = async {
            nodes.synced().await;
            loop {
                if let Err(error) = round(&options, &nodes, &progress).await {
                    tracing::error!(err = format!("{error:#}"), "Failed to set the node's network up, trying again");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    continue;
                }
                tokio::select! {
                    () = changed.notified() => {}
                    () = tokio::time::sleep(RESYNC) => {}
                }
            }
        };
        stop.run_until_cancelled(work).await;
    });
    Ok(())
}

async fn serve_health(options: &Options, tasks: &Tasks, progress: Arc<Mutex<Progress>>) -> anyhow::Result<()> {
    let checks = Checks::new();
    checks.add("network", move || {
        let silent = progress.lock().looked_at.elapsed();
        if silent < STALLED { Ok(()) } else { Err(format!("no look at the network for {}s", silent.as_secs())) }
    });
    let address = options.healthz_bind_address;
    let listener = tokio::net::TcpListener::bind(address).await.with_context(|| format!("failed to listen on {address}"))?;
    component::serve::serve(tasks, listener, None, move |request| {
        let response = component::serve::standard(&request, &checks);
        let missing = || component::serve::text(http::StatusCode::NOT_FOUND, "text/plain", "404 page not found\n");
        async move { response.unwrap_or_else(missing) }
    })?;
    Ok(())
}

/// One round: observe, decide, apply what differs.
async fn round(options: &Options, nodes: &Informer<Node>, progress: &Arc<Mutex<Progress>>) -> anyhow::Result<()> {
    let observed: Vec<Arc<Node>> = nodes.store().list();
    let Some(network) = desired::plan(options, observed.iter().map(|node| &**node)) else {
        progress.lock().looked_at = Instant::now();
        tracing::info!(node = options.node_name, "Waiting for the node to have a pod CIDR and an InternalIP");
        return Ok(());
    };
    let (options, progress) = (options.clone(), progress.clone());
    tokio::task::spawn_blocking(move || apply(&options, network, &progress)).await.context("the network task panicked")?
}

fn apply(options: &Options, network: Network, progress: &Mutex<Progress>) -> anyhow::Result<()> {
    let now = Instant::now();
    let due = |at: Option<Instant>, every: Duration| at.is_none_or(|at| now.duration_since(at) >= every);
    let (rules_due, leases_due, changed) = {
        let progress = progress.lock();
        let changed = progress.applied.as_ref() != Some(&network);
        let rules_changed = progress.applied.as_ref().map(Network::rules_input) != Some(network.rules_input());
        (rules_changed || due(progress.rules_at, RULES_RESYNC), due(progress.leases_at, LEASES_RESYNC), changed)
    };
    let mtu = overlay::reconcile(options, &network)?;
    if rules_due {
        forwarding::reconcile(options, &network)?;
        progress.lock().rules_at = Some(now);
    }
    if leases_due {
        leases::collect(&options.data_dir)?;
        progress.lock().leases_at = Some(now);
    }
    leases::reconnect(&conflist::parsed(options, &network, mtu)?)?;
    conflist::write(options, &network, mtu)?;
    if changed {
        tracing::info!(podCIDRs = ?network.pod_cidrs, peers = network.peers.len(), mtu, "Network is set up");
    }
    let mut progress = progress.lock();
    progress.looked_at = Instant::now();
    progress.applied = Some(network);
    Ok(())
}

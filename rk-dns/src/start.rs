//! Composition: Corefile, watches, listeners, reload, shutdown.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::Context;
use arc_swap::ArcSwap;
use component::tasks::Tasks;
use hickory_proto::op::Query;
use hickory_proto::rr::{Name, RecordType};
use hickory_server::Server;
use parking_lot::RwLock;
use tokio::net::{TcpListener, UdpSocket};
use tokio::time::Instant;

use crate::cache::Key;
use crate::config::{Config, Pods};
use crate::handler::{Handler, Probes, Running, Shared, labels};
use crate::index::Index;
use crate::local::{self, Local};
use crate::{corefile, http, watch};

/// The file is looked at at least this often: a reload is cheap, and people wait for it.
const RELOAD: Duration = Duration::from_secs(2);
/// Expired answers are dropped this often.
const SWEEP: Duration = Duration::from_secs(60);
/// A TCP client that says nothing for so long is cut.
const TCP_TIMEOUT: Duration = Duration::from_secs(10);
/// Responses of one TCP connection waiting to be read by its client.
const TCP_RESPONSES: usize = 32;
/// Receive buffer of the UDP sockets, bytes: a burst of a few thousand questions.
const UDP_BUFFER: usize = 1024 * 1024;

/// The cluster's DNS server.
#[derive(clap::Parser, Debug, Clone)]
#[command(name = "rk-dns", disable_version_flag = true)]
pub struct Options {
    /// Corefile to load.
    #[arg(long, default_value = "Corefile")]
    pub conf: PathBuf,
    /// Port for zones that name none.
    #[arg(long = "dns.port", alias = "port", hide = true)]
    pub dns_port: Option<u16>,
    /// Kubeconfig to reach the API server with; the pod's service account when absent.
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
    /// Node-local cache mode: addresses that this node answers DNS on, beside others the cluster DNS Service's.
    #[arg(long, value_delimiter = ',')]
    pub localip: Vec<std::net::IpAddr>,
    /// The device that holds them.
    #[arg(long, default_value = "nodelocaldns")]
    pub interfacename: String,
    /// The Service that leads to the cluster's DNS servers: its address stands for __PILLAR__CLUSTER__DNS__ in the Corefile.
    #[arg(long, default_value = "kube-dns-upstream")]
    pub upstreamsvc: String,
    /// Leave device and rules when ending.
    #[arg(long)]
    pub skipteardown: bool,
    /// Log verbosity.
    #[arg(short, long, default_value_t = 0)]
    pub v: u8,
    /// Show version.
    #[arg(long)]
    pub version: bool,
}

/// Serves until a signal ends it.
pub fn main(options: &Options) -> anyhow::Result<()> {
    component::logging::init(options.v);
    component::install_crypto();
    let config = load(options)?;
    let local = (!options.localip.is_empty()).then(|| Local {
        addresses: options.localip.clone(),
        interface: options.interfacename.clone(),
        keep: options.skipteardown,
    });
    if let Some(local) = &local {
        local.up().context("failed to set up node-local DNS")?;
    }
    let ended = serve(options, config);
    if let Some(local) = &local {
        local.down();
    }
    ended
}

fn serve(options: &Options, config: Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("failed to start the runtime")?;
    runtime.block_on(async {
        let tasks = Tasks::new();
        let lameduck = config.first(|server| Some(server.lameduck)).unwrap_or_default();
        let running = start(options, config, &tasks).await?;
        tokio::select! {
            () = tasks.until_signal() => {}
            () = running.shared.loop_found.notified() => {
                anyhow::bail!("Loop detected: questions forwarded to an upstream server come back. The servers in /etc/resolv.conf lead to this one; \
                    point `forward` in the Corefile, or the kubelet's --resolv-conf, to others");
            }
        }
        // Clients still have our address for a moment.
        tracing::info!(?lameduck, "Answering on while endpoints are updated");
        tokio::time::sleep(lameduck).await;
        tasks.stop_and_wait(Duration::from_secs(2)).await;
        Ok(())
    })
}

fn read(path: &Path) -> std::io::Result<String> {
    std::fs::read_to_string(path)
}

fn load(options: &Options) -> anyhow::Result<Config> {
    let text = read_filled(options).with_context(|| format!("failed to read {}", options.conf.display()))?;
    parse(&text)
}

/// The Corefile, its placeholders filled in.
fn read_filled(options: &Options) -> std::io::Result<String> {
    Ok(local::fill(&read(&options.conf)?, &options.upstreamsvc, |name| std::env::var(name).ok()))
}

fn parse(text: &str) -> anyhow::Result<Config> {
    Ok(Config::new(&corefile::parse(text)?, &read)?)
}

/// What runs, for tests.
pub struct Started {
    pub shared: Arc<Shared>,
    pub addresses: Vec<SocketAddr>,
}

/// Starts watches, listeners and servers.
pub async fn start(options: &Options, config: Config, tasks: &Tasks) -> anyhow::Result<Started> {
    let settings: Vec<_> = config.servers.iter().filter_map(|server| server.kubernetes.clone()).collect();
    let shared = Arc::new(Shared {
        running: ArcSwap::from_pointee(Running::new(config.clone())),
        index: RwLock::new(Index::default()),
        synced: AtomicBool::new(false),
        probes: Probes::default(),
        loop_found: tokio::sync::Notify::new(),
    });
    if !settings.is_empty() {
        let connect = client::connect::Options {
            kubeconfig: options.kubeconfig.clone(),
            component: "coredns".to_owned(),
            ..client::connect::Options::default()
        };
        let client = client::connect::connect(&connect).await.context("failed to set up the connection to the API server")?;
        watch::start(&client, &shared, tasks, settings.iter().any(|settings| settings.pods == Pods::Verified));
    }
    http::serve(&config, &shared, tasks).await?;
    let addresses = listen(&config, &shared, tasks).await?;
    tracing::info!(?addresses, "rk-dns {} is listening", component::version::current());
    look_for_loops(&config, &shared, tasks);
    follow_file(options.clone(), config, &shared, tasks);
    Ok(Started { shared, addresses })
}

/// Opens UDP and TCP on every address; port 0 is given the same number for both.
pub async fn listen(config: &Config, shared: &Arc<Shared>, tasks: &Tasks) -> anyhow::Result<Vec<SocketAddr>> {
    let mut bound = Vec::new();
    for address in config.listeners() {
        let handler = Handler { shared: shared.clone(), port: address.port(), server: format!("dns://:{}", address.port()) };
        let mut server = Server::new(handler);
        let tcp = listen_tcp(address).await?;
        let actual = tcp.local_addr().context("a listener has an address")?;
        server.register_socket(udp_socket(actual)?);
        server.register_listener(tcp, TCP_TIMEOUT, TCP_RESPONSES);
        bound.push(actual);
        let stop = tasks.token();
        tasks.spawn("dns", async move {
            tokio::select! {
                () = stop.cancelled() => {
                    let _ = server.shutdown_gracefully().await;
                }
                result = server.block_until_done() => {
                    if let Err(error) = result {
                        tracing::error!(err = %error, "A DNS listener ended; exiting so that it is opened again");
                        std::process::exit(1);
                    }
                }
            }
        });
    }
    Ok(bound)
}

/// `[::]` where there is IPv6, `0.0.0.0` where there is not.
async fn listen_tcp(address: SocketAddr) -> anyhow::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(listener),
        Err(error) if address.ip() == std::net::Ipv6Addr::UNSPECIFIED && error.kind() != std::io::ErrorKind::AddrInUse => {
            let fallback = SocketAddr::from(([0, 0, 0, 0], address.port()));
            TcpListener::bind(fallback).await.with_context(|| format!("failed to listen on {fallback}"))
        }
        Err(error) => Err(error).with_context(|| format!("failed to listen on {address}")),
    }
}

fn udp_socket(address: SocketAddr) -> anyhow::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind(address).with_context(|| format!("failed to bind {address}"))?;
    socket.set_nonblocking(true)?;
    let size = nix::sys::socket::sockopt::RcvBuf;
    // The kernel may grant less.
    let _ = nix::sys::socket::setsockopt(&socket, size, &UDP_BUFFER);
    Ok(UdpSocket::from_std(socket)?)
}

/// Sends a question that only we know to the servers that we forward to; it must not come back.
fn look_for_loops(config: &Config, shared: &Arc<Shared>, tasks: &Tasks) {
    for server in config.servers.iter().filter(|server| server.detect_loops && !server.forwards.is_empty()) {
        let Some((zone, port)) = server.zones.first().cloned() else { continue };
        let (shared, stop) = (shared.clone(), tasks.token());
        tasks.spawn("loop", async move {
            let text = format!("{}.{}.{zone}", rand::random::<u64>(), rand::random::<u64>()).replace("..", ".");
            let Ok(name) = Name::from_ascii(&text) else { return };
            let query = Query::query(name.clone(), RecordType::HINFO);
            let key = Key { labels: labels(&name), kind: RecordType::HINFO, dnssec: false, unchecked: false };
            shared.probes.add(key.labels.clone());
            let probe = async {
                // Servers that start together need a moment.
                for _ in 0..3 {
                    let _ = shared.resolve(port, &query, &key, false, 0).await;
                    tokio::time::sleep(Duration::from_secs(2)).await;
                }
            };
            stop.run_until_cancelled(probe).await;
            shared.probes.remove(&key.labels);
        });
    }
}

/// Applies changes of the file; a broken one is reported and the old one stays.
fn follow_file(options: Options, config: Config, shared: &Arc<Shared>, tasks: &Tasks) {
    let (shared, stop) = (shared.clone(), tasks.token());
    let reloads = config.first(|server| server.reload);
    tasks.spawn("reload", async move {
        let mut current = config;
        let mut seen = read_filled(&options).unwrap_or_default();
        let mut swept = Instant::now();
        let period = reloads.unwrap_or(SWEEP).min(if reloads.is_some() { RELOAD } else { SWEEP });
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(period) => {}
            }
            if swept.elapsed() >= SWEEP {
                swept = Instant::now();
                for cache in shared.running.load().blocks.iter().filter_map(|block| block.cache.as_ref()) {
                    cache.sweep(swept);
                }
            }
            let text = match read_filled(&options) {
                Ok(text) if reloads.is_some() && text != seen => text,
                _ => continue,
            };
            seen = text;
            match parse(&seen) {
                Ok(config) => {
                    if config.listeners() != current.listeners() || first_addresses(&config) != first_addresses(&current) {
                        tracing::info!("The Corefile names other addresses, starting anew");
                        // Kubernetes starts the container again at once; sockets cannot be handed over in between.
                        std::process::exit(0);
                    }
                    shared.running.store(Arc::new(Running::new(config.clone())));
                    current = config;
                    tracing::info!("Reloaded the Corefile");
                }
                Err(error) => {
                    crate::metrics::reload_failed();
                    tracing::error!(err = format!("{error:#}"), "Corefile changed but cannot be used, going on with the old one");
                }
            }
        }
    });
}

fn first_addresses(config: &Config) -> [Option<SocketAddr>; 3] {
    [config.first(|server| server.health), config.first(|server| server.ready), config.first(|server| server.prometheus)]
}

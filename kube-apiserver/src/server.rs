//! The API server: what is shared by all requests, how it is put together, and its listener.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use api::lister::Lister;
use arc_swap::ArcSwap;
use auth::authn::Authenticator;
use auth::authn::x509::Peer;
use auth::authz::Authorizers;
use auth::token::issue::Issuer;
use component::tasks::Tasks;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::server::ResolvesServerCert;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use crate::allocator::Allocators;
use crate::audit::Audit;
use crate::bootstrap;
use crate::cache::resource::ResourceCache;
use crate::cache::{Caches, feed};
use crate::chain;
use crate::config::Config;
use crate::documents::Documents;
use crate::flow::Flow;
use crate::health::Health;
use crate::kubelet_client::KubeletClient;
use crate::storage::encryption::{Encryption, Place};
use crate::storage::{Storage, compaction};
use crate::table::{self, Table};

/// Connections at once; more wait in the listen queue. Idle ones cost about 40 KB each.
const MAX_CONNECTIONS: usize = 15_000;
/// A client that has not finished its handshake or sent its next request's head by then is cut. Upstream: IdleTimeout, 90 s.
const HEAD_TIMEOUT: Duration = Duration::from_secs(90);
/// Flow-control windows and frames of HTTP/2: large, for lists and watches are what this server sends.
const H2_STREAM_WINDOW: u32 = 1 << 20;
const H2_CONNECTION_WINDOW: u32 = 4 << 20;
const H2_FRAME: u32 = 1 << 20;
/// Bytes of one stream that wait for the client, at most.
const H2_SEND_BUFFER: usize = 256 * 1024;
/// Streams of one connection: components share one connection for all their watches. Upstream: 100 by default, 250 in practice.
const H2_STREAMS: u32 = 1000;

/// What all requests share.
pub struct Server {
    /// The resolved flags.
    pub config: Config,
    /// All objects.
    pub caches: Arc<Caches>,
    /// All resources.
    pub table: ArcSwap<Table>,
    /// Who is who.
    pub authenticator: Authenticator,
    /// Who may what.
    pub authorizers: Arc<Authorizers>,
    /// Makes service account tokens.
    pub issuer: Option<Issuer>,
    /// Admission plugins.
    pub admission: crate::admit::Chain,
    /// Service addresses and ports.
    pub allocators: Allocators,
    /// Background tasks.
    pub tasks: Tasks,
    /// What /healthz, /livez and /readyz say.
    pub health: Health,
    /// Discovery and OpenAPI.
    pub documents: Documents,
    /// The way to kubelets.
    pub kubelets: KubeletClient,
    /// What `metrics.k8s.io` remembers.
    pub readings: crate::resource_metrics::scrape::Readings,
    /// Requests in flight, without priority and fairness.
    pub limits: Limits,
    /// Priority and fairness.
    pub flow: Flow,
    /// What is audited.
    pub audit: Option<Audit>,
    /// Distinguishes this server from others of the cluster; part of its lease's name.
    pub identity: String,
}

/// Slots for requests. `None`: not limited.
pub struct Limits {
    /// `--max-requests-inflight`.
    pub reading: Option<Semaphore>,
    /// `--max-mutating-requests-inflight`.
    pub writing: Option<Semaphore>,
}

/// A server that accepts requests.
pub struct Running {
    /// Where it listens.
    pub address: SocketAddr,
    /// What it shares.
    pub server: Arc<Server>,
}

/// Builds the server, binds its port and starts its tasks. It is ready when `/readyz` says so.
///
/// # Errors
/// Unusable files or addresses.
pub async fn start(config: Config, tasks: &Tasks) -> anyhow::Result<Running> {
    let mut storage = Storage::connect(&config.etcd).await.context("failed to prepare the connection to etcd")?;
    let encryption = encryption(&config)?;
    if let Some(encryption) = &encryption {
        storage = storage.encrypted(encryption.clone());
    }
    let resources = bootstrap::served_resources(&config);
    let caches = caches(&config, &storage, encryption.as_ref()).await?;
    let table = Table::new(resources, &caches);
    let lister: Arc<dyn Lister> = caches.clone();
    let authenticator = config.authenticator(lister.clone())?;
    let authorizers = Arc::new(Authorizers::new(config.authorization_modes.clone(), lister.clone()));
    let limit = |count: usize| (count > 0).then(|| Semaphore::new(count));
    let serving = config.tls_settings.resolver(tasks, config.serving(tasks)?)?;
    let audit = config.audit.as_ref().map(|audit| Audit::start(audit, tasks)).transpose()?;
    let mut hints = Vec::new();
    if let Some(bundle) = &authenticator.client_ca {
        hints.extend(bundle.subjects());
    }
    if let Some(proxy) = &authenticator.request_header {
        hints.extend(proxy.bundle.subjects());
    }
    let listener =
        bind(config.bind_address, config.share_port).with_context(|| format!("failed to listen on {}", config.bind_address))?;
    let address = listener.local_addr()?;
    let identity = bootstrap::identity();
    let server = Arc::new(Server {
        issuer: config.issuer()?,
        admission: crate::admit::Chain::new(&config, caches.clone(), authorizers.clone())?,
        allocators: Allocators::new(&config)?,
        tasks: tasks.clone(),
        health: Health::new(),
        documents: Documents::default(),
        kubelets: KubeletClient::new(&config)?,
        readings: Default::default(),
        flow: Flow::new(config.max_requests_inflight + config.max_mutating_requests_inflight),
        audit,
        limits: Limits { reading: limit(config.max_requests_inflight), writing: limit(config.max_mutating_requests_inflight) },
        identity,
        caches,
        table: ArcSwap::from_pointee(table),
        authenticator,
        authorizers,
        config,
    });
    for caches in server.caches.homes() {
        tasks.spawn_background("cache-feed", feed::run(caches.clone()));
        tasks
            .spawn_background("etcd-compaction", compaction::run(caches.storage.clone(), server.config.etcd_compaction_interval));
    }
    let followed = encryption.filter(|_| server.config.etcd.encryption.as_ref().is_some_and(|(_, follow)| *follow));
    tasks.spawn_background("reload", reload(server.clone(), followed));
    for oidc in &server.authenticator.oidc {
        tasks.spawn_background("oidc", crate::oidc::run(oidc.clone()));
    }
    tasks.spawn_background("health", crate::health::watch_etcd(server.clone()));
    tasks.spawn_background("node-authorizer", bootstrap::feed_node_authorizer(server.clone()));
    tasks.spawn_background("bootstrap", bootstrap::run(server.clone()));
    serve(&server, listener, serving, hints)?;
    tracing::info!(%address, version = component::version::current(), "Serving securely");
    Ok(Running { address, server })
}

/// A listener whose queue holds a burst of reconnecting clients.
fn bind(address: SocketAddr, share: bool) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { tokio::net::TcpSocket::new_v4()? } else { tokio::net::TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(share)?;
    socket.bind(address)?;
    socket.listen(4096)
}

/// Empty caches of all resources, those in other etcds (`--etcd-servers-overrides`) beside the rest.
async fn caches(config: &Config, storage: &Storage, encryption: Option<&Arc<Encryption>>) -> anyhow::Result<Arc<Caches>> {
    let mut here: Vec<ResourceCache> = Vec::new();
    let mut elsewhere: Vec<(&Vec<String>, Vec<ResourceCache>)> = Vec::new();
    let mut known: HashSet<String> = HashSet::new();
    for (group, resource, _) in &config.etcd.overrides {
        let there = |row: &registry::resource::Resource| row.names.group == *group && row.names.plural == *resource;
        anyhow::ensure!(registry::everything().iter().any(there), "--etcd-servers-overrides: {group}/{resource} is no resource");
    }
    // Rows of the stored version first: selectable fields are read from stored documents.
    for resource in registry::everything() {
        if !table::is_stored(&resource)
            || resource.stored_as != resource.api_version()
            || !known.insert(resource.storage_path.clone())
        {
            continue;
        }
        let cache = ResourceCache::new(&resource.storage_path, resource.names.namespaced, &resource.selectable);
        // Any of the names under which the objects are served.
        let moved = config.etcd.overrides.iter().find(|(group, plural, _)| {
            registry::everything()
                .iter()
                .any(|row| row.storage_path == resource.storage_path && row.names.group == *group && row.names.plural == *plural)
        });
        match moved {
            None => here.push(cache),
            Some((_, _, servers)) => match elsewhere.iter_mut().find(|(have, _)| *have == servers) {
                Some((_, list)) => list.push(cache),
                None => elsewhere.push((servers, vec![cache])),
            },
        }
    }
    let mut others = Vec::new();
    for (servers, list) in elsewhere {
        let mut storage =
            Storage::connect(&config.etcd.at(servers)).await.context("failed to prepare the connection to another etcd")?;
        if let Some(encryption) = encryption {
            storage = storage.encrypted(encryption.clone());
        }
        others.push(Caches::new(storage, list, Vec::new()));
    }
    let caches = Caches::new(storage.clone(), here, others);
    for resource in registry::everything() {
        caches.name(&resource.names.group, &resource.names.plural, &resource.storage_path);
    }
    Ok(caches)
}

/// Encryption at rest, where it is configured.
fn encryption(config: &Config) -> anyhow::Result<Option<Arc<Encryption>>> {
    let Some((file, _)) = &config.etcd.encryption else { return Ok(None) };
    let mut places: Vec<Place> = Vec::new();
    for resource in registry::everything() {
        let names = resource.names;
        // Events of two groups lie in one place: either name means both, as upstream.
        places.push(Place { path: resource.storage_path, group: names.group, plural: names.plural });
    }
    let prefix = format!("{}/", config.etcd.prefix.trim_end_matches('/'));
    let loaded = Encryption::load(file, &prefix, places).map_err(anyhow::Error::msg).context("--encryption-provider-config")?;
    Ok(Some(Arc::new(loaded)))
}

/// Follows certificate authorities, keys, and (where that is asked for) the configuration of encryption on disk.
async fn reload(server: Arc<Server>, encryption: Option<Arc<Encryption>>) {
    loop {
        tokio::time::sleep(Duration::from_secs(20)).await;
        match encryption.as_ref().map(|encryption| encryption.reload()) {
            None | Some(Ok(false)) => {}
            Some(Ok(true)) => tracing::info!("Reloaded the configuration of encryption at rest"),
            Some(Err(error)) => tracing::warn!(err = error, "Failed to reload the configuration of encryption at rest"),
        }
        for error in server.authenticator.reload() {
            tracing::warn!(err = error, "Failed to reload a file");
        }
    }
}

fn serve(
    server: &Arc<Server>,
    listener: TcpListener,
    serving: Arc<dyn ResolvesServerCert>,
    hints: Vec<rustls::DistinguishedName>,
) -> anyhow::Result<()> {
    let verifier = auth::authn::x509::any_client_cert(hints);
    let settings = &server.config.tls_settings;
    let mut tls = rustls::ServerConfig::builder_with_provider(settings.provider.clone())
        .with_protocol_versions(&settings.versions)
        .context("--tls-cipher-suites and --tls-min-version leave nothing")?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(serving);
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    if !server.config.http2 {
        tls.alpn_protocols.remove(0);
    }
    // Resumed sessions keep their client certificate in the ticket's state on this server only.
    tls.session_storage = rustls::server::ServerSessionMemoryCache::new(4096);
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let (server, tasks) = (server.clone(), server.tasks.clone());
    tasks.clone().spawn("listener", async move {
        let stop = tasks.token();
        // Not one of the tasks: a panic in a connection ends only that.
        let open = TaskTracker::new();
        loop {
            let Ok(slot) = slots.clone().acquire_owned().await else { break };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stop.cancelled() => break,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, or the client was gone at once: both pass.
                    tracing::warn!(err = %error, "Failed to accept a connection");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
            };
            let (server, acceptor) = (server.clone(), acceptor.clone());
            open.spawn(async move {
                connection(server, acceptor, stream, address).await;
                drop(slot);
            });
        }
        // New clients are refused from here on and go to another server; requests under way may end.
        drop(listener);
        open.close();
        open.wait().await;
    });
    Ok(())
}

async fn connection(server: Arc<Server>, acceptor: TlsAcceptor, stream: TcpStream, address: SocketAddr) {
    let _ = stream.set_nodelay(true);
    let Ok(Ok(stream)) = tokio::time::timeout(HEAD_TIMEOUT, acceptor.accept(stream)).await else { return };
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default().iter().map(|cert| cert.clone().into_owned()).collect();
    let peer = Arc::new(Peer::new(chain));
    let stop = server.tasks.token();
    let streams = match server.config.http2_max_streams {
        0 => H2_STREAMS,
        most => most,
    };
    // A client that is told to go away connects anew, and lands on another server behind a load balancer.
    let goaway = Arc::new(tokio::sync::Notify::new());
    let leave = goaway.clone();
    let service = service_fn(move |request: http::Request<Incoming>| {
        let (server, peer) = (server.clone(), peer.clone());
        let chance = server.config.goaway_chance;
        if chance > 0.0 && request.version() == http::Version::HTTP_2 && rand::random::<f64>() < chance {
            goaway.notify_one();
        }
        async move { Ok::<_, std::convert::Infallible>(chain::handle(server, peer, address, request).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Some(Duration::from_secs(30)))
        .keep_alive_timeout(Duration::from_secs(15))
        .initial_stream_window_size(H2_STREAM_WINDOW)
        .initial_connection_window_size(H2_CONNECTION_WINDOW)
        .max_frame_size(H2_FRAME)
        .max_send_buf_size(H2_SEND_BUFFER)
        .max_concurrent_streams(streams);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(connection);
    loop {
        tokio::select! {
            _ = connection.as_mut() => return,
            // Streams under way go on until they end.
            () = leave.notified() => connection.as_mut().graceful_shutdown(),
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                break;
            }
        }
    }
    // Requests under way may end; watches end by themselves when the tasks stop.
    let _ = tokio::time::timeout(Duration::from_secs(10), connection).await;
}

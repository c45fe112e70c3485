//! Composition: from options to running loops and servers.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use client::events::{Kind as EventKind, Recorder, reference};
use client::informer::{Change, Informer};
use component::tasks::Tasks;
use http::StatusCode;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Node, ObjectReference, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::runtime::watcher;
use net::iptables::Family;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::backend::{self, Backend, Settings};
use crate::config::{Config, DetectLocalMode};
use crate::follow::Handler;
use crate::health::Health;
use crate::locality::Locality;
use crate::metrics::METRICS;
use crate::options::Options;
use crate::proxier::{Parts, Proxier};
use crate::service::{HEADLESS_LABEL, PROXY_NAME_LABEL, ServiceName};
use crate::service_health::ServiceHealth;
use crate::state::{State, slice_key};
use crate::{follow, node, portal};

/// How long to wait for the Node object before going on without it. Upstream waits about 30 s for the node's address.
const NODE_WAIT: Duration = Duration::from_secs(10);
const COMPONENT: &str = "kube-proxy";

/// Runs kube-proxy until a signal ends it.
pub fn main(options: &Options) -> anyhow::Result<()> {
    let (config, verbosity) = options.resolve()?;
    component::logging::init_format(verbosity, &options.logging_format);
    if let Some(path) = &options.write_config_to {
        let text = serde_yaml::to_string(&config.document()).context("failed to encode the configuration")?;
        return std::fs::write(path, text).with_context(|| format!("failed to write {}", path.display()));
    }
    if options.cleanup {
        return cleanup();
    }
    node::set_oom_score(config.oom_score_adj);
    let cores = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1));
    node::set_conntrack(&config.conntrack, cores);
    if options.init_only {
        return Ok(());
    }
    component::install_crypto();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("failed to start the runtime")?;
    runtime.block_on(async {
        let tasks = Tasks::new();
        start(config, &tasks).await?;
        tasks.until_signal().await;
        // Rules stay: connections go on while the proxy is replaced.
        tasks.stop_and_wait(Duration::from_secs(3)).await;
        Ok(())
    })
}

/// Removes the rules of every backend and family; reports the first failure after trying all.
fn cleanup() -> anyhow::Result<()> {
    let mut result = Ok(());
    for kind in &backend::BACKENDS {
        for family in [Family::V4, Family::V6] {
            if (kind.probe)(family).is_ok() {
                let done = (kind.cleanup)(family).with_context(|| format!("failed to clean up {} {family}", kind.name));
                result = result.and(done);
            }
        }
    }
    result
}

/// Removes what other modes left, once our own rules do their work: a change of mode leaves no gap and no double rules.
fn clean_other_modes(mode: &str) -> crate::proxier::AfterFirst {
    let mode = mode.to_owned();
    Box::new(move || {
        for kind in backend::BACKENDS.iter().filter(|kind| kind.name != mode) {
            for family in [Family::V4, Family::V6] {
                if (kind.probe)(family).is_ok()
                    && let Err(error) = (kind.cleanup)(family)
                {
                    tracing::warn!(err = %error, mode = kind.name, "Failed to remove another mode's rules");
                }
            }
        }
    })
}

/// The addresses that were bound.
#[derive(Debug, Clone, Copy)]
pub struct Running {
    pub healthz: Option<SocketAddr>,
    pub metrics: Option<SocketAddr>,
}

/// Connects, starts the servers and the sync loop.
pub async fn start(config: Config, tasks: &Tasks) -> anyhow::Result<Running> {
    tracing::info!(?config, "Starting kube-proxy {}", component::version::current());
    let connect = client::connect::Options {
        kubeconfig: config.kubeconfig.clone(),
        server: config.master.clone(),
        component: COMPONENT.to_owned(),
        ..client::connect::Options::default()
    };
    let client = client::connect::connect(&connect).await.context("failed to set up the connection to the API server")?;
    let nodes = Informer::<Node>::start(
        tasks,
        Api::all(client.clone()),
        watcher::Config::default().fields(&format!("metadata.name={}", config.node_name)),
        |node| node.metadata.managed_fields = None,
    );
    let families = usable_families(&config)?;
    let health = Health::new(&families, config.sync_period * 2);
    let running = serve(&config, tasks, &health).await?;

    // Rules for pods' own traffic and NodePorts need the node; a proxy on a node that never registers still does its best.
    let own_node = || nodes.store().get(&config.node_name);
    let waited = tokio::time::timeout(NODE_WAIT, async {
        nodes.synced().await;
        while own_node().is_none_or(|node| node::addresses(&node).is_empty() || needs_pod_cidr(&config, &node)) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    if waited.await.is_err() {
        tracing::warn!(node = config.node_name, "The Node is not there or has no addresses yet, going on without them");
    }
    let object = own_node();
    let place = node::place(&config.node_name, object.as_deref());
    tracing::info!(place = ?place, families = ?families, mode = config.mode, "Using proxier");

    let state = Arc::new(Mutex::new(State::new(place)));
    let changed = Arc::new(Notify::new());
    let mut caches = follow_services(&client, tasks, &state, &changed);
    follow_node(&config, &state, &changed, &health, &nodes);
    let recorder = Recorder::new(client, tasks, COMPONENT, &config.node_name);
    let about = node_reference(&config.node_name, object.as_deref());
    recorder.about(about.clone(), EventKind::Normal, "Starting", "");
    let on_result = report_results(recorder, about);

    let backends = families.iter().map(|family| (*family, new_backend(&config, *family, object.as_deref()))).collect();
    if config.localhost_node_ports && config.mode == "iptables" && families.contains(&Family::V4) {
        node::allow_localhost_node_ports();
    }
    let parts = Parts {
        state,
        changed,
        service_health: ServiceHealth::new(tasks.clone(), config.bind_address, health.clone()),
        health,
        min_sync_period: config.min_sync_period,
        sync_period: config.sync_period,
        on_result,
        mode: config.mode.clone(),
        after_first: clean_other_modes(&config.mode),
    };
    let proxier = Proxier::new(parts, backends);
    let stop = tasks.token();
    tasks.spawn("proxier", async move {
        let synced = async {
            for cache in &mut caches {
                let _ = cache.wait_for(|complete| *complete).await;
            }
        };
        if stop.run_until_cancelled(synced).await.is_some() {
            tracing::info!(services = proxier.state.lock().names().count(), "Caches are synced");
            proxier.run(stop).await;
        }
    });
    Ok(running)
}

fn needs_pod_cidr(config: &Config, node: &Node) -> bool {
    config.detect_local_mode == DetectLocalMode::NodeCidr && node.spec.as_ref().is_none_or(|spec| spec.pod_cidr.is_none())
}

/// The families that both the kernel and the configuration allow; IPv4 has to work unless the node has IPv6 only.
fn usable_families(config: &Config) -> anyhow::Result<Vec<Family>> {
    let kind = backend::find(&config.mode).context("the mode was checked with the configuration")?;
    let mut usable = Vec::new();
    let mut reasons = Vec::new();
    for family in [Family::V4, Family::V6] {
        match (kind.probe)(family) {
            Ok(()) => usable.push(family),
            Err(error) => {
                tracing::warn!(%family, err = error, "No proxying of this family");
                reasons.push(error);
            }
        }
    }
    anyhow::ensure!(!usable.is_empty(), "{} works for no address family: {}", kind.name, reasons.join("; "));
    Ok(usable)
}

fn new_backend(config: &Config, family: Family, node: Option<&Node>) -> Box<dyn Backend> {
    let ips: Vec<IpAddr> = node.map(node::addresses).unwrap_or_default();
    let own: Vec<IpAddr> = ips.into_iter().filter(|ip| ip.is_ipv4() == (family == Family::V4)).collect();
    let node_cidrs: Vec<IpNet> = node
        .and_then(|node| node.spec.as_ref())
        .map(|spec| spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr).filter_map(|cidr| cidr.parse().ok()).collect())
        .unwrap_or_default();
    let locality = match config.detect_local_mode {
        DetectLocalMode::ClusterCidr => Locality::of_cidrs(&config.cluster_cidrs, family),
        DetectLocalMode::NodeCidr => Locality::of_cidrs(&node_cidrs, family),
        DetectLocalMode::BridgeInterface => Locality::Bridge(config.bridge_interface.clone()),
        DetectLocalMode::InterfaceNamePrefix => Locality::InterfacePrefix(config.interface_name_prefix.clone()),
    };
    let node_port_addresses = if config.node_ports_primary {
        own.first().map(|ip| IpNet::from(*ip)).into_iter().collect()
    } else {
        config.node_port_addresses.clone()
    };
    let settings = Settings {
        family,
        locality,
        masquerade_all: config.masquerade_all,
        masquerade_bit: config.masquerade_bit,
        localhost_node_ports: config.localhost_node_ports,
        node_port_addresses,
        node_ips: own,
    };
    let kind = backend::find(&config.mode).expect("the mode was checked with the configuration");
    (kind.new)(settings)
}

/// Watches Services and EndpointSlices; both are complete when both receivers say so.
fn follow_services(
    client: &kube::Client,
    tasks: &Tasks,
    state: &Arc<Mutex<State>>,
    changed: &Arc<Notify>,
) -> [watch::Receiver<bool>; 2] {
    let relevant = watcher::Config::default().labels(&format!("!{PROXY_NAME_LABEL},!{HEADLESS_LABEL}"));
    let with_state = || {
        let (state, changed) = (state.clone(), changed.clone());
        move |change: &dyn Fn(&mut State)| {
            let mut state = state.lock();
            change(&mut state);
            if state.has_changes() {
                METRICS.pending(state.seen());
                changed.notify_one();
            }
        }
    };
    let (set, delete, keep) = (with_state(), with_state(), with_state());
    let services = Handler::<Service, ServiceName> {
        name: |service| {
            let meta = &service.metadata;
            Some(ServiceName::new(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref()?))
        },
        set: Box::new(move |service| set(&|state| state.set_service(service))),
        delete: Box::new(move |name| delete(&|state| state.delete_service(name))),
        keep: Box::new(move |listed| keep(&|state| state.keep_services(listed))),
    };
    let (set, delete, keep) = (with_state(), with_state(), with_state());
    let slices = Handler::<EndpointSlice, (String, String)> {
        name: slice_key,
        set: Box::new(move |slice| set(&|state| state.set_slice(slice))),
        delete: Box::new(move |(namespace, name)| delete(&|state| state.delete_slice(namespace, name))),
        keep: Box::new(move |listed| keep(&|state| state.keep_slices(listed))),
    };
    [
        follow::follow(tasks, Api::all(client.clone()), relevant.clone(), services),
        follow::follow(tasks, Api::all(client.clone()), relevant, slices),
    ]
}

fn follow_node(config: &Config, state: &Arc<Mutex<State>>, changed: &Arc<Notify>, health: &Health, nodes: &Informer<Node>) {
    let (name, shared, notify, health) = (config.node_name.clone(), state.clone(), changed.clone(), health.clone());
    nodes.on_change(move |change| {
        let object = match change {
            Change::Deleted(_) => None,
            other => Some(&**other.object()),
        };
        health.set_eligible(node::eligible(object) && object.is_some());
        if shared.lock().set_place(node::place(&name, object)) {
            notify.notify_one();
        }
    });
}

fn node_reference(name: &str, node: Option<&Node>) -> ObjectReference {
    let fallback = ObjectReference { kind: Some("Node".to_owned()), name: Some(name.to_owned()), ..ObjectReference::default() };
    // Events about nodes carry the node's name as its uid, so that they outlive the object. Upstream does the same.
    let mut about = node.map_or(fallback, reference);
    about.uid = Some(portal::Place { node: name.to_owned(), zone: String::new() }.node);
    about
}

/// An event when rules cannot be written, and when they can again.
fn report_results(recorder: Recorder, about: ObjectReference) -> crate::proxier::OnResult {
    let failing: Mutex<Vec<Family>> = Mutex::default();
    Box::new(move |family, error| {
        let mut failing = failing.lock();
        match error {
            Some(error) => {
                if !failing.contains(&family) {
                    failing.push(family);
                }
                recorder.about(about.clone(), EventKind::Warning, "FailedSync", error);
            }
            None if failing.contains(&family) => {
                failing.retain(|other| *other != family);
                recorder.about(about.clone(), EventKind::Normal, "Synced", format!("{family} rules are synced again"));
            }
            None => {}
        }
    })
}

async fn serve(config: &Config, tasks: &Tasks, health: &Health) -> anyhow::Result<Running> {
    let missing = || component::serve::text(StatusCode::NOT_FOUND, "text/plain; charset=utf-8", "404 page not found\n");
    let mut running = Running { healthz: None, metrics: None };
    if let Some(address) = config.healthz_bind_address {
        let health = health.clone();
        let handler = move |request: http::Request<hyper::body::Incoming>| {
            let response = match request.uri().path() {
                "/healthz" => health.healthz(),
                "/livez" => health.livez(),
                _ => missing(),
            };
            async move { response }
        };
        running.healthz = listen(config, tasks, address, handler).await?;
    }
    if let Some(address) = config.metrics_bind_address {
        let (health, mode) = (health.clone(), config.mode.clone());
        let configz = serde_json::json!({"kubeproxy.config.k8s.io": config.document()}).to_string();
        let checks = component::health::Checks::new();
        checks.add("sync", move || health.complaint().map_or(Ok(()), Err));
        let handler = move |request: http::Request<hyper::body::Incoming>| {
            let response = match request.uri().path() {
                "/configz" => component::serve::text(StatusCode::OK, "application/json", configz.clone()),
                "/proxyMode" => component::serve::text(StatusCode::OK, "text/plain; charset=utf-8", mode.clone()),
                _ => component::serve::standard(&request, &checks).unwrap_or_else(missing),
            };
            async move { response }
        };
        running.metrics = listen(config, tasks, address, handler).await?;
    }
    Ok(running)
}

/// Binds and serves; a port that is taken is an error only when the configuration says so.
async fn listen<H, F>(config: &Config, tasks: &Tasks, address: SocketAddr, handler: H) -> anyhow::Result<Option<SocketAddr>>
where
    H: Fn(http::Request<hyper::body::Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = http::Response<http_body_util::Full<bytes::Bytes>>> + Send + 'static,
{
    let bound = tokio::net::TcpListener::bind(address).await.with_context(|| format!("failed to listen on {address}"));
    match bound {
        Ok(listener) => Ok(Some(component::serve::serve(tasks, listener, None, handler)?)),
        Err(error) if config.bind_address_hard_fail => Err(error),
        Err(error) => {
            tracing::error!(err = format!("{error:#}"), "Going on without this server");
            Ok(None)
        }
    }
}

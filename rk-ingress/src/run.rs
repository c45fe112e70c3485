//! Composition: watches, the table, listeners, status.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use client::events::Recorder;
use client::informer::{Informer, Object};
use component::health::Checks;
use component::tasks::Tasks;
use k8s_openapi::api::core::v1::{Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use kube::runtime::watcher::Config;
use kube::{Api, Client};
use tokio::net::TcpListener;
use tokio::sync::Notify;

use crate::certificates::Resolver;
use crate::options::Options;
use crate::proxy::{Arrival, Proxy};
use crate::status;
use crate::table::{self, Objects, Selection, Table};

/// Changes that come together make one new table.
const PAUSE: Duration = Duration::from_millis(20);

/// Runs until a signal.
///
/// # Errors
/// It could not start.
pub fn main(options: &Options) -> anyhow::Result<()> {
    component::logging::init(options.v);
    component::install_crypto();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("failed to start the runtime")?;
    runtime.block_on(async {
        let tasks = Tasks::new();
        let connect = client::connect::Options {
            kubeconfig: options.kubeconfig.clone(),
            component: "rk-ingress".to_owned(),
            ..client::connect::Options::default()
        };
        let client = client::connect::connect(&connect).await.context("failed to set up the connection to the API server")?;
        start(options, client, &tasks).await?;
        tasks.until_signal().await;
        tasks.stop_and_wait(Duration::from_secs(10)).await;
        Ok(())
    })
}

/// Where it listens.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    pub http: SocketAddr,
    pub https: SocketAddr,
    pub health: SocketAddr,
}

/// The five watches.
struct Watches {
    ingresses: Informer<Ingress>,
    classes: Informer<IngressClass>,
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
    secrets: Informer<Secret>,
}

impl Watches {
    fn start(client: &Client, tasks: &Tasks, namespace: &str) -> Self {
        fn api<K>(client: &Client, namespace: &str) -> Api<K>
        where
            K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
        {
            if namespace.is_empty() { Api::all(client.clone()) } else { Api::namespaced(client.clone(), namespace) }
        }
        let all = Config::default();
        Self {
            ingresses: Informer::start(tasks, api(client, namespace), all.clone(), |object| {
                object.metadata.managed_fields = None
            }),
            classes: Informer::start(tasks, Api::all(client.clone()), all.clone(), |object| {
                object.metadata.managed_fields = None
            }),
            services: Informer::start(tasks, api(client, namespace), all.clone(), |object: &mut Service| {
                object.metadata.managed_fields = None;
                object.metadata.annotations = None;
            }),
            slices: Informer::start(tasks, api(client, namespace), all.clone(), |object: &mut EndpointSlice| {
                object.metadata.managed_fields = None;
                object.metadata.annotations = None;
            }),
            secrets: Informer::start(
                tasks,
                api(client, namespace),
                all.fields("type=kubernetes.io/tls"),
                |object: &mut Secret| {
                    object.metadata.managed_fields = None;
                    object.metadata.annotations = None;
                },
            ),
        }
    }

    fn on_change(&self, changed: &Arc<Notify>) {
        fn tell<K: Object>(informer: &Informer<K>, changed: &Arc<Notify>) {
            let changed = changed.clone();
            informer.on_change(move |_| changed.notify_one());
        }
        tell(&self.ingresses, changed);
        tell(&self.classes, changed);
        tell(&self.services, changed);
        tell(&self.slices, changed);
        tell(&self.secrets, changed);
    }

    async fn synced(&self) {
        self.ingresses.synced().await;
        self.classes.synced().await;
        self.services.synced().await;
        self.slices.synced().await;
        self.secrets.synced().await;
    }

    fn objects(&self) -> Objects {
        Objects {
            ingresses: self.ingresses.store().list(),
            classes: self.classes.store().list(),
            services: self.services.store().list(),
            slices: self.slices.store().list(),
            secrets: self.secrets.store().list(),
        }
    }
}

/// Starts everything.
///
/// # Errors
/// An address cannot be listened on.
pub async fn start(options: &Options, client: Client, tasks: &Tasks) -> anyhow::Result<Addresses> {
    let table = Arc::new(ArcSwap::from_pointee(Table::default()));
    let ready = Arc::new(AtomicBool::new(false));
    let watches = Watches::start(&client, tasks, &options.watch_namespace);
    tasks.spawn("table", follow(options.clone(), client, watches, table.clone(), ready.clone(), tasks.clone()));

    let https = listen(options.https).await?;
    let https_address = https.local_addr()?;
    let proxy = Proxy::new(table.clone(), options.redirect_port.unwrap_or_else(|| https_address.port()));
    let resolver = Resolver::new(table).context("failed to make a certificate")?;
    let mut tls = rustls::ServerConfig::builder().with_no_client_auth().with_cert_resolver(Arc::new(resolver));
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let http = listen(options.http).await?;
    let http_address = http.local_addr()?;
    for (listener, tls) in [(http, None), (https, Some(Arc::new(tls)))] {
        let (proxy, secure) = (proxy.clone(), tls.is_some());
        component::serve::serve(tasks, listener, tls, move |request| {
            let peer = request.extensions().get::<component::serve::Peer>().map(|peer| peer.address);
            let proxy = proxy.clone();
            async move {
                let peer = peer.unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0)));
                proxy.handle(request, Arrival { peer, tls: secure }).await
            }
        })?;
    }
    let health = listen(options.health).await?;
    let health_address = health.local_addr()?;
    let checks = Checks::new();
    let is_ready = ready.clone();
    checks.add("synced", move || {
        if is_ready.load(Ordering::Acquire) { Ok(()) } else { Err("the cluster's objects are not known yet".to_owned()) }
    });
    component::serve::serve(tasks, health, None, move |request| {
        let answer = component::serve::standard(&request, &checks)
            .unwrap_or_else(|| component::serve::text(http::StatusCode::NOT_FOUND, "text/plain", "404 page not found\n"));
        async move { answer }
    })?;
    tracing::info!(http = %http_address, https = %https_address, "rk-ingress {} is listening", component::version::current());
    Ok(Addresses { http: http_address, https: https_address, health: health_address })
}

/// `[::]` where there is IPv6, `0.0.0.0` where there is not.
async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let bound = match TcpListener::bind(address).await {
        Err(error) if address.ip() == std::net::Ipv6Addr::UNSPECIFIED && error.kind() != std::io::ErrorKind::AddrInUse => {
            TcpListener::bind((std::net::Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        other => other,
    };
    bound.with_context(|| format!("failed to listen on {address}"))
}

/// Keeps the table like the cluster, and the Ingresses' status like the Service's.
async fn follow(
    options: Options,
    client: Client,
    watches: Watches,
    table: Arc<ArcSwap<Table>>,
    ready: Arc<AtomicBool>,
    tasks: Tasks,
) {
    let stop = tasks.token();
    let selection = Selection {
        class: options.ingress_class.clone(),
        controller: options.controller_class.clone(),
        without_class: options.watch_ingress_without_class,
        certificate: options.default_ssl_certificate.clone(),
        backend: options.default_backend_service.clone(),
    };
    let changed = Arc::new(Notify::new());
    watches.on_change(&changed);
    let recorder = Recorder::new(client.clone(), &tasks, "rk-ingress", "");
    let mut told: Vec<(String, String)> = Vec::new();
    let work = async {
        watches.synced().await;
        loop {
            let objects = watches.objects();
            let made = table::build(&objects, &selection);
            let ours: Vec<_> = objects
                .ingresses
                .iter()
                .filter(|ingress| table::is_ours(ingress, &objects.classes, &selection))
                .cloned()
                .collect();
            for problem in made.problems.iter().filter(|problem| !told.contains(problem)) {
                let (name, why) = problem;
                tracing::warn!(ingress = name, "{why}");
                if let Some(ingress) = ours.iter().find(|ingress| client::key_of(&***ingress) == *name) {
                    recorder.event(&**ingress, client::events::Kind::Warning, "Rejected", why.clone());
                }
            }
            told.clone_from(&made.problems);
            table.store(Arc::new(made));
            if !ready.swap(true, Ordering::AcqRel) {
                tracing::info!(ingresses = ours.len(), "The cluster's objects are known");
            }
            let wanted = match &options.publish_service {
                _ if !options.publish_status_address.is_empty() => Some(status::of_flag(&options.publish_status_address)),
                Some(name) => {
                    let found = objects.services.iter().find(|service| client::key_of(&***service) == *name);
                    Some(found.map(|service| status::of_service(service)).unwrap_or_default())
                }
                None => None,
            };
            if let Some(wanted) = wanted {
                status::write(&client, &ours, &wanted).await;
            }
            changed.notified().await;
            tokio::time::sleep(PAUSE).await;
        }
    };
    stop.run_until_cancelled(work).await;
}

//! The process: serve health and metrics, wait for the lease, start the controllers of the table, give the lease back.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use client::connect;
use client::events::Recorder;
use client::informer::Informers;
use client::leader;
use component::health::Checks;
use component::tasks::Tasks;
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig};

use crate::config::Config;
use crate::context::{self, Context};
use crate::controllers::{ABSENT, CONTROLLERS, Controller};
use crate::credentials::Clients;
use crate::{pods, serving};

/// This name is on requests, leases and events.
const COMPONENT: &str = "kube-controller-manager";

/// Runs until a signal, or until leadership is lost.
///
/// # Errors
/// Credentials are unusable, the port is taken, or leadership was lost: the process must end.
pub fn run(config: Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("failed to start the runtime")?;
    runtime.block_on(async {
        let tasks = Tasks::new();
        let running = start(Arc::new(config), tasks.clone()).await?;
        give_back_code(&tasks);
        tasks.until_signal().await;
        running.stop().await
    })
}

/// A running controller manager; tests hold one.
pub struct Running {
    /// Where health and metrics are served, if they are.
    pub address: Option<std::net::SocketAddr>,
    tasks: Tasks,
    leading: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Running {
    /// Stops the controllers, releases the lease, ends the servers.
    ///
    /// # Errors
    /// Leadership had been lost.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.tasks.stop();
        let result = self.leading.await.context("the leading task failed")?;
        self.tasks.stop_and_wait(Duration::from_secs(2)).await;
        result
    }
}

/// Binds, connects and starts; returns once the health endpoint answers.
///
/// # Errors
/// As [`run`].
pub async fn start(config: Arc<Config>, tasks: Tasks) -> anyhow::Result<Running> {
    let options = &config.options;
    let connection = connect::Options {
        kubeconfig: Config::file(&options.kubeconfig),
        server: (!options.master.is_empty()).then(|| options.master.clone()),
        component: COMPONENT.to_owned(),
        ..connect::Options::default()
    };
    let own = connect::connect(&connection).await?;
    let watches = connect::connect(&connection).await?;
    let clients = if options.use_service_account_credentials {
        Clients::ServiceAccounts { own: own.clone(), anonymous: anonymous(&connection).await? }
    } else {
        Clients::Own(own.clone())
    };
    let checks = Checks::new();
    let address = serving::start(&config, &tasks, checks.clone()).await?;
    tracing::info!(address = ?address, controllers = config.controllers.join(","), "Starting {COMPONENT} {}", component::version::current());

    let idle = config.without_effect();
    if !idle.is_empty() {
        tracing::warn!(flags = idle.join(","), "Flags are accepted but have no effect");
    }
    for name in options.controllers.iter().filter(|name| ABSENT.contains(&name.as_str())) {
        tracing::warn!(controller = name, "Controller is known but does nothing here");
    }

    let (lead_config, lead_tasks, lead_client) = (Arc::clone(&config), tasks.clone(), own.clone());
    let leading = tokio::spawn(async move {
        let options = &lead_config.options;
        if !options.leader_elect {
            let controllers = lead_tasks.child();
            lead(&lead_config, &clients, &lead_client, &watches, controllers.clone()).await;
            lead_tasks.stopping().await;
            controllers.stop_and_wait(options.controller_shutdown_timeout).await;
            return Ok(());
        }
        let election = leader::Config {
            namespace: options.leader_elect_resource_namespace.clone(),
            lease_duration: options.leader_elect_lease_duration,
            renew_deadline: options.leader_elect_renew_deadline,
            retry_period: options.leader_elect_retry_period,
            ..leader::Config::new(&options.leader_elect_resource_name)
        };
        let (config, clients, own, watches) = (Arc::clone(&lead_config), clients.clone(), lead_client.clone(), watches.clone());
        let stop = lead_tasks.clone();
        let released = leader::run(lead_client, election, &lead_tasks, move |tasks| async move {
            lead(&config, &clients, &own, &watches, tasks).await;
        })
        .await;
        stop.stop();
        anyhow::ensure!(released, "leaderelection lost");
        Ok(())
    });
    Ok(Running { address, tasks, leading })
}

/// Keeps out of memory what only a start needs: soon after it, and after whatever was seldom done since.
fn give_back_code(tasks: &Tasks) {
    let stop = tasks.token();
    tasks.spawn("memory", async move {
        let mut pause = Duration::from_secs(20);
        while stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
            component::memory::give_back_code();
            pause = Duration::from_secs(600);
        }
    });
}

/// A connection to the same server without credentials: those of a service account go on top, request by request.
async fn anonymous(connection: &connect::Options) -> anyhow::Result<kube::Client> {
    let mut config = match &connection.kubeconfig {
        Some(path) => {
            let kubeconfig =
                Kubeconfig::read_from(path).with_context(|| format!("failed to load kubeconfig {}", path.display()))?;
            kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?
        }
        None => kube::Config::incluster()?,
    };
    if let Some(server) = &connection.server {
        config.cluster_url = server.parse().context("--master")?;
    }
    config.auth_info = AuthInfo::default();
    Ok(connect::build(config, COMPONENT)?)
}

/// Starts every selected controller. One that cannot start ends the process: half a controller manager is worse than none.
async fn lead(config: &Arc<Config>, clients: &Clients, own: &kube::Client, watches: &kube::Client, tasks: Tasks) {
    let informers = Informers::new(own.clone(), tasks.clone());
    informers.trim(pods::slim::slim);
    give_back_code(&tasks);
    let recorder = Recorder::new(own.clone(), &tasks, COMPONENT, "");
    for row in CONTROLLERS.iter().filter(|row| config.controllers.contains(&row.name)) {
        let ctx = Context {
            name: row.name,
            client: clients.of(row.account),
            watches: watches.clone(),
            config: Arc::clone(config),
            tasks: tasks.clone(),
            informers: informers.clone(),
            recorder: recorder.with_component(event_source(row)),
            clock: context::now,
        };
        if tasks.token().run_until_cancelled(tokio::time::sleep(config.options.controller_start_interval)).await.is_none() {
            return;
        }
        let (starting, stop, name) = ((row.start)(ctx), tasks.token(), row.name);
        tasks.spawn(name, async move {
            match stop.run_until_cancelled(starting).await {
                Some(Err(error)) => {
                    tracing::error!(controller = name, err = format!("{error:#}"), "Error starting controller");
                    std::process::exit(1);
                }
                Some(Ok(())) => tracing::debug!(controller = name, "Started controller"),
                None => {}
            }
        });
    }
}

/// The component name in a controller's events, which for some is not that of its service account.
fn event_source(row: &Controller) -> &'static str {
    match row.account {
        "node-controller" if row.name == "taint-eviction-controller" => row.name,
        "daemon-set-controller" => "daemonset-controller",
        "endpoint-controller" => "endpoint-controller",
        "endpointslice-controller" => "endpoint-slice-controller",
        "endpointslicemirroring-controller" => "endpoint-slice-mirroring-controller",
        "disruption-controller" => "controllermanager",
        "device-taint-eviction-controller" => "device-taint-eviction",
        "expand-controller" => "volume_expand",
        "ephemeral-volume-controller" => "ephemeral_volume",
        "persistent-volume-binder" => "persistentvolume-controller",
        "resource-claim-controller" => "resource_claim",
        other => other,
    }
}

/// The file of a flag, as a path.
pub(crate) fn path(flag: &str) -> &Path {
    Path::new(flag)
}

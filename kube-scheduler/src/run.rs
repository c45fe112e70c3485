//! The composition: flags and file → configuration → watches, loop and server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use client::events::Recorder;
use client::{connect, leader};
use component::health::Checks;
use component::tasks::Tasks;

use crate::bind::Effects;
use crate::config::file::File;
use crate::config::{DEFAULT_SCHEDULER, Profile};
use crate::extender::Extender;
use crate::options::Options;
use crate::queue::Backoff;
use crate::scheduler::Scheduler;
use crate::serving;
use crate::watch::Watches;

/// How long shutdown may take before it is forced.
const GRACE: Duration = Duration::from_secs(5);
/// Upstream's.
const PORT: u16 = 10259;

/// Everything decided before anything starts.
pub struct Config {
    /// Profiles.
    pub profiles: Vec<Profile>,
    /// Extenders.
    pub extenders: Vec<Extender>,
    /// Waiting times.
    pub backoff: Backoff,
    /// Whose lease; `None` for no election.
    pub election: Option<leader::Config>,
    /// How to reach the API server.
    pub connection: connect::Options,
    /// Where to serve; `None` for nowhere.
    pub address: Option<SocketAddr>,
    /// A taken port is no reason to stop: a second scheduler from old notes, beside the first.
    pub port_may_be_taken: bool,
    /// Certificates and who may read metrics.
    pub options: Options,
}

impl Config {
    /// From flags and the file they name. Flags win.
    ///
    /// # Errors
    /// Anything that makes no sense, before anything is bound.
    pub fn new(options: Options) -> anyhow::Result<Self> {
        let file = options.config.as_deref().map(File::load).transpose()?;
        let lock = options.leader_elect_resource_lock.as_deref().unwrap_or("leases");
        anyhow::ensure!(lock == "leases", "--leader-elect-resource-lock: {lock:?} is not supported, only \"leases\"");
        for warning in options.old_flags() {
            tracing::warn!("{warning}");
        }
        for flag in options.without_effect() {
            tracing::warn!(flag, "Flag has no effect");
        }
        let mut profiles = match &file {
            Some(file) => file.profiles()?,
            None => vec![Profile::named(DEFAULT_SCHEDULER)],
        };
        if let Some(name) = &options.scheduler_name {
            anyhow::ensure!(file.is_none(), "--scheduler-name cannot be used with --config");
            profiles = vec![Profile::named(name)];
        }
        let seconds = |given: Option<u64>, default: u64| Duration::from_secs(given.unwrap_or(default));
        let backoff = Backoff {
            initial: seconds(file.as_ref().and_then(|file| file.pod_initial_backoff_seconds), 1),
            max: seconds(file.as_ref().and_then(|file| file.pod_max_backoff_seconds), 10),
            unschedulable: options.pod_max_in_unschedulable_pods_duration,
        };
        let kubeconfig = options
            .kubeconfig
            .clone()
            .or_else(|| file.as_ref()?.client_connection.kubeconfig.clone().filter(|path| !path.is_empty()).map(Into::into));
        let port = options.secure_port.unwrap_or(PORT);
        let extenders = file.as_ref().map(File::extenders).transpose()?.unwrap_or_default();
        Ok(Self {
            profiles,
            extenders,
            backoff,
            election: election(&options, file.as_ref())?,
            connection: connect::Options {
                kubeconfig,
                server: options.master.clone(),
                component: "kube-scheduler".to_owned(),
                ..connect::Options::default()
            },
            address: (port != 0).then(|| SocketAddr::new(options.bind_address, port)),
            port_may_be_taken: !options.old_flags().is_empty() && options.secure_port.is_none(),
            options,
        })
    }
}

fn election(options: &Options, file: Option<&File>) -> anyhow::Result<Option<leader::Config>> {
    let own = file.map(|file| &file.leader_election);
    if !options.leader_elect.or(own.and_then(|own| own.leader_elect)).unwrap_or(true) {
        return Ok(None);
    }
    let name = options.leader_elect_resource_name.clone().or_else(|| options.lock_object_name.clone());
    let name = name.or_else(|| own?.resource_name.clone()).unwrap_or_else(|| "kube-scheduler".to_owned());
    let mut config = leader::Config::new(&name);
    let namespace = options.leader_elect_resource_namespace.clone().or_else(|| options.lock_object_namespace.clone());
    if let Some(namespace) = namespace.or_else(|| own?.resource_namespace.clone()) {
        config.namespace = namespace;
    }
    let given = |flag: Option<Duration>, text: Option<&String>| match (flag, text) {
        (Some(flag), _) => Ok(Some(flag)),
        (None, Some(text)) => component::duration::parse(text).map(Some).map_err(anyhow::Error::msg),
        (None, None) => Ok(None),
    };
    let text = |pick: fn(&crate::config::file::LeaderElection) -> Option<&String>| own.and_then(pick);
    if let Some(value) = given(options.leader_elect_lease_duration, text(|own| own.lease_duration.as_ref()))? {
        config.lease_duration = value;
    }
    if let Some(value) = given(options.leader_elect_renew_deadline, text(|own| own.renew_deadline.as_ref()))? {
        config.renew_deadline = value;
    }
    if let Some(value) = given(options.leader_elect_retry_period, text(|own| own.retry_period.as_ref()))? {
        config.retry_period = value;
    }
    anyhow::ensure!(config.lease_duration > config.renew_deadline, "leaseDuration must be greater than renewDeadline");
    anyhow::ensure!(config.renew_deadline > config.retry_period, "renewDeadline must be greater than retryPeriod");
    Ok(Some(config))
}

/// The configuration of these flags, as `--write-config-to` writes it.
///
/// # Errors
/// As [`Config::new`], and where the file cannot be written.
pub fn write(options: &Options, to: &std::path::Path) -> anyhow::Result<()> {
    let file = options.config.as_deref().map(File::load).transpose()?;
    let text = crate::config::write::write(&Config::new(options.clone())?, file.as_ref())?;
    std::fs::write(to, text).with_context(|| format!("failed to write {}", to.display()))?;
    tracing::info!(file = %to.display(), "Wrote configuration");
    Ok(())
}

/// Runs until a signal, or until leadership is lost (an error: another one leads now).
///
/// # Errors
/// The API server's address or credentials are unusable, the port is taken, leadership was lost.
pub async fn run(config: Config) -> anyhow::Result<()> {
    crate::metrics::register();
    let tasks = Tasks::new();
    let kube = connect::connect(&config.connection).await.context("failed to connect to the API server")?;
    let watches = Arc::new(Watches::start(&kube, &tasks));
    let checks = Checks::new();
    let probe = watches.clone();
    checks.add("sched-handler-sync", move || if probe.is_synced() { Ok(()) } else { Err("handlers are not synced".to_owned()) });
    if let Some(address) = config.address {
        match serving::start(&config.options, address, &tasks, checks).await {
            Ok(bound) => tracing::info!(address = %bound, "Serving securely"),
            Err(error) if config.port_may_be_taken => tracing::warn!(err = format!("{error:#}"), "Not serving"),
            Err(error) => return Err(error),
        }
    }
    let names: Vec<_> = config.profiles.iter().map(|profile| profile.name.clone()).collect();
    tracing::info!(version = component::version::current(), profiles = names.join(","), "Starting Kubernetes Scheduler");
    let scheduler = Scheduler::extended(config.profiles, config.backoff, watches.stores(), config.extenders);
    watches.feed(&scheduler);
    let recorder = Recorder::new(kube.clone(), &tasks, DEFAULT_SCHEDULER, "");
    let effects = Effects::new(kube.clone(), recorder);
    let lead = move |leading: Tasks| async move {
        watches.synced().await;
        scheduler.run(effects, leading).await;
    };
    let lost = {
        let ended = async {
            match config.election {
                Some(election) => leader::run(kube, election, &tasks, lead).await,
                None => {
                    tasks.spawn("scheduling", lead(tasks.clone()));
                    tasks.stopping().await;
                    true
                }
            }
        };
        tokio::pin!(ended);
        tokio::select! {
            graceful = &mut ended => !graceful,
            () = tasks.until_signal() => {
                tasks.stop();
                // Gives the lease back.
                let _ = tokio::time::timeout(GRACE, ended).await;
                false
            }
        }
    };
    tasks.stop_and_wait(GRACE).await;
    anyhow::ensure!(!lost, "leaderelection lost");
    Ok(())
}

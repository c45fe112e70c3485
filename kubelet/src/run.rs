//! Puts the parts together and runs them.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use client::events::{Kind, Recorder};
use client::informer::Informer;
use component::tasks::Tasks;
use k8s_openapi::api::core::v1::Service;
use kube::Api;
use kube::runtime::watcher;

use crate::cgroup::name::Driver;
use crate::cgroup::{self, Cgroups, values};
use crate::config::Config;
use crate::cri::{Cri, v1};
use crate::image::Images;
use crate::image::provider::Providers;
use crate::kubelet::{Kubelet, NodeState, Shared};
use crate::node::{self, register};
use crate::objects::Objects;
use crate::runtime::security;
use crate::status::manager::StatusManager;
use crate::worker::Workers;
use crate::{housekeeping, logs, pleg, source};

/// Builds and starts everything.
///
/// # Errors
/// The configuration cannot work on this machine.
pub async fn start(config: Config, tasks: &Tasks) -> anyhow::Result<Shared> {
    let kubelet_config = config.kubelet.clone();
    for dir in [
        config.root_dir.clone(),
        config.root_dir.join("pods"),
        config.root_dir.join("plugins"),
        config.root_dir.join("seccomp"),
        config.root_dir.join("device-plugins"),
        PathBuf::from(&kubelet_config.pod_logs_dir),
        config.container_logs_dir.clone(),
    ] {
        std::fs::create_dir_all(&dir).with_context(|| format!("failed to create {}", dir.display()))?;
    }
    own_oom_score(kubelet_config.oom_score_adj);
    open_files(kubelet_config.max_open_files);
    if kubelet_config.cgroups_per_qos {
        crate::kernel::set_up(std::path::Path::new("/proc/sys"), kubelet_config.protect_kernel_defaults)
            .map_err(anyhow::Error::msg)?;
    }
    let cri = Cri::new(
        &kubelet_config.container_runtime_endpoint,
        &kubelet_config.image_service_endpoint,
        kubelet_config.runtime_request_timeout.0,
    )
    .map_err(anyhow::Error::msg)?;
    let api = crate::bootstrap::connect(&config, tasks).await?;
    let runtime_name = wait_for_runtime(&cri, &kubelet_config.container_runtime_endpoint).await;
    let driver = driver(&cri, &kubelet_config.cgroup_driver).await;
    let cgroups = Cgroups::new(&cgroup::mount_point(), driver, &kubelet_config.cgroup_root, kubelet_config.cgroups_per_qos);
    if !cgroups.is_v2() && kubelet_config.fail_cgroup_v1 {
        anyhow::bail!(
            "kubelet is configured to not run on a host using cgroup v1. cgroup v1 support is unsupported and will be removed in a future release; set failCgroupV1: false to run on it"
        );
    }
    if kubelet_config.fail_swap_on && swap_is_on() {
        anyhow::bail!("running with swap on is not supported, please disable swap or set --fail-swap-on flag to false");
    }
    let limit = cgroups.node_usage().map_or(0, |usage| usage.limit);
    let fixed = register::fixed(&config, limit);
    let allocatable = &fixed.resources.1;
    if kubelet_config.enforce_node_allocatable.iter().any(|what| what == "pods") {
        // Evictions begin before this bound is met: it leaves their reserve to the pods.
        let reserved = |name: &str| {
            kubelet_config
                .kube_reserved
                .get(name)
                .into_iter()
                .chain(kubelet_config.system_reserved.get(name))
                .filter_map(|text| crate::pod::quantity::parse_value(text))
                .sum::<i64>()
        };
        let limits = values::Limits {
            cpu_shares: Some(values::shares(allocatable["cpu"])),
            memory: Some(fixed.machine.memory - reserved("memory")).filter(|bytes| *bytes > 0),
            ..Default::default()
        };
        if let Err(error) = cgroups.set_up(&limits) {
            tracing::warn!(err = %error, "Failed to update Node Allocatable Limits");
        }
    }
    let values = values::Node {
        cfs_quota: kubelet_config.cpu_cfs_quota,
        cfs_period: u64::try_from(kubelet_config.cpu_cfs_quota_period.0.as_micros()).unwrap_or(100_000),
        memory: fixed.machine.memory,
        v2: cgroups.is_v2(),
        single_process_oom_kill: kubelet_config.single_process_oom_kill.unwrap_or(!cgroups.is_v2()),
        pids: kubelet_config.pod_pids_limit,
    };
    let services = api.clone().map(|api| {
        Informer::<Service>::start(tasks, Api::all(api), watcher::Config::default(), |service| {
            // Environments need a name, addresses and ports.
            service.metadata = kube::api::ObjectMeta {
                name: service.metadata.name.take(),
                namespace: service.metadata.namespace.take(),
                uid: service.metadata.uid.take(),
                resource_version: service.metadata.resource_version.take(),
                ..Default::default()
            };
            service.status = None;
        })
    });
    let kubelet = Arc::new(Kubelet {
        security: security::Policy {
            seccomp_default: kubelet_config.seccomp_default,
            seccomp_dir: config.root_dir.join("seccomp").to_string_lossy().into_owned(),
        },
        recorder: api.clone().map(|api| Recorder::new(api, tasks, "kubelet", &config.node_name)),
        objects: Objects::new(api.clone(), services, kubelet_config.change_detection == "Watch"),
        images: Images::new(
            config.parallel_pulls(),
            kubelet_config.registry_pull_qps,
            kubelet_config.registry_burst,
            match &config.credential_provider {
                Some((file, bin_dir)) => {
                    Providers::load(file, bin_dir).map_err(|why| anyhow::anyhow!("failed to register CRI auth plugins: {why}"))?
                }
                None => Providers::default(),
            },
        ),
        workers: Workers::new(
            kubelet_config.crash_loop_back_off.max_container_restart_period.map_or(Duration::from_secs(300), |span| span.0),
        ),
        node: NodeState::default(),
        runtime_name: parking_lot::RwLock::new(runtime_name),
        csi: Default::default(),
        allocation: crate::allocation::Allocation::new(&config).map_err(anyhow::Error::msg)?,
        pods: Default::default(),
        status: StatusManager::default(),
        probes: Default::default(),
        tasks: tasks.clone(),
        config,
        cri,
        api: api.clone(),
        cgroups,
        values,
    });
    *kubelet.node.ips.write() = node::facts::addresses(&kubelet.config);
    *kubelet.node.allocatable.write() = fixed.resources.1.clone();
    kubelet.node.pleg_healthy.store(true, Ordering::Relaxed);
    let weak = Arc::downgrade(&kubelet);
    kubelet.objects.on_change(Arc::new(move |uid| {
        if let Some(kubelet) = weak.upgrade() {
            kubelet.workers.poke(uid);
        }
    }));
    kubelet.node_event(Kind::Normal, "Starting", "Starting kubelet.");
    let spawn = |name: &str, future: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| {
        let stop = tasks.token();
        tasks.spawn(name, async move {
            stop.run_until_cancelled(future).await;
        });
    };
    let turned = kubelet.node.status_soon.clone();
    spawn("runtime-state", Box::pin(node::runtime_state::run(kubelet.clone(), turned.clone())));
    crate::csi::recover(&kubelet);
    crate::allocation::start(&kubelet);
    start_sources(&kubelet);
    spawn("plugins", Box::pin(crate::plugins::run(kubelet.clone())));
    spawn("pleg", Box::pin(pleg::run(kubelet.clone())));
    spawn("housekeeping", Box::pin(housekeeping::run(kubelet.clone())));
    spawn("log-rotation", Box::pin(logs::rotate::run(kubelet.clone())));
    spawn("image-gc", Box::pin(crate::image::gc::run(kubelet.clone())));
    let lines = crate::shutdown::plan::lines(&kubelet.config.kubelet).map_err(anyhow::Error::msg)?;
    spawn("shutdown", Box::pin(crate::shutdown::run(kubelet.clone(), lines)));
    spawn("memory", Box::pin(lean()));
    spawn("eviction", Box::pin(crate::eviction::run(kubelet.clone())));
    if api.is_some() {
        kubelet.status.start(&kubelet);
        spawn("node-status", Box::pin(register::run(kubelet.clone(), fixed, turned)));
        spawn("node-lease", Box::pin(node::lease::run(kubelet.clone())));
    }
    crate::server::start(&kubelet).await?;
    Ok(kubelet)
}

/// Gives back the code that only the start needed, and what a burst of pods brought in.
async fn lean() {
    let mut wait = Duration::from_secs(20);
    loop {
        tokio::time::sleep(wait).await;
        component::memory::give_back_code();
        wait = Duration::from_secs(600);
    }
}

fn start_sources(kubelet: &Shared) {
    let config = &kubelet.config.kubelet;
    let mut waiting = 0;
    let count = Arc::new(AtomicUsize::new(0));
    let told = |count: &Arc<AtomicUsize>, kubelet: &Shared| {
        let (count, kubelet) = (count.clone(), kubelet.clone());
        move || {
            if count.fetch_sub(1, Ordering::AcqRel) == 1 {
                kubelet.node.sources_ready.store(true, Ordering::Release);
                tracing::info!("All pod sources are known");
            }
        }
    };
    let path = Some(config.static_pod_path.clone()).filter(|path| !path.is_empty());
    let url = Some(config.static_pod_url.clone()).filter(|url| !url.is_empty());
    waiting += usize::from(path.is_some()) + usize::from(url.is_some()) + usize::from(kubelet.api.is_some());
    count.store(waiting, Ordering::Release);
    if waiting == 0 {
        kubelet.node.sources_ready.store(true, Ordering::Release);
    }
    let stop = kubelet.tasks.token();
    if let Some(path) = path {
        let (source, stop) = (source::file::run(kubelet.clone(), PathBuf::from(path), told(&count, kubelet)), stop.clone());
        kubelet.tasks.spawn("file-source", async move {
            stop.run_until_cancelled(source).await;
        });
    }
    if let Some(url) = url {
        let source = source::url::run(kubelet.clone(), url, told(&count, kubelet));
        kubelet.tasks.spawn("url-source", async move {
            stop.run_until_cancelled(source).await;
        });
    }
    if let Some(api) = kubelet.api.clone() {
        source::api::start(kubelet, api, told(&count, kubelet));
    }
}

/// Waits for the runtime; its name.
async fn wait_for_runtime(cri: &Cri, endpoint: &str) -> String {
    let mut tries = 0_u32;
    loop {
        match cri.version().await {
            Ok(version) => {
                tracing::info!(runtime = version.runtime_name, version = version.runtime_version, "Container runtime is there");
                return version.runtime_name;
            }
            Err(status) => {
                // Said once in a while, not in a flood.
                if tries.is_multiple_of(20) {
                    tracing::warn!(endpoint, err = status.message(), "Waiting for the container runtime");
                }
                tries += 1;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

/// The runtime's word on the cgroup driver counts, where it has one (containerd 2).
async fn driver(cri: &Cri, configured: &str) -> Driver {
    match cri.runtime_config().await.ok().and_then(|config| config.linux) {
        Some(linux) if linux.cgroup_driver == v1::CgroupDriver::Systemd as i32 => Driver::Systemd,
        Some(_) => Driver::Cgroupfs,
        None if configured == "systemd" => Driver::Systemd,
        None => Driver::Cgroupfs,
    }
}

fn swap_is_on() -> bool {
    // The first line is a heading.
    std::fs::read_to_string("/proc/swaps").is_ok_and(|text| text.lines().count() > 1)
}

/// Allows as many open files as configured, or as the machine allows.
fn open_files(wanted: i64) {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (Ok(wanted), Ok((soft, hard))) = (u64::try_from(wanted), getrlimit(Resource::RLIMIT_NOFILE)) else { return };
    if soft >= wanted {
        return;
    }
    // Raising the hard limit takes a right that a box may lack.
    if setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted.max(hard)).is_err() {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, wanted.min(hard), hard);
    }
}

fn own_oom_score(score: i32) {
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", score.to_string()) {
        tracing::warn!(err = %error, "Failed to apply oom-score-adj to the kubelet itself");
    }
}

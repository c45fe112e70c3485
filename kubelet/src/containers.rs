//! Starting and stopping one container. Upstream: pkg/kubelet/kuberuntime/kuberuntime_container.go

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use client::events::Kind;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod, VolumeMount};
use tokio::time::Instant;

use crate::cri::v1;
use crate::env::{self, expansion, field::Facts};
use crate::kubelet::Kubelet;
use crate::lifecycle;
use crate::pod;
use crate::runtime::container_config::{self, Surroundings};
use crate::runtime::observed::{ContainerRecord, PodRuntime, State};
use crate::runtime::{sandbox_config, security};
use crate::volume::{self, Ready};

/// A container gets at least this long between SIGTERM and SIGKILL. Upstream: minimumGracePeriodInSeconds.
const MIN_GRACE: Duration = Duration::from_secs(2);

/// Why a container does not run: reason and message of its `waiting` state, and when to try again.
#[derive(Clone, Debug, PartialEq)]
pub struct StartError {
    /// `CrashLoopBackOff`, `CreateContainerConfigError`, …
    pub reason: String,
    /// For a person.
    pub message: String,
    /// When to try again.
    pub retry: Duration,
}

impl StartError {
    fn new(reason: &str, message: impl Into<String>) -> Self {
        Self { reason: reason.to_owned(), message: message.into(), retry: RETRY }
    }
}

/// Between tries of what fails for other reasons than crashing.
const RETRY: Duration = Duration::from_secs(10);

/// What all containers of a pod start with.
pub struct Scene<'a> {
    /// The kubelet.
    pub kubelet: &'a Kubelet,
    /// The pod.
    pub pod: &'a Pod,
    /// What the runtime had before.
    pub runtime: &'a PodRuntime,
    /// Sandbox to start in.
    pub sandbox_id: &'a str,
    /// As it was asked for.
    pub sandbox_config: &'a v1::PodSandboxConfig,
    /// The volumes.
    pub volumes: &'a HashMap<String, Ready>,
    /// Addresses and the like.
    pub facts: &'a Facts,
    /// Whether the runtime makes mounts read-only with everything below them.
    pub recursive_read_only: bool,
    /// Restarts told before the runtime lost its record.
    pub told_restarts: &'a HashMap<String, i32>,
}

/// The key of a container's crash back-off.
pub fn backoff_key(pod: &Pod, container: &Container) -> String {
    format!("{}_{}_{:x}", pod::uid(pod), container.name, pod::container::hash(container))
}

/// How long a crashed container must wait still: remaining, and the delay in force.
pub fn crash_wait(kubelet: &Kubelet, pod: &Pod, container: &Container, runtime: &PodRuntime) -> Option<(Duration, Duration)> {
    let record = runtime.latest(&container.name).filter(|record| record.state == State::Exited)?;
    let key = backoff_key(pod, container);
    // A crash loop goes on where it was when the kubelet restarts.
    if record.exit_code != 0 {
        kubelet.workers.crash_backoff.recall(&key, record.about.restart_count, at(record.started_at));
    }
    kubelet.workers.crash_backoff.remaining(&key, at(record.finished_at))
}

/// The runtime's time on our clock.
fn at(nanos: i64) -> Instant {
    let now = Timestamp::now().as_nanosecond();
    let ago = u64::try_from(now - i128::from(nanos)).unwrap_or(0);
    Instant::now().checked_sub(Duration::from_nanos(ago)).unwrap_or_else(Instant::now)
}

/// Starts a container, image and all.
///
/// # Errors
/// It does not run; see [`StartError`].
pub async fn start(scene: &Scene<'_>, container: &Container) -> Result<(), StartError> {
    let Scene { kubelet, pod, runtime, .. } = *scene;
    if let Some(record) = runtime.latest(&container.name).filter(|record| record.state == State::Exited) {
        if let Some((wait, delay)) = crash_wait(kubelet, pod, container, runtime) {
            let who = format!("failed container={} pod={}", container.name, pod::describe(pod));
            let text = format!("Back-off restarting failed container {} in pod {}", container.name, pod::describe(pod));
            kubelet.container_event(pod, container, Kind::Warning, "BackOff", text);
            let message = format!("back-off {} restarting {who}", component::duration::format(delay));
            return Err(StartError { reason: "CrashLoopBackOff".into(), message, retry: wait });
        }
        kubelet.workers.crash_backoff.next(&backoff_key(pod, container), at(record.finished_at));
    }
    let policy = container.image_pull_policy.as_deref().unwrap_or("IfNotPresent");
    let image = container.image.as_deref().unwrap_or("");
    let image = crate::image::ensure(kubelet, pod, Some(container), image, policy).await;
    let image = image.map_err(|error| {
        kubelet.container_event(pod, container, Kind::Warning, "Failed", format!("Error: {}", error.reason));
        StartError { reason: error.reason.into(), message: error.message, retry: error.retry }
    })?;
    let failed = |reason: &str, why: String| {
        kubelet.container_event(pod, container, Kind::Warning, "Failed", format!("Error: {why}"));
        StartError::new(reason, why)
    };
    let config_error = |why: String| failed("CreateContainerConfigError", why);
    let references = references(scene, container).await.map_err(config_error)?;
    let mut env = env::make(pod, container, &references).map_err(config_error)?;
    let extras = kubelet.allocation.of(pod::uid(pod), &container.name).await;
    let extras = extras.map_err(|why| failed("PreStartHookError", why))?;
    for (key, value) in extras.envs {
        // The container's own words win.
        env.entry(key).or_insert(value);
    }
    security::verify_non_root(pod, container, &image.user).map_err(config_error)?;
    let restart_count = match (runtime.latest(&container.name), scene.told_restarts.get(&container.name)) {
        (Some(record), _) => record.about.restart_count + 1,
        (None, Some(told)) => u32::try_from(*told).unwrap_or(0) + 1,
        (None, None) => 0,
    };
    let mut mounts = mounts(scene, container, &env).map_err(config_error)?;
    mounts.extend(extras.mounts);
    let target_id = pod::spec(pod)
        .ephemeral_containers
        .iter()
        .flatten()
        .find(|ephemeral| ephemeral.name == container.name)
        .and_then(|ephemeral| ephemeral.target_container_name.as_deref())
        .and_then(|name| runtime.latest(name))
        .filter(|record| record.state == State::Running)
        .map(|record| record.id.clone());
    let around = Surroundings {
        env,
        mounts,
        devices: extras.devices,
        cdi_devices: extras.cdi,
        annotations: extras.annotations,
        cpuset: extras.cpuset,
        image_ref: image.reference,
        user: image.user,
        target_id,
        ..Default::default()
    };
    let config = container_config::config(pod, container, restart_count, &around, &kubelet.security, &kubelet.values);
    let mut config = config;
    if let Some(options) = config
        .linux
        .as_mut()
        .and_then(|linux| linux.security_context.as_mut())
        .and_then(|context| context.namespace_options.as_mut())
    {
        options.userns_options = security::user_namespace(scene.sandbox_config);
    }
    let log_dir = PathBuf::from(kubelet.log_directory(pod)).join(&container.name);
    std::fs::create_dir_all(&log_dir)
        .map_err(|error| failed("CreateContainerError", format!("create container log directory: {error}")))?;
    let id = kubelet
        .cri
        .create_container(scene.sandbox_id, config, scene.sandbox_config.clone())
        .await
        .map_err(|status| failed("CreateContainerError", status.message().to_owned()))?;
    kubelet.container_event(pod, container, Kind::Normal, "Created", "Container created");
    crate::logs::link(kubelet, pod, &container.name, &id, restart_count);
    let kind = match () {
        () if pod::init_containers(pod).iter().any(|init| init.name == container.name) => "init_container",
        () if pod::spec(pod).containers.iter().any(|main| main.name == container.name) => "container",
        () => "ephemeral_container",
    };
    let metrics = crate::metrics::metrics();
    metrics.started_containers.with_label_values(&[kind]).inc();
    kubelet.cri.start_container(&id).await.map_err(|status| {
        metrics.started_containers_errors.with_label_values(&["RunContainerError", kind]).inc();
        failed("RunContainerError", status.message().to_owned())
    })?;
    kubelet.container_event(pod, container, Kind::Normal, "Started", "Container started");
    if let Some(hook) = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.as_ref()) {
        let ip = scene.facts.pod_ips.first().map(String::as_str).unwrap_or("");
        let ports = container.ports.as_deref().unwrap_or_default();
        if let Err(why) = lifecycle::run(kubelet, &id, hook, ports, ip).await {
            kubelet.container_event(pod, container, Kind::Warning, "FailedPostStartHook", "PostStartHook failed");
            let grace = Duration::from_secs(u64::try_from(pod::grace_period_seconds(pod)).unwrap_or(30));
            kubelet.container_event(pod, container, Kind::Normal, "Killing", "FailedPostStartHook");
            let _ = kubelet.cri.stop_container(&id, grace.max(MIN_GRACE)).await;
            return Err(StartError::new("PostStartHookError", why));
        }
    }
    Ok(())
}

async fn references(scene: &Scene<'_>, container: &Container) -> Result<env::References, String> {
    let Scene { kubelet, pod, facts, .. } = *scene;
    let namespace = pod::namespace(pod);
    let (config_maps, secrets) = env::needs(container);
    let mut out = env::References { facts: facts.clone(), ..Default::default() };
    for name in config_maps {
        let found = kubelet.objects.config_map(namespace, &name).await.map_err(|error| error.to_string())?;
        out.config_maps.insert(name, found);
    }
    for name in secrets {
        let found = kubelet.objects.secret(namespace, &name).await.map_err(|error| error.to_string())?;
        out.secrets.insert(name, found);
    }
    out.services = kubelet.objects.services(!pod::is_static(pod)).await;
    Ok(out)
}

fn mounts(
    scene: &Scene<'_>,
    container: &Container,
    env: &std::collections::BTreeMap<String, String>,
) -> Result<Vec<v1::Mount>, String> {
    let Scene { kubelet, pod, volumes, .. } = *scene;
    let pod_dir = kubelet.config.pod_dir(pod::uid(pod));
    let mut out = Vec::new();
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let ready = volumes
            .get(&mount.name)
            .ok_or_else(|| format!("cannot find volume {:?} to mount into container {:?}", mount.name, container.name))?;
        let read_only = mount.read_only.unwrap_or(false) || ready.read_only;
        let mut made = v1::Mount {
            container_path: mount.mount_path.clone(),
            readonly: read_only,
            propagation: match mount.mount_propagation.as_deref() {
                Some("HostToContainer") => v1::MountPropagation::PropagationHostToContainer,
                Some("Bidirectional") => v1::MountPropagation::PropagationBidirectional,
                _ => v1::MountPropagation::PropagationPrivate,
            } as i32,
            recursive_read_only: recursive_read_only(mount, read_only, scene.recursive_read_only)?,
            ..Default::default()
        };
        if let Some(image) = &ready.image {
            made.image = Some(v1::ImageSpec { image: image.clone(), ..Default::default() });
            made.image_sub_path = match (&mount.sub_path, &mount.sub_path_expr) {
                (_, Some(text)) if !text.is_empty() => expansion::expand(text, env),
                (Some(text), _) => text.clone(),
                _ => String::new(),
            };
            out.push(made);
            continue;
        }
        let sub = match (&mount.sub_path, &mount.sub_path_expr) {
            (_, Some(text)) if !text.is_empty() => expansion::expand(text, env),
            (Some(text), _) => text.clone(),
            _ => String::new(),
        };
        let path = if sub.is_empty() {
            // A hostPath that is nowhere yet is made a directory, as the runtimes always did.
            if !ready.path.exists() {
                let _ = std::fs::create_dir_all(&ready.path);
            }
            ready.path.clone()
        } else {
            volume::subpath::prepare(&ready.path, &sub, &pod_dir, &mount.name, &container.name, index).map_err(|error| {
                format!("failed to prepare subPath for volumeMount {:?} of container {:?}: {error}", mount.name, container.name)
            })?
        };
        made.host_path = path.to_string_lossy().into_owned();
        out.push(made);
    }
    let has = |path: &str, mounts: &[v1::Mount]| mounts.iter().any(|mount| mount.container_path.trim_end_matches('/') == path);
    if !has("/etc/hosts", &out) {
        let hosts = crate::hosts::write(pod, &pod_dir, &scene.facts.pod_ips, &kubelet.config.kubelet.cluster_domain);
        let hosts = hosts.map_err(|error| format!("failed to write the hosts file: {error}"))?;
        out.push(v1::Mount {
            container_path: "/etc/hosts".into(),
            host_path: hosts.to_string_lossy().into_owned(),
            ..Default::default()
        });
    }
    let message = container.termination_message_path.as_deref().unwrap_or("");
    if !message.is_empty() {
        let dir = pod_dir.join("containers").join(&container.name);
        let file = dir.join(format!("{:08x}", rand::random::<u32>()));
        let make = || {
            std::fs::create_dir_all(&dir)?;
            std::fs::File::create(&file)?;
            // Whoever the container runs as may write its last words.
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666))
        };
        make().map_err(|error: std::io::Error| format!("failed to make the termination log: {error}"))?;
        out.push(v1::Mount {
            container_path: message.into(),
            host_path: file.to_string_lossy().into_owned(),
            ..Default::default()
        });
    }
    Ok(out)
}

/// Whether everything below the mount is read-only too. Upstream: resolveRecursiveReadOnly
fn recursive_read_only(mount: &VolumeMount, read_only: bool, supported: bool) -> Result<bool, String> {
    let wanted = mount.recursive_read_only.as_deref();
    let refuse = |why: &str| Err(format!("volume {:?} requested recursive read-only mode, but {why}", mount.name));
    match wanted {
        None | Some("Disabled") => Ok(false),
        Some(_) if !read_only => refuse("it is not read-only"),
        Some(_) if !matches!(mount.mount_propagation.as_deref(), None | Some("None")) => {
            refuse("it is not compatible with its mount propagation")
        }
        Some("IfPossible") => Ok(supported),
        Some("Enabled") if !supported => refuse("it is not supported by the runtime"),
        Some("Enabled") => Ok(true),
        Some(other) => Err(format!("unknown recursive read-only mode {other:?}")),
    }
}

/// How to stop a container.
pub struct Stop<'a> {
    /// Event text; empty for none.
    pub message: &'a str,
    /// Between SIGTERM and SIGKILL.
    pub grace: Duration,
    /// The pod, where it is known.
    pub pod: Option<&'a Pod>,
    /// Pod's address, for hooks.
    pub ip: &'a str,
}

/// Stops a container: hook, stop signal, kill.
///
/// # Errors
/// The runtime does not stop it; retried.
pub async fn stop(kubelet: &Kubelet, record: &ContainerRecord, how: &Stop<'_>) -> crate::cri::Result<()> {
    let container = how.pod.and_then(|pod| pod::container::find(pod, record.name()));
    if let (Some(pod), Some(container)) = (how.pod, &container)
        && !how.message.is_empty()
    {
        kubelet.container_event(pod, container, Kind::Normal, "Killing", how.message);
    }
    let mut grace = how.grace;
    let hook: Option<LifecycleHandler> = match &container {
        Some(container) => container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.clone()),
        None => record.about.pre_stop.clone(),
    };
    if let Some(hook) = hook.filter(|_| !grace.is_zero() && record.state == State::Running) {
        let began = Instant::now();
        let outcome = tokio::time::timeout(grace, lifecycle::run(kubelet, &record.id, &hook, &record.about.ports, how.ip)).await;
        if let (Ok(Err(why)), Some(pod), Some(container)) = (outcome, how.pod, &container) {
            tracing::info!(pod = pod::log_name(pod), container = container.name, err = why, "PreStop hook failed");
            // What a hook says may be secret: it goes into the node's log only.
            kubelet.container_event(pod, container, Kind::Warning, "FailedPreStopHook", "PreStopHook failed");
        }
        grace = grace.saturating_sub(began.elapsed());
    }
    kubelet.cri.stop_container(&record.id, grace.max(MIN_GRACE)).await
}

/// The sandbox's configuration where only a pull needs it.
pub fn sandbox_config_for_pull(kubelet: &Kubelet, pod: &Pod) -> v1::PodSandboxConfig {
    let around = sandbox_config::Surroundings { logs_dir: kubelet.config.kubelet.pod_logs_dir.clone(), ..Default::default() };
    sandbox_config::config(pod, 0, &around)
}

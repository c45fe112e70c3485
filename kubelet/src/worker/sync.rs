//! The first stage: makes the runtime match the pod's definition.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use client::events::Kind;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodStatus};
use tokio::time::Instant;

use super::{Next, Request, Stage, Worker};
use crate::cgroup::values;
use crate::containers::{self, Scene, StartError, Stop};
use crate::cri::v1;
use crate::dns;
use crate::env::field::Facts;
use crate::pod::{self, init_containers, spec};
use crate::runtime::actions::{Actions, Slot, Why, pod_actions};
use crate::runtime::observed::{self, PodRuntime, State};
use crate::runtime::{sandbox_config, security, user_namespace};
use crate::status::{self, Observed};
use crate::volume;

impl Worker {
    pub(super) async fn sync(&mut self, request: &Request) -> Next {
        let kubelet = self.kubelet.clone();
        let uid = self.handle.uid.clone();
        let desired = &request.pod;
        if pod::is_static(desired) && kubelet.workers.name_taken(&pod::full_name(desired), &uid) {
            return Next::After(Duration::from_secs(1));
        }
        let observed = if std::mem::take(&mut self.fresh) { Ok(Arc::default()) } else { self.observe().await };
        let runtime = match observed {
            Ok(runtime) => runtime,
            Err(status) => {
                tracing::debug!(pod = pod::log_name(desired), err = %status, "Failed to ask the runtime");
                return self.failed();
            }
        };
        let pod = &self.allocate(desired, &runtime);
        let told = self.publish(pod, &runtime, false, None);
        if matches!(told.phase.as_deref(), Some("Succeeded" | "Failed")) {
            self.enter(Stage::Terminate);
            return Next::Now;
        }
        if deadline(pod, &told).is_some_and(|left| left.is_zero()) {
            const WHY: &str = "Pod was active on the node longer than the specified deadline";
            kubelet.event(pod, Kind::Normal, "DeadlineExceeded", WHY);
            kubelet.workers.evict(&uid, "DeadlineExceeded", WHY, None);
            return Next::Now;
        }
        if !self.admitted {
            if runtime.sandboxes.is_empty() && runtime.containers.is_empty() {
                // One at a time: what one pod is promised the next must see.
                let turn = kubelet.allocation.turn().await;
                let fits = async {
                    super::admission::admit(&kubelet, pod)?;
                    super::fit::admit(&kubelet, pod).await?;
                    kubelet.allocation.admit(&kubelet, pod).await
                };
                let fits = fits.await;
                self.handle.admitted.store(fits.is_ok(), Ordering::Release);
                drop(turn);
                if let Err(refusal) = fits {
                    crate::metrics::metrics().admission_rejections.with_label_values(&[refusal.reason]).inc();
                    kubelet.event(pod, Kind::Warning, refusal.reason, refusal.message.clone());
                    let told = status::rejected(pod, &told, refusal.reason, &refusal.message, Timestamp::now());
                    self.tell(pod, told);
                    self.enter(Stage::Terminate);
                    return Next::Now;
                }
            }
            self.admitted = true;
        }
        if let Err(error) = crate::mirror::ensure(&kubelet, pod).await {
            tracing::debug!(pod = pod::log_name(pod), err = %error, "Failed to make mirror pod");
        }
        crate::probe::sync(&kubelet, pod, &runtime, &told);
        let verdicts = kubelet.probes.verdicts(&uid);
        let mut actions = pod_actions(pod, &runtime, &verdicts);
        if self.actuate(pod, &runtime, &mut actions).await {
            self.publish(pod, &runtime, false, None);
        }
        if actions == Actions::default() {
            self.failures = 0;
            self.errors.clear();
            self.due.clear();
            self.collect_dead(pod, &runtime).await;
            self.refresh(pod, &runtime).await;
            return Next::After(self.until_next(pod, &told));
        }
        if self.generation != pod.metadata.generation {
            self.generation = pod.metadata.generation;
            self.due.clear();
        }
        let wait = self.hold_back(pod, &mut actions);
        if actions == Actions::default() {
            self.refresh(pod, &runtime).await;
            return Next::After(
                wait.unwrap_or(Duration::from_secs(1)).min(self.until_next(pod, &told)).max(Duration::from_millis(20)),
            );
        }
        if !pod::is_host_network(pod)
            && let Some(why) = kubelet.node.network_error.read().clone()
            && (actions.create_sandbox.is_some())
        {
            let message = format!("network is not ready: container runtime network not ready: {why}");
            kubelet.event(pod, Kind::Warning, "NetworkNotReady", message);
            return Next::After(Duration::from_secs(2));
        }
        let retry = match (self.apply(pod, &runtime, actions).await, wait) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        match self.observe().await {
            Ok(runtime) => {
                let told = self.publish(pod, &runtime, false, None);
                crate::probe::sync(&kubelet, pod, &runtime, &told);
                if matches!(told.phase.as_deref(), Some("Succeeded" | "Failed")) {
                    return Next::Now;
                }
                match retry {
                    Some(wait) => Next::After(wait.min(self.until_next(pod, &told)).max(Duration::from_millis(20))),
                    None => {
                        self.failures = 0;
                        Next::After(self.until_next(pod, &told))
                    }
                }
            }
            Err(_) => self.failed(),
        }
    }

    /// Asks the runtime, reads last words, and lets others see.
    pub(super) async fn observe(&self) -> crate::cri::Result<Arc<PodRuntime>> {
        let mut runtime = observed::observe(&self.kubelet.cri, &self.handle.uid).await?;
        for record in runtime.containers.iter_mut().filter(|record| record.state == State::Exited && record.message.is_empty()) {
            record.message = crate::logs::last_words(&self.kubelet, record);
        }
        let runtime = Arc::new(runtime);
        self.handle.view.write().runtime = runtime.clone();
        Ok(runtime)
    }

    /// Computes the status and hands it to the status manager.
    pub(super) fn publish(
        &self,
        pod: &Arc<Pod>,
        runtime: &PodRuntime,
        terminal: bool,
        verdict: Option<(&str, &str)>,
    ) -> Arc<PodStatus> {
        let kubelet = &self.kubelet;
        let previous = self.handle.view.read().status.clone();
        let made = status::generate(&Observed {
            pod,
            runtime,
            verdicts: &kubelet.probes.verdicts(&self.handle.uid),
            errors: &self.errors,
            previous: &previous,
            host_ips: &kubelet.node.ip_texts(),
            runtime_name: &kubelet.runtime_name.read(),
            terminal,
            verdict,
            resize: &self.resize,
            now: Timestamp::now(),
        });
        self.tell(pod, made)
    }

    fn tell(&self, pod: &Arc<Pod>, made: PodStatus) -> Arc<PodStatus> {
        let made = Arc::new(made);
        self.handle.view.write().status = made.clone();
        self.kubelet.status.set(pod, made.clone());
        made
    }

    /// Takes out the starts whose time has not come; how long until the first has.
    fn hold_back(&self, pod: &Pod, actions: &mut Actions) -> Option<Duration> {
        let now = Instant::now();
        let mut first: Option<Duration> = None;
        if actions.create_sandbox.is_some() || actions.kill_pod {
            return None;
        }
        actions.start.retain(|slot| {
            let due =
                container_of(pod, *slot).and_then(|container| self.due.get(&container.name).copied()).filter(|due| *due > now);
            if let Some(due) = due {
                let wait = due - now;
                first = Some(first.map_or(wait, |first| first.min(wait)));
            }
            due.is_none()
        });
        first
    }

    /// When to look again though nothing happens: the resync, or the pod's deadline.
    fn until_next(&self, pod: &Pod, told: &PodStatus) -> Duration {
        // A little apart, so that the pods of a node do not look all at once.
        let resync = self
            .kubelet
            .config
            .kubelet
            .sync_frequency
            .0
            .mul_f64(1.0 + 0.5 * f64::from(rand::random::<u16>()) / f64::from(u16::MAX));
        /// Between tries of a resize that waits for other pods to go, or that failed.
        const RESIZE: Duration = Duration::from_secs(10);
        let waits = self.resize.is_deferred() || self.resize.in_progress.is_some();
        let resync = if waits { resync.min(RESIZE) } else { resync };
        deadline(pod, told).map_or(resync, |left| left.min(resync)).max(Duration::from_millis(50))
    }

    async fn refresh(&self, pod: &Pod, runtime: &PodRuntime) {
        volume::refresh(&self.kubelet, pod, &self.facts(pod, runtime.ips())).await;
    }

    pub(super) fn facts(&self, pod: &Pod, ips: &[String]) -> Facts {
        let host_ips = self.kubelet.node.ip_texts();
        let pod_ips = if pod::is_host_network(pod) { host_ips.clone() } else { ips.to_vec() };
        Facts { host_ips, pod_ips, allocatable: self.kubelet.node.allocatable.read().clone() }
    }

    /// Removes all but the newest dead runs of each container.
    async fn collect_dead(&self, pod: &Pod, runtime: &PodRuntime) {
        let keep = self.kubelet.config.dead_containers_per_container;
        let mut seen: HashMap<&str, usize> = HashMap::new();
        for record in &runtime.containers {
            if record.state == State::Running {
                continue;
            }
            let newest = runtime.latest(record.name()).is_some_and(|latest| latest.id == record.id);
            let count = seen.entry(record.name()).or_default();
            *count += 1;
            if newest || *count <= keep.max(1) {
                continue;
            }
            crate::logs::remove_container(&self.kubelet, Some(pod), record).await;
        }
        // Sandboxes of earlier attempts.
        for sandbox in runtime.sandboxes.iter().skip(1).filter(|sandbox| !sandbox.ready) {
            let used = runtime.containers.iter().any(|record| record.sandbox_id == sandbox.id);
            if !used {
                let _ = self.kubelet.cri.remove_pod_sandbox(&sandbox.id).await;
            }
        }
    }

    /// Carries out what was decided; when to try again what failed.
    async fn apply(&mut self, pod: &Arc<Pod>, runtime: &Arc<PodRuntime>, actions: Actions) -> Option<Duration> {
        let kubelet = self.kubelet.clone();
        if actions.kill_pod && !(runtime.sandboxes.is_empty() && runtime.containers.is_empty()) {
            if actions.create_sandbox.is_some() && runtime.sandbox().is_some() {
                kubelet.event(pod, Kind::Normal, "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.");
            }
            if let Err(error) = self
                .kill_pod(Some(pod), runtime, Duration::from_secs(u64::try_from(pod::grace_period_seconds(pod)).unwrap_or(30)))
                .await
            {
                kubelet.event(pod, Kind::Warning, "FailedKillPod", format!("error killing pod: {error}"));
                return Some(Duration::from_secs(2));
            }
        }
        if actions.kill_pod && actions.create_sandbox.is_none() {
            return None;
        }
        self.kill_containers(pod, runtime, &actions).await;
        if actions.start.is_empty() && actions.create_sandbox.is_none() {
            return None;
        }
        if !self.cgroup_done {
            if let Err(error) = kubelet.cgroups.ensure_pod(pod, &values::pod(pod, &kubelet.values)) {
                kubelet.event(
                    pod,
                    Kind::Warning,
                    "FailedCreatePodContainer",
                    format!("unable to ensure pod container exists: {error}"),
                );
                return Some(Duration::from_secs(2));
            }
            self.cgroup_done = true;
            crate::node::update_burstable(&kubelet);
        }
        if let Err(error) = make_dirs(&kubelet, pod) {
            kubelet.event(pod, Kind::Warning, "Failed", format!("error making pod data directories: {error}"));
            return Some(Duration::from_secs(2));
        }
        let attempt = actions.create_sandbox.or_else(|| runtime.sandbox().map(|sandbox| sandbox.attempt)).unwrap_or(0);
        let config = self.sandbox_config(pod, attempt);
        let early = self.facts(pod, runtime.ips());
        // Volumes need no sandbox, and a sandbox needs no volumes.
        let sandbox = async {
            match actions.create_sandbox {
                None => Ok(runtime.ready_sandbox().cloned()),
                Some(_) => self.create_sandbox(pod, config.clone()).await.map(Some),
            }
        };
        let (sandbox, volumes) = tokio::join!(sandbox, volume::set_up_all(&kubelet, pod, &early));
        let sandbox = match sandbox {
            Ok(Some(sandbox)) => sandbox,
            Ok(None) => return Some(Duration::from_millis(200)),
            Err(wait) => return Some(wait),
        };
        let facts = self.facts(pod, &sandbox.ips);
        let volumes = match volumes {
            Ok(volumes) => volumes,
            Err(error) => {
                kubelet.event(pod, Kind::Warning, "FailedMount", error.to_string());
                let Next::After(wait) = self.failed() else { return Some(Duration::from_secs(1)) };
                return Some(wait);
            }
        };
        // What depends on the address was made without it.
        if early.pod_ips != facts.pod_ips {
            let late =
                pod::spec(pod).volumes.iter().flatten().any(|volume| volume.downward_api.is_some() || volume.projected.is_some());
            if late {
                volume::refresh(&kubelet, pod, &facts).await;
            }
        }
        let told = self.handle.view.read().status.clone();
        let told_restarts: HashMap<String, i32> = told
            .container_statuses
            .iter()
            .chain(&told.init_container_statuses)
            .flatten()
            .filter(|status| status.container_id.is_some())
            .map(|status| (status.name.clone(), status.restart_count))
            .collect();
        let scene = Scene {
            kubelet: &kubelet,
            pod,
            runtime,
            sandbox_id: &sandbox.id,
            sandbox_config: &config,
            volumes: &volumes,
            facts: &facts,
            recursive_read_only: self.recursive_read_only(pod).await,
            told_restarts: &told_restarts,
        };
        let mut retry: Option<Duration> = None;
        for slot in actions.start {
            let Some(container) = container_of(pod, slot) else { continue };
            match containers::start(&scene, &container).await {
                Ok(()) => {
                    self.resize.started(&container);
                    self.errors.remove(&container.name);
                    self.due.remove(&container.name);
                }
                Err(StartError { reason, message, retry: wait }) => {
                    tracing::debug!(pod = pod::log_name(pod), container = container.name, reason, "{message}");
                    self.errors.insert(container.name.clone(), (reason, message));
                    self.due.insert(container.name.clone(), Instant::now() + wait);
                    retry = Some(retry.map_or(wait, |retry| retry.min(wait)));
                }
            }
        }
        retry
    }

    fn sandbox_config(&self, pod: &Pod, attempt: u32) -> v1::PodSandboxConfig {
        let kubelet = &self.kubelet;
        let (dns, warnings) = dns::config(pod, &crate::node::dns(kubelet));
        for (reason, message) in warnings {
            kubelet.event(pod, Kind::Warning, reason, message);
        }
        let around = sandbox_config::Surroundings {
            dns,
            cluster_domain: kubelet.config.kubelet.cluster_domain.clone(),
            cgroup_parent: kubelet.cgroups.parent_for_runtime(pod),
            logs_dir: kubelet.config.kubelet.pod_logs_dir.clone(),
        };
        let mut config = sandbox_config::config(pod, attempt, &around);
        if spec(pod).host_users == Some(false) {
            let max_pods = u32::try_from(kubelet.config.kubelet.max_pods).unwrap_or(0);
            match user_namespace::of_pod(&kubelet.config.root_dir.join("pods"), pod::uid(pod), max_pods) {
                Ok(namespace) => security::set_user_namespace(&mut config, namespace),
                Err(why) => kubelet.event(pod, Kind::Warning, "FailedCreatePodSandBox", why),
            }
        }
        config
    }

    async fn recursive_read_only(&self, pod: &Pod) -> bool {
        let wanted = spec(pod)
            .containers
            .iter()
            .chain(init_containers(pod))
            .any(|container| container.volume_mounts.iter().flatten().any(|mount| mount.recursive_read_only.is_some()));
        if !wanted {
            return false;
        }
        match crate::node::runtime_handler(&self.kubelet, pod).await {
            Ok(handler) => self.kubelet.node.capabilities.read().recursive_read_only(&handler),
            Err(_) => false,
        }
    }

    async fn create_sandbox(&self, pod: &Pod, config: v1::PodSandboxConfig) -> Result<observed::Sandbox, Duration> {
        let kubelet = &self.kubelet;
        let failed = |why: String| {
            kubelet.event(pod, Kind::Warning, "FailedCreatePodSandBox", format!("Failed to create pod sandbox: {why}"));
            Duration::from_secs(2)
        };
        let words = |status: tonic::Status| format!("rpc error: code = {:?} desc = {}", status.code(), status.message());
        let handler = crate::node::runtime_handler(kubelet, pod).await.map_err(&failed)?;
        if spec(pod).host_users == Some(false) {
            kubelet.node.capabilities.read().user_namespaces(&handler).map_err(&failed)?;
        }
        if let Err(error) = std::fs::create_dir_all(&config.log_directory) {
            return Err(failed(format!("create log directory: {error}")));
        }
        let metrics = crate::metrics::metrics();
        let began = Instant::now();
        metrics.started_pods.inc();
        let id = kubelet.cri.run_pod_sandbox(config, &handler).await.map_err(|status| {
            metrics.run_sandbox_errors.with_label_values(&[&handler]).inc();
            metrics.started_pods_errors.inc();
            failed(words(status))
        })?;
        metrics.run_sandbox_seconds.with_label_values(&[&handler]).observe(began.elapsed().as_secs_f64());
        let response = kubelet.cri.pod_sandbox_status(&id).await.map_err(|status| failed(words(status)))?;
        let sandbox = response.status.map(observed::sandbox).ok_or_else(|| failed("the runtime has no status of it".into()))?;
        // Let probes and the server see the address at once.
        let mut view = self.handle.view.write();
        let mut runtime = PodRuntime::clone(&view.runtime);
        runtime.sandboxes.insert(0, sandbox.clone());
        view.runtime = Arc::new(runtime);
        Ok(sandbox)
    }

    async fn kill_containers(&mut self, pod: &Arc<Pod>, runtime: &PodRuntime, actions: &Actions) {
        let kubelet = self.kubelet.clone();
        let ip = runtime.ips().first().cloned().unwrap_or_default();
        let kills = actions.kill.iter().filter_map(|kill| {
            let record = runtime.containers.iter().find(|record| record.id == kill.id)?;
            let probe_grace = pod::container::find(pod, &kill.name).and_then(|container| match kill.why {
                Why::Liveness => container.liveness_probe.and_then(|probe| probe.termination_grace_period_seconds),
                Why::Startup => container.startup_probe.and_then(|probe| probe.termination_grace_period_seconds),
                Why::Changed | Why::Unknown => None,
            });
            let seconds = probe_grace.unwrap_or_else(|| pod::grace_period_seconds(pod));
            Some((record, kill.message.clone(), Duration::from_secs(u64::try_from(seconds).unwrap_or(0))))
        });
        let stops = kills.map(|(record, message, grace)| {
            let (kubelet, ip) = (&kubelet, &ip);
            async move {
                let how = Stop { message: &message, grace, pod: Some(pod), ip };
                if let Err(status) = containers::stop(kubelet, record, &how).await {
                    tracing::warn!(pod = pod::log_name(pod), container = record.name(), err = %status, "Failed to stop container");
                }
            }
        });
        futures::future::join_all(stops).await;
    }
}

/// The container in a slot.
pub fn container_of(pod: &Pod, slot: Slot) -> Option<Container> {
    match slot {
        Slot::Init(index) => init_containers(pod).get(index).cloned(),
        Slot::Main(index) => spec(pod).containers.get(index).cloned(),
        Slot::Ephemeral(index) => pod::container::ephemeral(pod).get(index).cloned(),
    }
}

/// Time left until the pod's deadline; `None` without one.
fn deadline(pod: &Pod, told: &PodStatus) -> Option<Duration> {
    let seconds = spec(pod).active_deadline_seconds?;
    let started = told.start_time.as_ref()?.0.as_second();
    let left = started + seconds - Timestamp::now().as_second();
    Some(Duration::from_secs(u64::try_from(left).unwrap_or(0)))
}

fn make_dirs(kubelet: &crate::kubelet::Kubelet, pod: &Pod) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let dir = kubelet.config.pod_dir(pod::uid(pod));
    for dir in [dir.clone(), dir.join("volumes"), dir.join("plugins"), dir.join("containers")] {
        if !dir.is_dir() {
            std::fs::create_dir_all(&dir)?;
            std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o750))?;
        }
    }
    Ok(())
}

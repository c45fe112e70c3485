//! Probes of running containers: one task each, started when its container runs, ended with it.
//!
//! Upstream: pkg/kubelet/prober

pub mod grpc;
pub mod http;
pub mod tally;
pub mod threshold;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use client::events::Kind as EventKind;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, ContainerPort, Pod, PodStatus, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use parking_lot::{Mutex, RwLock};
use tokio_util::sync::CancellationToken;

use crate::kubelet::{Kubelet, Shared};
use crate::pod::{self, init_containers, is_sidecar};
use crate::runtime::actions::{Health, Verdicts};
use crate::runtime::observed::{PodRuntime, State};
use threshold::{Counter, Outcome};

/// What is probed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Has it started?
    Startup,
    /// Does it still live?
    Liveness,
    /// May it get traffic?
    Readiness,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

type Key = (String, Kind);

/// All probes of the node: results by container id.
#[derive(Default)]
pub struct Probes {
    verdicts: RwLock<HashMap<String, Verdicts>>,
    tasks: Mutex<HashMap<String, HashMap<Key, CancellationToken>>>,
    tallies: Mutex<HashMap<String, tally::Tallies>>,
}

impl Probes {
    /// The results for a pod.
    pub fn verdicts(&self, uid: &str) -> Verdicts {
        self.verdicts.read().get(uid).cloned().unwrap_or_default()
    }

    /// Ends a pod's probes.
    pub fn stop(&self, uid: &str) {
        for token in self.tasks.lock().remove(uid).into_iter().flat_map(HashMap::into_values) {
            token.cancel();
        }
    }

    /// Ends a pod's liveness and startup probes: it is on its way out. Readiness goes on.
    pub fn stop_killers(&self, uid: &str) {
        if let Some(tasks) = self.tasks.lock().get_mut(uid) {
            tasks.retain(|(_, kind), token| {
                let keep = *kind == Kind::Readiness;
                if !keep {
                    token.cancel();
                }
                keep
            });
        }
    }

    /// Ends a pod's probes and forgets their results.
    pub fn forget(&self, uid: &str) {
        self.stop(uid);
        self.verdicts.write().remove(uid);
        self.tallies.lock().remove(uid);
    }

    /// How often the pod's containers were probed, and how it went.
    pub fn tallies(&self, uid: &str) -> tally::Tallies {
        self.tallies.lock().get(uid).cloned().unwrap_or_default()
    }

    fn note(&self, uid: &str, id: &str, kind: Kind, health: Health) -> bool {
        let mut all = self.verdicts.write();
        let verdicts = all.entry(uid.to_owned()).or_default();
        let map = match kind {
            Kind::Startup => &mut verdicts.startup,
            Kind::Liveness => &mut verdicts.liveness,
            Kind::Readiness => &mut verdicts.readiness,
        };
        map.insert(id.to_owned(), health) != Some(health)
    }
}

fn probes_of(container: &Container) -> impl Iterator<Item = (Kind, &Probe)> {
    [
        (Kind::Startup, &container.startup_probe),
        (Kind::Liveness, &container.liveness_probe),
        (Kind::Readiness, &container.readiness_probe),
    ]
    .into_iter()
    .filter_map(|(kind, probe)| probe.as_ref().map(|probe| (kind, probe)))
}

/// Starts the probes that running containers lack, ends those of containers that are gone. What a former kubelet told about a
/// container that still runs is believed until a probe says otherwise.
pub fn sync(kubelet: &Shared, pod: &Arc<Pod>, runtime: &PodRuntime, told: &PodStatus) {
    let uid = pod::uid(pod);
    let containers = init_containers(pod).iter().filter(|container| is_sidecar(container)).chain(&pod::spec(pod).containers);
    let mut wanted: HashMap<Key, (Container, Probe, i64)> = HashMap::new();
    for container in containers {
        let Some(record) = runtime.latest(&container.name).filter(|record| record.state == State::Running) else { continue };
        for (kind, probe) in probes_of(container) {
            wanted.insert((record.id.clone(), kind), (container.clone(), probe.clone(), record.started_at));
        }
    }
    let mut all = kubelet.probes.tasks.lock();
    if wanted.is_empty() && !all.contains_key(uid) {
        return;
    }
    let tasks = all.entry(uid.to_owned()).or_default();
    tasks.retain(|key, token| {
        let keep = wanted.contains_key(key);
        if !keep {
            token.cancel();
        }
        keep
    });
    // Results of containers that are gone.
    if let Some(verdicts) = kubelet.probes.verdicts.write().get_mut(uid) {
        for map in [&mut verdicts.startup, &mut verdicts.liveness, &mut verdicts.readiness] {
            map.retain(|id, _| runtime.containers.iter().any(|record| record.id == *id));
        }
    }
    for ((id, kind), (container, probe, started_at)) in wanted {
        if tasks.contains_key(&(id.clone(), kind)) {
            continue;
        }
        believe(kubelet, uid, &id, kind, &container.name, told);
        let token = kubelet.tasks.token().child_token();
        tasks.insert((id.clone(), kind), token.clone());
        let prober = Prober { kubelet: kubelet.clone(), pod: pod.clone(), container, probe, kind, id, started_at };
        kubelet.tasks.spawn("probe", async move {
            token.run_until_cancelled(prober.run()).await;
        });
    }
    if tasks.is_empty() {
        all.remove(uid);
    }
}

fn believe(kubelet: &Kubelet, uid: &str, id: &str, kind: Kind, name: &str, told: &PodStatus) {
    let statuses = told.container_statuses.iter().chain(&told.init_container_statuses).flatten();
    for status in
        statuses.filter(|status| status.name == name && status.container_id.as_deref().is_some_and(|full| full.ends_with(id)))
    {
        if kind == Kind::Readiness && status.ready {
            kubelet.probes.note(uid, id, kind, Health::Success);
        }
        if kind == Kind::Startup && status.started == Some(true) {
            kubelet.probes.note(uid, id, kind, Health::Success);
        }
    }
}

struct Prober {
    kubelet: Shared,
    pod: Arc<Pod>,
    container: Container,
    probe: Probe,
    kind: Kind,
    id: String,
    started_at: i64,
}

impl Prober {
    async fn run(self) {
        let uid = pod::uid(&self.pod).to_owned();
        let seconds = |value: Option<i32>, default: u64| {
            Duration::from_secs(value.and_then(|value| u64::try_from(value).ok()).unwrap_or(default))
        };
        let period = seconds(self.probe.period_seconds, 10).max(Duration::from_secs(1));
        let initial = seconds(self.probe.initial_delay_seconds, 0);
        let running =
            Duration::from_nanos(u64::try_from(Timestamp::now().as_nanosecond() - i128::from(self.started_at)).unwrap_or(0));
        tokio::time::sleep(initial.saturating_sub(running)).await;
        let mut counter = Counter::new(self.probe.success_threshold.unwrap_or(1), self.probe.failure_threshold.unwrap_or(3));
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let started = self.container.startup_probe.is_none()
                || self.kubelet.probes.verdicts(&uid).startup.get(&self.id) == Some(&Health::Success);
            match (self.kind, started) {
                (Kind::Startup, true) => return,
                (Kind::Startup, false) | (_, true) => {}
                // Others wait for the start, and look again soon after.
                (_, false) => {
                    ticks.reset_after(Duration::from_millis(250).min(period));
                    continue;
                }
            }
            let outcome = self.probe_once().await;
            let Some(health) = counter.count(&outcome) else { continue };
            if self.kubelet.probes.note(&uid, &self.id, self.kind, health) {
                self.kubelet.workers.poke(&uid);
            }
            // It will be killed; nothing more to learn.
            if health == Health::Failure && self.kind != Kind::Readiness {
                return;
            }
        }
    }

    async fn probe_once(&self) -> Outcome {
        // One failure is tried again at once: a probe is cheap, a restart is not. Upstream: maxProbeRetries.
        const TRIES: u32 = 3;
        let mut outcome = Outcome::Error(String::new());
        let began = tokio::time::Instant::now();
        for _ in 0..TRIES {
            outcome = check(&self.kubelet, &self.pod, &self.container, &self.probe, &self.id).await;
            if !matches!(outcome, Outcome::Error(_)) {
                break;
            }
        }
        let word = self.kind.word();
        let uid = pod::uid(&self.pod).to_owned();
        let key = (self.container.name.clone(), word);
        self.kubelet.probes.tallies.lock().entry(uid).or_default().entry(key).or_default().count(&outcome, began.elapsed());
        match &outcome {
            Outcome::Success => {}
            Outcome::Failure(why) => {
                self.kubelet.container_event(
                    &self.pod,
                    &self.container,
                    EventKind::Warning,
                    "Unhealthy",
                    format!("{word} probe failed: {why}"),
                );
            }
            Outcome::Error(why) => {
                self.kubelet.container_event(
                    &self.pod,
                    &self.container,
                    EventKind::Warning,
                    "Unhealthy",
                    format!("{word} probe errored and resulted in unknown state: {why}"),
                );
            }
        }
        outcome
    }
}

/// The number of a port by number or name.
pub fn resolve_port(port: &IntOrString, ports: &[ContainerPort]) -> Option<u16> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => match name.parse() {
            Ok(number) => number,
            Err(_) => ports.iter().find(|port| port.name.as_deref() == Some(name))?.container_port,
        },
    };
    u16::try_from(number).ok().filter(|port| *port > 0)
}

/// Probes once.
pub async fn check(kubelet: &Kubelet, pod: &Pod, container: &Container, probe: &Probe, id: &str) -> Outcome {
    let timeout = Duration::from_secs(u64::try_from(probe.timeout_seconds.unwrap_or(1).max(1)).unwrap_or(1));
    let ip = || kubelet.workers.pod_ip(pod::uid(pod)).unwrap_or_default();
    let ports = container.ports.as_deref().unwrap_or_default();
    if let Some(exec) = &probe.exec {
        let env = Default::default();
        let command = exec.command.iter().flatten().map(|part| crate::env::expansion::expand(part, &env)).collect::<Vec<_>>();
        let shown = command.join(" ");
        return match kubelet.cri.exec_sync(id, command, timeout).await {
            Ok(output) => {
                let text = [output.stdout, output.stderr].concat();
                // Upstream: maxReadLength.
                let text = String::from_utf8_lossy(&text[..text.len().min(10 * 1024)]).into_owned();
                if output.exit_code == 0 { Outcome::Success } else { Outcome::Failure(text) }
            }
            Err(status) if status.code() == tonic::Code::DeadlineExceeded => {
                Outcome::Failure(format!("command timed out: {shown:?} timed out after {}", component::duration::format(timeout)))
            }
            Err(status) => Outcome::Error(format!("rpc error: code = {:?} desc = {}", status.code(), status.message())),
        };
    }
    if let Some(get) = &probe.http_get {
        let Some(port) = resolve_port(&get.port, ports) else {
            return Outcome::Error(format!("invalid port number: {:?}", get.port));
        };
        let target = http::Target {
            https: get.scheme.as_deref() == Some("HTTPS"),
            host: get.host.clone().filter(|host| !host.is_empty()).unwrap_or_else(ip),
            port,
            path: get.path.clone().unwrap_or_else(|| "/".into()),
            headers: get.http_headers.iter().flatten().map(|header| (header.name.clone(), header.value.clone())).collect(),
            user_agent: "kube-probe/1.36",
        };
        return match http::get(&target, timeout).await {
            Ok((status, _)) if (200..400).contains(&status) => Outcome::Success,
            Ok((status, _)) => Outcome::Failure(format!("HTTP probe failed with statuscode: {status}")),
            Err(why) => Outcome::Failure(why),
        };
    }
    if let Some(tcp) = &probe.tcp_socket {
        let Some(port) = resolve_port(&tcp.port, ports) else {
            return Outcome::Error(format!("invalid port number: {:?}", tcp.port));
        };
        let host = tcp.host.clone().filter(|host| !host.is_empty()).unwrap_or_else(ip);
        let address = http::authority(&host, port);
        return match tokio::time::timeout(timeout, tokio::net::TcpStream::connect(&address)).await {
            Ok(Ok(_)) => Outcome::Success,
            Ok(Err(error)) => Outcome::Failure(format!("dial tcp {address}: connect: {}", http::words(&error))),
            Err(_) => Outcome::Failure(format!("dial tcp {address}: i/o timeout")),
        };
    }
    if let Some(grpc) = &probe.grpc {
        let Ok(port) = u16::try_from(grpc.port) else { return Outcome::Error("invalid port number".into()) };
        return grpc::check(&http::authority(&ip(), port), grpc.service.as_deref().unwrap_or(""), timeout).await;
    }
    Outcome::Error(format!("missing probe handler for {}:{}", pod::describe(pod), container.name))
}

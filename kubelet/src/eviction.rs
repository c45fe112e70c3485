//! Ends pods before the node runs out of memory, disk or process ids, and pods that use more local storage than they said.
//!
//! Upstream: pkg/kubelet/eviction

pub mod local_storage;
pub mod rank;
pub mod signal;
pub mod usage;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use client::events::Kind;
use tokio::time::Instant;

use crate::kubelet::{Kubelet, Shared};
use crate::pod;
use crate::worker::Stage;
use signal::{Readings, Signal, Threshold};

/// Between two looks. Upstream: evictionMonitoringPeriod.
const PERIOD: Duration = Duration::from_secs(10);

/// How long a pod that was ended may take to be gone before the next is looked for. Upstream: podCleanupTimeout.
const PATIENCE: Duration = Duration::from_secs(30);

/// Looks until the tasks stop.
pub async fn run(kubelet: Shared) {
    let config = &kubelet.config.kubelet;
    let thresholds = signal::thresholds(config);
    let mut state = State::default();
    loop {
        tokio::time::sleep(PERIOD).await;
        let limits_passed = local_storage::enforce(&kubelet).await;
        let readings = read(&kubelet).await;
        let plan = state.decide(&thresholds, &readings, config.eviction_pressure_transition_period.0, Instant::now());
        if *kubelet.node.pressure.read() != plan.pressure {
            *kubelet.node.pressure.write() = plan.pressure.clone();
            kubelet.node.status_soon.notify_one();
        }
        let Some(met) = plan.act_on.filter(|_| !limits_passed) else { continue };
        let resource = met.signal.resource();
        tracing::warn!(resource, "Eviction manager: attempting to reclaim");
        kubelet.node_event(Kind::Warning, "EvictionThresholdMet", format!("Attempting to reclaim {resource}"));
        if met.signal.is_disk() {
            crate::image::gc::remove_unused(&kubelet).await;
            if !met.is_met(&read(&kubelet).await, true) {
                tracing::info!(resource, "Eviction manager: able to reduce resource pressure without evicting pods.");
                continue;
            }
        }
        if let Some(uid) = evict_one(&kubelet, &met, &readings).await {
            gone(&kubelet, &uid).await;
        }
    }
}

/// What is remembered between looks.
#[derive(Default)]
pub struct State {
    /// Since when a threshold is met.
    since: HashMap<Threshold, Instant>,
    /// When pressure of a kind was last seen.
    last_seen: HashMap<&'static str, Instant>,
}

/// What to do about the readings.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// Node conditions that hold.
    pub pressure: Vec<&'static str>,
    /// The threshold to act on now.
    pub act_on: Option<Threshold>,
}

impl State {
    /// Decides. A condition holds as soon as a threshold is met and for `transition` after that was last so; action waits for the
    /// threshold's grace period.
    pub fn decide(&mut self, thresholds: &[Threshold], readings: &Readings, transition: Duration, now: Instant) -> Plan {
        let met: Vec<&Threshold> =
            thresholds.iter().filter(|threshold| threshold.is_met(readings, self.since.contains_key(*threshold))).collect();
        self.since.retain(|threshold, _| met.contains(&threshold));
        let mut ripe: Vec<&Threshold> = Vec::new();
        for threshold in met {
            let since = *self.since.entry(threshold.clone()).or_insert(now);
            self.last_seen.insert(threshold.signal.condition(), now);
            if now.saturating_duration_since(since) >= threshold.grace {
                ripe.push(threshold);
            }
        }
        self.last_seen.retain(|_, seen| now.saturating_duration_since(*seen) < transition.max(Duration::from_secs(1)));
        let mut pressure: Vec<&'static str> = self.last_seen.keys().copied().collect();
        pressure.sort_unstable();
        // Memory first: it is the one that kills.
        ripe.sort_by_key(|threshold| (threshold.signal.resource() != "memory", !threshold.grace.is_zero()));
        Plan { pressure, act_on: ripe.first().map(|threshold| (*threshold).clone()) }
    }
}

async fn read(kubelet: &Kubelet) -> Readings {
    let mut out = Readings::default();
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    if let Some(usage) = kubelet.cgroups.node_usage() {
        let capacity = kubelet.values.memory;
        out.set(Signal::Memory, capacity - number(usage.working_set), capacity);
    }
    if let Some(usage) = kubelet.cgroups.pods_usage().filter(|usage| usage.limit > 0) {
        out.set(Signal::AllocatableMemory, number(usage.limit.saturating_sub(usage.working_set)), number(usage.limit));
    }
    let disk = |out: &mut Readings, path: &std::path::Path, bytes, inodes| {
        if let Some((total, available, all, free)) = crate::node::facts::file_system(path) {
            out.set(bytes, available, total);
            if all > 0 {
                out.set(inodes, free, all);
            }
        }
    };
    disk(&mut out, &kubelet.config.root_dir, Signal::NodeFs, Signal::NodeFsInodes);
    if let Some(dir) = crate::server::stats::image_directory(kubelet).await {
        disk(&mut out, &dir, Signal::ImageFs, Signal::ImageFsInodes);
    }
    let max: i64 =
        std::fs::read_to_string("/proc/sys/kernel/pid_max").ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    if max > 0 {
        out.set(Signal::Pids, max - number(crate::server::stats::processes()), max);
    }
    out
}

/// Whether images have a file system of their own.
async fn own_image_fs(kubelet: &Kubelet) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &std::path::Path| std::fs::metadata(path).ok().map(|meta| meta.dev());
    let images = crate::server::stats::image_directory(kubelet).await;
    images.is_some_and(|dir| device(&dir).is_some() && device(&dir) != device(&kubelet.config.root_dir))
}

/// Ends the pod that is first in line; its uid.
async fn evict_one(kubelet: &Shared, met: &Threshold, readings: &Readings) -> Option<String> {
    let began = Instant::now();
    let layers = Arc::new(if met.signal.is_disk() { crate::server::stats::from_cri(kubelet).await } else { HashMap::new() });
    let mut candidates = Vec::new();
    for handle in kubelet.workers.list() {
        let pod = handle.request().pod;
        if handle.view().stage == Stage::Run && usage::evictable(&pod) {
            candidates.push(rank::Candidate { usage: usage::measure(kubelet, &handle, &layers).await, pod });
        }
    }
    let ranked = rank::order(candidates, met.signal, own_image_fs(kubelet).await);
    let Some(victim) = ranked.first() else {
        tracing::warn!(resource = met.signal.resource(), "Eviction manager: unable to evict any pods from the node");
        return None;
    };
    let message = rank::message(victim, met, readings);
    let metrics = crate::metrics::metrics();
    metrics.evictions.with_label_values(&[met.signal.name()]).inc();
    metrics.eviction_stats_age_seconds.with_label_values(&[met.signal.name()]).observe(began.elapsed().as_secs_f64());
    kubelet.event(&victim.pod, Kind::Warning, "Evicted", message.clone());
    // At once for hard thresholds, with the allowed grace for soft ones.
    let grace = if met.grace.is_zero() { 1 } else { kubelet.config.kubelet.eviction_max_pod_grace_period };
    kubelet.workers.evict(pod::uid(&victim.pod), "Evicted", &message, Some(grace));
    Some(pod::uid(&victim.pod).to_owned())
}

/// Waits until the pod has given back what it had, or for as long as that may take.
async fn gone(kubelet: &Shared, uid: &str) {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if kubelet.workers.get(uid).is_none_or(|handle| handle.view().stage == Stage::Finished) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn hard_thresholds_act_at_once_soft_ones_after_their_grace_and_pressure_lingers() {
        let pair = |name: &str, text: &str| [(name.to_owned(), text.to_owned())].into();
        let config = crate::config::KubeletConfiguration {
            eviction_hard: pair("memory.available", "100"),
            eviction_soft: pair("nodefs.available", "10%"),
            eviction_soft_grace_period: pair("nodefs.available", "1m"),
            eviction_minimum_reclaim: pair("memory.available", "20"),
            ..Default::default()
        };
        let thresholds = signal::thresholds(&config);
        let mut state = State::default();
        let transition = Duration::from_secs(300);
        let readings = |memory, disk| {
            let mut out = Readings::default();
            out.set(Signal::Memory, memory, 1000);
            out.set(Signal::NodeFs, disk, 1000);
            out
        };
        let mut decide = |memory, disk| {
            let plan = state.decide(&thresholds, &readings(memory, disk), transition, Instant::now());
            (plan.pressure, plan.act_on.map(|met| met.signal))
        };
        assert_eq!(decide(500, 500), (vec![], None));
        assert_eq!(decide(99, 500), (vec!["MemoryPressure"], Some(Signal::Memory)));
        assert_eq!(decide(119, 500), (vec!["MemoryPressure"], Some(Signal::Memory)), "the minimum is not reclaimed yet");
        assert_eq!(decide(120, 500), (vec!["MemoryPressure"], None));
        assert_eq!(decide(119, 500), (vec!["MemoryPressure"], None));
        assert_eq!(decide(500, 50), (vec!["DiskPressure", "MemoryPressure"], None), "in its grace period");
        tokio::time::advance(Duration::from_secs(61)).await;
        assert_eq!(decide(500, 50).1, Some(Signal::NodeFs));
        tokio::time::advance(Duration::from_secs(301)).await;
        assert_eq!(decide(500, 500), (vec![], None));
    }
}

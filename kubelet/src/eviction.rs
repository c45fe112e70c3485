//! Ends pods before the node runs out of memory, disk or process ids, and pods that use more local storage than they said.
//!
//! Upstream: pkg/kubelet/eviction

pub mod local_storage;
pub mod rank;
pub mod signal;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use client::events::Kind;
use k8s_openapi::api::core::v1::Pod;
use tokio::time::Instant;

use crate::kubelet::{Kubelet, Shared};
use crate::pod;
use crate::worker::Stage;
use signal::{Readings, Signal, Threshold};

/// Between two looks. Upstream: evictionMonitoringPeriod.
const PERIOD: Duration = Duration::from_secs(10);

/// Looks until the tasks stop.
pub async fn run(kubelet: Shared) {
    let config = &kubelet.config.kubelet;
    let thresholds = signal::thresholds(config);
    let mut state = State::default();
    loop {
        tokio::time::sleep(PERIOD).await;
        local_storage::enforce(&kubelet).await;
        let readings = read(&kubelet).await;
        let plan = state.decide(&thresholds, &readings, config.eviction_pressure_transition_period.0, Instant::now());
        if *kubelet.node.pressure.read() != plan.pressure {
            *kubelet.node.pressure.write() = plan.pressure.clone();
            kubelet.node.status_soon.notify_one();
        }
        let Some(met) = plan.act_on else { continue };
        kubelet.node_event(Kind::Warning, "EvictionThresholdMet", format!("Attempting to reclaim {}", met.signal.resource()));
        if met.signal.is_disk() && reclaim_images(&kubelet).await {
            continue;
        }
        evict_one(&kubelet, &met, &readings);
    }
}

/// What is remembered between looks.
#[derive(Default)]
pub struct State {
    /// Since when a soft threshold is met.
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
    /// Decides. A condition stays for `transition` after it was last seen.
    pub fn decide(&mut self, thresholds: &[Threshold], readings: &Readings, transition: Duration, now: Instant) -> Plan {
        let met: Vec<&Threshold> = thresholds.iter().filter(|threshold| threshold.is_met(readings)).collect();
        self.since.retain(|threshold, _| met.contains(&threshold));
        let mut ripe: Vec<&Threshold> = Vec::new();
        for threshold in met {
            let since = *self.since.entry(threshold.clone()).or_insert(now);
            if now.saturating_duration_since(since) >= threshold.grace {
                ripe.push(threshold);
            }
        }
        for threshold in &ripe {
            self.last_seen.insert(threshold.signal.condition(), now);
        }
        self.last_seen.retain(|_, seen| now.saturating_duration_since(*seen) < transition.max(Duration::from_secs(1)));
        let mut pressure: Vec<&'static str> = self.last_seen.keys().copied().collect();
        pressure.sort_unstable();
        // Memory first: it is the one that kills.
        ripe.sort_by_key(|threshold| (threshold.signal != Signal::Memory, !threshold.grace.is_zero()));
        Plan { pressure, act_on: ripe.first().map(|threshold| (*threshold).clone()) }
    }
}

async fn read(kubelet: &Kubelet) -> Readings {
    let mut out = Readings::default();
    if let Some(usage) = kubelet.cgroups.node_usage() {
        let capacity = kubelet.values.memory;
        out.set(Signal::Memory, capacity - i64::try_from(usage.working_set).unwrap_or(0), capacity);
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
    if let Ok(info) = kubelet.cri.image_fs_info().await
        && let Some(id) = info.image_filesystems.first().and_then(|fs| fs.fs_id.as_ref())
    {
        disk(&mut out, std::path::Path::new(&id.mountpoint), Signal::ImageFs, Signal::ImageFsInodes);
    }
    let max: i64 =
        std::fs::read_to_string("/proc/sys/kernel/pid_max").ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    if max > 0 {
        out.set(Signal::Pids, max - i64::try_from(crate::server::stats::processes()).unwrap_or(0), max);
    }
    out
}

/// Removes images nobody uses; whether that freed anything.
async fn reclaim_images(kubelet: &Kubelet) -> bool {
    crate::image::gc::remove_unused(kubelet).await > 0
}

fn evict_one(kubelet: &Kubelet, met: &Threshold, readings: &Readings) {
    let candidates: Vec<rank::Candidate> = kubelet
        .workers
        .list()
        .iter()
        .filter(|handle| handle.view().stage == Stage::Run)
        .map(|handle| handle.request().pod)
        .filter(|pod| !pod::is_critical(pod))
        .map(|pod| candidate(kubelet, pod))
        .collect();
    let Some(victim) = rank::worst(candidates, met.signal) else {
        tracing::warn!(resource = met.signal.resource(), "Eviction manager: unable to evict any pods from the node");
        return;
    };
    let message = rank::message(&victim, met, readings);
    kubelet.event(&victim.pod, Kind::Warning, "Evicted", message.clone());
    // At once for hard thresholds, with the allowed grace for soft ones.
    let grace = if met.grace.is_zero() { 1 } else { kubelet.config.kubelet.eviction_max_pod_grace_period };
    kubelet.workers.evict(pod::uid(&victim.pod), "Evicted", &message, Some(grace));
}

fn candidate(kubelet: &Kubelet, pod: Arc<Pod>) -> rank::Candidate {
    let memory = kubelet.cgroups.pod_usage(&pod).map_or(0, |usage| usage.working_set);
    let processes = kubelet.cgroups.pod_usage(&pod).map_or(0, |usage| usage.processes);
    let disk = local_storage::disk_usage(&kubelet.config.pod_dir(pod::uid(&pod)));
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    rank::Candidate { pod, memory: number(memory), disk: number(disk), processes: number(processes) }
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
        let mut decide = |memory, disk| state.decide(&thresholds, &readings(memory, disk), transition, Instant::now());
        assert_eq!(decide(500, 500), Plan::default());
        let plan = decide(99, 500);
        assert_eq!((plan.pressure, plan.act_on.map(|met| met.signal)), (vec!["MemoryPressure"], Some(Signal::Memory)));
        assert_eq!(decide(500, 500), Plan { pressure: vec!["MemoryPressure"], act_on: None });
        assert_eq!(decide(500, 50).act_on, None, "in its grace period");
        tokio::time::advance(Duration::from_secs(61)).await;
        assert_eq!(decide(500, 50).act_on.map(|met| met.signal), Some(Signal::NodeFs));
        tokio::time::advance(Duration::from_secs(301)).await;
        assert_eq!(decide(500, 500), Plan::default());
    }
}

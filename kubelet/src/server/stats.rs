//! `/stats/summary`: what `kubectl top` and the metrics API are made from. Upstream: pkg/kubelet/server/stats, pkg/kubelet/stats

use std::collections::HashMap;
use std::path::Path;

use futures::future::BoxFuture;
use http::Response;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{Body, Call, json};
use crate::cgroup::tree::Usage;
use crate::cri::v1;
use crate::kubelet::Shared;
use crate::node::facts;
use crate::pod;
use crate::runtime::observed::State;

/// Nanoseconds of CPU, when, and the rate then, by cgroup.
type LastReadings = HashMap<String, (u64, Timestamp, u64)>;

/// The last reading of each cgroup, for rates: nanoseconds of CPU, and when.
static LAST: std::sync::LazyLock<Mutex<LastReadings>> = std::sync::LazyLock::new(Mutex::default);

/// The whole node's summary.
pub fn summary(call: Call) -> BoxFuture<'static, Response<Body>> {
    Box::pin(async move { json(&make(&call.kubelet).await) })
}

/// Cores in use, billionths, since the last reading at least a second ago.
pub fn nano_cores(key: &str, usage: &Usage, now: Timestamp) -> u64 {
    let mut last = LAST.lock();
    if last.len() > 4096 {
        last.retain(|_, (_, at, _)| now.as_second() - at.as_second() < 600);
    }
    match last.get(key).copied() {
        Some((nanos, at, rate)) => {
            let passed = u64::try_from(now.as_nanosecond() - at.as_nanosecond()).unwrap_or(0);
            if passed < 1_000_000_000 {
                return rate;
            }
            let rate = usage.cpu_nanos.saturating_sub(nanos).saturating_mul(1_000_000_000) / passed.max(1);
            last.insert(key.to_owned(), (usage.cpu_nanos, now, rate));
            rate
        }
        None => {
            last.insert(key.to_owned(), (usage.cpu_nanos, now, 0));
            0
        }
    }
}

fn show(key: &str, usage: &Usage, now: Timestamp) -> (Value, Value) {
    let time = now.to_string();
    let cpu = json!({"time": time, "usageNanoCores": nano_cores(key, usage, now), "usageCoreNanoSeconds": usage.cpu_nanos});
    let mut memory = json!({
        "time": time, "usageBytes": usage.memory_usage, "workingSetBytes": usage.working_set, "rssBytes": usage.rss,
        "pageFaults": usage.faults, "majorPageFaults": usage.major_faults,
    });
    if usage.limit > 0 {
        memory["availableBytes"] = usage.limit.saturating_sub(usage.working_set).into();
    }
    (cpu, memory)
}

fn fs(path: &Path, now: Timestamp, used: Option<u64>) -> Value {
    let (total, available, inodes, free) = facts::file_system(path).unwrap_or_default();
    json!({"time": now.to_string(), "availableBytes": available, "capacityBytes": total, "usedBytes": used.unwrap_or(u64::try_from(total - available).unwrap_or(0)),
        "inodesFree": free, "inodes": inodes, "inodesUsed": inodes - free})
}

async fn make(kubelet: &Shared) -> Value {
    let now = Timestamp::now();
    let writable: HashMap<String, v1::ContainerStats> = kubelet
        .cri
        .list_container_stats()
        .await
        .unwrap_or_default()
        .into_iter()
        .filter_map(|stats| Some((stats.attributes.as_ref()?.id.clone(), stats)))
        .collect();
    let root = &kubelet.config.root_dir;
    let mut pods = Vec::new();
    for handle in kubelet.workers.list() {
        let (pod, view) = (handle.request().pod, handle.view());
        let mut containers = Vec::new();
        for record in view.runtime.containers.iter().filter(|record| record.state == State::Running) {
            let Some(usage) =
                kubelet.cgroups.container_usage(&pod, &record.id).or_else(|| from_runtime(writable.get(&record.id)?))
            else {
                continue;
            };
            let (cpu, memory) = show(&record.id, &usage, now);
            let layer = writable
                .get(&record.id)
                .and_then(|stats| stats.writable_layer.as_ref())
                .and_then(|layer| layer.used_bytes.as_ref())
                .map_or(0, |used| used.value);
            let started = Timestamp::from_nanosecond(i128::from(record.started_at)).unwrap_or(now).to_string();
            containers.push(json!({"name": record.name(), "startTime": started, "cpu": cpu, "memory": memory, "rootfs": fs(root, now, Some(layer)),
                "logs": fs(root, now, std::fs::metadata(&record.log_path).ok().map(|meta| meta.len()))}));
        }
        let mut entry = json!({
            "podRef": {"name": pod::name(&pod), "namespace": pod::namespace(&pod), "uid": pod::uid(&pod)},
            "startTime": view.status.start_time, "containers": containers,
        });
        if let Some(usage) = kubelet.cgroups.pod_usage(&pod) {
            let (cpu, memory) = show(pod::uid(&pod), &usage, now);
            entry["cpu"] = cpu;
            entry["memory"] = memory;
            entry["process_stats"] = json!({"process_count": usage.processes});
        }
        pods.push(entry);
    }
    let mut node = json!({"nodeName": kubelet.config.node_name, "startTime": boot_time(), "fs": fs(root, now, None), "runtime": {"imageFs": fs(root, now, None)}, "systemContainers": []});
    if let Some(mut usage) = kubelet.cgroups.node_usage() {
        usage.limit = u64::try_from(kubelet.values.memory).unwrap_or(0);
        let (cpu, memory) = show("node", &usage, now);
        node["cpu"] = cpu;
        node["memory"] = memory;
    }
    node["rlimit"] = json!({"time": now.to_string(), "maxpid": number("/proc/sys/kernel/pid_max"), "curproc": processes()});
    if let Some(usage) = kubelet.cgroups.pods_usage() {
        let (cpu, memory) = show("pods", &usage, now);
        node["systemContainers"] = json!([{"name": "pods", "startTime": boot_time(), "cpu": cpu, "memory": memory}]);
    }
    json!({"node": node, "pods": pods})
}

fn from_runtime(stats: &v1::ContainerStats) -> Option<Usage> {
    let value = |value: &Option<v1::UInt64Value>| value.as_ref().map_or(0, |value| value.value);
    let (cpu, memory) = (stats.cpu.as_ref()?, stats.memory.as_ref()?);
    Some(Usage {
        cpu_nanos: value(&cpu.usage_core_nano_seconds),
        memory_usage: value(&memory.usage_bytes),
        working_set: value(&memory.working_set_bytes),
        rss: value(&memory.rss_bytes),
        ..Default::default()
    })
}

fn number(path: &str) -> u64 {
    std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// Tasks on the machine, from /proc/loadavg's `running/total`.
pub fn processes() -> u64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().nth(3).and_then(|pair| pair.split('/').nth(1)).and_then(|total| total.parse().ok()).unwrap_or(0)
}

fn boot_time() -> String {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let second = text.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse::<i64>().ok()).unwrap_or(0);
    Timestamp::from_second(second).unwrap_or(Timestamp::UNIX_EPOCH).to_string()
}

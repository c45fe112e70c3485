//! `/stats/summary`: the node, its pods and their containers, measured when asked for.
//!
//! Upstream: pkg/kubelet/server/stats, pkg/kubelet/stats; shapes: k8s.io/kubelet/pkg/apis/stats/v1alpha1

pub mod network;
pub mod rate;
pub mod volumes;

use std::collections::HashMap;
use std::path::Path;

use futures::future::BoxFuture;
use http::Response;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Body, Call, json};
use crate::cgroup::tree::Usage;
use crate::cri::v1;
use crate::kubelet::Shared;
use crate::node::facts;
use crate::pod;
use crate::runtime::observed::State;

/// The whole node's summary; `only_cpu_and_memory` leaves out what takes long.
pub fn summary(call: Call) -> BoxFuture<'static, Response<Body>> {
    Box::pin(async move {
        let only = call.flag(&["only_cpu_and_memory"]);
        json(&make(&call.kubelet, only).await)
    })
}

fn cpu(key: &str, usage: &Usage, now: Timestamp, began: Option<Timestamp>) -> Value {
    json!({"time": now.to_string(), "usageNanoCores": rate::nano_cores(key, usage, now, began), "usageCoreNanoSeconds": usage.cpu_nanos})
}

fn memory(usage: &Usage, now: Timestamp) -> Value {
    let mut memory = json!({
        "time": now.to_string(), "usageBytes": usage.memory_usage, "workingSetBytes": usage.working_set, "rssBytes": usage.rss,
        "pageFaults": usage.faults, "majorPageFaults": usage.major_faults,
    });
    if usage.limit > 0 {
        memory["availableBytes"] = usage.limit.saturating_sub(usage.working_set).into();
    }
    memory
}

fn swap(usage: &Usage, now: Timestamp) -> Value {
    json!({"time": now.to_string(), "swapUsageBytes": usage.swap})
}

/// A file system; `used`: bytes and inodes of the part that is meant, where it is a part.
fn fs(path: &Path, now: Timestamp, used: Option<(u64, Option<u64>)>) -> Value {
    let (total, available, inodes, free) = facts::file_system(path).unwrap_or_default();
    let (bytes, own) = match used {
        Some((bytes, inodes)) => (bytes, inodes),
        None => (number(total - available), Some(number(inodes - free))),
    };
    let mut out = json!({"time": now.to_string(), "availableBytes": available, "capacityBytes": total, "usedBytes": bytes, "inodesFree": free, "inodes": inodes});
    if let Some(own) = own {
        out["inodesUsed"] = own.into();
    }
    out
}

fn number(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

/// The writable layers and what the runtime measured, by container id.
pub async fn from_cri(kubelet: &crate::kubelet::Kubelet) -> HashMap<String, v1::ContainerStats> {
    let stats = kubelet.cri.list_container_stats().await.unwrap_or_default();
    stats.into_iter().filter_map(|stats| Some((stats.attributes.as_ref()?.id.clone(), stats))).collect()
}

/// Bytes and inodes of a container's writable layer.
pub fn layer(stats: Option<&v1::ContainerStats>) -> (u64, u64) {
    let value = |value: &Option<v1::UInt64Value>| value.as_ref().map_or(0, |value| value.value);
    stats
        .and_then(|stats| stats.writable_layer.as_ref())
        .map_or((0, 0), |layer| (value(&layer.used_bytes), value(&layer.inodes_used)))
}

/// Where images are kept.
pub async fn image_directory(kubelet: &crate::kubelet::Kubelet) -> Option<std::path::PathBuf> {
    let info = kubelet.cri.image_fs_info().await.ok()?;
    Some(info.image_filesystems.first()?.fs_id.as_ref()?.mountpoint.clone().into())
}

async fn make(kubelet: &Shared, only: bool) -> Value {
    let now = Timestamp::now();
    let runtime = if only { HashMap::new() } else { from_cri(kubelet).await };
    let root = &kubelet.config.root_dir;
    let image_dir = if only { None } else { image_directory(kubelet).await };
    let mut pods = Vec::new();
    for handle in kubelet.workers.list() {
        let (pod, view) = (handle.request().pod, handle.view());
        let mut containers = Vec::new();
        let (mut own_bytes, mut own_inodes) = (0, 0);
        for record in view.runtime.containers.iter().filter(|record| record.state == State::Running) {
            let stats = runtime.get(&record.id);
            let Some(usage) = kubelet.cgroups.container_usage(&pod, &record.id).or_else(|| stats.and_then(from_runtime)) else {
                continue;
            };
            let started = Timestamp::from_nanosecond(i128::from(record.started_at)).unwrap_or(now);
            let mut entry = json!({
                "name": record.name(), "startTime": seconds(started), "cpu": cpu(&record.id, &usage, now, Some(started)),
                "memory": memory(&usage, now), "swap": swap(&usage, now),
            });
            if !only {
                let (bytes, inodes) = layer(stats);
                let logs = volumes::size(Path::new(&record.log_path).parent().unwrap_or(root));
                own_bytes += bytes + logs.bytes;
                own_inodes += inodes + logs.inodes;
                entry["rootfs"] = fs(image_dir.as_deref().unwrap_or(root), now, Some((bytes, Some(inodes))));
                entry["logs"] = fs(root, now, Some((logs.bytes, Some(logs.inodes))));
            }
            containers.push(entry);
        }
        if containers.is_empty() {
            continue;
        }
        let began = view.status.start_time.as_ref().map(|time| time.0);
        let mut entry = json!({
            "podRef": {"name": pod::name(&pod), "namespace": pod::namespace(&pod), "uid": pod::uid(&pod)},
            "startTime": view.status.start_time, "containers": containers,
        });
        if let Some(usage) = kubelet.cgroups.pod_usage(&pod) {
            entry["cpu"] = cpu(pod::uid(&pod), &usage, now, began);
            entry["memory"] = memory(&usage, now);
            entry["swap"] = swap(&usage, now);
            entry["process_stats"] = json!({"process_count": usage.processes});
        }
        if !only {
            if let Some(shown) = network::show(&interfaces(kubelet, &pod, &view.runtime), now) {
                entry["network"] = shown;
            }
            let measured = volumes::of_pod(kubelet, &pod).await;
            for volume in measured.iter().filter(|volume| volume.claim.is_none()) {
                own_bytes += number(volume.used);
                own_inodes += number(volume.inodes_used);
            }
            entry["volume"] = measured.iter().map(|volume| show_volume(volume, pod::namespace(&pod), now)).collect();
            entry["ephemeral-storage"] = fs(root, now, Some((own_bytes, Some(own_inodes))));
        }
        pods.push(entry);
    }
    json!({"node": node(kubelet, now, only, image_dir.as_deref()), "pods": pods})
}

/// The interfaces of a pod's own network, as the first process of its sandbox sees them.
pub fn interfaces(
    kubelet: &Shared,
    pod: &k8s_openapi::api::core::v1::Pod,
    runtime: &crate::runtime::observed::PodRuntime,
) -> Vec<network::Interface> {
    if pod::is_host_network(pod) {
        return Vec::new();
    }
    let Some(sandbox) = runtime.ready_sandbox() else { return Vec::new() };
    let ids = std::iter::once(&sandbox.id).chain(runtime.containers.iter().map(|record| &record.id));
    let mut processes = ids.filter_map(|id| kubelet.cgroups.processes(&kubelet.cgroups.container_path(pod, id)).first().copied());
    processes.next().map_or(Vec::new(), |pid| network::of_process(&pid.to_string()))
}

fn show_volume(volume: &volumes::Measure, namespace: &str, now: Timestamp) -> Value {
    let mut out = json!({
        "time": now.to_string(), "name": volume.name, "availableBytes": volume.available, "capacityBytes": volume.capacity, "usedBytes": volume.used,
        "inodesFree": volume.inodes_free, "inodes": volume.inodes, "inodesUsed": volume.inodes_used,
    });
    if let Some(claim) = &volume.claim {
        out["pvcRef"] = json!({"name": claim, "namespace": namespace});
    }
    out
}

fn node(kubelet: &Shared, now: Timestamp, only: bool, image_dir: Option<&Path>) -> Value {
    let boot = boot_time();
    let root = &kubelet.config.root_dir;
    let mut node = json!({"nodeName": kubelet.config.node_name, "startTime": seconds(boot), "systemContainers": []});
    if let Some(mut usage) = kubelet.cgroups.node_usage() {
        usage.limit = number(kubelet.values.memory);
        node["cpu"] = cpu("node", &usage, now, Some(boot));
        node["memory"] = memory(&usage, now);
        node["swap"] = swap(&usage, now);
        node["swap"]["swapAvailableBytes"] = swap_free().into();
    }
    if let Some(usage) = kubelet.cgroups.pods_usage() {
        let shown = json!({"name": "pods", "startTime": seconds(boot), "cpu": cpu("pods", &usage, now, Some(boot)), "memory": memory(&usage, now)});
        node["systemContainers"] = json!([shown, own(now)]);
    }
    if !only {
        node["fs"] = fs(root, now, None);
        let images = fs(image_dir.unwrap_or(root), now, None);
        node["runtime"] = json!({"imageFs": images, "containerFs": images});
        node["rlimit"] =
            json!({"time": now.to_string(), "maxpid": number_in("/proc/sys/kernel/pid_max"), "curproc": processes()});
        if let Some(shown) = network::show(&network::of_process("self"), now) {
            node["network"] = shown;
        }
    }
    node
}

/// This process, which upstream's summary calls the system container `kubelet`.
fn own(now: Timestamp) -> Value {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // After the closing parenthesis: utime is the 12th, stime the 13th, starttime the 20th, rss (pages) the 22nd field.
    let fields: Vec<u64> = stat
        .rsplit_once(')')
        .map(|(_, rest)| rest.split_whitespace().map(|word| word.parse().unwrap_or(0)).collect())
        .unwrap_or_default();
    let field = |index: usize| fields.get(index).copied().unwrap_or(0);
    const NANOS_PER_TICK: u64 = 10_000_000;
    let rss = field(21) * 4096;
    let usage = Usage {
        cpu_nanos: (field(11) + field(12)) * NANOS_PER_TICK,
        memory_usage: rss,
        working_set: rss,
        rss,
        faults: field(7),
        major_faults: field(9),
        ..Default::default()
    };
    let began =
        Timestamp::from_millisecond(boot_time().as_millisecond() + i64::try_from(field(19)).unwrap_or(0) * 10).unwrap_or(now);
    json!({"name": "kubelet", "startTime": seconds(began), "cpu": cpu("kubelet", &usage, now, Some(began)), "memory": memory(&usage, now)})
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

fn number_in(path: &str) -> u64 {
    std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

fn swap_free() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("SwapFree:"));
    line.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Tasks on the machine, from /proc/loadavg's `running/total`.
pub fn processes() -> u64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().nth(3).and_then(|pair| pair.split('/').nth(1)).and_then(|total| total.parse().ok()).unwrap_or(0)
}

fn seconds(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second()).unwrap_or(time).to_string()
}

/// When the machine started.
pub fn boot_time() -> Timestamp {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let second = text.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse::<i64>().ok()).unwrap_or(0);
    Timestamp::from_second(second).unwrap_or(Timestamp::UNIX_EPOCH)
}

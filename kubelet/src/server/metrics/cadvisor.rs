//! `/metrics/cadvisor`: what dashboards are built on. Names and labels are cAdvisor's.
//!
//! Rows as with containerd upstream: one per container, one per sandbox (its pause process, and the pod's network), one per pod
//! without `container` and `name`, and the whole node as `/`.

use std::path::Path;

use jiff::Timestamp;

use super::page::{Family, Page};
use crate::cgroup::detail::Detail;
use crate::cgroup::tree::Usage;
use crate::kubelet::Shared;
use crate::pod;
use crate::runtime::observed::State;
use crate::server::stats;
use crate::server::stats::network::Interface;

/// One cgroup with its labels.
struct Row {
    container: String,
    id: String,
    image: String,
    name: String,
    namespace: String,
    pod: String,
    usage: Usage,
    detail: Detail,
    started: Option<f64>,
    threads: Option<Threads>,
    network: Vec<Interface>,
}

/// Counted over the processes of a container.
#[derive(Clone, Copy, Default)]
struct Threads {
    processes: u64,
    threads: u64,
    descriptors: u64,
    sockets: u64,
}

type Value = fn(&Row) -> Option<f64>;

/// Name, kind, help, value; those without a value of a row are left out there.
const SIMPLE: &[(&str, &str, &str, Value)] = &[
    ("container_cpu_user_seconds_total", "counter", "Cumulative user cpu time consumed in seconds.", |row| {
        Some(row.detail.cpu_user as f64 / 1e9)
    }),
    ("container_cpu_system_seconds_total", "counter", "Cumulative system cpu time consumed in seconds.", |row| {
        Some(row.detail.cpu_system as f64 / 1e9)
    }),
    ("container_cpu_cfs_periods_total", "counter", "Number of elapsed enforcement period intervals.", |row| {
        (row.detail.quota > 0).then_some(row.detail.periods as f64)
    }),
    ("container_cpu_cfs_throttled_periods_total", "counter", "Number of throttled period intervals.", |row| {
        (row.detail.quota > 0).then_some(row.detail.throttled_periods as f64)
    }),
    ("container_cpu_cfs_throttled_seconds_total", "counter", "Total time duration the container has been throttled.", |row| {
        (row.detail.quota > 0).then_some(row.detail.throttled as f64 / 1e9)
    }),
    (
        "container_memory_usage_bytes",
        "gauge",
        "Current memory usage in bytes, including all memory regardless of when it was accessed",
        |row| Some(row.usage.memory_usage as f64),
    ),
    ("container_memory_working_set_bytes", "gauge", "Current working set in bytes.", |row| Some(row.usage.working_set as f64)),
    ("container_memory_rss", "gauge", "Size of RSS in bytes.", |row| Some(row.usage.rss as f64)),
    ("container_memory_cache", "gauge", "Number of bytes of page cache memory.", |row| Some(row.detail.cache as f64)),
    ("container_memory_mapped_file", "gauge", "Size of memory mapped files in bytes.", |row| Some(row.detail.mapped as f64)),
    ("container_memory_swap", "gauge", "Container swap usage in bytes.", |row| Some(row.detail.swap as f64)),
    ("container_memory_max_usage_bytes", "gauge", "Maximum memory usage recorded in bytes", |row| {
        Some(row.detail.max_usage as f64)
    }),
    ("container_memory_failcnt", "counter", "Number of memory usage hits limits", |row| Some(row.detail.limit_hits as f64)),
    ("container_oom_events_total", "counter", "Count of out of memory events observed for the container", |row| {
        Some(row.detail.oom_kills as f64)
    }),
    ("container_processes", "gauge", "Number of processes running inside the container.", |row| {
        row.threads.map(|threads| threads.processes as f64)
    }),
    ("container_threads", "gauge", "Number of threads running inside the container", |row| {
        row.threads.map(|threads| threads.threads as f64)
    }),
    (
        "container_threads_max",
        "gauge",
        "Maximum number of threads allowed inside the container, infinity if value is zero",
        |row| row.threads.map(|_| row.detail.pids_limit as f64),
    ),
    ("container_file_descriptors", "gauge", "Number of open file descriptors for the container.", |row| {
        row.threads.map(|threads| threads.descriptors as f64)
    }),
    ("container_sockets", "gauge", "Number of open sockets for the container.", |row| {
        row.threads.map(|threads| threads.sockets as f64)
    }),
    ("container_start_time_seconds", "gauge", "Start time of the container since unix epoch in seconds.", |row| row.started),
    ("container_last_seen", "gauge", "Last time a container was seen by the exporter", |_| {
        Some(Timestamp::now().as_second() as f64)
    }),
    ("container_spec_cpu_period", "gauge", "CPU period of the container.", |row| Some(row.detail.period as f64)),
    ("container_spec_cpu_quota", "gauge", "CPU quota of the container.", |row| {
        (row.detail.quota > 0).then_some(row.detail.quota as f64)
    }),
    ("container_spec_cpu_shares", "gauge", "CPU share of the container.", |row| Some(row.detail.shares as f64)),
    ("container_spec_memory_limit_bytes", "gauge", "Memory limit for the container.", |row| Some(row.detail.memory_limit as f64)),
    ("container_spec_memory_reservation_limit_bytes", "gauge", "Memory reservation limit for the container.", |row| {
        Some(row.detail.memory_reservation as f64)
    }),
    ("container_spec_memory_swap_limit_bytes", "gauge", "Memory swap limit for the container.", |row| {
        Some(row.detail.swap_limit as f64)
    }),
];

/// The page.
pub(super) fn page(kubelet: &Shared) -> String {
    let rows = rows(kubelet);
    let at = Some(Timestamp::now().as_millisecond());
    let mut page = Page::default();
    let mut family = Family::new("container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed in seconds.");
    for row in &rows {
        family.add(&labels(row, &[("cpu", "total")]), row.usage.cpu_nanos as f64 / 1e9, at);
    }
    page.put(family);
    for (name, kind, help, value) in SIMPLE {
        let mut family = Family::new(name, kind, help);
        for (row, value) in rows.iter().filter_map(|row| Some((row, value(row)?))) {
            family.add(&labels(row, &[]), value, at);
        }
        page.put(family);
    }
    faults(&rows, at, &mut page);
    io(&rows, at, &mut page);
    network(&rows, at, &mut page);
    disks(kubelet, at, &mut page);
    machine(kubelet, &mut page);
    page.finish()
}

fn labels<'a>(row: &'a Row, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut out = vec![
        ("container", row.container.as_str()),
        ("id", &row.id),
        ("image", &row.image),
        ("name", &row.name),
        ("namespace", &row.namespace),
        ("pod", &row.pod),
    ];
    out.extend(more);
    out.sort_unstable();
    out
}

fn rows(kubelet: &Shared) -> Vec<Row> {
    let cgroups = &kubelet.cgroups;
    let row = |container: &str, id: String, image: &str, name: &str, pod: Option<&k8s_openapi::api::core::v1::Pod>| {
        let usage = cgroups.usage(&id)?;
        Some(Row {
            container: container.to_owned(),
            image: image.to_owned(),
            name: name.to_owned(),
            namespace: pod.map(pod::namespace).unwrap_or("").to_owned(),
            pod: pod.map(pod::name).unwrap_or("").to_owned(),
            detail: cgroups.detail(&id),
            usage,
            started: None,
            threads: None,
            network: Vec::new(),
            id,
        })
    };
    let mut out = Vec::new();
    out.extend(row("", "/".to_owned(), "", "", None).map(|row| Row { network: stats::network::of_process("self"), ..row }));
    out.extend(row("", cgroups.pods_path(), "", "", None));
    for handle in kubelet.workers.list() {
        let (pod, view) = (handle.request().pod, handle.view());
        let Some(sandbox) = view.runtime.ready_sandbox() else { continue };
        out.extend(row("", cgroups.pod_path(&pod), "", "", Some(&pod)));
        let path = cgroups.container_path(&pod, &sandbox.id);
        let threads = threads(&cgroups.processes(&path));
        out.extend(row("", path, "", &sandbox.id, Some(&pod)).map(|row| Row {
            network: stats::interfaces(kubelet, &pod, &view.runtime),
            started: Some(sandbox.created_at as f64 / 1e9),
            threads: Some(threads),
            ..row
        }));
        for record in view.runtime.containers.iter().filter(|record| record.state == State::Running) {
            let path = cgroups.container_path(&pod, &record.id);
            let threads = self::threads(&cgroups.processes(&path));
            out.extend(row(record.name(), path, &record.image, &record.id, Some(&pod)).map(|row| Row {
                started: Some(record.started_at as f64 / 1e9),
                threads: Some(threads),
                ..row
            }));
        }
    }
    out
}

fn threads(processes: &[i32]) -> Threads {
    let count = |path: String| std::fs::read_dir(path).map_or(0, |entries| entries.count() as u64);
    let mut out = Threads::default();
    for pid in processes {
        out.processes += 1;
        out.threads += count(format!("/proc/{pid}/task"));
        for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
            out.descriptors += 1;
            let is_socket = std::fs::read_link(entry.path()).is_ok_and(|to| to.to_string_lossy().starts_with("socket:"));
            out.sockets += u64::from(is_socket);
        }
    }
    out
}

fn faults(rows: &[Row], at: Option<i64>, page: &mut Page) {
    let mut family = Family::new("container_memory_failures_total", "counter", "Cumulative count of memory allocation failures.");
    for row in rows {
        for (kind, count) in [("pgfault", row.usage.faults), ("pgmajfault", row.usage.major_faults)] {
            for scope in ["container", "hierarchy"] {
                family.add(&labels(row, &[("failure_type", kind), ("scope", scope)]), count as f64, at);
            }
        }
    }
    page.put(family);
}

fn io(rows: &[Row], at: Option<i64>, page: &mut Page) {
    type Read = fn(&crate::cgroup::detail::Io) -> u64;
    const ROWS: [(&str, &str, Read); 4] = [
        ("container_fs_reads_bytes_total", "Cumulative count of bytes read", |io| io.read_bytes),
        ("container_fs_reads_total", "Cumulative count of reads completed", |io| io.reads),
        ("container_fs_writes_bytes_total", "Cumulative count of bytes written", |io| io.write_bytes),
        ("container_fs_writes_total", "Cumulative count of writes completed", |io| io.writes),
    ];
    for (name, help, read) in ROWS {
        let mut family = Family::new(name, "counter", help);
        for row in rows {
            for device in &row.detail.io {
                let path = std::fs::read_link(format!("/sys/dev/block/{}", device.device)).ok();
                let disk = path.and_then(|path| Some(format!("/dev/{}", path.file_name()?.to_string_lossy())));
                family.add(&labels(row, &[("device", disk.as_deref().unwrap_or(""))]), read(device) as f64, at);
            }
        }
        page.put(family);
    }
}

fn network(rows: &[Row], at: Option<i64>, page: &mut Page) {
    const COLUMNS: [&str; 4] = ["bytes", "packets", "errors", "packets_dropped"];
    const NAMES: [[(&str, &str); 4]; 2] = [
        [
            ("container_network_receive_bytes_total", "Cumulative count of bytes received"),
            ("container_network_receive_packets_total", "Cumulative count of packets received"),
            ("container_network_receive_errors_total", "Cumulative count of errors encountered while receiving"),
            ("container_network_receive_packets_dropped_total", "Cumulative count of packets dropped while receiving"),
        ],
        [
            ("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted"),
            ("container_network_transmit_packets_total", "Cumulative count of packets transmitted"),
            ("container_network_transmit_errors_total", "Cumulative count of errors encountered while transmitting"),
            ("container_network_transmit_packets_dropped_total", "Cumulative count of packets dropped while transmitting"),
        ],
    ];
    for (sent, names) in [false, true].into_iter().zip(NAMES) {
        for (column, (name, help)) in (0..COLUMNS.len()).zip(names) {
            let mut family = Family::new(name, "counter", help);
            for row in rows {
                for interface in &row.network {
                    let counters = if sent { &interface.sent } else { &interface.received };
                    family.add(&labels(row, &[("interface", &interface.name)]), counters[column] as f64, at);
                }
            }
            page.put(family);
        }
    }
}

/// The node's own file system, as the row of `/`.
fn disks(kubelet: &Shared, at: Option<i64>, page: &mut Page) {
    let Some((total, available, inodes, free)) = crate::node::facts::file_system(&kubelet.config.root_dir) else { return };
    let device = device_of(&kubelet.config.root_dir);
    let labels =
        [("container", ""), ("device", &*device), ("id", "/"), ("image", ""), ("name", ""), ("namespace", ""), ("pod", "")];
    for (name, help, value) in [
        ("container_fs_usage_bytes", "Number of bytes that are consumed by the container on this filesystem.", total - available),
        ("container_fs_limit_bytes", "Number of bytes that can be consumed by the container on this filesystem.", total),
        ("container_fs_inodes_total", "Number of Inodes", inodes),
        ("container_fs_inodes_free", "Number of available Inodes", free),
    ] {
        let mut family = Family::new(name, "gauge", help);
        family.add(&labels, value as f64, at);
        page.put(family);
    }
}

/// The device that holds `path`, by the longest mount point above it.
fn device_of(path: &Path) -> String {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let rows = mounts.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        Some((words.next()?, words.next()?))
    });
    let above = rows.filter(|(_, mount)| path.starts_with(mount)).max_by_key(|(_, mount)| mount.len());
    above.map_or(String::new(), |(device, _)| device.to_owned())
}

fn machine(kubelet: &Shared, page: &mut Page) {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let distinct = |key: &str| {
        let values: std::collections::HashSet<&str> =
            cpuinfo.lines().filter(|line| line.starts_with(key)).filter_map(|line| line.split(':').nth(1)).collect();
        values.len().max(1)
    };
    let (sockets, cores) = (distinct("physical id"), distinct("core id"));
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let swap = crate::node::facts::machine(&kubelet.config.root_dir, 0);
    for (name, help, value) in [
        ("machine_cpu_cores", "Number of logical CPU cores.", cpus as f64),
        ("machine_cpu_physical_cores", "Number of physical CPU cores.", (sockets * cores) as f64),
        ("machine_cpu_sockets", "Number of CPU sockets.", sockets as f64),
        ("machine_memory_bytes", "Amount of memory installed on the machine.", kubelet.values.memory as f64),
        ("machine_swap_bytes", "Amount of swap memory available on the machine.", swap.swap as f64),
    ] {
        let mut family = Family::new(name, "gauge", help);
        family.add(
            &[("boot_id", &*swap.boot_id), ("machine_id", &*swap.machine_id), ("system_uuid", &*swap.system_uuid)],
            value,
            None,
        );
        page.put(family);
    }
    let mut family = Family::new(
        "cadvisor_version_info",
        "gauge",
        "A metric with a constant '1' value labeled by kernel version, OS version, docker version, cadvisor version & cadvisor revision.",
    );
    family.add(
        &[
            ("cadvisorRevision", ""),
            ("cadvisorVersion", ""),
            ("dockerVersion", ""),
            ("kernelVersion", &*swap.kernel),
            ("osVersion", &*swap.os_image),
        ],
        1.0,
        None,
    );
    page.put(family);
    page.one("container_scrape_error", "gauge", "1 if there was an error while getting container metrics, 0 otherwise", 0.0);
    page.one("machine_scrape_error", "gauge", "1 if there was an error while getting machine metrics, 0 otherwise.", 0.0);
}

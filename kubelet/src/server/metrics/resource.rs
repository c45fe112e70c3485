//! `/metrics/resource`. Upstream: pkg/kubelet/metrics/collectors/resource_metrics.go

use jiff::Timestamp;

use super::page::{Family, Page};
use crate::kubelet::Shared;
use crate::pod;
use crate::runtime::observed::State;

/// The page.
pub(super) fn page(kubelet: &Shared) -> String {
    let at = Some(Timestamp::now().as_millisecond());
    let seconds = |nanos: u64| nanos as f64 / 1e9;
    let family = |name, kind, help| Family::new(name, kind, help);
    let mut container_cpu = family(
        "container_cpu_usage_seconds_total",
        "counter",
        "[STABLE] Cumulative cpu time consumed by the container in core-seconds",
    );
    let mut container_memory =
        family("container_memory_working_set_bytes", "gauge", "[STABLE] Current working set of the container in bytes");
    let mut container_start =
        family("container_start_time_seconds", "gauge", "[STABLE] Start time of the container since unix epoch in seconds");
    let mut container_swap = family(
        "container_swap_usage_bytes",
        "gauge",
        "[ALPHA] Current amount of the container swap usage in bytes. Reported only on non-windows systems",
    );
    let mut container_swap_limit = family(
        "container_swap_limit_bytes",
        "gauge",
        "[ALPHA] Current amount of the container swap limit in bytes. Reported only on non-windows systems",
    );
    let mut node_cpu =
        family("node_cpu_usage_seconds_total", "counter", "[STABLE] Cumulative cpu time consumed by the node in core-seconds");
    let mut node_memory = family("node_memory_working_set_bytes", "gauge", "[STABLE] Current working set of the node in bytes");
    let mut node_swap = family(
        "node_swap_usage_bytes",
        "gauge",
        "[ALPHA] Current swap usage of the node in bytes. Reported only on non-windows systems",
    );
    let mut pod_cpu =
        family("pod_cpu_usage_seconds_total", "counter", "[STABLE] Cumulative cpu time consumed by the pod in core-seconds");
    let mut pod_memory = family("pod_memory_working_set_bytes", "gauge", "[STABLE] Current working set of the pod in bytes");
    let mut pod_swap = family(
        "pod_swap_usage_bytes",
        "gauge",
        "[ALPHA] Current amount of the pod swap usage in bytes. Reported only on non-windows systems",
    );
    let mut failed = false;
    match kubelet.cgroups.node_usage() {
        Some(usage) => {
            node_cpu.add(&[], seconds(usage.cpu_nanos), at);
            node_memory.add(&[], usage.working_set as f64, at);
            node_swap.add(&[], usage.swap as f64, at);
        }
        None => failed = true,
    }
    for handle in kubelet.workers.list() {
        let (pod, view) = (handle.request().pod, handle.view());
        let (name, namespace) = (pod::name(&pod), pod::namespace(&pod));
        if view.runtime.ready_sandbox().is_none() {
            continue;
        }
        if let Some(usage) = kubelet.cgroups.pod_usage(&pod) {
            let labels = [("namespace", namespace), ("pod", name)];
            pod_cpu.add(&labels, seconds(usage.cpu_nanos), at);
            pod_memory.add(&labels, usage.working_set as f64, at);
            pod_swap.add(&labels, usage.swap as f64, at);
        }
        for record in view.runtime.containers.iter().filter(|record| record.state == State::Running) {
            // It may have ended since.
            let Some(usage) = kubelet.cgroups.container_usage(&pod, &record.id) else { continue };
            let labels = [("container", record.name()), ("namespace", namespace), ("pod", name)];
            container_cpu.add(&labels, seconds(usage.cpu_nanos), at);
            container_memory.add(&labels, usage.working_set as f64, at);
            container_start.add(&labels, record.started_at as f64 / 1e9, None);
            container_swap.add(&labels, usage.swap as f64, at);
            if kubelet.cgroups.is_v2() {
                let limit = kubelet.cgroups.detail(&kubelet.cgroups.container_path(&pod, &record.id)).swap_limit;
                container_swap_limit.add(&labels, limit as f64, at);
            }
        }
    }
    let mut page = Page::default();
    for family in [
        container_cpu,
        container_memory,
        container_start,
        container_swap_limit,
        container_swap,
        node_cpu,
        node_memory,
        node_swap,
        pod_cpu,
        pod_memory,
        pod_swap,
    ] {
        page.put(family);
    }
    let help = "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise";
    page.one("resource_scrape_error", "gauge", help, f64::from(u8::from(failed)));
    page.one(
        "scrape_error",
        "gauge",
        "[ALPHA] 1 if there was an error while getting container metrics, 0 otherwise",
        f64::from(u8::from(failed)),
    );
    page.finish()
}

//! The kubelet's own counters. Names, labels and buckets are upstream's: pkg/kubelet/metrics/metrics.go
//!
//! What can be read when asked for (numbers of pods, ages) is not kept here but read: `server::metrics`.

use std::sync::LazyLock;

use component::metrics::prometheus;
use prometheus::{Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts};

const DEFAULT: &[f64] = prometheus::DEFAULT_BUCKETS;
const START: &[f64] = &[
    0.5, 1., 2., 3., 4., 5., 6., 8., 10., 20., 30., 45., 60., 120., 180., 240., 300., 360., 480., 600., 900., 1200., 1800.,
    2700., 3600.,
];
const PULL: &[f64] = &[1., 5., 10., 20., 30., 60., 120., 180., 240., 300., 360., 480., 600., 900., 1200., 1800., 2700., 3600.];
const RUNTIME: &[f64] = &[
    0.005,
    0.0125,
    0.03125,
    0.078125,
    0.1953125,
    0.48828125,
    1.220703125,
    3.0517578125,
    7.62939453125,
    19.073486328125,
    47.6837158203125,
    119.20928955078125,
    298.0232238769531,
    745.0580596923828,
];
const STATUS: &[f64] = &[0.01, 0.05, 0.1, 0.5, 1., 5., 10., 20., 30., 45., 60.];
const ADMISSION_MS: &[f64] = &[0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 102.4, 204.8, 409.6, 819.2];
const CONTAINERS: &[f64] = &[1., 2., 4., 8., 16.];

macro_rules! metrics {
    ($($field:ident: $kind:tt $name:literal $([$($label:literal),*])? $($buckets:ident)?, $help:literal;)*) => {
        /// All of them.
        #[allow(missing_docs)]
        pub struct Metrics { $(pub $field: metrics!(@type $kind $([$($label),*])?),)* }

        static METRICS: LazyLock<Metrics> = LazyLock::new(|| Metrics {
            $($field: metrics!(@make $kind $name $([$($label),*])? $($buckets)?, $help),)*
        });
    };
    (@type counter) => { IntCounter };
    (@type counter [$($label:literal),*]) => { IntCounterVec };
    (@type gauge) => { Gauge };
    (@type gauge [$($label:literal),*]) => { IntGaugeVec };
    (@type histogram) => { Histogram };
    (@type histogram [$($label:literal),*]) => { HistogramVec };
    (@make counter $name:literal, $help:literal) => { keep(IntCounter::new($name, $help)) };
    (@make counter $name:literal [$($label:literal),*], $help:literal) => { keep(IntCounterVec::new(Opts::new($name, $help), &[$($label),*])) };
    (@make gauge $name:literal, $help:literal) => { keep(Gauge::new($name, $help)) };
    (@make gauge $name:literal [$($label:literal),*], $help:literal) => { keep(IntGaugeVec::new(Opts::new($name, $help), &[$($label),*])) };
    (@make histogram $name:literal $buckets:ident, $help:literal) => {
        keep(Histogram::with_opts(HistogramOpts::new($name, $help).buckets($buckets.to_vec())))
    };
    (@make histogram $name:literal [$($label:literal),*] $buckets:ident, $help:literal) => {
        keep(HistogramVec::new(HistogramOpts::new($name, $help).buckets($buckets.to_vec()), &[$($label),*]))
    };
}

fn keep<C: prometheus::core::Collector + Clone + 'static>(made: prometheus::Result<C>) -> C {
    let made = made.expect("names and labels of the table are well formed");
    // A second registration, in tests that make several kubelets, changes nothing.
    let _ = prometheus::register(Box::new(made.clone()));
    made
}

/// The counters; the first call registers all of them, so that `/metrics` shows those that never counted too.
pub fn metrics() -> &'static Metrics {
    &METRICS
}

metrics! {
    runtime_operations: counter "kubelet_runtime_operations_total" ["operation_type"], "Cumulative number of runtime operations by operation type.";
    runtime_operation_seconds: histogram "kubelet_runtime_operations_duration_seconds" ["operation_type"] RUNTIME, "Duration in seconds of runtime operations. Broken down by operation type.";
    runtime_operation_errors: counter "kubelet_runtime_operations_errors_total" ["operation_type"], "Cumulative number of runtime operation errors by operation type.";
    run_sandbox_seconds: histogram "kubelet_run_podsandbox_duration_seconds" ["runtime_handler"] DEFAULT, "Duration in seconds of the run_podsandbox operations. Broken down by RuntimeClass.Handler.";
    run_sandbox_errors: counter "kubelet_run_podsandbox_errors_total" ["runtime_handler"], "Cumulative number of the run_podsandbox operation errors by RuntimeClass.Handler.";
    http_requests: counter "kubelet_http_requests_total" ["long_running", "method", "path", "server_type"], "Number of the http requests received since the server started";
    http_seconds: histogram "kubelet_http_requests_duration_seconds" ["long_running", "method", "path", "server_type"] DEFAULT, "Duration in seconds to serve http requests";
    http_in_flight: gauge "kubelet_http_inflight_requests" ["long_running", "method", "path", "server_type"], "Number of the inflight http requests";
    pod_start_seconds: histogram "kubelet_pod_start_duration_seconds" START, "Duration in seconds from kubelet seeing a pod for the first time to the pod starting to run";
    pod_start_sli_seconds: histogram "kubelet_pod_start_sli_duration_seconds" START, "Duration in seconds to start a pod, excluding time to pull images and run init containers, measured from pod creation timestamp to when all its containers are reported as started and observed via watch";
    pod_start_total_seconds: histogram "kubelet_pod_start_total_duration_seconds" START, "Duration in seconds to start a pod since creation, including time to pull images and run init containers, measured from pod creation timestamp to when all its containers are reported as started and observed via watch";
    pod_worker_seconds: histogram "kubelet_pod_worker_duration_seconds" ["operation_type"] DEFAULT, "Duration in seconds to sync a single pod. Broken down by operation type: create, update, or sync";
    pod_worker_start_seconds: histogram "kubelet_pod_worker_start_duration_seconds" DEFAULT, "Duration in seconds from kubelet seeing a pod to starting a worker.";
    pod_status_sync_seconds: histogram "kubelet_pod_status_sync_duration_seconds" STATUS, "Duration in seconds to sync a pod status update. Measures time from detection of a change to pod status until the API is successfully updated for that pod, even if multiple intevening changes to pod status occur.";
    started_pods: counter "kubelet_started_pods_total", "Cumulative number of pods started";
    started_pods_errors: counter "kubelet_started_pods_errors_total", "Cumulative number of errors when starting pods";
    started_containers: counter "kubelet_started_containers_total" ["container_type"], "Cumulative number of containers started";
    started_containers_errors: counter "kubelet_started_containers_errors_total" ["code", "container_type"], "Cumulative number of errors when starting containers";
    containers_per_pod: histogram "kubelet_containers_per_pod_count" CONTAINERS, "The number of containers per pod.";
    image_pull_seconds: histogram "kubelet_image_pull_duration_seconds" ["image_size_in_bytes"] PULL, "Duration in seconds to pull an image.";
    image_garbage_collected: counter "kubelet_image_garbage_collected_total" ["reason"], "Total number of images garbage collected by the kubelet, whether through disk usage or image age.";
    evictions: counter "kubelet_evictions" ["eviction_signal"], "Cumulative number of pod evictions by eviction signal";
    eviction_stats_age_seconds: histogram "kubelet_eviction_stats_age_seconds" ["eviction_signal"] DEFAULT, "Time between when stats are collected, and when pod is evicted based on those stats by eviction signal";
    preemptions: counter "kubelet_preemptions" ["preemption_signal"], "Cumulative number of pod preemptions by preemption resource";
    admission_rejections: counter "kubelet_admission_rejections_total" ["reason"], "Cumulative number pod admission rejections by the Kubelet.";
    cgroup_manager_seconds: histogram "kubelet_cgroup_manager_duration_seconds" ["operation_type"] DEFAULT, "Duration in seconds for cgroup manager operations. Broken down by method.";
    pleg_relist_interval_seconds: histogram "kubelet_pleg_relist_interval_seconds" DEFAULT, "Interval in seconds between relisting in PLEG.";
    pleg_last_seen: gauge "kubelet_pleg_last_seen_seconds", "Timestamp in seconds when PLEG was last seen active.";
    pleg_discard_events: counter "kubelet_pleg_discard_events", "The number of discard events in PLEG.";
    evented_pleg_successes: counter "kubelet_evented_pleg_connection_success_count", "The number of times a streaming client was obtained to receive CRI Events.";
    evented_pleg_errors: counter "kubelet_evented_pleg_connection_error_count", "The number of errors encountered during the establishment of streaming connection with the CRI runtime.";
    orphaned_runtime_pods: counter "kubelet_orphaned_runtime_pods_total", "Number of pods that have been detected in the container runtime without being already known to the pod worker. This typically indicates the kubelet was restarted while a pod was force deleted in the API or in the local configuration, which is unusual.";
    restarted_pods: counter "kubelet_restarted_pods_total" ["static"], "Number of pods that have been restarted because they were deleted and recreated with the same UID while the kubelet was watching them (common for static pods, extremely uncommon for API pods)";
    shutdown_start: gauge "kubelet_graceful_shutdown_start_time_seconds", "Last graceful shutdown start time since unix epoch in seconds";
    shutdown_end: gauge "kubelet_graceful_shutdown_end_time_seconds", "Last graceful shutdown end time since unix epoch in seconds";
    cpu_pinning_requests: counter "kubelet_cpu_manager_pinning_requests_total", "The number of cpu core allocations which required pinning.";
    cpu_pinning_errors: counter "kubelet_cpu_manager_pinning_errors_total", "The number of cpu core allocations which required pinning failed.";
    cpu_shared_pool: gauge "kubelet_cpu_manager_shared_pool_size_millicores", "The size of the shared CPU pool for non-guaranteed QoS pods, in millicores.";
    cpu_exclusive: gauge "kubelet_cpu_manager_exclusive_cpu_allocation_count", "The total number of CPUs exclusively allocated to containers running on this node";
    memory_pinning_requests: counter "kubelet_memory_manager_pinning_requests_total", "The number of memory pages allocations which required pinning.";
    memory_pinning_errors: counter "kubelet_memory_manager_pinning_errors_total", "The number of memory pages allocations which required pinning that failed.";
    topology_requests: counter "kubelet_topology_manager_admission_requests_total", "The number of admission requests where resources have to be aligned.";
    topology_errors: counter "kubelet_topology_manager_admission_errors_total", "The number of admission request failures where resources could not be aligned.";
    topology_milliseconds: histogram "kubelet_topology_manager_admission_duration_ms" ADMISSION_MS, "Duration in milliseconds to serve a pod admission request.";
    device_registrations: counter "kubelet_device_plugin_registration_total" ["resource_name"], "Cumulative number of device plugin registrations. Broken down by resource name.";
    device_alloc_seconds: histogram "kubelet_device_plugin_alloc_duration_seconds" ["resource_name"] DEFAULT, "Duration in seconds to serve a device plugin Allocation request. Broken down by resource name.";
    pod_resources_requests: counter "kubelet_pod_resources_endpoint_requests_total" ["server_api_version"], "Cumulative number of requests to the PodResource endpoint. Broken down by server api version.";
    pod_resources_list: counter "kubelet_pod_resources_endpoint_requests_list" ["server_api_version"], "Number of requests to the PodResource List endpoint. Broken down by server api version.";
    pod_resources_get: counter "kubelet_pod_resources_endpoint_requests_get" ["server_api_version"], "Number of requests to the PodResource Get endpoint. Broken down by server api version.";
    pod_resources_allocatable: counter "kubelet_pod_resources_endpoint_requests_get_allocatable" ["server_api_version"], "Number of requests to the PodResource GetAllocatableResources endpoint. Broken down by server api version.";
    server_certificate_errors: counter "kubelet_server_expiration_renew_errors", "Counter of certificate renewal errors.";
    client_certificate_errors: counter "kubelet_certificate_manager_client_expiration_renew_errors", "Counter of certificate renewal errors.";
    storage_operation_seconds: histogram "storage_operation_duration_seconds" ["migrated", "operation_name", "status", "volume_plugin"] STORAGE, "Storage operation duration";
}

const STORAGE: &[f64] = &[0.1, 0.25, 0.5, 1., 2.5, 5., 10., 15., 25., 50., 120., 300., 600.];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_labels_are_those_of_upstream() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/reference/metrics.yaml");
        let Ok(text) = std::fs::read_to_string(path) else {
            eprintln!("SKIPPED: no reference data at {path}");
            return;
        };
        let rows: Vec<serde_json::Value> = serde_yaml::from_str(&text).unwrap();
        let of = |row: &serde_json::Value, key: &str| row[key].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        let known: std::collections::HashMap<String, Vec<String>> = rows
            .iter()
            .map(|row| {
                let name = ["namespace", "subsystem", "name"].iter().filter_map(|key| of(row, key)).collect::<Vec<_>>().join("_");
                let labels = row["labels"].as_array().into_iter().flatten().filter_map(|label| label.as_str().map(str::to_owned));
                (name, labels.collect())
            })
            .collect();
        let _ = metrics();
        let m = metrics();
        // Labelled ones show only once they count.
        m.runtime_operations.with_label_values(&["version"]).inc();
        m.started_containers_errors.with_label_values(&["x", "container"]).inc();
        m.http_requests.with_label_values(&["false", "GET", "pods", "readwrite"]).inc();
        m.storage_operation_seconds.with_label_values(&["false", "volume_mount", "success", "x"]).observe(1.0);
        let mut seen = 0;
        for family in prometheus::gather() {
            if !family.name().starts_with("kubelet_") && !family.name().starts_with("storage_") {
                continue;
            }
            let labels = known.get(family.name()).unwrap_or_else(|| panic!("upstream has no {}", family.name()));
            let mut ours: Vec<String> = family.get_metric()[0].get_label().iter().map(|pair| pair.name().to_owned()).collect();
            ours.sort();
            assert_eq!(&ours, labels, "{}", family.name());
            seen += 1;
        }
        assert!(seen > 25, "{seen}");
    }
}

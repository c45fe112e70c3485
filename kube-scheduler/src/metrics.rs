//! Upstream's metrics.
//!
//! Upstream: pkg/scheduler/metrics/metrics.go

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use component::metrics::prometheus::{
    Histogram, HistogramVec, IntCounterVec, IntGaugeVec, exponential_buckets, histogram_opts, register_histogram,
    register_histogram_vec, register_int_counter_vec, register_int_gauge_vec,
};

use tokio::time::Instant;

const UNIQUE: &str = "metric names are unique in this file";

fn doubling(start: f64, count: usize) -> Vec<f64> {
    exponential_buckets(start, 2.0, count).expect("start and count are positive")
}

/// `scheduler_schedule_attempts_total{result,profile}`.
pub static ATTEMPTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Number of attempts to schedule pods, by the result. 'unschedulable' means a pod could not be scheduled, while 'error' means an internal scheduler problem.";
    register_int_counter_vec!("scheduler_schedule_attempts_total", help, &["profile", "result"]).expect(UNIQUE)
});

/// `scheduler_scheduling_attempt_duration_seconds{result,profile}`.
pub static ATTEMPT_SECONDS: LazyLock<HistogramVec> = LazyLock::new(|| {
    let help = "Scheduling attempt latency in seconds (scheduling algorithm + binding)";
    register_histogram_vec!("scheduler_scheduling_attempt_duration_seconds", help, &["profile", "result"], doubling(0.001, 15))
        .expect(UNIQUE)
});

/// `scheduler_scheduling_algorithm_duration_seconds`.
pub static ALGORITHM_SECONDS: LazyLock<Histogram> = LazyLock::new(|| {
    let opts = histogram_opts!(
        "scheduler_scheduling_algorithm_duration_seconds",
        "Scheduling algorithm latency in seconds",
        doubling(0.001, 15)
    );
    register_histogram!(opts).expect(UNIQUE)
});

/// `scheduler_pending_pods{queue}`.
pub static PENDING: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    let help = "Number of pending pods, by the queue type. 'active' means number of pods in activeQ; 'backoff' means number of pods in backoffQ; 'unschedulable' means number of pods in unschedulablePods that the scheduler attempted to schedule and failed; 'gated' is the number of unschedulable pods that the scheduler never attempted to schedule because they are gated.";
    register_int_gauge_vec!("scheduler_pending_pods", help, &["queue"]).expect(UNIQUE)
});

/// `scheduler_queue_incoming_pods_total{queue,event}`.
pub static INCOMING: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Number of pods added to scheduling queues by event and queue type.";
    register_int_counter_vec!("scheduler_queue_incoming_pods_total", help, &["event", "queue"]).expect(UNIQUE)
});

/// `scheduler_pod_scheduling_sli_duration_seconds{attempts}`.
pub static SLI_SECONDS: LazyLock<HistogramVec> = LazyLock::new(|| {
    let help = "E2e latency for a pod being scheduled, from the time the pod enters the scheduling queue and might involve multiple scheduling attempts.";
    register_histogram_vec!("scheduler_pod_scheduling_sli_duration_seconds", help, &["attempts"], doubling(0.01, 20))
        .expect(UNIQUE)
});

/// `scheduler_pod_scheduling_attempts`.
pub static POD_ATTEMPTS: LazyLock<Histogram> = LazyLock::new(|| {
    let opts = histogram_opts!(
        "scheduler_pod_scheduling_attempts",
        "Number of attempts to successfully schedule a pod.",
        doubling(1.0, 5)
    );
    register_histogram!(opts).expect(UNIQUE)
});

/// `scheduler_preemption_attempts_total`.
pub static PREEMPTIONS: LazyLock<component::metrics::prometheus::IntCounter> = LazyLock::new(|| {
    let help = "Total preemption attempts in the cluster till now";
    component::metrics::prometheus::register_int_counter!("scheduler_preemption_attempts_total", help).expect(UNIQUE)
});

/// `scheduler_preemption_victims`.
pub static VICTIMS: LazyLock<Histogram> = LazyLock::new(|| {
    let opts = histogram_opts!("scheduler_preemption_victims", "Number of selected preemption victims", doubling(1.0, 7));
    register_histogram!(opts).expect(UNIQUE)
});

/// `scheduler_scheduler_cache_size{type}`.
pub static CACHE_SIZE: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    let help = "Number of nodes, pods, and assumed (bound) pods in the scheduler cache.";
    register_int_gauge_vec!("scheduler_cache_size", help, &["type"]).expect(UNIQUE)
});

/// `scheduler_unschedulable_pods{plugin,profile}`.
pub static UNSCHEDULABLE: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    let help = "The number of unschedulable pods broken down by plugin name. A pod will increment the gauge for all plugins that caused it to not schedule and so this metric have meaning only when broken down by plugin.";
    register_int_gauge_vec!("scheduler_unschedulable_pods", help, &["plugin", "profile"]).expect(UNIQUE)
});

/// `scheduler_framework_extension_point_duration_seconds{extension_point,profile,status}`.
pub static POINT_SECONDS: LazyLock<HistogramVec> = LazyLock::new(|| {
    let help = "Latency for running all plugins of a specific extension point.";
    let labels = &["extension_point", "profile", "status"];
    register_histogram_vec!("scheduler_framework_extension_point_duration_seconds", help, labels, doubling(0.0001, 12))
        .expect(UNIQUE)
});

/// `scheduler_plugin_execution_duration_seconds{extension_point,plugin,status}`: one decision of ten, and of its nodes the first.
pub static PLUGIN_SECONDS: LazyLock<HistogramVec> = LazyLock::new(|| {
    let help = "Duration for running a plugin at a specific extension point.";
    let labels = &["extension_point", "plugin", "status"];
    let buckets = exponential_buckets(0.00001, 1.5, 20).expect("start and count are positive");
    register_histogram_vec!("scheduler_plugin_execution_duration_seconds", help, labels, buckets).expect(UNIQUE)
});

/// `scheduler_plugin_evaluation_total{extension_point,plugin,profile}`.
pub static EVALUATIONS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Number of attempts to schedule pods by each plugin and the extension point (available only in PreFilter, Filter, PreScore, and Score).";
    register_int_counter_vec!("scheduler_plugin_evaluation_total", help, &["extension_point", "plugin", "profile"]).expect(UNIQUE)
});

/// `scheduler_goroutines{operation}`: here tasks.
pub static TASKS: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    let help = "Number of running goroutines split by the work they do such as binding.";
    register_int_gauge_vec!("scheduler_goroutines", help, &["operation"]).expect(UNIQUE)
});

/// `scheduler_permit_wait_duration_seconds{result}`: no plugin waits, so it stays empty, as upstream's with the default plugins.
pub static PERMIT_SECONDS: LazyLock<HistogramVec> = LazyLock::new(|| {
    let help = "Duration of waiting on permit.";
    register_histogram_vec!("scheduler_permit_wait_duration_seconds", help, &["result"], doubling(0.001, 15)).expect(UNIQUE)
});

/// `scheduler_volume_binder_cache_requests_total{operation}`.
pub static VOLUME_CACHE: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Total number for request volume binding cache";
    register_int_counter_vec!("scheduler_volume_binder_cache_requests_total", help, &["operation"]).expect(UNIQUE)
});

/// `scheduler_pod_scheduled_after_flush_total`.
pub static AFTER_FLUSH: LazyLock<component::metrics::prometheus::IntCounter> = LazyLock::new(|| {
    let help = "Number of pods that were successfully scheduled after being flushed from unschedulablePods due to timeout. This metric helps detect potential queueing hint misconfigurations or event handling issues.";
    component::metrics::prometheus::register_int_counter!("scheduler_pod_scheduled_after_flush_total", help).expect(UNIQUE)
});

/// Makes the metrics that have no labels, so that they show from the start.
pub fn register() {
    LazyLock::force(&PREEMPTIONS);
    LazyLock::force(&VICTIMS);
    LazyLock::force(&POD_ATTEMPTS);
    LazyLock::force(&ALGORITHM_SECONDS);
    LazyLock::force(&AFTER_FLUSH);
    LazyLock::force(&PERMIT_SECONDS);
    LazyLock::force(&VOLUME_CACHE);
}

/// Notes how long an extension point took.
pub fn point(point: &str, profile: &str, good: bool, since: Instant) {
    let status = if good { "Success" } else { "Unschedulable" };
    POINT_SECONDS.with_label_values(&[point, profile, status]).observe(since.elapsed().as_secs_f64());
}

/// The same for a point that went well, of which only the sum of its parts is known.
pub fn point_took(point: &str, profile: &str, took: Duration) {
    POINT_SECONDS.with_label_values(&[point, profile, "Success"]).observe(took.as_secs_f64());
}

/// Notes how long a plugin took at an extension point.
pub fn plugin(point: &str, plugin: &str, status: &str, since: Instant) {
    PLUGIN_SECONDS.with_label_values(&[point, plugin, status]).observe(since.elapsed().as_secs_f64());
}

/// Whether this decision is one whose plugins are timed: one of ten. Upstream: pluginMetricsSamplePercent
pub fn sampled() -> bool {
    static DECISIONS: AtomicU32 = AtomicU32::new(0);
    DECISIONS.fetch_add(1, Ordering::Relaxed).is_multiple_of(10)
}

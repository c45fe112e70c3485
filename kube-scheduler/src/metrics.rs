//! Upstream's metrics.
//!
//! Upstream: pkg/scheduler/metrics/metrics.go

use std::sync::LazyLock;

use component::metrics::prometheus::{
    Histogram, HistogramVec, IntCounterVec, IntGaugeVec, exponential_buckets, histogram_opts, register_histogram,
    register_histogram_vec, register_int_counter_vec, register_int_gauge_vec,
};

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

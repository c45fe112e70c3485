//! `workqueue_*`: how much work waits, for how long, and how long it takes.
//!
//! Upstream: client-go/util/workqueue/metrics.go, component-base/metrics/prometheus/workqueue

use std::sync::{Arc, LazyLock, Weak};

use component::metrics::prometheus::core::{Collector, Desc};
use component::metrics::prometheus::proto::MetricFamily;
use component::metrics::prometheus::{
    GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, register, register_histogram_vec,
    register_int_counter_vec, register_int_gauge_vec,
};
use parking_lot::Mutex;

/// Upstream's buckets: 10 ns to 10 s.
const BUCKETS: [f64; 10] = [1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0];

struct Families {
    depth: IntGaugeVec,
    adds: IntCounterVec,
    retries: IntCounterVec,
    waited: HistogramVec,
    worked: HistogramVec,
    running: Arc<Mutex<Vec<Weak<dyn Running>>>>,
}

/// What is asked of a queue when metrics are read.
pub(super) trait Running: Send + Sync {
    /// The label.
    fn name(&self) -> &str;
    /// Seconds that the keys being worked on have taken so far: their sum, and the longest.
    fn unfinished(&self) -> (f64, f64);
}

static FAMILIES: LazyLock<Families> = LazyLock::new(|| {
    let registered = "the name is registered once, in this initializer";
    let running = Arc::<Mutex<Vec<Weak<dyn Running>>>>::default();
    let gauge = |name: &str, help: &str| GaugeVec::new(Opts::new(name, help), &["name"]).expect("valid metric name");
    register(Box::new(Unfinished {
        queues: running.clone(),
        sum: gauge(
            "workqueue_unfinished_work_seconds",
            "How many seconds of work has done that is in progress and hasn't been observed by work_duration. Large values \
             indicate stuck threads. One can deduce the number of stuck threads by observing the rate at which this increases.",
        ),
        longest: gauge(
            "workqueue_longest_running_processor_seconds",
            "How many seconds has the longest running processor for workqueue been running.",
        ),
    }))
    .expect(registered);
    Families {
        depth: register_int_gauge_vec!("workqueue_depth", "Current depth of workqueue", &["name"]).expect(registered),
        adds: register_int_counter_vec!("workqueue_adds_total", "Total number of adds handled by workqueue", &["name"])
            .expect(registered),
        retries: register_int_counter_vec!("workqueue_retries_total", "Total number of retries handled by workqueue", &["name"])
            .expect(registered),
        waited: register_histogram_vec!(
            "workqueue_queue_duration_seconds",
            "How long in seconds an item stays in workqueue before being requested.",
            &["name"],
            BUCKETS.to_vec()
        )
        .expect(registered),
        worked: register_histogram_vec!(
            "workqueue_work_duration_seconds",
            "How long in seconds processing an item from workqueue takes.",
            &["name"],
            BUCKETS.to_vec()
        )
        .expect(registered),
        running,
    }
});

/// The metrics of one queue.
pub(super) struct Metrics {
    pub(super) depth: IntGauge,
    pub(super) adds: IntCounter,
    pub(super) retries: IntCounter,
    pub(super) waited: Histogram,
    pub(super) worked: Histogram,
}

impl Metrics {
    pub(super) fn new(name: &str) -> Self {
        let families = &*FAMILIES;
        Self {
            depth: families.depth.with_label_values(&[name]),
            adds: families.adds.with_label_values(&[name]),
            retries: families.retries.with_label_values(&[name]),
            waited: families.waited.with_label_values(&[name]),
            worked: families.worked.with_label_values(&[name]),
        }
    }
}

/// From now on the queue is asked when metrics are read, as long as it lives.
pub(super) fn watch(queue: Weak<dyn Running>) {
    let mut queues = FAMILIES.running.lock();
    queues.retain(|queue| queue.strong_count() > 0);
    queues.push(queue);
}

struct Unfinished {
    queues: Arc<Mutex<Vec<Weak<dyn Running>>>>,
    sum: GaugeVec,
    longest: GaugeVec,
}

impl Collector for Unfinished {
    fn desc(&self) -> Vec<&Desc> {
        self.sum.desc().into_iter().chain(self.longest.desc()).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let queues: Vec<_> = self.queues.lock().iter().filter_map(Weak::upgrade).collect();
        for queue in queues {
            let (sum, longest) = queue.unfinished();
            self.sum.with_label_values(&[queue.name()]).set(sum);
            self.longest.with_label_values(&[queue.name()]).set(longest);
        }
        self.sum.collect().into_iter().chain(self.longest.collect()).collect()
    }
}

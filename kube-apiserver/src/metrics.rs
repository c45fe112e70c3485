//! Metrics, with upstream's names and labels.

use std::sync::LazyLock;
use std::time::Duration;

use component::metrics::prometheus::{
    GaugeVec, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, register_gauge_vec, register_histogram_vec,
    register_int_counter_vec, register_int_gauge, register_int_gauge_vec,
};

/// Upstream: apiserver/pkg/endpoints/metrics
const REQUEST_BUCKETS: &[f64] = &[
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0,
];

/// Made once; the macros only fail on a name registered twice.
macro_rules! metric {
    ($name:ident: $kind:ty = $make:expr) => {
        static $name: LazyLock<$kind> = LazyLock::new(|| $make.expect("metric names are registered once"));
    };
}

const REQUEST_LABELS: &[&str] = &["verb", "dry_run", "group", "version", "resource", "subresource", "scope", "component"];

metric!(REQUESTS: IntCounterVec = register_int_counter_vec!(
    "apiserver_request_total",
    "Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, scope, component, and HTTP response code.",
    &["verb", "dry_run", "group", "version", "resource", "subresource", "scope", "component", "code"]
));
metric!(DURATION: HistogramVec = register_histogram_vec!(
    "apiserver_request_duration_seconds",
    "Response latency distribution in seconds for each verb, dry run value, group, version, resource, subresource, scope and component.",
    REQUEST_LABELS,
    REQUEST_BUCKETS.to_vec()
));
metric!(LONG_RUNNING: IntGaugeVec = register_int_gauge_vec!(
    "apiserver_longrunning_requests",
    "Gauge of all active long-running apiserver requests broken out by verb, group, version, resource, scope and component. Not all requests are tracked this way.",
    &["verb", "group", "version", "resource", "subresource", "scope", "component"]
));
metric!(IN_FLIGHT: IntGaugeVec = register_int_gauge_vec!(
    "apiserver_current_inflight_requests",
    "Maximal number of currently used inflight request limit of this apiserver per request kind in last second.",
    &["request_kind"]
));
metric!(TERMINATED: IntCounterVec = register_int_counter_vec!(
    "apiserver_request_terminations_total",
    "Number of requests which apiserver terminated in self-defense.",
    &["verb", "group", "version", "resource", "subresource", "scope", "component", "code"]
));
metric!(ETCD: HistogramVec = register_histogram_vec!(
    "etcd_request_duration_seconds",
    "Etcd request latency in seconds for each operation and object type.",
    &["operation", "group", "resource"],
    vec![0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0]
));
metric!(ETCD_REQUESTS: IntCounterVec = register_int_counter_vec!(
    "etcd_requests_total",
    "Etcd request counts for each operation and object type.",
    &["operation", "group", "resource"]
));
metric!(ETCD_ERRORS: IntCounterVec = register_int_counter_vec!(
    "etcd_request_errors_total",
    "Etcd failed request counts for each operation and object type.",
    &["operation", "group", "resource"]
));
metric!(OBJECTS: IntGaugeVec = register_int_gauge_vec!(
    "apiserver_storage_objects",
    "Number of stored objects at the time of last check split by kind.",
    &["resource"]
));
metric!(WATCHERS: IntGaugeVec = register_int_gauge_vec!(
    "apiserver_registered_watchers",
    "Number of currently registered watchers for a given resources.",
    &["resource"]
));
metric!(SIZE: IntGaugeVec = register_int_gauge_vec!(
    "apiserver_storage_size_bytes",
    "Size of the storage database file physically allocated in bytes.",
    &["storage_cluster_id"]
));
metric!(RESPONSE_SIZES: HistogramVec = register_histogram_vec!(
    "apiserver_response_sizes",
    "Response size distribution in bytes for each group, version, verb, resource, subresource, scope and component.",
    &["verb", "group", "version", "resource", "subresource", "scope", "component"],
    vec![1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9]
));
metric!(DEPRECATED: IntGaugeVec = register_int_gauge_vec!(
    "apiserver_requested_deprecated_apis",
    "Gauge of deprecated APIs that have been requested, broken out by API group, version, resource, subresource, and removed_release.",
    &["group", "version", "resource", "subresource", "removed_release"]
));
metric!(STEP: HistogramVec = register_histogram_vec!(
    "apiserver_admission_step_admission_duration_seconds",
    "Admission sub-step latency histogram in seconds, broken out for each operation and API resource and step type (validate or admit).",
    &["type", "operation", "rejected"],
    vec![0.005, 0.025, 0.1, 0.5, 1.0, 2.5]
));
metric!(EXECUTING: IntGaugeVec = register_int_gauge_vec!(
    "apiserver_flowcontrol_current_executing_requests",
    "Number of requests in initial (for a WATCH) or any (for a non-WATCH) execution stage in the API Priority and Fairness subsystem",
    &["priority_level", "flow_schema"]
));
metric!(WAITED: HistogramVec = register_histogram_vec!(
    "apiserver_flowcontrol_request_wait_duration_seconds",
    "Length of time a request spent waiting in its queue",
    &["priority_level", "flow_schema", "execute"],
    vec![0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0]
));
metric!(DISPATCHED: IntCounterVec = register_int_counter_vec!(
    "apiserver_flowcontrol_dispatched_requests_total",
    "Number of requests executed by API Priority and Fairness subsystem",
    &["priority_level", "flow_schema"]
));
metric!(REJECTED: IntCounterVec = register_int_counter_vec!(
    "apiserver_flowcontrol_rejected_requests_total",
    "Number of requests rejected by API Priority and Fairness subsystem",
    &["priority_level", "flow_schema", "reason"]
));
metric!(SEATS: IntGaugeVec = register_int_gauge_vec!(
    "apiserver_flowcontrol_nominal_limit_seats",
    "Nominal number of execution seats configured for each priority level",
    &["priority_level"]
));
metric!(PANICS: IntCounterVec = register_int_counter_vec!(
    "rk_apiserver_panics_total",
    "Requests that ended in a panic.",
    &["verb"]
));
metric!(REVISION: IntGauge = register_int_gauge!("rk_apiserver_cache_revision", "The revision of etcd that the watch cache has reached."));
metric!(BUILD: GaugeVec = register_gauge_vec!(
    "kubernetes_build_info",
    "A metric with a constant '1' value labeled by major, minor, git version, git commit, git tree state, build date, Go version, and compiler from which Kubernetes was built, and platform on which it is running.",
    &["major", "minor", "git_version"]
));

/// A call to etcd ended.
pub fn etcd_request(operation: &str, took: Duration, ok: bool) {
    let labels = [operation, "", ""];
    ETCD.with_label_values(&labels).observe(took.as_secs_f64());
    ETCD_REQUESTS.with_label_values(&labels).inc();
    if !ok {
        ETCD_ERRORS.with_label_values(&labels).inc();
    }
}

/// The labels of a request.
pub struct Labels<'a> {
    /// In upper case, `LIST` and `WATCH` among them.
    pub verb: &'a str,
    /// `All` or empty.
    pub dry_run: &'a str,
    /// See discovery.
    pub group: &'a str,
    /// See discovery.
    pub version: &'a str,
    /// See discovery.
    pub resource: &'a str,
    /// See discovery.
    pub subresource: &'a str,
    /// `resource`, `namespace`, `cluster`.
    pub scope: &'a str,
}

/// A request was answered.
pub fn request(labels: &Labels<'_>, code: u16, took: Duration, long_running: bool) {
    let Labels { verb, dry_run, group, version, resource, subresource, scope } = labels;
    let code_text = code.to_string();
    REQUESTS
        .with_label_values(&[verb, dry_run, group, version, resource, subresource, scope, "apiserver", code_text.as_str()])
        .inc();
    if !long_running {
        DURATION
            .with_label_values(&[verb, dry_run, group, version, resource, subresource, scope, "apiserver"])
            .observe(took.as_secs_f64());
    }
    if code == 429 || code == 504 {
        TERMINATED
            .with_label_values(&[verb, group, version, resource, subresource, scope, "apiserver", code_text.as_str()])
            .inc();
    }
}

/// Counts a long-running request until dropped.
pub struct LongRunning(component::metrics::prometheus::IntGauge);

impl LongRunning {
    /// Begins.
    pub fn begin(labels: &Labels<'_>) -> Self {
        let Labels { verb, group, version, resource, subresource, scope, .. } = labels;
        let gauge = LONG_RUNNING.with_label_values(&[verb, group, version, resource, subresource, scope, "apiserver"]);
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for LongRunning {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Requests being served, by kind (`readOnly`, `mutating`).
pub fn in_flight(kind: &str, change: i64) {
    IN_FLIGHT.with_label_values(&[kind]).add(change);
}

/// etcd's database has so many bytes.
pub fn storage_size(bytes: i64) {
    SIZE.with_label_values(&["etcd-0"]).set(bytes);
}

/// An answer has so many bytes.
pub fn response_size(labels: &Labels<'_>, bytes: u64) {
    let Labels { verb, group, version, resource, subresource, scope, .. } = labels;
    #[expect(clippy::cast_precision_loss, reason = "buckets are powers of ten")]
    RESPONSE_SIZES.with_label_values(&[verb, group, version, resource, subresource, scope, "apiserver"]).observe(bytes as f64);
}

/// A deprecated resource was asked for.
pub fn deprecated(group: &str, version: &str, resource: &str, subresource: &str) {
    DEPRECATED.with_label_values(&[group, version, resource, subresource, ""]).set(1);
}

/// The mutating (`admit`) or validating (`validate`) plugins were run.
pub fn admission_step(step: &str, operation: &str, took: Duration, rejected: bool) {
    let rejected = if rejected { "true" } else { "false" };
    STEP.with_label_values(&[step, operation, rejected]).observe(took.as_secs_f64());
}

/// A request that waited for a seat so long.
pub fn waited(level: &str, schema: &str, took: Duration, executed: bool) {
    let executed = if executed { "true" } else { "false" };
    WAITED.with_label_values(&[level, schema, executed]).observe(took.as_secs_f64());
}

/// Counts a request that has a seat until dropped.
pub struct Executing(component::metrics::prometheus::IntGauge);

impl Executing {
    /// Begins.
    pub fn begin(level: &str, schema: &str) -> Self {
        let gauge = EXECUTING.with_label_values(&[level, schema]);
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Executing {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A request got a seat.
pub fn dispatched(level: &str, schema: &str) {
    DISPATCHED.with_label_values(&[level, schema]).inc();
}

/// A request was turned away.
pub fn rejected(level: &str, schema: &str, reason: &str) {
    REJECTED.with_label_values(&[level, schema, reason]).inc();
}

/// A priority level has so many seats.
pub fn seats(level: &str, count: u64) {
    SEATS.with_label_values(&[level]).set(count.cast_signed());
}

/// A request panicked.
pub fn panicked(verb: &str) {
    PANICS.with_label_values(&[verb]).inc();
}

/// The body of `/metrics`. `caches`: resource, objects, watchers.
pub fn render(caches: impl Iterator<Item = (String, usize, usize)>, revision: u64) -> String {
    for (resource, objects, watchers) in caches {
        OBJECTS.with_label_values(&[&resource]).set(i64::try_from(objects).unwrap_or(i64::MAX));
        WATCHERS.with_label_values(&[&resource]).set(i64::try_from(watchers).unwrap_or(i64::MAX));
    }
    REVISION.set(revision.cast_signed());
    BUILD.with_label_values(&["1", "36", component::version::current()]).set(1.0);
    component::metrics::render()
}

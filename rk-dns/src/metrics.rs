//! Metrics, with CoreDNS's names and labels: dashboards work unchanged.

use std::sync::LazyLock;
use std::time::Duration;

use component::metrics::prometheus::{
    HistogramVec, IntCounterVec, IntGaugeVec, exponential_buckets, register_histogram_vec, register_int_counter_vec,
    register_int_gauge_vec,
};

struct Metrics {
    requests: Option<IntCounterVec>,
    responses: Option<IntCounterVec>,
    duration: Option<HistogramVec>,
    hits: Option<IntCounterVec>,
    misses: Option<IntCounterVec>,
    entries: Option<IntGaugeVec>,
    forwarded: Option<IntCounterVec>,
    reloads: Option<IntCounterVec>,
}

static METRICS: LazyLock<Metrics> = LazyLock::new(|| {
    let buckets = exponential_buckets(0.00025, 2.0, 16).unwrap_or_default();
    Metrics {
        requests: register_int_counter_vec!(
            "coredns_dns_requests_total",
            "Counter of DNS requests made per zone, protocol and family.",
            &["family", "proto", "server", "type", "view", "zone"]
        )
        .ok(),
        responses: register_int_counter_vec!(
            "coredns_dns_responses_total",
            "Counter of response status codes.",
            &["plugin", "rcode", "server", "view", "zone"]
        )
        .ok(),
        duration: register_histogram_vec!(
            "coredns_dns_request_duration_seconds",
            "Histogram of the time (in seconds) each request took per zone.",
            &["server", "view", "zone"],
            buckets
        )
        .ok(),
        hits: register_int_counter_vec!(
            "coredns_cache_hits_total",
            "The count of cache hits.",
            &["server", "type", "view", "zones"]
        )
        .ok(),
        misses: register_int_counter_vec!(
            "coredns_cache_misses_total",
            "The count of cache misses. Deprecated, derive misses from cache hits/requests counters.",
            &["server", "view", "zones"]
        )
        .ok(),
        entries: register_int_gauge_vec!(
            "coredns_cache_entries",
            "The number of elements in the cache.",
            &["server", "type", "view", "zones"]
        )
        .ok(),
        forwarded: register_int_counter_vec!(
            "rk_dns_forwarded_total",
            "Questions asked of other servers, by outcome.",
            &["rcode"]
        )
        .ok(),
        reloads: register_int_counter_vec!(
            "coredns_reload_failed_total",
            "Counter of the number of failed reload attempts.",
            &[]
        )
        .ok(),
    }
});

/// What a request was, for its metrics.
pub struct Request<'a> {
    pub server: &'a str,
    pub zone: &'a str,
    pub ipv6: bool,
    pub tcp: bool,
    pub kind: &'a str,
    pub plugin: &'a str,
    pub code: &'a str,
}

pub fn served(request: &Request<'_>, took: Duration) {
    let metrics = &*METRICS;
    let family = if request.ipv6 { "2" } else { "1" };
    let protocol = if request.tcp { "tcp" } else { "udp" };
    if let Some(counter) = &metrics.requests {
        counter.with_label_values(&[family, protocol, request.server, request.kind, "", request.zone]).inc();
    }
    if let Some(counter) = &metrics.responses {
        counter.with_label_values(&[request.plugin, request.code, request.server, "", request.zone]).inc();
    }
    if let Some(histogram) = &metrics.duration {
        histogram.with_label_values(&[request.server, "", request.zone]).observe(took.as_secs_f64());
    }
}

pub fn cache_hit(server: &str, zone: &str, denial: bool) {
    if let Some(counter) = &METRICS.hits {
        counter.with_label_values(&[server, if denial { "denial" } else { "success" }, "", zone]).inc();
    }
}

pub fn cache_miss(server: &str, zone: &str) {
    if let Some(counter) = &METRICS.misses {
        counter.with_label_values(&[server, "", zone]).inc();
    }
}

pub fn cache_entries(zone: &str, count: usize) {
    if let Some(gauge) = &METRICS.entries {
        gauge.with_label_values(&["dns://", "success", "", zone]).set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}

pub fn forwarded(code: &str) {
    if let Some(counter) = &METRICS.forwarded {
        counter.with_label_values(&[code]).inc();
    }
}

pub fn reload_failed() {
    if let Some(counter) = &METRICS.reloads {
        counter.with_label_values(&[] as &[&str]).inc();
    }
}

//! What the proxy tells of itself. Upstream: pkg/proxy/metrics/metrics.go

use std::sync::LazyLock;
use std::time::Duration;

use component::metrics::prometheus::{
    GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, exponential_buckets, register_gauge_vec,
    register_histogram, register_histogram_vec, register_int_counter, register_int_counter_vec, register_int_gauge,
};
use jiff::Timestamp;
use net::iptables::Family;

use crate::backend::Report;
use crate::state::Seen;

/// All of them; made at start, so that they are there before anything happened.
pub struct Metrics {
    duration: Option<HistogramVec>,
    full: Option<HistogramVec>,
    partial: Option<HistogramVec>,
    programming: Option<HistogramVec>,
    last: Option<GaugeVec>,
    last_queued: Option<GaugeVec>,
    iptables_failures: Option<IntCounterVec>,
    iptables_partial_failures: Option<IntCounterVec>,
    nftables_failures: Option<IntCounterVec>,
    endpoint_changes: Option<IntCounter>,
    endpoint_pending: Option<IntGauge>,
    service_changes: Option<IntCounter>,
    service_pending: Option<IntGauge>,
    conntrack_duration: Option<Histogram>,
    conntrack_deleted: Option<IntCounter>,
    healthz: Option<IntCounterVec>,
    livez: Option<IntCounterVec>,
    written: Option<IntCounter>,
}

/// Registered once per process.
pub static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::register);

const FAMILY: &[&str] = &["ip_family"];

fn now_seconds() -> f64 {
    Timestamp::now().as_duration().as_secs_f64()
}

fn label(family: Family) -> [&'static str; 1] {
    [match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }]
}

impl Metrics {
    fn register() -> Self {
        let sync = || exponential_buckets(0.001, 2.0, 15).unwrap_or_default();
        let histogram = |name: &str, help: &str, buckets| register_histogram_vec!(name, help, FAMILY, buckets).ok();
        let gauge = |name: &str, help: &str| register_gauge_vec!(name, help, FAMILY).ok();
        let failures = |name: &str, help: &str| register_int_counter_vec!(name, help, FAMILY).ok();
        let counter = |name: &str, help: &str| register_int_counter!(name, help).ok();
        let pending = |name: &str, help: &str| register_int_gauge!(name, help).ok();
        let coded = |name: &str, help: &str| register_int_counter_vec!(name, help, &["code"]).ok();
        // 0, 0.25 s, 0.5 s; then by seconds, by 5 s from one minute, by 30 s from two.
        let mut programming = vec![0.0, 0.25, 0.5];
        programming.extend((1..60).map(f64::from));
        programming.extend((0..12).map(|n| f64::from(60 + 5 * n)));
        programming.extend((0..7).map(|n| f64::from(120 + 30 * n)));
        Self {
            duration: histogram("kubeproxy_sync_proxy_rules_duration_seconds", "SyncProxyRules latency in seconds", sync()),
            full: histogram(
                "kubeproxy_sync_full_proxy_rules_duration_seconds",
                "SyncProxyRules latency in seconds for full resyncs",
                sync(),
            ),
            partial: histogram(
                "kubeproxy_sync_partial_proxy_rules_duration_seconds",
                "SyncProxyRules latency in seconds for partial resyncs",
                sync(),
            ),
            programming: histogram(
                "kubeproxy_network_programming_duration_seconds",
                "In Cluster Network Programming Latency in seconds",
                programming,
            ),
            last: gauge(
                "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
                "The last time proxy rules were successfully synced",
            ),
            last_queued: gauge(
                "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
                "The last time a sync of proxy rules was queued",
            ),
            iptables_failures: failures(
                "kubeproxy_sync_proxy_rules_iptables_restore_failures_total",
                "Cumulative proxy iptables restore failures",
            ),
            iptables_partial_failures: failures(
                "kubeproxy_sync_proxy_rules_iptables_partial_restore_failures_total",
                "Cumulative proxy iptables partial restore failures",
            ),
            nftables_failures: failures(
                "kubeproxy_sync_proxy_rules_nftables_sync_failures_total",
                "Cumulative proxy nftables sync failures",
            ),
            endpoint_changes: counter(
                "kubeproxy_sync_proxy_rules_endpoint_changes_total",
                "Cumulative proxy rules Endpoint changes",
            ),
            endpoint_pending: pending(
                "kubeproxy_sync_proxy_rules_endpoint_changes_pending",
                "Pending proxy rules Endpoint changes",
            ),
            service_changes: counter(
                "kubeproxy_sync_proxy_rules_service_changes_total",
                "Cumulative proxy rules Service changes",
            ),
            service_pending: pending("kubeproxy_sync_proxy_rules_service_changes_pending", "Pending proxy rules Service changes"),
            conntrack_duration: register_histogram!(
                "kubeproxy_conntrack_reconciler_sync_duration_seconds",
                "ReconcileConntrackFlowsLatency latency in seconds",
                sync()
            )
            .ok(),
            conntrack_deleted: counter(
                "kubeproxy_conntrack_reconciler_deleted_entries_total",
                "Cumulative conntrack flows deleted by conntrack reconciler",
            ),
            healthz: coded("proxy_healthz_total", "Cumulative proxy healthz HTTP status"),
            livez: coded("proxy_livez_total", "Cumulative proxy livez HTTP status"),
            written: counter("rk_kubeproxy_rules_written_total", "Rules written to the kernel, by full and partial syncs"),
        }
    }

    /// Something has to be synced.
    pub fn queued(&self, family: Family) {
        if let Some(metric) = &self.last_queued {
            metric.with_label_values(&label(family)).set(now_seconds());
        }
    }

    /// A sync succeeded.
    pub fn synced(&self, family: Family, took: Duration, report: Report) {
        let kind = if report.full { &self.full } else { &self.partial };
        for metric in [&self.duration, kind].into_iter().flatten() {
            metric.with_label_values(&label(family)).observe(took.as_secs_f64());
        }
        if let (Some(last), Some(written)) = (&self.last, &self.written) {
            last.with_label_values(&label(family)).set(now_seconds());
            written.inc_by(report.written as u64);
        }
    }

    /// A sync of a mode failed; `partial`: of some Services only.
    pub fn failed(&self, mode: &str, family: Family, partial: bool) {
        let metric = match (mode, partial) {
            ("nftables", _) => &self.nftables_failures,
            (_, true) => &self.iptables_partial_failures,
            (_, false) => &self.iptables_failures,
        };
        if let Some(metric) = metric {
            metric.with_label_values(&label(family)).inc();
        }
    }

    /// What has been taken from the API server since the last sync, and that nothing of it waits any more.
    pub fn taken(&self, seen: &Seen) {
        if let (Some(services), Some(endpoints)) = (&self.service_changes, &self.endpoint_changes) {
            services.inc_by(seen.services);
            endpoints.inc_by(seen.slices);
        }
        self.pending(&Seen::default());
    }

    /// What waits for the next sync.
    pub fn pending(&self, seen: &Seen) {
        if let (Some(services), Some(endpoints)) = (&self.service_pending, &self.endpoint_pending) {
            services.set(i64::try_from(seen.services).unwrap_or(i64::MAX));
            endpoints.set(i64::try_from(seen.slices).unwrap_or(i64::MAX));
        }
    }

    /// From the moment that pods changed to their rules in the kernel.
    pub fn programmed(&self, family: Family, seen: &Seen) {
        let Some(metric) = &self.programming else { return };
        let now = Timestamp::now();
        for trigger in &seen.triggers {
            metric.with_label_values(&label(family)).observe(now.duration_since(*trigger).as_secs_f64().max(0.0));
        }
    }

    /// Tracked connections were cleaned.
    pub fn cleaned(&self, took: Duration, deleted: usize) {
        if let (Some(duration), Some(total)) = (&self.conntrack_duration, &self.conntrack_deleted) {
            duration.observe(took.as_secs_f64());
            total.inc_by(deleted as u64);
        }
    }

    /// An answer of `/healthz` or `/livez`.
    pub fn answered(&self, livez: bool, code: u16) {
        if let Some(metric) = if livez { &self.livez } else { &self.healthz } {
            metric.with_label_values(&[&code.to_string()]).inc();
        }
    }
}

//! Whether the proxy does its work: `/healthz` (for load balancers, 503 also when the node is about to go) and `/livez`.
//!
//! Upstream: pkg/proxy/healthcheck/proxy_health.go

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use jiff::Timestamp;
use net::iptables::Family;
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::Instant;

use crate::metrics::METRICS;

/// Syncs that may fail in a row before the proxy calls itself unhealthy; one failure is often a lock held by another program.
const FAILURES_TOLERATED: u32 = 2;

#[derive(Debug)]
struct FamilyHealth {
    family: Family,
    /// The oldest change that is not in the kernel yet.
    pending_since: Option<Instant>,
    failures: u32,
    error: String,
}

#[derive(Debug)]
struct Inner {
    families: Vec<FamilyHealth>,
    last_updated: Timestamp,
    eligible: bool,
}

/// Shared by the sync loops and the servers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Health {
    inner: Arc<Mutex<Inner>>,
    /// A change must be in the kernel within this time.
    timeout: Duration,
}

impl Health {
    pub fn new(families: &[Family], timeout: Duration) -> Self {
        let started = Instant::now();
        // Until the first sync, everything is pending.
        let family =
            |family: &Family| FamilyHealth { family: *family, pending_since: Some(started), failures: 0, error: String::new() };
        let inner = Inner { families: families.iter().map(family).collect(), last_updated: Timestamp::now(), eligible: true };
        Self { inner: Arc::new(Mutex::new(inner)), timeout }
    }

    fn with(&self, family: Family, change: impl FnOnce(&mut FamilyHealth)) {
        if let Some(health) = self.inner.lock().families.iter_mut().find(|health| health.family == family) {
            change(health);
        }
    }

    /// Notes that something has to be synced.
    pub fn queued(&self, family: Family) {
        self.with(family, |health| {
            health.pending_since.get_or_insert_with(Instant::now);
        });
    }

    /// Notes a successful sync.
    pub fn updated(&self, family: Family) {
        self.with(family, |health| {
            health.pending_since = None;
            health.failures = 0;
            health.error.clear();
        });
        self.inner.lock().last_updated = Timestamp::now();
    }

    /// Notes a failed sync; returns how many failed in a row.
    pub fn failed(&self, family: Family, error: &str) -> u32 {
        let mut failures = 0;
        self.with(family, |health| {
            health.failures += 1;
            health.error = error.to_owned();
            failures = health.failures;
        });
        failures
    }

    pub fn set_eligible(&self, eligible: bool) {
        self.inner.lock().eligible = eligible;
    }

    /// Why the rules are not what they should be, if so.
    pub fn complaint(&self) -> Option<String> {
        let inner = self.inner.lock();
        inner.families.iter().find_map(|health| {
            if health.failures > FAILURES_TOLERATED {
                return Some(format!("{} {}", health.family, health.error));
            }
            let late = health.pending_since.is_some_and(|since| since.elapsed() > self.timeout);
            late.then(|| format!("{} rules have not been synced for {}s", health.family, self.timeout.as_secs()))
        })
    }

    fn answer(&self, livez: bool) -> Response<Full<Bytes>> {
        let complaint = self.complaint();
        let (last_updated, eligible) = {
            let inner = self.inner.lock();
            (inner.last_updated, inner.eligible)
        };
        let now = Timestamp::now();
        // A healthy proxy is as fresh as can be, whenever the last change was.
        let last_updated = if complaint.is_none() { now } else { last_updated };
        let healthy = complaint.is_none() && (livez || eligible);
        // The keys in upstream's order: people read this.
        let mut body = format!("{{\"lastUpdated\": {},\"currentTime\": {}", json!(go_time(last_updated)), json!(go_time(now)));
        if !livez {
            body.push_str(&format!(", \"nodeEligible\": {eligible}"));
        }
        if let Some(complaint) = complaint {
            body.push_str(&format!(", \"error\": {}", json!(complaint)));
        }
        body.push('}');
        let code = if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        METRICS.answered(livez, code.as_u16());
        let mut response = component::serve::text(code, "application/json", body);
        response.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
        response
    }

    /// `/healthz`: for load balancers.
    pub fn healthz(&self) -> Response<Full<Bytes>> {
        self.answer(false)
    }

    /// `/livez`: like `/healthz`, but a node that is about to go still lives.
    pub fn livez(&self) -> Response<Full<Bytes>> {
        self.answer(true)
    }
}

/// As Go prints a time.
fn go_time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%S%.9f +0000 UTC").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn failures_and_delays_show_and_pass() {
        let health = Health::new(&[Family::V4], Duration::from_secs(60));
        assert_eq!(health.complaint(), None);
        tokio::time::advance(Duration::from_secs(61)).await;
        assert!(health.complaint().unwrap().contains("have not been synced"));
        health.updated(Family::V4);
        for _ in 0..3 {
            assert_eq!(health.complaint(), None);
            health.failed(Family::V4, "no libm");
        }
        assert!(health.complaint().unwrap().contains("no libm"));
        health.updated(Family::V4);
        assert_eq!(health.healthz().status(), 200);
        health.set_eligible(false);
        assert_eq!(health.healthz().status(), 503);
        assert_eq!(health.livez().status(), 200);
        let body = http_body_util::BodyExt::collect(health.healthz().into_body()).await.unwrap().to_bytes();
        let text = String::from_utf8(body.to_vec()).unwrap();
        assert!(text.starts_with("{\"lastUpdated\": \"20") && text.ends_with(", \"nodeEligible\": false}"), "{text}");
        serde_json::from_str::<serde_json::Value>(&text).unwrap();
    }
}

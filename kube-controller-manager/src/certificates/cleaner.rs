//! Deletes requests that nobody will come back for.
//!
//! Upstream: pkg/controller/certificates/cleaner/cleaner.go

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::ResourceExt;
use kube::api::DeleteParams;
use x509_parser::prelude::FromDer;

use super::{has_condition, is_issued, request};
use crate::api_error;
use crate::context::Context;

/// How often to look. Upstream: pollingInterval.
const PERIOD: Duration = Duration::from_secs(3600);
/// Decided requests are kept this long. Upstream: approvedExpiration, deniedExpiration.
const DECIDED: SignedDuration = SignedDuration::from_hours(1);
/// Undecided or unsigned ones this long. Upstream: pendingExpiration.
const PENDING: SignedDuration = SignedDuration::from_hours(24);

pub async fn start(ctx: Context) -> anyhow::Result<()> {
    let store = ctx.store::<CertificateSigningRequest>();
    store.synced().await;
    let this = ctx.clone();
    ctx.every(PERIOD, move || {
        let (ctx, store) = (this.clone(), store.clone());
        async move {
            for csr in store.list().iter().filter(|csr| is_stale(csr, ctx.now())) {
                let deleted = ctx.cluster::<CertificateSigningRequest>().delete(&csr.name_any(), &DeleteParams::default()).await;
                api_error::ignore_not_found(deleted)?;
            }
            Ok(())
        }
    });
    Ok(())
}

fn is_stale(csr: &CertificateSigningRequest, now: Timestamp) -> bool {
    let older = |at: Option<Timestamp>, limit: SignedDuration| at.is_some_and(|at| now.duration_since(at) > limit);
    let created = csr.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let conditions = csr.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let decided =
        |type_: &str| conditions.iter().find(|c| c.type_ == type_).and_then(|c| c.last_update_time.as_ref()).map(|time| time.0);
    if is_issued(csr) {
        return older(decided("Approved"), DECIDED) || has_expired(csr, now);
    }
    if conditions.is_empty() {
        return older(created, PENDING);
    }
    older(decided("Denied"), DECIDED)
        || older(decided("Failed"), DECIDED)
        || (has_condition(csr, "Approved") && older(created, PENDING))
}

fn has_expired(csr: &CertificateSigningRequest, now: Timestamp) -> bool {
    let certificate = csr.status.as_ref().and_then(|status| status.certificate.as_ref());
    let Some(der) = certificate.and_then(|pem| request::first_certificate(&pem.0)) else { return false };
    let parsed = x509_parser::certificate::X509Certificate::from_der(&der);
    parsed.is_ok_and(|(_, certificate)| certificate.validity().not_after.timestamp() < now.as_second())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn requests_go_when_their_time_is_over() {
        let now: Timestamp = "2024-01-03T00:00:00Z".parse().unwrap();
        let condition = |type_: &str, at: &str| json!({"conditions": [{"type": type_, "status": "True", "lastUpdateTime": at}]});
        let rows: [(&str, Value, bool); 6] = [
            ("2024-01-02T23:00:00Z", json!({}), false),
            ("2024-01-01T23:00:00Z", json!({}), true),
            ("2024-01-02T20:00:00Z", condition("Denied", "2024-01-02T22:00:00Z"), true),
            ("2024-01-02T20:00:00Z", condition("Denied", "2024-01-02T23:30:00Z"), false),
            ("2024-01-02T20:00:00Z", condition("Approved", "2024-01-02T21:00:00Z"), false),
            ("2024-01-01T20:00:00Z", condition("Approved", "2024-01-01T21:00:00Z"), true),
        ];
        for (created, status, expected) in rows {
            let csr: CertificateSigningRequest = serde_json::from_value(
                json!({"metadata": {"creationTimestamp": created}, "spec": {"request": "", "signerName": "x"}, "status": status}),
            )
            .unwrap();
            assert_eq!(is_stale(&csr, now), expected, "{created} {status}");
        }
    }
}

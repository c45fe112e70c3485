//! Takes away token secrets that were made for service accounts in the old days and that nobody has used for a year: first they are
//! marked and stop to be valid, a year later they are deleted.
//!
//! Upstream: pkg/controller/serviceaccount/legacy_serviceaccount_token_cleaner.go

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, ServiceAccount};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::api_error;
use crate::context::{Context, Store};
use crate::key::Key;

/// How often to look. Upstream: LegacyServiceAccountTokenCleaner.SyncInterval, 24 h.
const PERIOD: Duration = Duration::from_secs(24 * 3600);
/// The API server notes here since when it marks the use of tokens.
const TRACKING: (&str, &str) = ("kube-system", "kube-apiserver-legacy-service-account-token-tracking");
const SINCE: &str = "since";
const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
const TOKEN: &str = "kubernetes.io/service-account-token";

pub async fn start(ctx: Context) -> anyhow::Result<()> {
    let (accounts, pods) = (ctx.store::<ServiceAccount>(), ctx.store::<Pod>());
    accounts.synced().await;
    pods.synced().await;
    let this = ctx.clone();
    ctx.every(PERIOD, move || {
        let (ctx, accounts, pods) = (this.clone(), accounts.clone(), pods.clone());
        async move { clean(&ctx, &accounts, &pods).await }
    });
    Ok(())
}

async fn clean(ctx: &Context, accounts: &Store<ServiceAccount>, pods: &Store<Pod>) -> anyhow::Result<()> {
    let (now, period) = (ctx.now(), SignedDuration::try_from(ctx.config.options.legacy_service_account_token_clean_up_period)?);
    let Some(tracking) = ctx.namespaced::<ConfigMap>(TRACKING.0).get_opt(TRACKING.1).await? else { return Ok(()) };
    let since = tracking.data.as_ref().and_then(|data| date(data.get(SINCE)?));
    // Use has to be marked for that long before not being marked means anything.
    if since.is_none_or(|since| since.saturating_add(period).is_ok_and(|ready| ready > now)) {
        return Ok(());
    }
    let mounted: HashSet<String> = pods.list().iter().flat_map(|pod| secrets_of(pod)).collect();
    for account in accounts.list() {
        let namespace = account.namespace().unwrap_or_default();
        for reference in account.secrets.iter().flatten() {
            let key = Key::new(namespace.clone(), reference.name.clone().unwrap_or_default());
            // Read one by one, with the process's own rights: a store of all secrets would cost more than a look a day is worth.
            let read = Api::<Secret>::namespaced(ctx.informers.client(), &namespace).get_opt(&key.name).await?;
            let Some(secret) = read.filter(is_legacy) else { continue };
            let api = ctx.namespaced::<Secret>(&namespace);
            match plan(&secret, mounted.contains(&key.to_string()), now, period) {
                Verdict::Keep => {}
                Verdict::Invalidate => {
                    let labels = BTreeMap::from([(INVALID_SINCE, now.to_zoned(TimeZone::UTC).date().to_string())]);
                    let patch = json!({"metadata": {"uid": secret.uid(), "resourceVersion": secret.resource_version(), "labels": labels}});
                    let patched = api.patch(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await;
                    api_error::ignore_not_found(patched)?;
                    tracing::info!(secret = %key, "Marked legacy service account token as invalid");
                }
                Verdict::Delete => {
                    let preconditions = Preconditions { uid: secret.uid(), resource_version: secret.resource_version() };
                    let deleted = api.delete(&key.name, &DeleteParams::default().preconditions(preconditions)).await;
                    api_error::ignore_not_found(deleted)?;
                    tracing::info!(secret = %key, "Deleted legacy service account token");
                }
            }
        }
    }
    Ok(())
}

#[derive(Debug, PartialEq)]
enum Verdict {
    Keep,
    Invalidate,
    Delete,
}

/// What becomes of one token secret.
fn plan(secret: &Secret, mounted: bool, now: Timestamp, period: SignedDuration) -> Verdict {
    let recent = |at: Option<Timestamp>| at.is_some_and(|at| now.duration_since(at) < period);
    let label = |name: &str| secret.labels().get(name).map(String::as_str);
    let created = secret.metadata.creation_timestamp.as_ref().map(|time| time.0);
    if mounted || recent(created) || recent(label(LAST_USED).and_then(date)) {
        return Verdict::Keep;
    }
    match label(INVALID_SINCE).map(date) {
        None | Some(None) => Verdict::Invalidate,
        Some(since) if recent(since) => Verdict::Keep,
        Some(_) => Verdict::Delete,
    }
}

/// Made by the token controller of old, which listed it in its account; those made by hand are the user's.
fn is_legacy(secret: &Secret) -> bool {
    secret.type_.as_deref() == Some(TOKEN)
}

/// A day in UTC, as in labels.
fn date(text: &str) -> Option<Timestamp> {
    let day: Date = text.parse().ok()?;
    Some(day.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

/// The secrets that a pod mounts or reads.
fn secrets_of(pod: &Pod) -> Vec<String> {
    let namespace = pod.namespace().unwrap_or_default();
    let Some(spec) = &pod.spec else { return Vec::new() };
    let volumes = spec.volumes.iter().flatten().flat_map(|volume| {
        let plain = volume.secret.as_ref().and_then(|secret| secret.secret_name.clone());
        let projected = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
        plain.into_iter().chain(projected.filter_map(|source| Some(source.secret.as_ref()?.name.clone())))
    });
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let variables = containers.flat_map(|container| {
        let single = container.env.iter().flatten();
        let single = single.filter_map(|env| Some(env.value_from.as_ref()?.secret_key_ref.as_ref()?.name.clone()));
        single.chain(container.env_from.iter().flatten().filter_map(|from| Some(from.secret_ref.as_ref()?.name.clone())))
    });
    volumes.chain(variables).map(|name| Key::new(namespace.clone(), name).to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_marked_when_unused_and_deleted_long_after() {
        let now: Timestamp = "2026-01-10T00:00:00Z".parse().unwrap();
        let year = SignedDuration::from_hours(8760);
        for (created, labels, mounted, expected) in [
            ("2025-06-01", json!({}), false, Verdict::Keep),
            ("2024-06-01", json!({}), false, Verdict::Invalidate),
            ("2024-06-01", json!({}), true, Verdict::Keep),
            ("2024-06-01", json!({LAST_USED: "2025-12-01"}), false, Verdict::Keep),
            ("2024-06-01", json!({LAST_USED: "2024-12-01"}), false, Verdict::Invalidate),
            ("2023-06-01", json!({INVALID_SINCE: "2025-12-01"}), false, Verdict::Keep),
            ("2023-06-01", json!({INVALID_SINCE: "2024-12-01"}), false, Verdict::Delete),
            ("2023-06-01", json!({INVALID_SINCE: "2024-12-01", LAST_USED: "2026-01-09"}), false, Verdict::Keep),
            ("2023-06-01", json!({INVALID_SINCE: "nonsense"}), false, Verdict::Invalidate),
        ] {
            let secret: Secret = serde_json::from_value(
                json!({"metadata": {"creationTimestamp": format!("{created}T00:00:00Z"), "labels": labels}}),
            )
            .unwrap();
            assert_eq!(plan(&secret, mounted, now, year), expected, "{created} {labels} {mounted}");
        }
    }

    #[test]
    fn a_pod_uses_secrets_in_volumes_and_variables() {
        let pod = serde_json::from_value(json!({"metadata": {"namespace": "d"}, "spec": {
            "volumes": [{"name": "a", "secret": {"secretName": "a"}},
                {"name": "b", "projected": {"sources": [{"secret": {"name": "b"}}]}}],
            "containers": [{"name": "c", "envFrom": [{"secretRef": {"name": "c"}}],
                "env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "e", "key": "k"}}}]}]}}))
        .unwrap();
        assert_eq!(secrets_of(&pod), ["d/a", "d/b", "d/e", "d/c"]);
    }
}

//! Evicts pods from devices with `NoExecute` taints that their claims do not tolerate, or tolerate only for a while.
//!
//! Upstream: pkg/controller/devicetainteviction. DeviceTaintRules, which are off by default there, are not looked at.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{
    DeviceRequestAllocationResult, DeviceTaint, DeviceToleration, ResourceClaim, ResourceSlice,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Resource, ResourceExt};
use serde_json::json;

use crate::api_error;
use crate::config::workers;
use crate::context::{self, Change, Context, Requeue, Store};
use crate::key::Key;
use crate::pods;

const BY_POOL: &str = "pool";

fn pool_key(driver: &str, pool: &str) -> String {
    format!("{driver}/{pool}")
}

pub async fn start(ctx: Context) -> anyhow::Result<()> {
    let (claims, slices, pods, queue) =
        (ctx.store::<ResourceClaim>(), ctx.store::<ResourceSlice>(), ctx.store::<Pod>(), ctx.queue());
    slices.add_index(BY_POOL, |slice| vec![pool_key(&slice.spec.driver, &slice.spec.pool.name)]);
    claims.add_index(BY_POOL, |claim| results(claim).map(|result| pool_key(&result.driver, &result.pool)).collect());
    let feed = queue.clone();
    claims.on_change(move |change| {
        if !matches!(change, Change::Deleted(_)) {
            consumers(change.object()).for_each(|(key, _)| feed.add(key));
        }
    });
    let (feed, by_pool) = (queue.clone(), claims.clone());
    slices.on_change(move |change| {
        let spec = &change.object().spec;
        for claim in by_pool.by_index(BY_POOL, &pool_key(&spec.driver, &spec.pool.name)) {
            consumers(&claim).for_each(|(key, _)| feed.add(key));
        }
    });
    let feed = queue.clone();
    pods.on_change(move |change| {
        if let Change::Added(pod) = change
            && pod.spec.as_ref().is_some_and(|spec| spec.resource_claims.as_ref().is_some_and(|claims| !claims.is_empty()))
        {
            feed.add(Key::of(pod.as_ref()));
        }
    });
    slices.synced().await;
    claims.synced().await;
    pods.synced().await;
    let this = ctx.clone();
    ctx.run(&queue, workers(ctx.config.options.concurrent_device_taint_eviction_syncs), move |key| {
        let (ctx, claims, slices, pods) = (this.clone(), claims.clone(), slices.clone(), pods.clone());
        async move { sync(&ctx, &claims, &slices, &pods, &key).await }
    });
    Ok(())
}

fn results(claim: &ResourceClaim) -> impl Iterator<Item = &DeviceRequestAllocationResult> {
    let allocation = claim.status.as_ref().and_then(|status| status.allocation.as_ref());
    allocation.into_iter().flat_map(|allocation| allocation.devices.iter().flat_map(|devices| devices.results.iter().flatten()))
}

/// The pods that have reserved a claim, with their uids.
fn consumers(claim: &ResourceClaim) -> impl Iterator<Item = (Key, String)> {
    let namespace = claim.namespace().unwrap_or_default();
    let reserved = claim.status.iter().flat_map(|status| status.reserved_for.iter().flatten());
    reserved
        .filter(|reference| reference.api_group.as_deref().unwrap_or("").is_empty() && reference.resource == "pods")
        .map(move |reference| (Key::new(namespace.clone(), reference.name.clone()), reference.uid.clone()))
}

async fn sync(
    ctx: &Context,
    claims: &Store<ResourceClaim>,
    slices: &Store<ResourceSlice>,
    pods: &Store<Pod>,
    key: &Key,
) -> anyhow::Result<Requeue> {
    let Some(pod) = pods.get(key).filter(|pod| pods::is_active(pod)) else { return Ok(Requeue::No) };
    let uid = pod.uid().unwrap_or_default();
    let mut observed = Vec::new();
    for name in crate::resource_claim::plan::claim_names(&pod) {
        let Some(claim) = claims.get(&Key::new(key.namespace.clone(), name)) else { continue };
        if !consumers(&claim).any(|(_, consumer)| consumer == uid) {
            continue;
        }
        for result in results(&claim) {
            let taints = taints(&slices.by_index(BY_POOL, &pool_key(&result.driver, &result.pool)), &result.device);
            observed.push((taints, result.tolerations.clone().unwrap_or_default()));
        }
    }
    let now = ctx.now();
    match until(&observed, now) {
        None => Ok(Requeue::No),
        Some(at) if at > now => Ok(context::requeue_at(Some(at), now)),
        Some(_) => {
            evict(ctx, &pod, now).await?;
            Ok(Requeue::No)
        }
    }
}

/// The taints of a device, as the newest generation of its pool has them.
fn taints(slices: &[Arc<ResourceSlice>], device: &str) -> Vec<DeviceTaint> {
    let newest = slices.iter().map(|slice| slice.spec.pool.generation).max();
    let current = slices.iter().filter(|slice| Some(slice.spec.pool.generation) == newest);
    let devices = current.flat_map(|slice| slice.spec.devices.iter().flatten());
    devices.filter(|found| found.name == device).flat_map(|found| found.taints.clone().unwrap_or_default()).collect()
}

/// Until when a pod may keep devices with these taints and tolerations; `None` is for ever.
fn until(devices: &[(Vec<DeviceTaint>, Vec<DeviceToleration>)], now: Timestamp) -> Option<Timestamp> {
    let mut earliest: Option<Timestamp> = None;
    for (taints, tolerations) in devices {
        for taint in taints.iter().filter(|taint| taint.effect == "NoExecute") {
            let tolerating: Vec<_> = tolerations.iter().filter(|toleration| tolerates(toleration, taint)).collect();
            let at = if tolerating.is_empty() {
                now
            } else {
                // Without a time, for ever; of several times the shortest counts; negative ones are zero.
                let Some(seconds) = tolerating.iter().filter_map(|toleration| toleration.toleration_seconds).min() else {
                    continue;
                };
                let from = taint.time_added.as_ref().map_or(now, |added| added.0);
                from.saturating_add(SignedDuration::from_secs(seconds.max(0))).unwrap_or(Timestamp::MAX)
            };
            earliest = Some(earliest.map_or(at, |earliest| earliest.min(at)));
        }
    }
    earliest
}

/// Upstream: resourceclaim.ToleratesTaint.
fn tolerates(toleration: &DeviceToleration, taint: &DeviceTaint) -> bool {
    let key = toleration.key.as_deref().unwrap_or("");
    let effect = toleration.effect.as_deref().unwrap_or("");
    if (!effect.is_empty() && effect != taint.effect) || (!key.is_empty() && key != taint.key) {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or("") {
        "Exists" => true,
        "" | "Equal" => toleration.value.as_deref().unwrap_or("") == taint.value.as_deref().unwrap_or(""),
        _ => false,
    }
}

async fn evict(ctx: &Context, pod: &Arc<Pod>, now: Timestamp) -> anyhow::Result<()> {
    let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
    ctx.normal(&pod.object_ref(&()), "DeviceTaintManagerEviction", "Marking for deletion");
    let api = ctx.namespaced::<Pod>(&namespace);
    let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "DeletionByDeviceTaintManager",
        "message": "Device Taint manager: deleting due to NoExecute taint", "lastTransitionTime": Time(now)});
    let patch = json!({"metadata": {"uid": pod.uid()}, "status": {"conditions": [condition]}});
    let marked = api.patch_status(&name, &PatchParams::default(), &Patch::Strategic(&patch)).await;
    if api_error::ignore_not_found(marked)?.is_none() {
        return Ok(());
    }
    let params = DeleteParams::default().preconditions(Preconditions { uid: pod.uid(), resource_version: None });
    api_error::ignore_not_found(api.delete(&name, &params).await)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_stays_as_long_as_its_claims_tolerate_every_taint() {
        let now: Timestamp = "2024-01-01T00:10:00Z".parse().unwrap();
        let at = |text: &str| Some(text.parse().unwrap());
        let broken = json!([{"key": "broken", "effect": "NoExecute", "timeAdded": "2024-01-01T00:09:00Z"}]);
        for (taints, tolerations, expected) in [
            (json!([]), json!([]), None),
            (json!([{"key": "broken", "effect": "NoSchedule"}]), json!([]), None),
            (broken.clone(), json!([]), Some(now)),
            (broken.clone(), json!([{"operator": "Exists"}]), None),
            (broken.clone(), json!([{"operator": "Exists", "tolerationSeconds": 300}]), at("2024-01-01T00:14:00Z")),
            (broken.clone(), json!([{"key": "broken", "operator": "Equal", "value": "x"}]), Some(now)),
            (broken, json!([{"key": "broken", "operator": "Exists", "effect": "NoSchedule"}]), Some(now)),
        ] {
            let device = (serde_json::from_value(taints.clone()).unwrap(), serde_json::from_value(tolerations.clone()).unwrap());
            assert_eq!(until(&[device], now), expected, "{taints} {tolerations}");
        }
    }

    #[test]
    fn only_the_newest_generation_of_a_pool_counts() {
        let slice = |generation: i64, taints: serde_json::Value| -> Arc<ResourceSlice> {
            let pool = json!({"name": "p", "generation": generation, "resourceSliceCount": 1});
            let devices = json!([{"name": "d0", "taints": taints}]);
            Arc::new(
                serde_json::from_value(json!({"metadata": {}, "spec": {"driver": "x", "pool": pool, "devices": devices}}))
                    .unwrap(),
            )
        };
        let old = slice(1, json!([{"key": "k", "effect": "NoExecute"}]));
        assert_eq!(taints(std::slice::from_ref(&old), "d0").len(), 1);
        assert!(taints(&[old, slice(2, json!([]))], "d0").is_empty());
    }
}

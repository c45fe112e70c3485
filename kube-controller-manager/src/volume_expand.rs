//! Notices claims that ask for more than their volume has. No plugin that is left in Kubernetes itself can grow a volume, so what is
//! done here is to say who will: the resizer beside a CSI driver.
//!
//! Upstream: pkg/controller/volume/expand/expand_controller.go

use std::cmp::Ordering;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::{Resource, ResourceExt};

use crate::context::{Change, Context, Requeue, Store};
use crate::key::Key;

/// Upstream: defaultWorkerCount.
const WORKERS: usize = 10;
/// A resize that was begun and has to be finished. Upstream: util.AnnPreResizeCapacity.
const PRE_RESIZE: &str = "volume.alpha.kubernetes.io/pre-resize-capacity";
const WAITING: &str =
    "didn't find a plugin capable of expanding the volume; waiting for an external controller to process this PVC";

pub async fn start(ctx: Context) -> anyhow::Result<()> {
    let (claims, volumes, queue) = (ctx.store::<PersistentVolumeClaim>(), ctx.store::<PersistentVolume>(), ctx.queue());
    let feed = queue.clone();
    claims.on_change(move |change| {
        let (before, after) = match change {
            Change::Added(claim) => (None, claim),
            Change::Updated(old, new) => (Some(old), new),
            Change::Deleted(_) => return,
        };
        // Only a new wish counts, else every change of a claim that waits would be told again.
        let phase = |claim: &PersistentVolumeClaim| claim.status.as_ref().and_then(|status| status.phase.clone());
        let same = before.is_some_and(|old| {
            requested(old) == requested(after) && capacity(old) == capacity(after) && phase(old) == phase(after)
        });
        if !same && wants_more(after) {
            feed.add(Key::of(after.as_ref()));
        }
    });
    claims.synced().await;
    volumes.synced().await;
    let this = ctx.clone();
    ctx.run(&queue, WORKERS, move |key| {
        let (ctx, claims, volumes) = (this.clone(), claims.clone(), volumes.clone());
        async move { sync(&ctx, &claims, &volumes, &key) }
    });
    Ok(())
}

fn sync(
    ctx: &Context,
    claims: &Store<PersistentVolumeClaim>,
    volumes: &Store<PersistentVolume>,
    key: &Key,
) -> anyhow::Result<Requeue> {
    let Some(claim) = claims.get(key) else { return Ok(Requeue::No) };
    let name = claim.spec.as_ref().and_then(|spec| spec.volume_name.clone()).unwrap_or_default();
    let Some(volume) = volumes.get(&Key::cluster(name)) else { return Ok(Requeue::Backoff) };
    let bound = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    anyhow::ensure!(
        bound.is_some_and(|reference| reference.uid == claim.uid()),
        "persistent Volume is not bound to PVC being updated : {key}"
    );
    if wants_more(&claim) || volume.annotations().contains_key(PRE_RESIZE) {
        ctx.normal(&claim.object_ref(&()), "ExternalExpanding", WAITING);
    }
    Ok(Requeue::No)
}

fn requested(claim: &PersistentVolumeClaim) -> Option<&Quantity> {
    claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?.get("storage")
}

fn capacity(claim: &PersistentVolumeClaim) -> Option<&Quantity> {
    claim.status.as_ref()?.capacity.as_ref()?.get("storage")
}

/// Whether a bound claim asks for more than it has.
fn wants_more(claim: &PersistentVolumeClaim) -> bool {
    let bound = claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
    let parse = |quantity: Option<&Quantity>| quantity.and_then(|quantity| api::quantity::Quantity::parse(&quantity.0).ok());
    match (parse(requested(claim)), parse(capacity(claim))) {
        (Some(requested), Some(capacity)) => bound && requested.cmp(&capacity) == Ordering::Greater,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_bound_claim_wants_more_when_it_asks_for_more_than_it_has() {
        for (phase, requested, capacity, expected) in [
            ("Bound", "2Gi", "1Gi", true),
            ("Bound", "1Gi", "1Gi", false),
            ("Bound", "1024Mi", "1Gi", false),
            ("Bound", "500Mi", "1Gi", false),
            ("Pending", "2Gi", "1Gi", false),
        ] {
            let claim =
                serde_json::from_value(json!({"metadata": {}, "spec": {"resources": {"requests": {"storage": requested}}},
                "status": {"phase": phase, "capacity": {"storage": capacity}}}))
                .unwrap();
            assert_eq!(wants_more(&claim), expected, "{phase} {requested} {capacity}");
        }
    }
}

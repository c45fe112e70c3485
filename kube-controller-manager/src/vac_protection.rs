//! Keeps VolumeAttributesClasses alive while claims or volumes name them.
//!
//! Upstream: pkg/controller/volume/vacprotection

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use kube::ResourceExt;
use kube::api::{ListParams, PostParams};

use crate::api_error;
use crate::context::{Context, Queue, Requeue, Store};
use crate::key::Key;

const FINALIZER: &str = "kubernetes.io/vac-protection";
const BY_CLASS: &str = "volumeattributesclass";

pub async fn start(ctx: Context) -> anyhow::Result<()> {
    let (classes, claims, volumes, queue) = (
        ctx.store::<VolumeAttributesClass>(),
        ctx.store::<PersistentVolumeClaim>(),
        ctx.store::<PersistentVolume>(),
        ctx.queue(),
    );
    claims.add_index(BY_CLASS, of_claim);
    volumes.add_index(BY_CLASS, of_volume);
    classes.feed(&queue);
    let feed = queue.clone();
    claims.on_change(move |change| dropped(change.old().map(|old| of_claim(old)), &feed));
    let feed = queue.clone();
    volumes.on_change(move |change| dropped(change.old().map(|old| of_volume(old)), &feed));
    classes.synced().await;
    claims.synced().await;
    volumes.synced().await;
    let this = ctx.clone();
    ctx.run(&queue, 1, move |key| {
        let (ctx, classes, claims, volumes) = (this.clone(), classes.clone(), claims.clone(), volumes.clone());
        async move { sync(&ctx, &classes, &claims, &volumes, &key).await }
    });
    Ok(())
}

/// What an object used before it changed or went may be free now.
fn dropped(before: Option<Vec<String>>, queue: &Queue<Key>) {
    before.into_iter().flatten().for_each(|class| queue.add(Key::cluster(class)));
}

/// The classes of a claim: the one that it asks for, the one in force, the one on its way.
fn of_claim(claim: &PersistentVolumeClaim) -> Vec<String> {
    let asked = claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.clone());
    let status = claim.status.as_ref();
    let current = status.and_then(|status| status.current_volume_attributes_class_name.clone());
    let target = status.and_then(|status| status.modify_volume_status.as_ref()?.target_volume_attributes_class_name.clone());
    let mut names: Vec<String> = [asked, current, target].into_iter().flatten().filter(|name| !name.is_empty()).collect();
    names.sort();
    names.dedup();
    names
}

fn of_volume(volume: &PersistentVolume) -> Vec<String> {
    let name = volume.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.clone());
    name.into_iter().filter(|name| !name.is_empty()).collect()
}

async fn sync(
    ctx: &Context,
    classes: &Store<VolumeAttributesClass>,
    claims: &Store<PersistentVolumeClaim>,
    volumes: &Store<PersistentVolume>,
    key: &Key,
) -> anyhow::Result<Requeue> {
    let Some(class) = classes.get(key) else { return Ok(Requeue::No) };
    let used = !claims.by_index(BY_CLASS, &key.name).is_empty() || !volumes.by_index(BY_CLASS, &key.name).is_empty();
    let Some(changed) = plan(&class, used) else { return Ok(Requeue::No) };
    if class.metadata.deletion_timestamp.is_some() {
        // The caches may be behind a claim that was just made: ask the server.
        let claims = kube::Api::<PersistentVolumeClaim>::all(ctx.client.clone()).list(&ListParams::default()).await?;
        if claims.items.iter().any(|claim| of_claim(claim).contains(&key.name)) {
            return Ok(Requeue::Backoff);
        }
    }
    let api = ctx.cluster::<VolumeAttributesClass>();
    api_error::ignore_not_found(api.replace(&key.name, &PostParams::default(), &changed).await)?;
    Ok(Requeue::No)
}

/// The class with its finalizer put on or taken off, if either is due.
fn plan(class: &VolumeAttributesClass, used: bool) -> Option<VolumeAttributesClass> {
    let protected = class.finalizers().iter().any(|finalizer| finalizer == FINALIZER);
    let mut changed = class.clone();
    match (class.metadata.deletion_timestamp.is_some(), protected) {
        (false, false) => changed.finalizers_mut().push(FINALIZER.to_owned()),
        (true, true) if !used => changed.finalizers_mut().retain(|finalizer| finalizer != FINALIZER),
        _ => return None,
    }
    Some(changed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_finalizer_goes_only_from_unused_classes_that_are_deleted() {
        let class = |deleting: bool, protected: bool| -> VolumeAttributesClass {
            let finalizers = if protected { json!([FINALIZER]) } else { json!([]) };
            let mut class = json!({"metadata": {"name": "gold", "finalizers": finalizers}, "driverName": "d"});
            if deleting {
                class["metadata"]["deletionTimestamp"] = json!("2024-01-01T00:00:00Z");
            }
            serde_json::from_value(class).unwrap()
        };
        assert!(plan(&class(false, false), false).is_some_and(|class| class.finalizers() == [FINALIZER]));
        assert!(plan(&class(false, true), false).is_none());
        assert!(plan(&class(true, true), true).is_none());
        assert!(plan(&class(true, true), false).is_some_and(|class| class.finalizers().is_empty()));
        assert!(plan(&class(true, false), false).is_none());
    }

    #[test]
    fn a_claim_uses_what_it_asks_for_what_it_has_and_what_it_gets() {
        let claim = serde_json::from_value(json!({"metadata": {}, "spec": {"volumeAttributesClassName": "gold"},
            "status": {"currentVolumeAttributesClassName": "silver",
                "modifyVolumeStatus": {"status": "InProgress", "targetVolumeAttributesClassName": "gold"}}}))
        .unwrap();
        assert_eq!(of_claim(&claim), ["gold", "silver"]);
    }
}

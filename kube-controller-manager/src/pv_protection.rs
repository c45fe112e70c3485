//! Keeps PersistentVolumes alive while they are bound.
//!
//! Upstream: pkg/controller/volume/pvprotection

use k8s_openapi::api::core::v1::PersistentVolume;
use kube::ResourceExt;
use kube::api::PostParams;

use crate::api_error;
use crate::context::{Context, Requeue};

const FINALIZER: &str = "kubernetes.io/pv-protection";

pub async fn start(ctx: Context) -> anyhow::Result<()> {
    let (volumes, queue) = (ctx.store::<PersistentVolume>(), ctx.queue());
    volumes.feed(&queue);
    volumes.synced().await;
    let this = ctx.clone();
    ctx.run(&queue, 1, move |key| {
        let (ctx, volumes) = (this.clone(), volumes.clone());
        async move {
            let Some(changed) = volumes.get(&key).and_then(|volume| plan(&volume)) else { return Ok(Requeue::No) };
            let written = ctx.cluster::<PersistentVolume>().replace(&key.name, &PostParams::default(), &changed).await;
            api_error::ignore_not_found(written)?;
            Ok(Requeue::No)
        }
    });
    Ok(())
}

fn plan(volume: &PersistentVolume) -> Option<PersistentVolume> {
    let protected = volume.finalizers().iter().any(|finalizer| finalizer == FINALIZER);
    let bound = volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
    let mut changed = volume.clone();
    match (volume.metadata.deletion_timestamp.is_some(), protected) {
        (false, false) => changed.finalizers_mut().push(FINALIZER.to_owned()),
        (true, true) if !bound => changed.finalizers_mut().retain(|finalizer| finalizer != FINALIZER),
        _ => return None,
    }
    Some(changed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_finalizer_goes_only_from_unbound_volumes_that_are_deleted() {
        let volume = |deleting: bool, protected: bool, phase: &str| -> PersistentVolume {
            let mut v = json!({"metadata": {"finalizers": if protected { json!([FINALIZER]) } else { json!([]) }}, "status": {"phase": phase}});
            if deleting {
                v["metadata"]["deletionTimestamp"] = json!("2024-01-01T00:00:00Z");
            }
            serde_json::from_value(v).unwrap()
        };
        assert!(plan(&volume(false, false, "Available")).is_some_and(|v| v.finalizers() == [FINALIZER]));
        assert!(plan(&volume(false, true, "Bound")).is_none());
        assert!(plan(&volume(true, true, "Bound")).is_none());
        assert!(plan(&volume(true, true, "Released")).is_some_and(|v| v.finalizers().is_empty()));
    }
}

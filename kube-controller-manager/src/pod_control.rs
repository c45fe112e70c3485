//! Creating, deleting and patching pods on behalf of a workload, with the events that users look for.
//!
//! Upstream: pkg/controller/controller_utils.go (RealPodControl, slowStartBatch).

use std::future::Future;
use std::sync::Arc;

use futures::future::join_all;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ObjectReference, Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};

use crate::api_error;
use crate::context::{Context, Object};
use crate::owner::{self, Claim};
use crate::pods;

/// How many writes the first batch of a scale-up holds; later batches double while all succeed, so that a quota or an admission
/// plugin that refuses everything is asked once and not a thousand times. Upstream: SlowStartInitialBatchSize.
const INITIAL_BATCH: usize = 1;

/// Most pods created or deleted in one sync. Upstream: BurstReplicas.
pub const BURST: usize = 500;

/// Creates a pod from `template`, owned by `owner`, and reports it as an event on `parent`.
pub async fn create(
    ctx: &Context,
    template: &PodTemplateSpec,
    namespace: &str,
    owner: &OwnerReference,
    parent: &ObjectReference,
) -> kube::Result<Pod> {
    create_pod(ctx, &pods::from_template(template, namespace, owner), namespace, parent).await
}

/// Creates this very pod.
pub async fn create_pod(ctx: &Context, pod: &Pod, namespace: &str, parent: &ObjectReference) -> kube::Result<Pod> {
    match ctx.namespaced::<Pod>(namespace).create(&PostParams::default(), pod).await {
        Ok(created) => {
            ctx.normal(parent, "SuccessfulCreate", format!("Created pod: {}", created.name_any()));
            Ok(created)
        }
        Err(error) => {
            if !api_error::is_namespace_terminating(&error) {
                ctx.warning(parent, "FailedCreate", format!("Error creating: {}", api_error::message(&error)));
            }
            Err(error)
        }
    }
}

/// Deletes a pod; `Ok(false)` when it was gone already.
pub async fn delete(ctx: &Context, pod: &Pod, parent: &ObjectReference) -> kube::Result<bool> {
    let preconditions = Preconditions { uid: pod.uid(), resource_version: None };
    let params = DeleteParams::default().preconditions(preconditions);
    match ctx.namespaced::<Pod>(&pod.namespace().unwrap_or_default()).delete(&pod.name_any(), &params).await {
        Ok(_) => {
            ctx.normal(parent, "SuccessfulDelete", format!("Deleted pod: {}", pod.name_any()));
            Ok(true)
        }
        Err(error) if api_error::is_not_found(&error) || api_error::is_conflict(&error) => Ok(false),
        Err(error) => {
            ctx.warning(parent, "FailedDelete", format!("Error deleting: {}", api_error::message(&error)));
            Err(error)
        }
    }
}

/// Adopts and releases pods as `owner`'s selector says, and returns those that are its own afterwards. `finalizer` comes with an
/// adoption and goes with a release, in the same write: a Job must not miss how an adopted pod ends.
pub async fn claim<K>(
    ctx: &Context,
    owner: &K,
    by: &LabelSelector,
    candidates: Vec<Arc<Pod>>,
    finalizer: Option<&str>,
) -> anyhow::Result<Vec<Arc<Pod>>>
where
    K: Object + Resource<Scope = NamespaceResourceScope>,
{
    let (uid, kind) = (owner.uid().unwrap_or_default(), K::kind(&()));
    let mut mine = Vec::new();
    for pod in candidates {
        let pod_uid = pod.uid().unwrap_or_default();
        match owner::claim_by(owner.meta(), by, &pod.metadata) {
            Claim::Keep => mine.push(pod),
            Claim::Ignore => {}
            Claim::Release => {
                let mut release = owner::release_patch(&uid, &pod_uid);
                if let Some(finalizer) = finalizer {
                    release["metadata"]["$deleteFromPrimitiveList/finalizers"] = json!([finalizer]);
                }
                patch(ctx, &pod, &release).await?;
            }
            Claim::Adopt => {
                // Ask the server, not the cache, before adopting: the owner may be going away. Upstream: RecheckDeletionTimestamp.
                let fresh = ctx.namespaced::<K>(&owner.namespace().unwrap_or_default()).get(&owner.name_any()).await?;
                anyhow::ensure!(fresh.uid().as_deref() == Some(&uid), "original {kind} is gone: got another uid");
                anyhow::ensure!(fresh.meta().deletion_timestamp.is_none(), "{kind} has just been deleted");
                let reference = owner::controller_ref(&K::api_version(&()), &kind, owner.meta());
                let mut adoption = owner::adoption_patch(&reference, &pod_uid);
                let mut adopted = (*pod).clone();
                if let Some(finalizer) = finalizer {
                    adoption["metadata"]["finalizers"] = json!([finalizer]);
                    adopted.finalizers_mut().push(finalizer.to_owned());
                }
                patch(ctx, &pod, &adoption).await?;
                mine.push(Arc::new(adopted));
            }
        }
    }
    Ok(mine)
}

/// Applies an adoption or release patch; a pod that is gone or is another one by now needs none.
pub async fn patch(ctx: &Context, pod: &Pod, patch: &Value) -> kube::Result<()> {
    let api = ctx.namespaced::<Pod>(&pod.namespace().unwrap_or_default());
    match api.patch(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(patch)).await {
        Ok(_) => Ok(()),
        Err(error) if api_error::is_not_found(&error) || api_error::is_invalid(&error) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Runs `count` actions in doubling batches and stops after the first batch with an error. Returns how many succeeded, how many were
/// never started, and the first error.
pub async fn slow_start<F, Fut>(count: usize, mut action: F) -> (usize, usize, Option<kube::Error>)
where
    F: FnMut(usize) -> Fut,
    Fut: Future<Output = kube::Result<()>>,
{
    let (mut started, mut succeeded, mut batch) = (0, 0, INITIAL_BATCH);
    while started < count {
        let size = batch.min(count - started);
        let results = join_all((started..started + size).map(&mut action)).await;
        started += size;
        let mut first_error = None;
        for result in results {
            match result {
                Ok(()) => succeeded += 1,
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        if first_error.is_some() {
            return (succeeded, count - started, first_error);
        }
        batch *= 2;
    }
    (succeeded, 0, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn batches_double_and_stop_after_an_error() {
        let (succeeded, skipped, error) = slow_start(100, |_| async { Ok(()) }).await;
        assert_eq!((succeeded, skipped, error.is_none()), (100, 0, true));
        // Batches are 0, 1-2, 3-6, 7-14: the error of number 5 lets its batch finish and no other start.
        let (succeeded, skipped, error) =
            slow_start(100, |n| async move { if n == 5 { Err(kube::Error::LinesCodecMaxLineLengthExceeded) } else { Ok(()) } })
                .await;
        assert_eq!((succeeded, skipped, error.is_some()), (6, 93, true));
    }
}

//! Keeps PersistentVolumeClaims alive while pods use them.
//!
//! Upstream: pkg/controller/volume/pvcprotection

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use kube::api::{ListParams, PostParams};

use crate::api_error;
use crate::context::{Change, Context, Requeue, Store};
use crate::key::Key;
use crate::pods;

const FINALIZER: &str = "kubernetes.io/pvc-protection";
/// Pods by the claims they use.
pub const BY_CLAIM: &str = "claim";

/// The claims of a pod, those of its ephemeral volumes included.
pub fn claims_of(pod: &Pod) -> Vec<String> {
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    let namespace = pod.namespace().unwrap_or_default();
    let name = |volume: &k8s_openapi::api::core::v1::Volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(source), _) => Some(source.claim_name.clone()),
        (None, Some(_)) => Some(format!("{}-{}", pod.name_any(), volume.name)),
        _ => None,
    };
    volumes.iter().filter_map(name).map(|name| Key::new(&namespace, name).to_string()).collect()
}

pub async fn start(ctx: Context) -> anyhow::Result<()> {
    let (claims, pods, queue) = (ctx.store::<PersistentVolumeClaim>(), ctx.store::<Pod>(), ctx.queue());
    pods.add_index(BY_CLAIM, claims_of);
    claims.feed(&queue);
    let feed = queue.clone();
    pods.on_change(move |change| {
        let pod = change.object();
        if matches!(change, Change::Deleted(_)) || pods::is_terminal(pod) {
            for claim in claims_of(pod) {
                let (namespace, name) = claim.split_once('/').unwrap_or(("", &claim));
                feed.add(Key::new(namespace, name));
            }
        }
    });
    claims.synced().await;
    pods.synced().await;
    let this = ctx.clone();
    ctx.run(&queue, 1, move |key| {
        let (ctx, claims, pods) = (this.clone(), claims.clone(), pods.clone());
        async move { sync(&ctx, &claims, &pods, &key).await }
    });
    Ok(())
}

/// Whether a pod keeps its claims: it may have been started. A pod that is bound to no node uses nothing yet.
fn uses(pod: &Pod) -> bool {
    !pods::is_terminal(pod) && !pods::node_name(pod).is_empty()
}

async fn sync(ctx: &Context, claims: &Store<PersistentVolumeClaim>, pods: &Store<Pod>, key: &Key) -> anyhow::Result<Requeue> {
    let Some(claim) = claims.get(key) else { return Ok(Requeue::No) };
    let protected = claim.finalizers().iter().any(|finalizer| finalizer == FINALIZER);
    let mut changed = (*claim).clone();
    match (claim.metadata.deletion_timestamp.is_some(), protected) {
        (false, false) => changed.finalizers_mut().push(FINALIZER.to_owned()),
        (true, true) => {
            let text = key.to_string();
            if pods.by_index(BY_CLAIM, &text).iter().any(|pod| uses(pod)) {
                return Ok(Requeue::No);
            }
            // The cache may be behind a pod that has just been bound: ask the server.
            let live = ctx.namespaced::<Pod>(&key.namespace).list(&ListParams::default()).await?;
            if live.items.iter().any(|pod| uses(pod) && claims_of(pod).contains(&text)) {
                return Ok(Requeue::Backoff);
            }
            changed.finalizers_mut().retain(|finalizer| finalizer != FINALIZER);
        }
        _ => return Ok(Requeue::No),
    }
    api_error::ignore_not_found(
        ctx.namespaced::<PersistentVolumeClaim>(&key.namespace).replace(&key.name, &PostParams::default(), &changed).await,
    )?;
    Ok(Requeue::No)
}

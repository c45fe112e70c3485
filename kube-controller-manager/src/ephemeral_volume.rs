//! Makes the claims of pods' generic ephemeral volumes; they belong to their pod and go with it.
//!
//! Upstream: pkg/controller/volume/ephemeral

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::PostParams;
use kube::{Resource, ResourceExt};

use crate::api_error;
use crate::config::workers;
use crate::context::{Change, Context, Requeue};
use crate::key::Key;
use crate::{owner, pods};

pub async fn start(ctx: Context) -> anyhow::Result<()> {
    let (pods, claims, queue) = (ctx.store::<Pod>(), ctx.store::<PersistentVolumeClaim>(), ctx.queue());
    let feed = queue.clone();
    pods.on_change(move |change| {
        let pod = change.object();
        if !matches!(change, Change::Deleted(_)) && ephemeral(pod).next().is_some() {
            feed.add(Key::of(pod.as_ref()));
        }
    });
    let feed = queue.clone();
    claims.on_change(move |change| {
        if let (Change::Deleted(claim), Some(pod)) = (change, owner::controller_of(&change.object().metadata))
            && pod.kind == "Pod"
        {
            feed.add(Key::new(claim.namespace().unwrap_or_default(), pod.name.clone()));
        }
    });
    pods.synced().await;
    claims.synced().await;
    let this = ctx.clone();
    ctx.run(&queue, workers(ctx.config.options.concurrent_ephemeralvolume_syncs), move |key| {
        let (ctx, pods, claims) = (this.clone(), pods.clone(), claims.clone());
        async move {
            let Some(pod) = pods.get(&key).filter(|pod| pods::is_active(pod)) else { return Ok(Requeue::No) };
            for volume in ephemeral(&pod) {
                let Some(claim) = claim(&pod, volume) else { continue };
                let name = claim.name_any();
                match claims.get(&Key::new(&key.namespace, &name)) {
                    Some(existing) if owner::is_controlled_by(&existing.metadata, &pod.uid().unwrap_or_default()) => {}
                    Some(_) => anyhow::bail!("PVC {}/{name} was not created for pod {key} (pod is not owner)", key.namespace),
                    None => {
                        match ctx.namespaced::<PersistentVolumeClaim>(&key.namespace).create(&PostParams::default(), &claim).await
                        {
                            Err(error) if !api_error::is_already_exists(&error) => {
                                let message =
                                    format!("ephemeral volume controller: create PVC {name}: {}", api_error::message(&error));
                                ctx.warning(&pod.object_ref(&()), "FailedBinding", message);
                                return Err(error.into());
                            }
                            _ => {}
                        }
                    }
                }
            }
            Ok(Requeue::No)
        }
    });
    Ok(())
}

fn ephemeral(pod: &Pod) -> impl Iterator<Item = &Volume> {
    pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()).filter(|volume| volume.ephemeral.is_some())
}

fn claim(pod: &Pod, volume: &Volume) -> Option<PersistentVolumeClaim> {
    let template = volume.ephemeral.as_ref()?.volume_claim_template.clone()?;
    let meta = template.metadata.unwrap_or_default();
    let reference = OwnerReference { block_owner_deletion: Some(true), ..owner::controller_ref("v1", "Pod", &pod.metadata) };
    Some(PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(format!("{}-{}", pod.name_any(), volume.name)),
            namespace: pod.namespace(),
            labels: meta.labels,
            annotations: meta.annotations,
            owner_references: Some(vec![reference]),
            ..ObjectMeta::default()
        },
        spec: Some(template.spec),
        status: None,
    })
}

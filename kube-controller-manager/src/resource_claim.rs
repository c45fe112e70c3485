//! Makes the ResourceClaims that pods ask for by template, says which pods use which claims, and takes claims back when nobody does.
//!
//! Upstream: pkg/controller/resourceclaim/controller.go

pub mod plan;

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimTemplate};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Resource, ResourceExt};
use serde_json::json;

use crate::api_error;
use crate::config::workers;
use crate::context::{Change, Context, Queue, Requeue, Store};
use crate::key::Key;
use crate::owner;
use plan::Consumer;

/// Claims by the pod that they were made for, pods by the claims that they use.
const BY_POD: &str = "pod";
const BY_CLAIM: &str = "resourceclaim";

struct Controller {
    ctx: Context,
    pods: Store<Pod>,
    claims: Store<ResourceClaim>,
    templates: Store<ResourceClaimTemplate>,
    pod_queue: Queue<Key>,
    claim_queue: Queue<Key>,
}

pub async fn start(ctx: Context) -> anyhow::Result<()> {
    let controller = Arc::new(Controller {
        pods: ctx.store(),
        claims: ctx.store(),
        templates: ctx.store(),
        pod_queue: Queue::new("resource_claim_pods"),
        claim_queue: ctx.queue(),
        ctx,
    });
    controller.claims.add_index(BY_POD, |claim| {
        owner::controller_of(&claim.metadata)
            .filter(|owner| owner.kind == "Pod")
            .map(|owner| owner.uid.clone())
            .into_iter()
            .collect()
    });
    controller.pods.add_index(BY_CLAIM, |pod| {
        plan::claim_names(pod).map(|name| Key::new(pod.namespace().unwrap_or_default(), name).to_string()).collect()
    });
    let this = Arc::clone(&controller);
    controller.pods.on_change(move |change| this.pod_changed(change));
    let this = Arc::clone(&controller);
    controller.claims.on_change(move |change| {
        let claim = change.object();
        let key = Key::of(claim.as_ref());
        for pod in this.pods.by_index(BY_CLAIM, &key.to_string()) {
            this.pod_queue.add(Key::of(pod.as_ref()));
        }
        match change {
            // The pod that it was made for may need another one.
            Change::Deleted(_) => {
                if let Some(pod) = owner::controller_of(&claim.metadata).filter(|owner| owner.kind == "Pod") {
                    this.pod_queue.add(Key::new(key.namespace, pod.name.clone()));
                }
            }
            _ => this.claim_queue.add(key),
        }
    });
    controller.templates.synced().await;
    controller.claims.synced().await;
    controller.pods.synced().await;
    let count = workers(controller.ctx.config.options.concurrent_resourceclaim_syncs);
    let this = Arc::clone(&controller);
    controller.ctx.run(&controller.pod_queue, count, move |key| {
        let this = Arc::clone(&this);
        async move { this.sync_pod(&key).await }
    });
    let this = Arc::clone(&controller);
    controller.ctx.run(&controller.claim_queue, count, move |key| {
        let this = Arc::clone(&this);
        async move { this.sync_claim(&key).await }
    });
    Ok(())
}

impl Controller {
    fn pod_changed(&self, change: &Change<Pod>) {
        let pod = change.object();
        if pod.spec.as_ref().is_none_or(|spec| spec.resource_claims.as_ref().is_none_or(Vec::is_empty)) {
            return;
        }
        let (namespace, uid) = (pod.namespace().unwrap_or_default(), pod.uid().unwrap_or_default());
        if matches!(change, Change::Deleted(_)) || plan::is_done(pod) {
            for name in plan::claim_names(pod) {
                self.claim_queue.add(Key::new(namespace.clone(), name));
            }
            // Made for the pod, but the pod's status never said so.
            for claim in self.claims.by_index(BY_POD, &uid) {
                self.claim_queue.add(Key::of(claim.as_ref()));
            }
        } else {
            self.pod_queue.add(Key::of(pod.as_ref()));
        }
    }

    async fn sync_pod(&self, key: &Key) -> anyhow::Result<Requeue> {
        let Some(pod) = self.pods.get(key).filter(|pod| !plan::is_done(pod) && pod.metadata.deletion_timestamp.is_none()) else {
            return Ok(Requeue::No);
        };
        let result = self.make_claims(key, &pod).await;
        if let Err(error) = &result {
            self.ctx.warning(&pod.object_ref(&()), "FailedResourceClaimCreation", format!("{error:#}"));
        }
        result?;
        if !crate::pods::node_name(&pod).is_empty() {
            self.reserve(key, &pod).await?;
        }
        Ok(Requeue::No)
    }

    async fn make_claims(&self, key: &Key, pod: &Arc<Pod>) -> anyhow::Result<()> {
        let mut made = Vec::new();
        for wish in pod.spec.iter().flat_map(|spec| spec.resource_claims.iter().flatten()) {
            let Some(template_name) = &wish.resource_claim_template_name else { continue };
            let wrong = |error: String| anyhow::anyhow!("PodResourceClaim {}: {error}", wish.name);
            let existing = self.claims.by_index(BY_POD, &pod.uid().unwrap_or_default());
            if let Some(status) = plan::status_of(pod, &wish.name) {
                let Some(name) = &status.resource_claim_name else { continue };
                match self.claims.get(&Key::new(key.namespace.clone(), name.clone())) {
                    Some(claim) if !owner::is_controlled_by(&claim.metadata, &pod.uid().unwrap_or_default()) => {
                        return Err(wrong(format!(
                            "ResourceClaim {}/{name} was not created for pod {key} (pod is not owner)",
                            key.namespace
                        )));
                    }
                    Some(_) => continue,
                    None => {}
                }
            }
            if let Some(found) = existing.iter().find(|claim| plan::is_made_for(claim, &wish.name)) {
                made.push(json!({"name": wish.name, "resourceClaimName": found.name_any()}));
                continue;
            }
            let template = self.templates.get(&Key::new(key.namespace.clone(), template_name.clone()));
            let template = template.ok_or_else(|| {
                wrong(format!(
                    "resource claim template {template_name:?}: resourceclaimtemplate.resource.k8s.io {template_name:?} not found"
                ))
            })?;
            // The cache may be behind: a claim made just before a crash must not be made again.
            let api = self.ctx.namespaced::<ResourceClaim>(&key.namespace);
            let uid = pod.uid().unwrap_or_default();
            let live = api.list(&kube::api::ListParams::default()).await?;
            let found = live
                .items
                .iter()
                .find(|claim| owner::is_controlled_by(&claim.metadata, &uid) && plan::is_made_for(claim, &wish.name));
            let name = match found {
                Some(found) => found.name_any(),
                None => {
                    let claim = plan::claim(pod, &wish.name, &template);
                    let created = api.create(&PostParams::default(), &claim).await;
                    created.map_err(|error| wrong(format!("create ResourceClaim : {}", api_error::message(&error))))?.name_any()
                }
            };
            made.push(json!({"name": wish.name, "resourceClaimName": name}));
        }
        if made.is_empty() {
            return Ok(());
        }
        let patch = Patch::Strategic(json!({"metadata": {"uid": pod.uid()}, "status": {"resourceClaimStatuses": made}}));
        let patched = self.ctx.namespaced::<Pod>(&key.namespace).patch_status(&key.name, &PatchParams::default(), &patch).await;
        api_error::ignore_not_found(patched)?;
        Ok(())
    }

    /// A pod that came to its node without the scheduler reserves what is allocated already, else it would never start.
    async fn reserve(&self, key: &Key, pod: &Arc<Pod>) -> anyhow::Result<()> {
        for name in plan::claim_names(pod) {
            let Some(claim) = self.claims.get(&Key::new(key.namespace.clone(), name.clone())) else { continue };
            let Some(changed) = plan::reserve(&claim, pod) else { continue };
            let api = self.ctx.namespaced::<ResourceClaim>(&key.namespace);
            let written = api.replace_status(&name, &PostParams::default(), &changed).await;
            api_error::ignore_not_found(written)?;
        }
        Ok(())
    }

    async fn sync_claim(&self, key: &Key) -> anyhow::Result<Requeue> {
        let Some(claim) = self.claims.get(key) else { return Ok(Requeue::No) };
        let mut consumers = Vec::new();
        for reference in claim.status.iter().flat_map(|status| status.reserved_for.iter().flatten()) {
            consumers.push(if reference.api_group.as_deref().unwrap_or("").is_empty() && reference.resource == "pods" {
                self.pod(&Key::new(key.namespace.clone(), reference.name.clone()), &reference.uid).await?
            } else {
                // Not of a kind that is known here: somebody else's business.
                Consumer::Uses
            });
        }
        let api = self.ctx.namespaced::<ResourceClaim>(&key.namespace);
        let mut current = (*claim).clone();
        let step = plan::release(&claim, &consumers);
        if let Some(status) = step.status {
            current.status = Some(status);
            match api_error::ignore_not_found(api.replace_status(&key.name, &PostParams::default(), &current).await)? {
                Some(written) => current = written,
                None => return Ok(Requeue::No),
            }
        }
        if step.unprotect {
            current.finalizers_mut().retain(|finalizer| finalizer != plan::FINALIZER);
            match api_error::ignore_not_found(api.replace(&key.name, &PostParams::default(), &current).await)? {
                Some(written) => current = written,
                None => return Ok(Requeue::No),
            }
        }
        if step.unused
            && current.metadata.deletion_timestamp.is_none()
            && let Some(owner) = owner::controller_of(&current.metadata).filter(|owner| owner.kind == "Pod")
            && self.pod(&Key::new(key.namespace.clone(), owner.name.clone()), &owner.uid).await? == Consumer::Done
        {
            let preconditions = Preconditions { uid: current.uid(), resource_version: None };
            let deleted = api.delete(&key.name, &DeleteParams::default().preconditions(preconditions)).await;
            api_error::ignore_not_found(deleted)?;
        }
        Ok(Requeue::No)
    }

    /// How it is with a pod: what the cache does not know may be too new for it, so the server is asked.
    async fn pod(&self, key: &Key, uid: &str) -> anyhow::Result<Consumer> {
        let pod = match self.pods.get(key) {
            Some(pod) if pod.uid().as_deref() == Some(uid) => Some(pod),
            _ => self.ctx.namespaced::<Pod>(&key.namespace).get_opt(&key.name).await?.map(Arc::new),
        };
        Ok(plan::consumer(pod.as_deref(), uid))
    }
}

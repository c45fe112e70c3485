//! Empties namespaces that are being deleted, says what holds the stuck ones, and lets the empty ones go.
//!
//! Upstream: pkg/controller/namespace/deletion/namespaced_resources_deleter.go

pub mod conditions;

use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, PartialObjectMeta, PostParams};
use kube::{Resource, ResourceExt};

use crate::api_error;
use crate::config::workers;
use crate::context::{Context, Requeue};
use crate::discovery::{self, Found};
use crate::key::Key;
use conditions::Findings;

/// Other API servers of a cluster must have seen the deletion before the sweep, or they might still let something in behind it.
/// Upstream: namespaceDeletionGracePeriod, 5 s; watches deliver within milliseconds, and content found later is swept again.
const GRACE: Duration = Duration::from_secs(1);

/// How soon to look again when content remains that says nothing about how long it needs.
const RETRY: Duration = Duration::from_secs(2);

/// Resources emptied at the same time.
const PARALLEL: usize = 8;

pub async fn start(ctx: Context) -> anyhow::Result<()> {
    let (namespaces, queue) = (ctx.store::<Namespace>(), ctx.queue());
    let feed = queue.clone();
    namespaces.on_change(move |change| {
        let namespace = change.object();
        if namespace.metadata.deletion_timestamp.is_some() {
            feed.add_after(Key::cluster(namespace.name_any()), GRACE);
        }
    });
    namespaces.synced().await;
    let this = ctx.clone();
    ctx.run(&queue, workers(ctx.config.options.concurrent_namespace_syncs), move |key| {
        let (ctx, namespaces) = (this.clone(), namespaces.clone());
        async move { if namespaces.get(&key).is_some() { sync(&ctx, &key.name).await } else { Ok(Requeue::No) } }
    });
    Ok(())
}

async fn sync(ctx: &Context, name: &str) -> anyhow::Result<Requeue> {
    let api = ctx.cluster::<Namespace>();
    let Some(namespace) = api.get_opt(name).await? else { return Ok(Requeue::No) };
    if namespace.metadata.deletion_timestamp.is_none() || finalized(&namespace) {
        return Ok(Requeue::No);
    }
    let namespace = set_terminating(ctx, namespace).await?;
    let findings = empty(ctx, name).await?;
    let wanted = conditions::plan(&namespace, &findings, ctx.now());
    let namespace = match wanted {
        None => namespace,
        Some(status) => {
            let changed = Namespace { status: Some(status), ..namespace };
            match api.replace_status(name, &PostParams::default(), &changed).await {
                Ok(updated) => updated,
                Err(error) if api_error::is_not_found(&error) => return Ok(Requeue::No),
                Err(error) => return Err(error.into()),
            }
        }
    };
    if findings.is_clean() {
        finalize(ctx, namespace).await?;
        return Ok(Requeue::No);
    }
    if !findings.errors.is_empty() {
        anyhow::bail!("{}", findings.errors.join(", "));
    }
    // Half of what the slowest pod may take, as upstream, but look again soon where nothing is known.
    Ok(Requeue::After(
        findings.estimate.map_or(RETRY, |estimate| (estimate / 2).clamp(Duration::from_secs(1), Duration::from_secs(15))),
    ))
}

fn finalized(namespace: &Namespace) -> bool {
    namespace.spec.as_ref().and_then(|spec| spec.finalizers.as_ref()).is_none_or(Vec::is_empty)
}

async fn set_terminating(ctx: &Context, namespace: Namespace) -> kube::Result<Namespace> {
    if namespace.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Terminating") {
        return Ok(namespace);
    }
    let mut status = namespace.status.clone().unwrap_or_default();
    status.phase = Some("Terminating".to_owned());
    let changed = Namespace { status: Some(status), ..namespace };
    ctx.cluster::<Namespace>().replace_status(&changed.name_any(), &PostParams::default(), &changed).await
}

/// Takes our finalizer off; the API server removes a namespace without finalizers.
async fn finalize(ctx: &Context, mut namespace: Namespace) -> anyhow::Result<()> {
    let name = namespace.name_any();
    if let Some(spec) = namespace.spec.as_mut() {
        spec.finalizers =
            spec.finalizers.take().map(|list| list.into_iter().filter(|finalizer| finalizer != "kubernetes").collect());
    }
    let written = ctx.cluster::<Namespace>().replace_subresource("finalize", &name, &PostParams::default(), &namespace).await;
    api_error::ignore_not_found(written)?;
    Ok(())
}

/// Deletes everything in the namespace, once over, and says what is left.
async fn empty(ctx: &Context, namespace: &str) -> anyhow::Result<Findings> {
    let resources = discovery::resources(&ctx.client).await?;
    let mut findings = Findings { undiscovered: resources.failed, ..Findings::default() };
    let mut deletable: Vec<Found> = resources.found.into_iter().filter(|found| found.namespaced && found.can("delete")).collect();
    // Pods go first and alone: what keeps policies and secrets around them must outlive them. Upstream: OrderedNamespaceDeletion.
    let is_pods = |found: &Found| found.resource.plural == "pods" && found.resource.group.is_empty();
    if let Some(at) = deletable.iter().position(is_pods) {
        let pods = deletable.remove(at);
        empty_resource(ctx, namespace, &pods, &mut findings).await;
        if !findings.remaining.is_empty() || !findings.errors.is_empty() {
            return Ok(findings);
        }
    }
    let sweeps = deletable.into_iter().map(|found| async move {
        let mut part = Findings::default();
        empty_resource(ctx, namespace, &found, &mut part).await;
        part
    });
    let mut sweeps = futures::stream::iter(sweeps).buffer_unordered(PARALLEL);
    while let Some(part) = sweeps.next().await {
        findings.merge(part);
    }
    Ok(findings)
}

async fn empty_resource(ctx: &Context, namespace: &str, found: &Found, findings: &mut Findings) {
    if let Err(error) = try_empty(ctx, namespace, found, findings).await {
        // A resource that vanished (its definition was deleted), or that cannot be listed, holds nothing.
        if !api_error::is_not_found(&error) && !api_error::is_method_not_supported(&error) {
            findings.errors.push(api_error::message(&error));
        }
    }
}

async fn try_empty(ctx: &Context, namespace: &str, found: &Found, findings: &mut Findings) -> kube::Result<()> {
    if !found.can("list") {
        return Ok(());
    }
    let api: Api<DynamicObject> = Api::namespaced_with(ctx.client.clone(), namespace, &found.resource);
    let all = ListParams::default();
    let first = api.list_metadata(&all).await?;
    if first.items.is_empty() {
        return Ok(());
    }
    let is_pods = found.resource.plural == "pods" && found.resource.group.is_empty();
    if is_pods {
        findings.estimate = Some(slowest_pod(ctx, namespace).await?);
    }
    if found.can("deletecollection") {
        api.delete_collection(&DeleteParams::background(), &all).await?;
    } else {
        for object in &first.items {
            api_error::ignore_not_found(api.delete(&object.name_any(), &DeleteParams::background()).await)?;
        }
    }
    let rest = api.list_metadata(&all).await?;
    let name = || {
        let group = &found.resource.group;
        format!("{}.{group}", found.resource.plural)
    };
    if !rest.items.is_empty() {
        findings.remaining.push((name(), rest.items.len()));
    }
    for object in &rest.items {
        for finalizer in finalizers(object) {
            *findings.finalizers.entry(finalizer.clone()).or_insert(0) += 1;
        }
    }
    Ok(())
}

fn finalizers(object: &PartialObjectMeta<DynamicObject>) -> &[String] {
    object.meta().finalizers.as_deref().unwrap_or_default()
}

/// The longest that a pod of the namespace may take to end.
async fn slowest_pod(ctx: &Context, namespace: &str) -> kube::Result<Duration> {
    let pods = ctx.namespaced::<Pod>(namespace).list(&ListParams::default()).await?;
    let running = pods.items.iter().filter(|pod| !crate::pods::is_terminal(pod));
    let grace = running.filter_map(|pod| pod.spec.as_ref()?.termination_grace_period_seconds).max().unwrap_or(0);
    Ok(Duration::from_secs(u64::try_from(grace).unwrap_or(0)))
}

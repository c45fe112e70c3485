//! Starts Jobs by the clock.
//!
//! Upstream: pkg/controller/cronjob

pub mod plan;
pub mod schedule;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{DeleteParams, PostParams};
use kube::{Resource, ResourceExt};

use crate::api_error;
use crate::config::workers;
use crate::context::{Context, Requeue, Store};
use crate::key::Key;
use crate::owner;

/// A moment after the minute, so that a clock that is a little behind does not start nothing. Upstream: nextScheduleDelta.
const DELTA: Duration = Duration::from_millis(100);

pub async fn start(ctx: Context) -> anyhow::Result<()> {
    let (crons, jobs, queue) = (ctx.store::<CronJob>(), ctx.store::<Job>(), ctx.queue());
    crons.feed(&queue);
    let feed = queue.clone();
    jobs.on_change(move |change| {
        let job = change.object();
        if let Some(controller) = owner::controller_of(&job.metadata).filter(|owner| owner.kind == "CronJob") {
            feed.add(Key::new(job.namespace().unwrap_or_default(), controller.name.clone()));
        }
    });
    crons.synced().await;
    jobs.synced().await;
    let this = ctx.clone();
    ctx.run(&queue, workers(ctx.config.options.concurrent_cron_job_syncs), move |key| {
        let (ctx, crons, jobs) = (this.clone(), crons.clone(), jobs.clone());
        async move { sync(&ctx, &crons, &jobs, &key).await }
    });
    Ok(())
}

async fn sync(ctx: &Context, crons: &Store<CronJob>, jobs: &Store<Job>, key: &Key) -> anyhow::Result<Requeue> {
    let Some(cron) = crons.get(key) else { return Ok(Requeue::No) };
    let about = cron.object_ref(&());
    let children = jobs.owned_by(&cron.uid().unwrap_or_default());
    let mut plan = plan::plan(&cron, &children, ctx.now());
    let mut cron = cron;
    if plan.events.iter().any(|event| event.reason == "UnexpectedJob") {
        // Our own start of a moment ago, perhaps: the Job's event may come before the CronJob's.
        let Some(fresh) = ctx.namespaced::<CronJob>(&key.namespace).get_opt(&key.name).await? else { return Ok(Requeue::No) };
        cron = Arc::new(fresh);
        plan = plan::plan(&cron, &children, ctx.now());
    }
    for event in &plan.events {
        if event.warning {
            ctx.warning(&about, event.reason, &event.message)
        } else {
            ctx.normal(&about, event.reason, &event.message)
        }
    }
    let api = ctx.namespaced::<Job>(&key.namespace);
    for name in &plan.forget {
        delete(ctx, &about, &key.namespace, name).await?;
    }
    let mut missing = Vec::new();
    for active in plan.status.active.iter().flatten() {
        let name = active.name.clone().unwrap_or_default();
        if !children.iter().any(|child| child.uid() == active.uid)
            && api.get_opt(&name).await?.is_none_or(|job| job.uid() != active.uid)
        {
            ctx.normal(&about, "MissingJob", format!("Active job went missing: {name}"));
            missing.push(active.uid.clone());
        }
    }
    if let Some(active) = plan.status.active.as_mut() {
        active.retain(|known| !missing.contains(&known.uid));
    }
    for active in &plan.replace {
        delete(ctx, &about, &key.namespace, active.name.as_deref().unwrap_or("")).await?;
    }
    if let Some((job, due)) = plan.start.take() {
        let reference = start_job(ctx, &cron, &about, job).await?;
        if let Some(reference) = reference {
            let replaced = std::mem::take(&mut plan.replace);
            plan::started(&mut plan.status, reference, due, &replaced);
        }
    }
    if plan.status.active.as_ref().is_some_and(Vec::is_empty) {
        plan.status.active = None;
    }
    if cron.status.clone().unwrap_or_default() != plan.status {
        let changed = CronJob { status: Some(plan.status), ..(*cron).clone() };
        let written = ctx.namespaced::<CronJob>(&key.namespace).replace_status(&key.name, &PostParams::default(), &changed).await;
        api_error::ignore_not_found(written).context("failed to update status")?;
    }
    Ok(match plan.look_again {
        None => Requeue::No,
        Some(at) => Requeue::After(Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default() + DELTA),
    })
}

async fn delete(ctx: &Context, about: &ObjectReference, namespace: &str, name: &str) -> anyhow::Result<()> {
    match ctx.namespaced::<Job>(namespace).delete(name, &DeleteParams::background()).await {
        Ok(_) => ctx.normal(about, "SuccessfulDelete", format!("Deleted job {name}")),
        Err(error) if api_error::is_not_found(&error) => {}
        Err(error) => {
            ctx.warning(about, "FailedDelete", format!("Deleted job: {}", api_error::message(&error)));
            return Err(error.into());
        }
    }
    Ok(())
}

/// Makes the Job; one that is there already and ours was started before a crash, and counts as started.
async fn start_job(ctx: &Context, cron: &CronJob, about: &ObjectReference, job: Job) -> anyhow::Result<Option<ObjectReference>> {
    let api = ctx.namespaced::<Job>(&cron.namespace().unwrap_or_default());
    match api.create(&PostParams::default(), &job).await {
        Ok(made) => {
            ctx.normal(about, "SuccessfulCreate", format!("Created job {}", made.name_any()));
            Ok(Some(ObjectReference { resource_version: made.resource_version(), ..made.object_ref(&()) }))
        }
        Err(error) if api_error::is_namespace_terminating(&error) => Ok(None),
        Err(error) if api_error::is_already_exists(&error) => {
            let existing = Arc::new(api.get(&job.name_any()).await?);
            let ours = owner::is_controlled_by(&existing.metadata, &cron.uid().unwrap_or_default());
            Ok(ours.then(|| existing.object_ref(&())))
        }
        Err(error) => {
            ctx.warning(about, "FailedCreate", format!("Error creating job: {}", api_error::message(&error)));
            Err(error).context("failed to create a job")
        }
    }
}

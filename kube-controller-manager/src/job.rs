//! Runs pods to completion.
//!
//! Upstream: pkg/controller/job

pub mod indexes;
pub mod plan;
pub mod policy;

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::Context as _;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Resource, ResourceExt};
use parking_lot::Mutex;
use serde_json::json;

use crate::api_error;
use crate::config::workers;
use crate::context::{self, Change, Context, Queue, Requeue, Store};
use crate::expectations::Expectations;
use crate::key::Key;
use crate::owner;
use crate::{pod_control, pods, selector};
use plan::{FINALIZER, INDEX, INDEX_FAILURES, INDEX_IGNORED, NewPod, Observed};

/// The value of `spec.managedBy` that means us.
const MANAGER: &str = "kubernetes.io/job-controller";

struct Controller {
    ctx: Context,
    jobs: Store<Job>,
    pods: Store<Pod>,
    queue: Queue<Key>,
    /// Pods that still have our finalizer and no Job any more.
    orphans: Queue<Key>,
    expectations: Expectations,
    /// Failures in a row by Job uid, and when the last was.
    failures: Mutex<HashMap<String, (u32, Timestamp)>>,
}

pub async fn start(ctx: Context) -> anyhow::Result<()> {
    let controller = Arc::new(Controller {
        jobs: ctx.store(),
        pods: ctx.store(),
        queue: ctx.queue(),
        orphans: Queue::new("job_orphan_pod"),
        expectations: Expectations::default(),
        failures: Mutex::default(),
        ctx,
    });
    controller.jobs.synced().await;
    let this = Arc::clone(&controller);
    controller.jobs.on_change(move |change| this.job_changed(change));
    let this = Arc::clone(&controller);
    controller.pods.on_change(move |change| this.pod_changed(change));
    controller.pods.synced().await;
    let this = Arc::clone(&controller);
    let count = workers(controller.ctx.config.options.concurrent_job_syncs);
    controller.ctx.run(&controller.queue, count, move |key| {
        let this = Arc::clone(&this);
        async move { this.sync(&key).await }
    });
    let this = Arc::clone(&controller);
    controller.ctx.run(&controller.orphans, 1, move |key| {
        let this = Arc::clone(&this);
        async move { this.sync_orphan(&key).await }
    });
    Ok(())
}

impl Controller {
    fn job_changed(&self, change: &Change<Job>) {
        let job = change.object();
        if let Change::Deleted(_) = change {
            self.expectations.forget(&Key::of(job.as_ref()));
            let uid = job.uid().unwrap_or_default();
            self.failures.lock().remove(&uid);
            self.pods
                .owned_by(&uid)
                .iter()
                .filter(|pod| plan::has_finalizer(pod))
                .for_each(|pod| self.orphans.add(Key::of(pod.as_ref())));
        }
        self.queue.add(Key::of(job.as_ref()));
    }

    fn pod_changed(&self, change: &Change<Pod>) {
        let pod = change.object();
        let key = self.controller_key(&pod.metadata);
        if let Change::Updated(old, _) = change {
            let before = self.controller_key(&old.metadata);
            if before != key
                && let Some(before) = before
            {
                self.queue.add(before);
            }
        }
        let gone = matches!(change, Change::Deleted(_));
        match key {
            Some(key) => {
                if gone || pods::is_deleting(pod) {
                    self.expectations.deletion_observed(&key, &pod.uid().unwrap_or_default());
                } else if matches!(change, Change::Added(_)) {
                    self.expectations.creation_observed(&key);
                }
                self.queue.add(key);
            }
            None if gone => {}
            None if plan::has_finalizer(pod) => self.orphans.add(Key::of(pod.as_ref())),
            None if owner::controller_of(&pod.metadata).is_none() => {
                for job in self.jobs.in_namespace(&pod.namespace().unwrap_or_default()) {
                    let by = job.spec.as_ref().and_then(|spec| spec.selector.as_ref());
                    if by.is_some_and(|by| !selector::is_empty(by) && selector::matches(by, pod.labels())) {
                        self.queue.add(Key::of(job.as_ref()));
                    }
                }
            }
            None => {}
        }
    }

    fn controller_key(&self, meta: &ObjectMeta) -> Option<Key> {
        let controller = owner::controller_of(meta).filter(|owner| owner.kind == "Job")?;
        let key = Key::new(meta.namespace.clone().unwrap_or_default(), controller.name.clone());
        let job = self.jobs.get(&key)?;
        (job.uid().as_deref() == Some(&controller.uid)).then_some(key)
    }

    /// Lets go of a pod whose Job is gone.
    async fn sync_orphan(&self, key: &Key) -> anyhow::Result<Requeue> {
        let Some(pod) = self.pods.get(key) else { return Ok(Requeue::No) };
        if !plan::has_finalizer(&pod) || self.controller_key(&pod.metadata).is_some() {
            return Ok(Requeue::No);
        }
        if let Some(controller) = owner::controller_of(&pod.metadata).filter(|owner| owner.kind == "Job") {
            // The cache may be behind: ask before a pod is lost to its Job's count.
            let job = self.ctx.namespaced::<Job>(&key.namespace).get_opt(&controller.name).await?;
            if job.is_some_and(|job| job.uid().as_deref() == Some(&controller.uid)) {
                return Ok(Requeue::No);
            }
        }
        self.remove_finalizer(&pod).await?;
        Ok(Requeue::No)
    }

    async fn remove_finalizer(&self, pod: &Pod) -> kube::Result<()> {
        let metadata = json!({"uid": pod.uid(), "$deleteFromPrimitiveList/finalizers": [FINALIZER]});
        let api = self.ctx.namespaced::<Pod>(&pod.namespace().unwrap_or_default());
        let patched = api.patch(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(json!({"metadata": metadata}))).await;
        match patched {
            // Gone, or another pod by now (the uid differs).
            Err(error) if api_error::is_not_found(&error) || api_error::is_conflict(&error) || api_error::is_invalid(&error) => {
                Ok(())
            }
            other => other.map(|_| ()),
        }
    }

    async fn sync(&self, key: &Key) -> anyhow::Result<Requeue> {
        let Some(job) = self.jobs.get(key) else { return Ok(Requeue::No) };
        let Some(spec) = job.spec.as_ref() else { return Ok(Requeue::No) };
        let elsewhere = spec.managed_by.as_deref().is_some_and(|manager| manager != MANAGER);
        if elsewhere || plan::is_finished(&job) {
            return Ok(Requeue::No);
        }
        let uid = job.uid().unwrap_or_default();
        let settled = self.expectations.satisfied(key);
        let pods = self.claim(&job).await?;
        let backoff_until = self.failures.lock().get(&uid).map(|(count, at)| *at + plan::backoff(*count));
        let observed = Observed { job: Arc::clone(&job), pods, settled, backoff_until };
        let now = self.ctx.now();
        let plan = plan::plan(&observed, now);
        let about = job.object_ref(&());

        let mut job = (*job).clone();
        job = self.write_status(job, &plan.status).await?;
        {
            let mut failures = self.failures.lock();
            if plan.new_success {
                failures.remove(&uid);
            }
            if let Some((count, at)) = plan.new_failures {
                let entry = failures.entry(uid).or_insert((0, at));
                *entry = (entry.0.saturating_add(count), at.max(entry.1));
            }
        }
        for event in &plan.events {
            if event.warning {
                self.ctx.warning(&about, &event.reason, &event.message);
            } else {
                self.ctx.normal(&about, &event.reason, &event.message);
            }
        }
        let removed = futures::future::join_all(plan.unfinalize.iter().map(|pod| self.remove_finalizer(pod))).await;
        let scaled = self.scale(key, &job, &about, &plan).await;
        removed.into_iter().collect::<kube::Result<Vec<()>>>().context("failed to remove tracking finalizers")?;
        scaled.context("failed to manage the job's pods")?;
        // What was noted as uncounted is counted when the watch shows the pods without finalizer.
        Ok(context::requeue_at(plan.look_again, now))
    }

    async fn write_status(&self, job: Job, status: &JobStatus) -> anyhow::Result<Job> {
        if job.status.as_ref() == Some(status) {
            return Ok(job);
        }
        let (name, namespace) = (job.name_any(), job.namespace().unwrap_or_default());
        let changed = Job { status: Some(status.clone()), ..job };
        self.ctx
            .namespaced::<Job>(&namespace)
            .replace_status(&name, &PostParams::default(), &changed)
            .await
            .context("failed to update status")
    }

    async fn claim(&self, job: &Job) -> anyhow::Result<Vec<Arc<Pod>>> {
        let by = job.spec.as_ref().and_then(|spec| spec.selector.clone()).unwrap_or_default();
        let mut candidates = self.pods.owned_by(&job.uid().unwrap_or_default());
        if !selector::is_empty(&by) {
            candidates.extend(self.pods.orphans(&job.namespace().unwrap_or_default()));
        }
        pod_control::claim(&self.ctx, job, &by, candidates, Some(FINALIZER)).await
    }

    async fn scale(&self, key: &Key, job: &Job, about: &ObjectReference, plan: &plan::Plan) -> kube::Result<()> {
        if plan.create.is_empty() && plan.delete.is_empty() {
            return Ok(());
        }
        self.expectations.expect(key, plan.create.len(), plan.delete.iter().map(|pod| pod.uid().unwrap_or_default()));
        let deletions = plan.delete.iter().map(|pod| async move {
            let result = pod_control::delete(&self.ctx, pod, about).await;
            if !matches!(result, Ok(true)) {
                self.expectations.deletion_observed(key, &pod.uid().unwrap_or_default());
            }
            result.map(|_| ())
        });
        let deleted: kube::Result<()> = futures::future::join_all(deletions).await.into_iter().collect();
        let owner = owner::controller_ref("batch/v1", "Job", &job.metadata);
        let (_, skipped, error) = pod_control::slow_start(plan.create.len(), |at| {
            let pod = new_pod(job, &owner, &plan.create[at]);
            async move {
                match pod_control::create_pod(&self.ctx, &pod, &key.namespace, about).await {
                    Ok(_) => Ok(()),
                    Err(error) => {
                        self.expectations.creation_failed(key, &error);
                        if api_error::is_namespace_terminating(&error) { Ok(()) } else { Err(error) }
                    }
                }
            }
        })
        .await;
        for _ in 0..skipped {
            self.expectations.creation_observed(key);
        }
        error.map_or(Ok(()), Err).and(deleted)
    }
}

/// A pod of the Job. Upstream: manageJob, addCompletionIndexEnvVariables, podGenerateNameWithIndex.
fn new_pod(job: &Job, owner: &OwnerReference, new: &NewPod) -> Pod {
    let template = job.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
    let mut pod = pods::from_template(&template, &job.namespace().unwrap_or_default(), owner);
    pod.finalizers_mut().push(FINALIZER.to_owned());
    if let Some((counted, ignored)) = new.failures {
        pod.annotations_mut().insert(INDEX_FAILURES.to_owned(), counted.to_string());
        if ignored > 0 {
            pod.annotations_mut().insert(INDEX_IGNORED.to_owned(), ignored.to_string());
        }
    }
    let Some(index) = new.index else { return pod };
    let name = job.name_any();
    pod.metadata.generate_name = Some(format!("{name}-{index}-"));
    pod.annotations_mut().insert(INDEX.to_owned(), index.to_string());
    pod.labels_mut().insert(INDEX.to_owned(), index.to_string());
    let spec = pod.spec.get_or_insert_default();
    if spec.hostname.is_none() {
        spec.hostname = Some(format!("{name}-{index}"));
    }
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        let env = container.env.get_or_insert_default();
        if !env.iter().any(|variable| variable.name == "JOB_COMPLETION_INDEX") {
            let field = ObjectFieldSelector { field_path: format!("metadata.labels['{INDEX}']"), api_version: None };
            let source = EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() };
            env.push(EnvVar { name: "JOB_COMPLETION_INDEX".to_owned(), value: None, value_from: Some(source) });
        }
    }
    pod
}

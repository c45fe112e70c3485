//! What a decision does to the cluster: bindings, conditions, evictions, events. The only part that talks to the API server.
//!
//! Upstream: pkg/scheduler/schedule_one.go (bindingCycle, handleSchedulingFailure), preemption/executor.go

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use client::events::{Kind, Recorder};
use http::{Method, Request, header};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::metrics;
use crate::object::Named;
use crate::object::pod::Pod;
use crate::plugin::Failure;
use crate::plugin::volume_binding::Plan;
use crate::scheduler::{Bind, Consult, Refused, Scheduler, Step};

mod devices;

/// What extenders leave: nodes with scores, and why others will not do.
type Answers = (Vec<(String, i64)>, Vec<(String, Failure)>);

/// How often volumes that a pod waits for are looked at.
const VOLUME_POLL: Duration = Duration::from_millis(100);
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const MERGE: &str = "application/merge-patch+json";

/// The rim. Cheap to clone.
#[derive(Clone)]
pub struct Effects {
    client: kube::Client,
    recorder: Recorder,
}

impl Effects {
    /// Through this client; events through this recorder.
    pub fn new(client: kube::Client, recorder: Recorder) -> Self {
        Self { client, recorder }
    }

    /// Binds a pod, its volumes first. On failure the pod gives its place up.
    pub async fn bind(&self, scheduler: &Scheduler, bind: Bind) {
        let Bind { waiting, node, plan, started, evaluated } = bind;
        let pod = &waiting.pod;
        let profile = pod.spec.scheduler_name.as_str();
        metrics::TASKS.with_label_values(&["binding"]).inc();
        let _running = Running;
        let since = Instant::now();
        // Volumes and devices can take long: all may see where the pod is going. Upstream: NominatedNodeNameForExpectation
        let waits = !plan.volumes.is_empty() || !plan.devices.claims.is_empty();
        if waits {
            self.patch_status(pod, None, Some(&node)).await;
        }
        let prepared = match self.bind_volumes(scheduler, pod, &plan.volumes, &node).await {
            Ok(()) => self.bind_devices(pod, &plan.devices).await,
            Err(why) => Err(why),
        };
        metrics::point("PreBind", profile, prepared.is_ok(), since);
        let since = Instant::now();
        let result = match prepared {
            Ok(()) => match scheduler.extenders(pod).iter().find(|extender| !extender.bind.is_empty()) {
                Some(extender) => extender.bind(pod, &node).await,
                None => self.bind_pod(pod, &node).await,
            },
            Err(why) => Err(why),
        };
        metrics::point("Bind", profile, result.is_ok(), since);
        let outcome = match result {
            Ok(()) => {
                tracing::debug!(
                    pod = pod.key(),
                    node,
                    evaluatedNodes = evaluated.0,
                    feasibleNodes = evaluated.1,
                    "Successfully bound pod to node"
                );
                let message = format!("Successfully assigned {} to {node}", pod.key());
                self.recorder.with_component(profile).event(&**pod, Kind::Normal, "Scheduled", message);
                metrics::SLI_SECONDS
                    .with_label_values(&[&waiting.attempts.min(15).to_string()])
                    .observe(waiting.first.elapsed().as_secs_f64());
                metrics::POD_ATTEMPTS.observe(f64::from(waiting.attempts));
                "scheduled"
            }
            // The pod was deleted meanwhile: nothing to say, and nobody to say it about.
            Err(why) if why.is_empty() => {
                self.release_devices(pod, &plan.devices).await;
                scheduler.unbind(pod, &plan);
                return;
            }
            Err(why) => {
                tracing::info!(pod = pod.key(), node, err = why, "Failed to bind pod");
                self.release_devices(pod, &plan.devices).await;
                scheduler.unbind(pod, &plan);
                self.recorder.with_component(profile).event(&**pod, Kind::Warning, "FailedScheduling", why.clone());
                self.patch_status(pod, condition(pod, "SchedulerError", &why), None).await;
                if waits {
                    let expected = Pod { nominated: node, ..Pod::clone(pod) };
                    self.patch_status(&expected, None, Some("")).await;
                }
                "error"
            }
        };
        metrics::ATTEMPTS.with_label_values(&[profile, outcome]).inc();
        metrics::ATTEMPT_SECONDS.with_label_values(&[profile, outcome]).observe(started.elapsed().as_secs_f64());
    }

    /// Asks extenders which node it shall be, and carries that out.
    pub async fn consult(&self, scheduler: &Scheduler, consult: Consult) {
        let pod = consult.waiting.pod.clone();
        match self.ask_extenders(scheduler, &consult).await {
            Ok((ranked, failed)) => match scheduler.settle(consult, ranked, failed) {
                Step::Bind(bind) => self.bind(scheduler, *bind).await,
                Step::Refused(refused) => self.refuse(scheduler, *refused).await,
                Step::Consult(_) | Step::Skipped => {}
            },
            Err(why) => {
                let profile = pod.spec.scheduler_name.as_str();
                metrics::ATTEMPTS.with_label_values(&[profile, "error"]).inc();
                tracing::info!(pod = pod.key(), err = why, "Failed to ask an extender");
                scheduler.failed(&pod);
                self.recorder.with_component(profile).event(&*pod, Kind::Warning, "FailedScheduling", why.clone());
                self.patch_status(&pod, condition(&pod, "SchedulerError", &why), None).await;
            }
        }
    }

    async fn ask_extenders(&self, scheduler: &Scheduler, consult: &Consult) -> Result<Answers, String> {
        let pod = &consult.waiting.pod;
        let extenders = scheduler.extenders(pod);
        let path = format!("/api/v1/namespaces/{}/pods/{}", pod.namespace(), pod.name());
        let object = self.get(&path).await?;
        let objects = if extenders.iter().all(|extender| extender.names_only) {
            Vec::new()
        } else {
            let mut list = self.get("/api/v1/nodes").await?;
            match list["items"].take() {
                Value::Array(items) => items,
                _ => Vec::new(),
            }
        };
        let mut ranked = consult.ranked.clone();
        let mut failed = Vec::new();
        let names = |ranked: &[(String, i64)]| ranked.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        for extender in extenders.iter().filter(|extender| !extender.filter.is_empty()) {
            match extender.filter(&object, &names(&ranked), &objects).await {
                Ok(answer) => {
                    ranked.retain(|(name, _)| answer.nodes.contains(name));
                    failed.extend(answer.failed.into_iter().map(|(node, (why, resolvable))| {
                        (node, if resolvable { Failure::resolvable(why) } else { Failure::unresolvable(why) })
                    }));
                }
                Err(why) if extender.ignorable => tracing::warn!(extender = extender.url, err = why, "Skipping extender"),
                Err(why) => return Err(why),
            }
        }
        for extender in extenders.iter().filter(|extender| !extender.prioritize.is_empty()) {
            if ranked.len() < 2 {
                break;
            }
            // As upstream: an extender that cannot score is passed over.
            let Ok(scores) = extender.prioritize(&object, &names(&ranked), &objects).await else { continue };
            for (name, score) in scores {
                if let Some((_, total)) = ranked.iter_mut().find(|(own, _)| *own == name) {
                    *total += score;
                }
            }
        }
        Ok((ranked, failed))
    }

    async fn get(&self, path: &str) -> Result<Value, String> {
        let request = Request::get(path).body(Vec::new()).map_err(|error| error.to_string())?;
        self.client.request(request).await.map_err(|error| text(&error))
    }

    /// Says why a pod fits nowhere, and makes room for it where that was decided.
    pub async fn refuse(&self, scheduler: &Scheduler, mut refused: Refused) {
        if !refused.choices.is_empty() {
            self.judge(scheduler, &mut refused).await;
        }
        let Refused { pod, message, nominate, victims, outbid, choices: _ } = refused;
        let profile = pod.spec.scheduler_name.as_str();
        metrics::ATTEMPTS.with_label_values(&[profile, "unschedulable"]).inc();
        tracing::debug!(pod = pod.key(), err = message, "Unable to schedule pod; no fit; waiting");
        let recorder = self.recorder.with_component(profile);
        recorder.event(&*pod, Kind::Warning, "FailedScheduling", message.clone());
        self.patch_status(&pod, condition(&pod, "Unschedulable", &message), nominate.as_deref()).await;
        for other in outbid {
            self.patch_status(&other, None, Some("")).await;
        }
        let node = nominate.unwrap_or_default();
        for victim in victims {
            self.evict(&pod, &victim, &node, &recorder).await;
        }
    }

    /// Lets extenders strike choices of preemption out, and takes the best that is left.
    async fn judge(&self, scheduler: &Scheduler, refused: &mut Refused) {
        let pod = &refused.pod;
        let path = |pod: &Pod| format!("/api/v1/namespaces/{}/pods/{}", pod.namespace(), pod.name());
        let extenders = scheduler.extenders(pod);
        let judges = || extenders.iter().filter(|extender| !extender.preempt.is_empty());
        let Ok(object) = self.get(&path(pod)).await else { return refused.choices.clear() };
        let mut objects = HashMap::new();
        if judges().any(|extender| !extender.names_only) {
            for victim in refused.choices.iter().flat_map(|choice| &choice.victims) {
                if let Ok(object) = self.get(&path(victim)).await {
                    objects.insert(victim.uid().to_owned(), object);
                }
            }
        }
        for extender in judges() {
            match extender.preempt(&object, &refused.choices, &objects).await {
                Ok(left) => refused.choices = left,
                Err(why) if extender.ignorable => tracing::warn!(extender = extender.url, err = why, "Skipping extender"),
                Err(why) => {
                    tracing::info!(pod = pod.key(), err = why, "Failed to ask an extender");
                    refused.choices.clear();
                }
            }
            // Nothing left to ask about.
            if refused.choices.is_empty() {
                return;
            }
        }
        scheduler.promise(refused);
    }

    /// The error is empty where the pod is gone.
    async fn bind_pod(&self, pod: &Pod, node: &str) -> Result<(), String> {
        let (namespace, name) = (pod.namespace(), pod.name());
        let body = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": {"namespace": namespace, "name": name, "uid": pod.uid()},
            "target": {"kind": "Node", "name": node},
        });
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}/binding");
        self.send(Method::POST, &path, "application/json", &body).await.map_err(|error| match client::is_not_found(&error) {
            true => String::new(),
            false => format!("binding rejected: running Bind plugin \"DefaultBinder\": {}", text(&error)),
        })
    }

    /// Binds and asks for volumes, then waits until all of the pod's claims are bound.
    async fn bind_volumes(&self, scheduler: &Scheduler, pod: &Pod, plan: &Plan, node: &str) -> Result<(), String> {
        if plan.is_empty() {
            return Ok(());
        }
        let failed = |error: kube::Error| format!("running PreBind plugin \"VolumeBinding\": {}", text(&error));
        for (claim, volume) in &plan.bind {
            if volume.claim.0 == claim.key() && !volume.claim.1.is_empty() {
                continue;
            }
            let reference = json!({
                "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": claim.namespace(), "name": claim.name(),
                "uid": claim.uid(), "resourceVersion": claim.metadata.resource_version,
            });
            let patch = json!({
                "metadata": {
                    "resourceVersion": volume.metadata.resource_version,
                    "annotations": {"pv.kubernetes.io/bound-by-controller": "yes"},
                },
                "spec": {"claimRef": reference},
            });
            let path = format!("/api/v1/persistentvolumes/{}", volume.name());
            self.send(Method::PATCH, &path, MERGE, &patch).await.map_err(failed)?;
        }
        for claim in &plan.provision {
            let patch = json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": node}}});
            let path = format!("/api/v1/namespaces/{}/persistentvolumeclaims/{}", claim.namespace(), claim.name());
            self.send(Method::PATCH, &path, MERGE, &patch).await.map_err(failed)?;
        }
        let stores = scheduler.stores();
        let timeout = scheduler.profile(pod).map_or(Duration::from_secs(600), |profile| profile.args.bind_timeout);
        let deadline = Instant::now() + timeout;
        let claims: Vec<_> = plan.bind.iter().map(|(claim, _)| claim).chain(&plan.provision).collect();
        loop {
            let mut waiting = false;
            for claim in &claims {
                match stores.claims.get(&claim.key()) {
                    None => return Err(format!("running PreBind plugin \"VolumeBinding\": pvc {} is gone", claim.key())),
                    Some(now) if now.bound => {}
                    Some(now) if now.selected_node.is_empty() && plan.provision.iter().any(|own| own.key() == claim.key()) => {
                        return Err(
                            "running PreBind plugin \"VolumeBinding\": provisioning failed, selected node is void".to_owned()
                        );
                    }
                    Some(_) => waiting = true,
                }
            }
            if !waiting {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err("running PreBind plugin \"VolumeBinding\": binding volumes: context deadline exceeded".to_owned());
            }
            tokio::time::sleep(VOLUME_POLL).await;
        }
    }

    /// Deletes a victim, saying in its status why.
    async fn evict(&self, preemptor: &Pod, victim: &Arc<Pod>, node: &str, recorder: &Recorder) {
        let message = format!("{}: preempting to accommodate a higher priority pod", preemptor.spec.scheduler_name);
        let condition = json!({
            "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": message,
            "lastTransitionTime": now(),
        });
        self.patch_status(victim, Some(condition), None).await;
        let path = format!("/api/v1/namespaces/{}/pods/{}", victim.namespace(), victim.name());
        let body = json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": victim.uid()}});
        match self.send(Method::DELETE, &path, "application/json", &body).await {
            Ok(()) => {
                let message = format!("Preempted by pod {} on node {node}", preemptor.uid());
                recorder.event(&**victim, Kind::Normal, "Preempted", message);
            }
            Err(error) if client::is_not_found(&error) => {}
            Err(error) => tracing::warn!(pod = victim.key(), err = text(&error), "Failed to preempt pod"),
        }
    }

    /// Writes a condition and a nomination; nothing where neither is given.
    async fn patch_status(&self, pod: &Pod, condition: Option<Value>, nominate: Option<&str>) {
        let mut status = json!({});
        if let Some(condition) = condition {
            status["conditions"] = json!([condition]);
        }
        if let Some(node) = nominate.filter(|node| *node != pod.nominated) {
            status["nominatedNodeName"] = if node.is_empty() { Value::Null } else { node.into() };
        }
        if status == json!({}) {
            return;
        }
        let patch = json!({"metadata": {"uid": pod.uid()}, "status": status});
        let path = format!("/api/v1/namespaces/{}/pods/{}/status", pod.namespace(), pod.name());
        match self.send(Method::PATCH, &path, STRATEGIC, &patch).await {
            Ok(()) => {}
            Err(error) if client::is_not_found(&error) || client::is_conflict(&error) => {}
            Err(error) => tracing::warn!(pod = pod.key(), err = text(&error), "Failed to patch pod status"),
        }
    }

    /// Sends, and reads no more of the answer than whether it is one of success.
    async fn send(&self, method: Method, path: &str, content_type: &str, body: &Value) -> Result<(), kube::Error> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::CONTENT_TYPE, content_type)
            .body(body.to_string().into_bytes())
            .map_err(kube::Error::HttpError)?;
        self.client.request_text(request).await.map(drop)
    }
}

/// A binding under way, for the gauge.
struct Running;

impl Drop for Running {
    fn drop(&mut self) {
        metrics::TASKS.with_label_values(&["binding"]).dec();
    }
}

/// PodScheduled=False, if that says anything new.
fn condition(pod: &Pod, reason: &str, message: &str) -> Option<Value> {
    let known = pod.scheduled.as_ref();
    if known.is_some_and(|known| !known.yes && known.reason == reason && known.message == message) {
        return None;
    }
    let mut condition = json!({
        "type": "PodScheduled", "status": "False", "reason": reason, "message": message, "lastProbeTime": null,
    });
    if let Some(generation) = pod.metadata.generation {
        condition["observedGeneration"] = generation.into();
    }
    // The time is that of the change from True or nothing; a new reason alone does not move it.
    if known.is_none_or(|known| known.yes) {
        condition["lastTransitionTime"] = now().into();
    }
    Some(condition)
}

fn now() -> String {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now).to_string()
}

/// What the server said, or what went wrong on the way.
fn text(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => component::chain(other),
    }
}

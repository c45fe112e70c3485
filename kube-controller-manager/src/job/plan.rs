//! What one Job needs done.
//!
//! A finished pod is counted exactly once: its uid is first written into `status.uncountedTerminatedPods`, then its tracking finalizer is
//! taken off, and only then does it become part of the counters. Whatever step a crash interrupts can be repeated.
//! Upstream: pkg/controller/job/job_controller.go

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::{indexes, policy};
use crate::pods;

pub const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
pub const INDEX: &str = "batch.kubernetes.io/job-completion-index";
pub const INDEX_FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
pub const INDEX_IGNORED: &str = "batch.kubernetes.io/job-index-ignored-failure-count";

/// Most uids in `uncountedTerminatedPods`. Upstream: MaxUncountedPods.
const MAX_UNCOUNTED: usize = 500;

pub struct Observed {
    pub job: Arc<Job>,
    pub pods: Vec<Arc<Pod>>,
    /// Whether all earlier creations and deletions were seen.
    pub settled: bool,
    /// No pod is made before this, because of earlier failures.
    pub backoff_until: Option<Timestamp>,
}

/// A pod to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewPod {
    pub index: Option<i32>,
    /// Failures of the index so far: (counted, ignored), where they are limited by index.
    pub failures: Option<(i32, i32)>,
}

#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// Written first, if it differs from what is there.
    pub status: JobStatus,
    /// Then these lose their finalizer.
    pub unfinalize: Vec<Arc<Pod>>,
    pub delete: Vec<Arc<Pod>>,
    pub create: Vec<NewPod>,
    /// Failures that were newly seen, with the time of the latest, and whether a success was.
    pub new_failures: Option<(u32, Timestamp)>,
    pub new_success: bool,
    pub events: Vec<Event>,
    pub look_again: Option<Timestamp>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Event {
    pub warning: bool,
    pub reason: String,
    pub message: String,
}

pub fn has_condition(job: &Job, type_: &str) -> bool {
    let conditions = job.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == type_ && condition.status == "True")
}

pub fn is_finished(job: &Job) -> bool {
    has_condition(job, "Complete") || has_condition(job, "Failed")
}

pub fn has_finalizer(pod: &Pod) -> bool {
    pod.finalizers().iter().any(|finalizer| finalizer == FINALIZER)
}

pub fn index_of(pod: &Pod) -> Option<i32> {
    pod.annotations().get(INDEX)?.parse().ok()
}

pub fn plan(observed: &Observed, now: Timestamp) -> Plan {
    Work::new(observed, now).run()
}

struct Work<'a> {
    job: &'a Job,
    spec: JobSpec,
    now: Timestamp,
    settled: bool,
    backoff_until: Option<Timestamp>,
    pods: &'a [Arc<Pod>],
    active: Vec<&'a Arc<Pod>>,
    terminating: i32,
    uncounted_succeeded: BTreeSet<String>,
    uncounted_failed: BTreeSet<String>,
    /// Succeeded and failed indexes, once all pods are looked at.
    succeeded: BTreeSet<i32>,
    failed: BTreeSet<i32>,
    /// The latest failed pod of each index; it keeps its finalizer until its successor carries the count on.
    latest_failed: BTreeMap<i32, &'a Arc<Pod>>,
    status: JobStatus,
    plan: Plan,
}

fn n(value: Option<i32>) -> i32 {
    value.unwrap_or(0)
}

fn count(length: usize) -> i32 {
    i32::try_from(length).unwrap_or(i32::MAX)
}

fn failures(pod: &Pod, annotation: &str) -> i32 {
    pod.annotations().get(annotation).and_then(|text| text.parse().ok()).unwrap_or(0)
}

impl<'a> Work<'a> {
    fn new(observed: &'a Observed, now: Timestamp) -> Work<'a> {
        let job = observed.job.as_ref();
        let (spec, status) = (job.spec.clone().unwrap_or_default(), job.status.clone().unwrap_or_default());
        let uncounted = status.uncounted_terminated_pods.clone().unwrap_or_default();
        let completions = spec.completions.unwrap_or(0);
        Work {
            active: observed.pods.iter().filter(|pod| pods::is_active(pod)).collect(),
            terminating: count(observed.pods.iter().filter(|pod| pods::is_terminating(pod)).count()),
            uncounted_succeeded: uncounted.succeeded.into_iter().flatten().collect(),
            uncounted_failed: uncounted.failed.into_iter().flatten().collect(),
            succeeded: indexes::parse(status.completed_indexes.as_deref().unwrap_or(""), completions),
            failed: indexes::parse(status.failed_indexes.as_deref().unwrap_or(""), completions),
            latest_failed: BTreeMap::new(),
            job,
            spec,
            now,
            settled: observed.settled,
            backoff_until: observed.backoff_until,
            pods: &observed.pods,
            status,
            plan: Plan::default(),
        }
    }

    fn indexed(&self) -> bool {
        self.spec.completion_mode.as_deref() == Some("Indexed")
    }

    /// Whether a pod is replaced only once it has really ended.
    fn waits_for_end(&self) -> bool {
        self.spec.pod_failure_policy.is_some() || self.spec.pod_replacement_policy.as_deref() == Some("Failed")
    }

    fn suspended(&self) -> bool {
        self.spec.suspend == Some(true)
    }

    fn is_failed(&self, pod: &Pod) -> bool {
        match pods::phase(pod) {
            "Failed" => true,
            "Succeeded" => false,
            _ => !self.waits_for_end() && pods::is_deleting(pod),
        }
    }

    fn valid_index(&self, pod: &Pod) -> Option<i32> {
        index_of(pod).filter(|index| (0..self.spec.completions.unwrap_or(0)).contains(index))
    }

    fn run(mut self) -> Plan {
        self.settle_uncounted();
        if self.status.start_time.is_none() && !self.suspended() {
            self.status.start_time = Some(Time(self.now));
        }
        self.status.active = Some(count(self.active.len()));
        self.status.ready = Some(count(self.active.iter().filter(|pod| pods::is_ready(pod)).count()));
        self.status.terminating = Some(self.terminating);
        let newly_failed = self.newly_failed();
        let newly_succeeded = self.newly_succeeded();
        if self.spec.backoff_limit_per_index.is_some() {
            self.judge_indexes();
        }
        if self.indexed() {
            let new: Vec<i32> =
                self.pods.iter().filter(|pod| pods::phase(pod) == "Succeeded").filter_map(|pod| self.valid_index(pod)).collect();
            self.succeeded.extend(new);
            // An index that failed for good does not succeed any more.
            self.succeeded.retain(|index| !self.failed.contains(index));
        }
        let failed_total = n(self.status.failed) + count(self.uncounted_failed.len() + newly_failed.len());
        let succeeded_total = if self.indexed() {
            count(self.succeeded.len())
        } else {
            n(self.status.succeeded) + count(self.uncounted_succeeded.len() + newly_succeeded.len())
        };
        self.plan.new_success = !newly_succeeded.is_empty();
        let ended = newly_failed.iter().map(|pod| finish_time(pod).unwrap_or(self.now)).max();
        self.plan.new_failures = ended.map(|at| (u32::try_from(newly_failed.len()).unwrap_or(u32::MAX), at));

        let verdict = self.verdict(failed_total, succeeded_total);
        let fails = verdict.as_ref().is_some_and(|(type_, ..)| *type_ == "FailureTarget");
        if let Some((type_, reason, message)) = verdict.clone() {
            self.set_condition(type_, "True", &reason, &message);
            if self.settled {
                self.plan.delete = self.active.iter().map(|pod| Arc::clone(pod)).collect();
            }
        } else {
            self.manage(succeeded_total);
        }
        self.track(fails);
        self.conclude(verdict);
        self.plan.status = self.status;
        self.plan
    }

    /// Pods in `uncountedTerminatedPods` whose finalizer is gone (or that are gone themselves) are counted now.
    fn settle_uncounted(&mut self) {
        let held: BTreeSet<String> = self.pods.iter().filter(|pod| has_finalizer(pod)).filter_map(|pod| pod.uid()).collect();
        let settled = |set: &mut BTreeSet<String>| {
            let before = set.len();
            set.retain(|uid| held.contains(uid));
            count(before - set.len())
        };
        let succeeded = settled(&mut self.uncounted_succeeded);
        let failed = settled(&mut self.uncounted_failed);
        if succeeded > 0 {
            self.status.succeeded = Some(n(self.status.succeeded) + succeeded);
        }
        if failed > 0 {
            self.status.failed = Some(n(self.status.failed) + failed);
        }
    }

    fn newly_succeeded(&self) -> Vec<&'a Arc<Pod>> {
        let new = |pod: &&Arc<Pod>| {
            pods::phase(pod) == "Succeeded"
                && has_finalizer(pod)
                && !self.uncounted_succeeded.contains(pod.uid().unwrap_or_default().as_str())
        };
        let indexed = self.indexed();
        self.pods
            .iter()
            .filter(new)
            .filter(|pod| !indexed || self.valid_index(pod).is_some_and(|index| !self.succeeded.contains(&index)))
            .collect()
    }

    fn newly_failed(&self) -> Vec<&'a Arc<Pod>> {
        let new = |pod: &&Arc<Pod>| {
            self.is_failed(pod)
                && has_finalizer(pod)
                && !self.uncounted_failed.contains(pod.uid().unwrap_or_default().as_str())
                && policy::judge(self.spec.pod_failure_policy.as_ref(), pod) != policy::Verdict::Ignore
                && (!self.indexed() || self.valid_index(pod).is_some())
        };
        self.pods.iter().filter(new).collect()
    }

    /// Which indexes have failed for good, and which failed pods carry a count on.
    fn judge_indexes(&mut self) {
        let limit = self.spec.backoff_limit_per_index.unwrap_or(0);
        let failed: Vec<&Arc<Pod>> = self.pods.iter().filter(|pod| self.is_failed(pod) && has_finalizer(pod)).collect();
        for pod in failed {
            let Some(index) = self.valid_index(pod) else { continue };
            match policy::judge(self.spec.pod_failure_policy.as_ref(), pod) {
                policy::Verdict::FailIndex => drop(self.failed.insert(index)),
                policy::Verdict::Ignore => {}
                _ if failures(pod, INDEX_FAILURES) >= limit => drop(self.failed.insert(index)),
                _ => {}
            }
            let rank = |pod: &Pod| failures(pod, INDEX_FAILURES) + failures(pod, INDEX_IGNORED);
            let latest = self.latest_failed.entry(index).or_insert(pod);
            if rank(pod) > rank(latest) {
                *latest = pod;
            }
        }
        let busy: BTreeSet<i32> = self.active.iter().filter_map(|pod| self.valid_index(pod)).collect();
        let over = |index: &i32| busy.contains(index) || self.failed.contains(index) || self.succeeded.contains(index);
        let done: Vec<i32> = self.latest_failed.keys().copied().filter(|index| over(index)).collect();
        for index in done {
            self.latest_failed.remove(&index);
        }
    }

    /// Whether the Job is over: (interim condition, reason, message).
    fn verdict(&self, failed: i32, succeeded: i32) -> Option<(&'static str, String, String)> {
        let conditions = self.status.conditions.iter().flatten();
        for condition in conditions.filter(|condition| condition.status == "True") {
            let type_ = match condition.type_.as_str() {
                "FailureTarget" => "FailureTarget",
                "SuccessCriteriaMet" => "SuccessCriteriaMet",
                _ => continue,
            };
            return Some((type_, condition.reason.clone().unwrap_or_default(), condition.message.clone().unwrap_or_default()));
        }
        let fail = |reason: &str, message: String| Some(("FailureTarget", reason.to_owned(), message));
        if let Some(policy) = &self.spec.pod_failure_policy {
            let message = self.pods.iter().find_map(|pod| match policy::judge(Some(policy), pod) {
                policy::Verdict::FailJob { message } => Some(message),
                _ => None,
            });
            if let Some(message) = message {
                return fail("PodFailurePolicy", message);
            }
        }
        if failed > self.spec.backoff_limit.unwrap_or(6) || self.exceeds_on_restarts() {
            return fail("BackoffLimitExceeded", "Job has reached the specified backoff limit".to_owned());
        }
        if self.deadline().is_some_and(|deadline| deadline <= self.now) {
            return fail("DeadlineExceeded", "Job was active longer than specified deadline".to_owned());
        }
        if self.spec.backoff_limit_per_index.is_some() {
            if self.spec.max_failed_indexes.is_some_and(|most| count(self.failed.len()) > most) {
                return fail(
                    "MaxFailedIndexesExceeded",
                    "Job has exceeded the specified maximal number of failed indexes".to_owned(),
                );
            }
            if !self.failed.is_empty() && count(self.failed.len() + self.succeeded.len()) >= self.spec.completions.unwrap_or(0) {
                return fail("FailedIndexes", "Job has failed indexes".to_owned());
            }
        }
        if let Some(message) = policy::success(&self.spec, &self.succeeded) {
            return Some(("SuccessCriteriaMet", "SuccessPolicy".to_owned(), message));
        }
        let complete = match self.spec.completions {
            // One success of a work queue means that the others are about to find it empty.
            None => succeeded > 0 && self.active.is_empty() && self.terminating == 0,
            Some(completions) => succeeded >= completions,
        };
        (complete && !self.suspended()).then(|| {
            ("SuccessCriteriaMet", "CompletionsReached".to_owned(), "Reached expected number of succeeded pods".to_owned())
        })
    }

    /// With `restartPolicy: OnFailure` restarts of running pods count as failures. Upstream: pastBackoffLimitOnFailure.
    fn exceeds_on_restarts(&self) -> bool {
        let on_failure = self.spec.template.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()) == Some("OnFailure");
        if !on_failure {
            return false;
        }
        let restarts: i32 = self
            .pods
            .iter()
            .filter(|pod| matches!(pods::phase(pod), "Running" | "Pending"))
            .filter_map(|pod| pod.status.as_ref())
            .flat_map(|status| status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten()))
            .map(|container| container.restart_count)
            .sum();
        match self.spec.backoff_limit.unwrap_or(6) {
            0 => restarts > 0,
            limit => restarts >= limit,
        }
    }

    fn deadline(&self) -> Option<Timestamp> {
        if self.suspended() {
            return None;
        }
        let seconds = self.spec.active_deadline_seconds?;
        let start = self.status.start_time.as_ref()?.0;
        Some(start.saturating_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX))
    }

    /// Pods up to what is wanted, or down to it.
    fn manage(&mut self, succeeded: i32) {
        if !self.settled || self.job.metadata.deletion_timestamp.is_some() {
            return;
        }
        self.note_suspension();
        if self.suspended() {
            self.plan.delete = self.active.iter().map(|pod| Arc::clone(pod)).collect();
            return;
        }
        let parallelism = self.spec.parallelism.unwrap_or(1);
        let active = count(self.active.len());
        let wanted = match self.spec.completions {
            None if succeeded > 0 => active,
            None => parallelism,
            Some(completions) => (completions - succeeded - count(self.failed.len())).min(parallelism).max(0),
        };
        let surplus = self.surplus(active - wanted);
        if !surplus.is_empty() {
            self.plan.delete = surplus;
            return;
        }
        let waiting = if self.waits_for_end() { self.terminating } else { 0 };
        let missing = wanted - active - waiting;
        self.plan.look_again = self.deadline();
        if missing <= 0 {
            return;
        }
        if let Some(until) = self.backoff_until.filter(|until| *until > self.now && self.spec.backoff_limit_per_index.is_none()) {
            self.plan.look_again = Some(self.plan.look_again.map_or(until, |at| at.min(until)));
            return;
        }
        let missing = usize::try_from(missing).unwrap_or(0).min(crate::pod_control::BURST);
        self.plan.create =
            if self.indexed() { self.next_indexes(missing) } else { vec![NewPod { index: None, failures: None }; missing] };
    }

    /// The lowest free indexes.
    fn next_indexes(&mut self, missing: usize) -> Vec<NewPod> {
        let waits = self.waits_for_end();
        let holds = |pod: &&Arc<Pod>| pods::is_active(pod) || (waits && pods::is_terminating(pod));
        let busy: BTreeSet<i32> = self.pods.iter().filter(holds).filter_map(|pod| self.valid_index(pod)).collect();
        let free = (0..self.spec.completions.unwrap_or(0))
            .filter(|i| !busy.contains(i) && !self.succeeded.contains(i) && !self.failed.contains(i));
        let per_index = self.spec.backoff_limit_per_index.is_some();
        let (mut list, mut wake) = (Vec::new(), self.plan.look_again);
        for index in free {
            if list.len() == missing {
                break;
            }
            let mut new = NewPod { index: Some(index), failures: per_index.then_some((0, 0)) };
            if let Some(previous) = self.latest_failed.get(&index) {
                let (counted, ignored) = (failures(previous, INDEX_FAILURES), failures(previous, INDEX_IGNORED));
                let due = finish_time(previous).unwrap_or(self.now) + backoff(u32::try_from(counted + ignored + 1).unwrap_or(1));
                if due > self.now {
                    wake = Some(wake.map_or(due, |at| at.min(due)));
                    continue;
                }
                let ignore = policy::judge(self.spec.pod_failure_policy.as_ref(), previous) == policy::Verdict::Ignore;
                new.failures = Some(if ignore { (counted, ignored + 1) } else { (counted + 1, ignored) });
            }
            list.push(new);
        }
        self.plan.look_again = wake;
        list
    }

    /// Active pods to delete: those that can never count first, then by the usual order.
    fn surplus(&self, at_least: i32) -> Vec<Arc<Pod>> {
        let at_least = usize::try_from(at_least).unwrap_or(0);
        let mut doomed: Vec<Arc<Pod>> = Vec::new();
        let mut rest: Vec<Arc<Pod>> = Vec::new();
        let mut seen = BTreeSet::new();
        let mut ordered = self.active.clone();
        // The pod that has come furthest keeps its index.
        ordered.sort_by(|a, b| pods::deletion_order(b, 0, a, 0, self.now));
        for pod in ordered {
            let useless = self.indexed()
                && match self.valid_index(pod) {
                    None => true,
                    Some(index) => !seen.insert(index) || self.succeeded.contains(&index) || self.failed.contains(&index),
                };
            if useless { doomed.push(Arc::clone(pod)) } else { rest.push(Arc::clone(pod)) }
        }
        if doomed.len() < at_least {
            let more = at_least - doomed.len();
            doomed.extend(pods::to_delete(&rest, &[], more, self.now));
        }
        doomed.truncate(crate::pod_control::BURST);
        doomed
    }

    fn note_suspension(&mut self) {
        let current =
            self.status.conditions.iter().flatten().find(|condition| condition.type_ == "Suspended").map(|c| c.status.clone());
        let event =
            |reason: &str, message: &str| Event { warning: false, reason: reason.to_owned(), message: message.to_owned() };
        match (self.suspended(), current.as_deref() == Some("True")) {
            (true, false) => {
                self.set_condition("Suspended", "True", "JobSuspended", "Job suspended");
                self.plan.events.push(event("Suspended", "Job suspended"));
                // The clock of the deadline stops, and starts anew.
                self.status.start_time = None;
            }
            (false, true) => {
                self.set_condition("Suspended", "False", "JobResumed", "Job resumed");
                self.plan.events.push(event("Resumed", "Job resumed"));
                self.status.start_time = Some(Time(self.now));
            }
            _ => {}
        }
    }

    /// Notes finished pods as uncounted and lists those whose finalizer may go.
    fn track(&mut self, fails: bool) {
        let over = self.job.metadata.deletion_timestamp.is_some();
        let indexed = self.indexed();
        for pod in self.pods.iter().filter(|pod| has_finalizer(pod)) {
            let (failed, succeeded) = (self.is_failed(pod), pods::phase(pod) == "Succeeded");
            let removable = over || succeeded || failed || (fails && pods::is_deleting(pod));
            let carries = self
                .valid_index(pod)
                .and_then(|index| self.latest_failed.get(&index))
                .is_some_and(|latest| latest.uid() == pod.uid());
            if !removable || (carries && !over && !fails) {
                continue;
            }
            if self.uncounted_failed.len() + self.uncounted_succeeded.len() >= MAX_UNCOUNTED {
                break;
            }
            let uid = pod.uid().unwrap_or_default();
            if succeeded && !self.uncounted_failed.contains(&uid) {
                if !indexed {
                    self.uncounted_succeeded.insert(uid);
                }
            } else if failed || fails {
                let counts = policy::judge(self.spec.pod_failure_policy.as_ref(), pod) != policy::Verdict::Ignore;
                if counts && (!indexed || self.valid_index(pod).is_some()) {
                    self.uncounted_failed.insert(uid);
                }
            }
            self.plan.unfinalize.push(Arc::clone(pod));
        }
        let list = |set: &BTreeSet<String>| (!set.is_empty()).then(|| set.iter().cloned().collect());
        let uncounted =
            UncountedTerminatedPods { succeeded: list(&self.uncounted_succeeded), failed: list(&self.uncounted_failed) };
        self.status.uncounted_terminated_pods = Some(uncounted);
        if indexed {
            self.status.succeeded = Some(count(self.succeeded.len()));
            let text = indexes::format(&self.succeeded);
            self.status.completed_indexes = (!text.is_empty()).then_some(text);
        }
        if self.spec.backoff_limit_per_index.is_some() {
            self.status.failed_indexes = Some(indexes::format(&self.failed));
        }
    }

    /// The final condition, once every pod has ended and was counted.
    fn conclude(&mut self, verdict: Option<(&'static str, String, String)>) {
        let Some((type_, reason, message)) = verdict else { return };
        let pending =
            !self.uncounted_failed.is_empty() || !self.uncounted_succeeded.is_empty() || !self.plan.unfinalize.is_empty();
        if pending || self.terminating > 0 || !self.active.is_empty() {
            return;
        }
        if type_ == "FailureTarget" {
            self.set_condition("Failed", "True", &reason, &message);
            self.plan.events.push(Event { warning: true, reason, message });
        } else {
            self.set_condition("Complete", "True", &reason, &message);
            self.status.completion_time = Some(Time(self.now));
            self.plan.events.push(Event { warning: false, reason: "Completed".to_owned(), message: "Job completed".to_owned() });
        }
        self.plan.create.clear();
    }

    fn set_condition(&mut self, type_: &str, status: &str, reason: &str, message: &str) {
        let conditions = self.status.conditions.get_or_insert_default();
        let old = conditions.iter_mut().find(|condition| condition.type_ == type_);
        let new = JobCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_probe_time: Some(Time(self.now)),
            last_transition_time: Some(Time(self.now)),
        };
        match old {
            None => conditions.push(new),
            Some(old) if old.status != new.status || old.reason != new.reason || old.message != new.message => *old = new,
            Some(_) => {}
        }
    }
}

/// How long to wait after so many failures in a row: 10 s, 20 s … 10 min.
/// Upstream: DefaultJobPodFailureBackOff, MaxJobPodFailureBackOff.
pub fn backoff(failures: u32) -> SignedDuration {
    let seconds = 10_i64.saturating_mul(1 << failures.saturating_sub(1).min(20));
    SignedDuration::from_secs(seconds.min(600))
}

/// When a pod ended.
fn finish_time(pod: &Pod) -> Option<Timestamp> {
    let status = pod.status.as_ref()?;
    let ends =
        status.container_statuses.iter().flatten().filter_map(|c| c.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref());
    let end = ends.map(|time| time.0).max();
    end.or_else(|| pod.metadata.deletion_timestamp.as_ref().map(|time| time.0)).or_else(|| {
        pods::condition(pod, "Ready").and_then(|condition| condition.last_transition_time.as_ref()).map(|time| time.0)
    })
}

#[cfg(test)]
mod tests;

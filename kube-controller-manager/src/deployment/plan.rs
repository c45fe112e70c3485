//! What one Deployment needs done: a list of writes to its ReplicaSets, and its status afterwards.
//!
//! The plan works on copies as if each write had succeeded; whoever applies it stops at the first that does not.
//! Upstream: pkg/controller/deployment/{sync,rolling,recreate,progress}.go

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use super::sets::{self, by_creation, desired, max_surge, max_unavailable, replicas, revision};
use crate::{hash, owner, pods};

/// A Deployment, the ReplicaSets it controls, and their pods by the set's uid.
pub struct Observed {
    pub deployment: Arc<Deployment>,
    pub sets: Vec<Arc<ReplicaSet>>,
    pub pods: BTreeMap<String, Vec<Arc<Pod>>>,
}

#[derive(Debug, PartialEq)]
pub enum Op {
    /// Make the new ReplicaSet.
    Create(Box<ReplicaSet>),
    /// Write a ReplicaSet; `scaled` is its size before, where that changes.
    Update { set: Box<ReplicaSet>, scaled: Option<i32> },
    /// Remove an old, empty one.
    Delete(String),
}

#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    pub ops: Vec<Op>,
    /// Written after the operations, if it differs from what was observed.
    pub status: DeploymentStatus,
    /// The revision annotation, if it changes.
    pub revision: Option<String>,
    /// When the progress deadline has to be looked at.
    pub look_again: Option<Timestamp>,
}

pub fn plan(observed: &Observed, now: Timestamp) -> Plan {
    let mut work = Work {
        now,
        old_status: observed.deployment.status.clone().unwrap_or_default(),
        conditions: observed.deployment.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default(),
        deployment: (*observed.deployment).clone(),
        sets: observed.sets.iter().map(|set| (**set).clone()).collect(),
        new: None,
        ops: Vec::new(),
        revision: None,
    };
    work.new = sets::find_new(&work.deployment, &work.sets);
    if work.deployment.metadata.deletion_timestamp.is_some() {
        return work.finish(false);
    }
    work.note_pause();
    if work.paused() || work.is_scaling() {
        work.sync_revision();
        work.scale_all();
        if work.paused() {
            work.clean_up();
        }
        return work.finish(false);
    }
    if sets::is_rolling(&work.deployment) {
        work.ensure_new();
        let moved = work.reconcile_new() || work.reconcile_old();
        if !moved && work.is_complete() {
            work.clean_up();
        }
    } else {
        work.sync_revision();
        if !work.empty_old() && !work.old_pods_run(&observed.pods) {
            work.ensure_new();
            work.resize_new(desired(&work.deployment));
            if work.is_complete() {
                work.clean_up();
            }
        }
    }
    work.finish(true)
}

struct Work {
    now: Timestamp,
    deployment: Deployment,
    old_status: DeploymentStatus,
    conditions: Vec<DeploymentCondition>,
    sets: Vec<ReplicaSet>,
    new: Option<usize>,
    ops: Vec<Op>,
    revision: Option<String>,
}

impl Work {
    fn paused(&self) -> bool {
        self.deployment.spec.as_ref().and_then(|spec| spec.paused).unwrap_or(false)
    }

    /// Seconds, if the Deployment has a deadline at all (the largest number means none).
    fn deadline(&self) -> Option<i32> {
        self.deployment.spec.as_ref().and_then(|spec| spec.progress_deadline_seconds).filter(|&seconds| seconds != i32::MAX)
    }

    fn total(&self) -> i32 {
        self.sets.iter().map(replicas).sum()
    }

    fn available(&self) -> i32 {
        self.sets.iter().map(available).sum()
    }

    /// Places of the old sets, oldest first.
    fn old(&self) -> Vec<usize> {
        let mut old: Vec<usize> = (0..self.sets.len()).filter(|&at| Some(at) != self.new).collect();
        old.sort_by(|&a, &b| by_creation(&self.sets[a], &self.sets[b]));
        old
    }

    /// A pause stops the progress clock, so it must show in the condition.
    fn note_pause(&mut self) {
        if self.deadline().is_none() {
            return;
        }
        let current = self.condition("Progressing").and_then(|condition| condition.reason.clone());
        if current.as_deref() == Some("ProgressDeadlineExceeded") {
            return;
        }
        match (self.paused(), current.as_deref() == Some("DeploymentPaused")) {
            (true, false) => self.set_condition("Progressing", "Unknown", "DeploymentPaused", "Deployment is paused".to_owned()),
            (false, true) => {
                self.set_condition("Progressing", "Unknown", "DeploymentResumed", "Deployment is resumed".to_owned())
            }
            _ => {}
        }
    }

    /// Whether `replicas` changed since the active sets were last sized.
    fn is_scaling(&self) -> bool {
        let wanted = desired(&self.deployment);
        self.sets.iter().filter(|set| replicas(set) > 0).any(|set| {
            let noted = sets::annotation(set, sets::DESIRED_REPLICAS).and_then(|text| text.parse::<i32>().ok());
            noted.is_some_and(|noted| noted != wanted)
        })
    }

    /// Gives the new set, where there is one, its revision and annotations.
    fn sync_revision(&mut self) {
        let Some(at) = self.new else { return };
        let next = self.next_revision();
        let min_ready = self.deployment.spec.as_ref().and_then(|spec| spec.min_ready_seconds);
        let mut set = self.sets[at].clone();
        let mut changed = sets::set_annotations(&mut set, &self.deployment, next, true);
        let spec = set.spec.get_or_insert_default();
        if spec.min_ready_seconds.unwrap_or(0) != min_ready.unwrap_or(0) {
            spec.min_ready_seconds = min_ready;
            changed = true;
        }
        let name = sets::name(&set).to_owned();
        self.note_revision(revision(&set));
        if changed {
            self.sets[at] = set.clone();
            self.ops.push(Op::Update { set: Box::new(set), scaled: None });
        }
        if self.deadline().is_some() && self.condition("Progressing").is_none() {
            self.set_condition("Progressing", "True", "FoundNewReplicaSet", format!("Found new replica set {name:?}"));
        }
    }

    /// The same, making the new set where there is none.
    fn ensure_new(&mut self) {
        if self.new.is_some() {
            return self.sync_revision();
        }
        let next = self.next_revision();
        let spec = self.deployment.spec.clone().unwrap_or_default();
        let mut template = spec.template;
        let collisions = self.old_status.collision_count;
        let hash = hash::of(&template, collisions);
        let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
        labels.insert(sets::HASH_LABEL.to_owned(), hash.clone());
        let labels = labels.clone();
        let mut selector = spec.selector;
        selector.match_labels.get_or_insert_default().insert(sets::HASH_LABEL.to_owned(), hash.clone());
        let meta = &self.deployment.metadata;
        let name = format!("{}-{hash}", meta.name.as_deref().unwrap_or(""));
        let size = sets::new_set_replicas(&self.deployment, self.total(), 0);
        let mut set = ReplicaSet {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: meta.namespace.clone(),
                labels: Some(labels),
                owner_references: Some(vec![owner::controller_ref("apps/v1", "Deployment", meta)]),
                ..ObjectMeta::default()
            },
            spec: Some(ReplicaSetSpec {
                replicas: Some(size),
                min_ready_seconds: spec.min_ready_seconds,
                selector,
                template: Some(template),
            }),
            status: None,
        };
        sets::set_annotations(&mut set, &self.deployment, next, false);
        self.note_revision(next);
        if self.deadline().is_some() {
            self.set_condition("Progressing", "True", "NewReplicaSetCreated", format!("Created new replica set {name:?}"));
        }
        self.new = Some(self.sets.len());
        self.sets.push(set.clone());
        self.ops.push(Op::Create(Box::new(set)));
    }

    fn next_revision(&self) -> i64 {
        self.old().into_iter().map(|at| revision(&self.sets[at])).max().unwrap_or(0) + 1
    }

    fn note_revision(&mut self, revision: i64) {
        let text = revision.to_string();
        let current = self.deployment.metadata.annotations.as_ref().and_then(|annotations| annotations.get(sets::REVISION));
        if current != Some(&text) {
            self.deployment.metadata.annotations.get_or_insert_default().insert(sets::REVISION.to_owned(), text.clone());
            self.revision = Some(text);
        }
    }

    /// Writes a size (and the annotations that go with it). Says whether the size changed.
    fn resize(&mut self, at: usize, size: i32) -> bool {
        let before = replicas(&self.sets[at]);
        let mut set = self.sets[at].clone();
        let noted = sets::set_size_annotations(&mut set, &self.deployment);
        if before == size && !noted {
            return false;
        }
        sets::set_replicas(&mut set, size);
        self.sets[at] = set.clone();
        // Several changes of one set in a sync are one write: a second one would conflict with the first.
        let earlier = self.ops.iter_mut().find_map(|op| match op {
            Op::Update { set, scaled } if sets::name(set) == sets::name(&self.sets[at]) => Some((set, scaled)),
            _ => None,
        });
        match earlier {
            Some((written, scaled)) => {
                **written = set;
                if before != size {
                    *scaled = scaled.or(Some(before));
                }
            }
            None => self.ops.push(Op::Update { set: Box::new(set), scaled: (before != size).then_some(before) }),
        }
        before != size
    }

    fn resize_if_other(&mut self, at: usize, size: i32) -> bool {
        replicas(&self.sets[at]) != size && self.resize(at, size)
    }

    fn resize_new(&mut self, size: i32) -> bool {
        self.new.is_some_and(|at| self.resize_if_other(at, size))
    }

    /// After a change of `replicas`: the one active set, or all in proportion while a rollout is under way.
    fn scale_all(&mut self) {
        let wanted = desired(&self.deployment);
        let active: Vec<usize> = (0..self.sets.len()).filter(|&at| replicas(&self.sets[at]) > 0).collect();
        let only = match active.as_slice() {
            [] => self.new.or_else(|| self.old().last().copied()),
            [one] => Some(*one),
            _ => None,
        };
        if let Some(only) = only {
            // A size that is right may still have outdated annotations, which would look like scaling for ever.
            self.resize(only, wanted);
            return;
        }
        if self.new.is_some_and(|at| self.is_saturated(&self.sets[at])) {
            for at in self.old() {
                self.resize_if_other(at, 0);
            }
            return;
        }
        if sets::is_rolling(&self.deployment) {
            self.scale_in_proportion(active);
        }
    }

    fn is_saturated(&self, set: &ReplicaSet) -> bool {
        let wanted = desired(&self.deployment);
        let noted = sets::annotation(set, sets::DESIRED_REPLICAS).and_then(|text| text.parse::<i32>().ok());
        replicas(set) == wanted && noted == Some(wanted) && available(set) == wanted
    }

    fn scale_in_proportion(&mut self, mut active: Vec<usize>) {
        let wanted = desired(&self.deployment);
        let allowed = if wanted > 0 { wanted + max_surge(&self.deployment) } else { 0 };
        let to_add = allowed - active.iter().map(|&at| replicas(&self.sets[at])).sum::<i32>();
        // Largest first; of equal ones the newer grows first and the older shrinks first.
        active.sort_by(|&a, &b| {
            let (a, b) = (&self.sets[a], &self.sets[b]);
            let age = if to_add > 0 { by_creation(b, a) } else { by_creation(a, b) };
            replicas(b).cmp(&replicas(a)).then(age)
        });
        let mut added = 0;
        let mut sizes = Vec::with_capacity(active.len());
        for &at in &active {
            let share = sets::proportion(&self.sets[at], &self.deployment, to_add, added);
            sizes.push(replicas(&self.sets[at]) + share);
            added += share;
        }
        if let Some(first) = sizes.first_mut()
            && to_add != 0
        {
            *first = (*first + to_add - added).max(0);
        }
        for (at, size) in active.into_iter().zip(sizes) {
            self.resize(at, size);
        }
    }

    fn reconcile_new(&mut self) -> bool {
        let Some(at) = self.new else { return false };
        let (current, wanted) = (replicas(&self.sets[at]), desired(&self.deployment));
        if current > wanted {
            return self.resize(at, wanted);
        }
        let size = sets::new_set_replicas(&self.deployment, self.total(), current);
        self.resize_if_other(at, size)
    }

    /// Takes as many old pods away as availability allows: unhealthy ones first.
    fn reconcile_old(&mut self) -> bool {
        let Some(new) = self.new else { return false };
        let old = self.old();
        if old.iter().all(|&at| replicas(&self.sets[at]) == 0) {
            return false;
        }
        let min_available = desired(&self.deployment) - max_unavailable(&self.deployment);
        let new_unavailable = replicas(&self.sets[new]) - available(&self.sets[new]);
        let most = self.total() - min_available - new_unavailable;
        if most <= 0 {
            return false;
        }
        let mut moved = false;
        let mut down = 0;
        for &at in &old {
            let (size, healthy) = (replicas(&self.sets[at]), available(&self.sets[at]));
            if down >= most || size == 0 || size == healthy {
                continue;
            }
            let count = (most - down).min(size - healthy).max(0);
            down += count;
            moved |= self.resize_if_other(at, size - count);
        }
        let spare = self.available() - min_available;
        let mut down = 0;
        for &at in &old {
            let size = replicas(&self.sets[at]);
            if down >= spare || size == 0 {
                continue;
            }
            let count = size.min(spare - down);
            down += count;
            moved |= self.resize_if_other(at, size - count);
        }
        moved
    }

    /// Recreate: all old sets to zero first.
    fn empty_old(&mut self) -> bool {
        let mut moved = false;
        for at in self.old() {
            moved |= self.resize_if_other(at, 0);
        }
        moved
    }

    /// Recreate: whether pods of old sets still exist.
    fn old_pods_run(&self, by_set: &BTreeMap<String, Vec<Arc<Pod>>>) -> bool {
        let new_uid = self.new.and_then(|at| self.sets[at].metadata.uid.as_ref());
        self.old().into_iter().any(|at| self.sets[at].status.as_ref().is_some_and(|status| status.replicas > 0))
            || by_set.iter().any(|(uid, list)| Some(uid) != new_uid && list.iter().any(|pod| !pods::is_terminal(pod)))
    }

    fn is_complete(&self) -> bool {
        let wanted = desired(&self.deployment);
        let status = &self.old_status;
        is_complete(status, wanted) && status.observed_generation.unwrap_or(0) >= self.deployment.metadata.generation.unwrap_or(0)
    }

    /// Deletes the oldest revisions beyond the history limit.
    fn clean_up(&mut self) {
        let limit = self.deployment.spec.as_ref().and_then(|spec| spec.revision_history_limit).unwrap_or(i32::MAX);
        let Ok(limit) = usize::try_from(limit) else { return };
        let mut old: Vec<usize> =
            self.old().into_iter().filter(|&at| self.sets[at].metadata.deletion_timestamp.is_none()).collect();
        let surplus = old.len().saturating_sub(limit);
        old.sort_by_key(|&at| revision(&self.sets[at]));
        for &at in &old[..surplus] {
            let set = &self.sets[at];
            let status = set.status.clone().unwrap_or_default();
            let seen = status.observed_generation.unwrap_or(0) >= set.metadata.generation.unwrap_or(0);
            if status.replicas == 0 && replicas(set) == 0 && seen {
                self.ops.push(Op::Delete(sets::name(set).to_owned()));
            }
        }
    }

    fn condition(&self, type_: &str) -> Option<&DeploymentCondition> {
        self.conditions.iter().find(|condition| condition.type_ == type_)
    }

    fn set_condition(&mut self, type_: &str, status: &str, reason: &str, message: String) {
        let old = self.condition(type_);
        if old.is_some_and(|old| old.status == status && old.reason.as_deref() == Some(reason)) {
            return;
        }
        let since = old.filter(|old| old.status == status).and_then(|old| old.last_transition_time.clone());
        let condition = DeploymentCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_update_time: Some(Time(self.now)),
            last_transition_time: since.or(Some(Time(self.now))),
        };
        self.conditions.retain(|condition| condition.type_ != type_);
        self.conditions.push(condition);
    }

    fn counts(&self) -> DeploymentStatus {
        let status = |set: &ReplicaSet| set.status.clone().unwrap_or_default();
        let total: i32 = self.sets.iter().map(|set| status(set).replicas).sum();
        let terminating: Option<i32> =
            self.sets.iter().map(|set| set.status.as_ref().map_or(Some(0), |s| s.terminating_replicas)).sum();
        DeploymentStatus {
            observed_generation: self.deployment.metadata.generation,
            replicas: Some(total),
            updated_replicas: Some(self.new.map_or(0, |at| status(&self.sets[at]).replicas)),
            ready_replicas: Some(self.sets.iter().map(|set| status(set).ready_replicas.unwrap_or(0)).sum()),
            available_replicas: Some(self.available()),
            unavailable_replicas: Some((self.total() - self.available()).max(0)),
            terminating_replicas: terminating,
            collision_count: self.old_status.collision_count,
            conditions: None,
        }
    }

    /// The status; with `rollout` also how the rollout fares.
    fn finish(mut self, rollout: bool) -> Plan {
        let mut status = self.counts();
        let wanted = desired(&self.deployment);
        if self.available() >= wanted - max_unavailable(&self.deployment) {
            self.set_condition(
                "Available",
                "True",
                "MinimumReplicasAvailable",
                "Deployment has minimum availability.".to_owned(),
            );
        } else {
            self.set_condition(
                "Available",
                "False",
                "MinimumReplicasUnavailable",
                "Deployment does not have minimum availability.".to_owned(),
            );
        }
        let mut look_again = None;
        if rollout {
            look_again = self.judge_progress(&status);
            match self.failure() {
                Some((reason, message)) => self.set_condition("ReplicaFailure", "True", &reason, message),
                None => self.conditions.retain(|condition| condition.type_ != "ReplicaFailure"),
            }
        }
        status.conditions = Some(self.conditions);
        Plan { ops: self.ops, status, revision: self.revision, look_again }
    }

    fn judge_progress(&mut self, status: &DeploymentStatus) -> Option<Timestamp> {
        let Some(deadline) = self.deadline() else {
            self.conditions.retain(|condition| condition.type_ != "Progressing");
            return None;
        };
        let current = self.condition("Progressing").cloned();
        let reason = current.as_ref().and_then(|condition| condition.reason.as_deref()).unwrap_or("");
        let finished = status.replicas == status.updated_replicas && reason == "NewReplicaSetAvailable";
        if finished {
            return None;
        }
        let subject = match self.new {
            Some(at) => format!("ReplicaSet {:?}", sets::name(&self.sets[at])),
            None => format!("Deployment {:?}", self.deployment.metadata.name.as_deref().unwrap_or("")),
        };
        let due = current
            .as_ref()
            .and_then(|condition| condition.last_update_time.as_ref())
            .map(|at| at.0 + SignedDuration::from_secs(deadline.into()));
        if is_complete(status, desired(&self.deployment)) {
            self.set_condition(
                "Progressing",
                "True",
                "NewReplicaSetAvailable",
                format!("{subject} has successfully progressed."),
            );
            return None;
        }
        if is_progressing(&self.old_status, status) {
            // The update time must move even where nothing else in the condition does.
            let since =
                current.filter(|condition| condition.status == "True").and_then(|condition| condition.last_transition_time);
            self.conditions.retain(|condition| condition.type_ != "Progressing");
            self.set_condition("Progressing", "True", "ReplicaSetUpdated", format!("{subject} is progressing."));
            if let (Some(since), Some(condition)) = (since, self.conditions.last_mut()) {
                condition.last_transition_time = Some(since);
            }
            return Some(self.now + SignedDuration::from_secs(deadline.into()));
        }
        if reason == "ProgressDeadlineExceeded" {
            return None;
        }
        match due {
            Some(due) if due < self.now => {
                self.set_condition(
                    "Progressing",
                    "False",
                    "ProgressDeadlineExceeded",
                    format!("{subject} has timed out progressing."),
                );
                None
            }
            due => due,
        }
    }

    /// What keeps a set from making its pods; the new set's trouble counts first.
    fn failure(&self) -> Option<(String, String)> {
        let order = self.new.into_iter().chain(self.old());
        order.into_iter().find_map(|at| {
            let conditions = self.sets[at].status.as_ref()?.conditions.as_ref()?;
            let condition = conditions.iter().find(|condition| condition.type_ == "ReplicaFailure")?;
            Some((condition.reason.clone().unwrap_or_default(), condition.message.clone().unwrap_or_default()))
        })
    }
}

fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
}

fn is_complete(status: &DeploymentStatus, wanted: i32) -> bool {
    let n = |value: Option<i32>| value.unwrap_or(0);
    n(status.updated_replicas) == wanted && n(status.replicas) == wanted && n(status.available_replicas) == wanted
}

fn is_progressing(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let n = |value: Option<i32>| value.unwrap_or(0);
    let outdated = |status: &DeploymentStatus| n(status.replicas) - n(status.updated_replicas);
    n(new.updated_replicas) > n(old.updated_replicas)
        || outdated(new) < outdated(old)
        || n(new.ready_replicas) > n(old.ready_replicas)
        || n(new.available_replicas) > n(old.available_replicas)
}

/// Whether writing `new` over `old` changes anything; absent counts are zero.
pub fn differs(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let counts = |s: &DeploymentStatus| {
        let n = |value: Option<i32>| value.unwrap_or(0);
        (
            [n(s.replicas), n(s.updated_replicas), n(s.ready_replicas), n(s.available_replicas), n(s.unavailable_replicas)],
            s.terminating_replicas,
            s.collision_count,
            s.observed_generation.unwrap_or(0),
        )
    };
    counts(old) != counts(new) || old.conditions.as_deref().unwrap_or_default() != new.conditions.as_deref().unwrap_or_default()
}

#[cfg(test)]
mod tests;

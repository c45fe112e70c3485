//! What one StatefulSet needs done: in order, one pod at a time, unless it says otherwise.
//!
//! Upstream: pkg/controller/statefulset/stateful_set_control.go (updateStatefulSet)

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};

use super::identity::{self, in_range, ordinal, replicas, revision, start_ordinal};
use crate::{int_or_percent, pods};

/// A revision: its name and its template.
pub struct Revision {
    pub name: String,
    pub template: PodTemplateSpec,
}

pub struct Observed {
    pub set: Arc<StatefulSet>,
    pub pods: Vec<Arc<Pod>>,
    pub current: Revision,
    pub update: Revision,
}

#[derive(Debug, PartialEq)]
pub enum Op {
    /// Make the pod, and its claims first.
    Create {
        ordinal: i32,
        pod: Box<Pod>,
    },
    Delete {
        pod: Arc<Pod>,
        finished: bool,
    },
    /// Bring labels, volumes and claims of an ordinal back in line.
    Repair {
        ordinal: i32,
        pod: Arc<Pod>,
    },
}

#[derive(Debug, PartialEq)]
pub struct Plan {
    pub ops: Vec<Op>,
    pub status: StatefulSetStatus,
}

pub fn plan(observed: &Observed, now: Timestamp) -> Plan {
    let mut work = Work::new(observed, now);
    if observed.set.metadata.deletion_timestamp.is_none() {
        work.run();
    }
    work.finish()
}

struct Work<'a> {
    observed: &'a Observed,
    now: Timestamp,
    min_ready: i32,
    wanted: BTreeMap<i32, Option<&'a Arc<Pod>>>,
    /// Beyond the range, highest first.
    condemned: Vec<(i32, &'a Arc<Pod>)>,
    ops: Vec<Op>,
}

fn is_created(pod: &Pod) -> bool {
    !pods::phase(pod).is_empty()
}

fn is_running_and_ready(pod: &Pod) -> bool {
    pods::phase(pod) == "Running" && pods::is_ready(pod)
}

impl<'a> Work<'a> {
    fn new(observed: &'a Observed, now: Timestamp) -> Work<'a> {
        let set = &observed.set;
        let start = start_ordinal(set);
        let mut wanted: BTreeMap<i32, Option<&Arc<Pod>>> =
            (start..start.saturating_add(replicas(set))).map(|n| (n, None)).collect();
        let mut condemned = Vec::new();
        for pod in &observed.pods {
            match ordinal(set, pod) {
                Some(n) if in_range(set, n) => drop(wanted.insert(n, Some(pod))),
                Some(n) => condemned.push((n, pod)),
                None => {}
            }
        }
        condemned.sort_by_key(|(n, _)| std::cmp::Reverse(*n));
        let min_ready = set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
        Work { observed, now, min_ready, wanted, condemned, ops: Vec::new() }
    }

    fn parallel(&self) -> bool {
        self.observed.set.spec.as_ref().and_then(|spec| spec.pod_management_policy.as_deref()) == Some("Parallel")
    }

    fn is_available(&self, pod: &Pod) -> bool {
        is_running_and_ready(pod) && pods::is_available(pod, self.min_ready, self.now)
    }

    /// A pod for an ordinal that has none: below the partition of the revision that was, else of the one that will be.
    fn new_pod(&self, ordinal: i32) -> Pod {
        let set = &self.observed.set;
        let strategy = set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let is_rolling = strategy.and_then(|strategy| strategy.type_.as_deref()).unwrap_or("RollingUpdate") == "RollingUpdate";
        let start = start_ordinal(set);
        let old = match rolling {
            None => is_rolling && ordinal < start + set.status.as_ref().and_then(|status| status.current_replicas).unwrap_or(0),
            Some(rolling) => ordinal < start + rolling.partition.unwrap_or(0),
        };
        let revision = if old { &self.observed.current } else { &self.observed.update };
        identity::pod(set, &revision.template, &revision.name, ordinal)
    }

    fn run(&mut self) {
        let in_turn = !self.parallel();
        let first_unhealthy = self.first_unhealthy();
        let mut steady = true;
        for (&n, &pod) in &self.wanted.clone() {
            let Some(pod) = pod else {
                self.ops.push(Op::Create { ordinal: n, pod: Box::new(self.new_pod(n)) });
                steady = false;
                if in_turn {
                    return;
                }
                continue;
            };
            if pods::is_terminal(pod) {
                // A finished pod makes room for a new one of the same name, at the next sync.
                if !pods::is_deleting(pod) {
                    self.ops.push(Op::Delete { pod: Arc::clone(pod), finished: true });
                }
                steady = false;
                if in_turn {
                    return;
                }
                continue;
            }
            if !identity::is_identified(&self.observed.set, pod, n) || pods::phase(pod) == "Pending" || self.has_retention() {
                self.ops.push(Op::Repair { ordinal: n, pod: Arc::clone(pod) });
            }
            if in_turn && (pods::is_deleting(pod) || !self.is_available(pod)) {
                return;
            }
        }
        for (n, pod) in self.condemned.clone() {
            if self.has_retention() {
                self.ops.push(Op::Repair { ordinal: n, pod: Arc::clone(pod) });
            }
            if pods::is_deleting(pod) {
                if in_turn {
                    return;
                }
                continue;
            }
            if in_turn && !is_running_and_ready(pod) && first_unhealthy != Some(n) {
                return;
            }
            self.ops.push(Op::Delete { pod: Arc::clone(pod), finished: false });
            if in_turn {
                return;
            }
        }
        if steady {
            self.roll();
        }
    }

    fn has_retention(&self) -> bool {
        let spec = self.observed.set.spec.as_ref();
        spec.is_some_and(|spec| {
            spec.volume_claim_templates.as_ref().is_some_and(|list| !list.is_empty())
                && spec.persistent_volume_claim_retention_policy.is_some()
        })
    }

    fn first_unhealthy(&self) -> Option<i32> {
        let healthy = |pod: &Pod| is_running_and_ready(pod) && !pods::is_deleting(pod);
        let wanted = self.wanted.iter().find(|(_, pod)| !pod.is_some_and(|pod| healthy(pod))).map(|(n, _)| *n);
        wanted.or_else(|| self.condemned.iter().rev().find(|(_, pod)| !healthy(pod)).map(|(n, _)| *n))
    }

    /// Replaces outdated pods from the highest ordinal down to the partition.
    fn roll(&mut self) {
        let set = &self.observed.set;
        let strategy = set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
        if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete") {
            return;
        }
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let lowest = start_ordinal(set) + rolling.and_then(|rolling| rolling.partition).unwrap_or(0);
        let most = rolling.and_then(|rolling| rolling.max_unavailable.as_ref());
        let most = most.and_then(|value| int_or_percent::scaled(value, replicas(set), true)).unwrap_or(1).max(1);
        let down = self.wanted.values().flatten().filter(|pod| pods::is_deleting(pod) || !self.is_available(pod)).count();
        let mut room = usize::try_from(most).unwrap_or(1).saturating_sub(down);
        for (_, pod) in self.wanted.range(lowest..).rev() {
            let Some(pod) = pod else { continue };
            let outdated = revision(pod) != self.observed.update.name && !pods::is_deleting(pod);
            // An outdated pod that is down already costs nothing to replace.
            let free = outdated && !self.is_available(pod) && most > 1;
            if outdated && (room > 0 || free) {
                if !free {
                    room -= 1;
                }
                self.ops.push(Op::Delete { pod: Arc::clone(pod), finished: false });
                continue;
            }
            if most == 1 && (outdated || pods::is_deleting(pod) || !self.is_available(pod)) {
                // One by one: an unavailable pod is waited for, unless it is itself the one to replace.
                if outdated && down <= 1 && !self.is_available(pod) {
                    self.ops.push(Op::Delete { pod: Arc::clone(pod), finished: false });
                }
                return;
            }
        }
    }

    fn finish(self) -> Plan {
        let (set, observed) = (&self.observed.set, self.observed);
        let old = set.status.clone().unwrap_or_default();
        let count =
            |keep: &dyn Fn(&Pod) -> bool| i32::try_from(observed.pods.iter().filter(|pod| keep(pod)).count()).unwrap_or(i32::MAX);
        let lives = |pod: &Pod| is_created(pod) && !pods::is_deleting(pod);
        let mut status = StatefulSetStatus {
            observed_generation: set.metadata.generation,
            replicas: count(&is_created),
            ready_replicas: Some(count(&is_running_and_ready)),
            available_replicas: Some(count(&|pod| self.is_available(pod))),
            current_replicas: Some(count(&|pod| lives(pod) && revision(pod) == observed.current.name)),
            updated_replicas: Some(count(&|pod| lives(pod) && revision(pod) == observed.update.name)),
            current_revision: Some(observed.current.name.clone()),
            update_revision: Some(observed.update.name.clone()),
            collision_count: old.collision_count,
            conditions: old.conditions,
        };
        let wanted = replicas(set);
        let rolling = set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref()?.type_.as_deref()) != Some("OnDelete");
        if rolling
            && status.updated_replicas == Some(wanted)
            && status.ready_replicas == Some(wanted)
            && status.replicas == wanted
        {
            status.current_replicas = status.updated_replicas;
            status.current_revision = status.update_revision.clone();
        }
        Plan { ops: self.ops, status }
    }
}

/// Whether writing `new` over `old` changes anything.
pub fn differs(old: &StatefulSetStatus, new: &StatefulSetStatus) -> bool {
    let n = |value: Option<i32>| value.unwrap_or(0);
    let counts = |s: &StatefulSetStatus| {
        [
            s.replicas,
            n(s.ready_replicas),
            n(s.available_replicas),
            n(s.current_replicas),
            n(s.updated_replicas),
            n(s.collision_count),
        ]
    };
    counts(old) != counts(new)
        || old.observed_generation.unwrap_or(0) != new.observed_generation.unwrap_or(0)
        || old.current_revision != new.current_revision
        || old.update_revision != new.update_revision
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::ResourceExt;
    use serde_json::{Value, json};

    fn set(replicas: i32, extra: Value) -> Arc<StatefulSet> {
        let mut spec =
            json!({"replicas": replicas, "serviceName": "web", "selector": {"matchLabels": {"app": "web"}}, "template": {}});
        for (key, value) in extra.as_object().unwrap() {
            spec[key] = value.clone();
        }
        Arc::new(
            serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "d", "uid": "su"}, "spec": spec})).unwrap(),
        )
    }

    fn pod(n: i32, revision: &str, phase: &str, ready: bool) -> Arc<Pod> {
        Arc::new(serde_json::from_value(json!({"metadata": {"name": format!("web-{n}"), "uid": format!("u{n}"),
            "labels": {"controller-revision-hash": revision, "statefulset.kubernetes.io/pod-name": format!("web-{n}")}},
            "spec": {"containers": []}, "status": {"phase": phase, "conditions": [{"type": "Ready", "status": if ready {"True"} else {"False"}}]}})).unwrap())
    }

    fn good(n: i32, revision: &str) -> Arc<Pod> {
        pod(n, revision, "Running", true)
    }

    fn run(set: Arc<StatefulSet>, pods: Vec<Arc<Pod>>) -> (Vec<String>, StatefulSetStatus) {
        let revision = |name: &str| Revision { name: name.into(), template: PodTemplateSpec::default() };
        let plan = plan(&Observed { set, pods, current: revision("old"), update: revision("new") }, Timestamp::UNIX_EPOCH);
        let row = |op: &Op| match op {
            Op::Create { pod, .. } => Some(format!("+{}:{}", pod.name_any(), revision_of(pod))),
            Op::Delete { pod, .. } => Some(format!("-{}", pod.name_any())),
            Op::Repair { .. } => None,
        };
        (plan.ops.iter().filter_map(row).collect(), plan.status)
    }

    fn revision_of(pod: &Pod) -> String {
        super::revision(pod).to_owned()
    }

    #[test]
    fn pods_start_in_order_each_waiting_for_the_one_before() {
        assert_eq!(run(set(3, json!({})), vec![]).0, ["+web-0:new"]);
        assert!(run(set(3, json!({})), vec![pod(0, "new", "Running", false)]).0.is_empty());
        assert_eq!(run(set(3, json!({})), vec![good(0, "new")]).0, ["+web-1:new"]);
        assert_eq!(run(set(3, json!({"podManagementPolicy": "Parallel"})), vec![]).0.len(), 3);
        assert_eq!(run(set(2, json!({"ordinals": {"start": 5}})), vec![]).0, ["+web-5:new"]);
        assert_eq!(run(set(2, json!({})), vec![pod(0, "new", "Failed", false)]).0, ["-web-0"]);
    }

    #[test]
    fn scaling_down_takes_the_highest_first_and_one_at_a_time() {
        let all = || (0..4).map(|n| good(n, "new")).collect::<Vec<_>>();
        assert_eq!(run(set(2, json!({})), all()).0, ["-web-3"]);
        assert_eq!(run(set(2, json!({"podManagementPolicy": "Parallel"})), all()).0, ["-web-3", "-web-2"]);
        // An unhealthy pod lower down holds it up.
        let mut sick = all();
        sick[1] = pod(1, "new", "Running", false);
        assert!(run(set(2, json!({})), sick).0.is_empty());
    }

    #[test]
    fn updates_go_from_the_highest_ordinal_down_to_the_partition() {
        let old = || (0..3).map(|n| good(n, "old")).collect::<Vec<_>>();
        assert_eq!(run(set(3, json!({})), old()).0, ["-web-2"]);
        let mut half = old();
        half[2] = pod(2, "new", "Running", false);
        assert!(run(set(3, json!({})), half.clone()).0.is_empty());
        half[2] = good(2, "new");
        assert_eq!(run(set(3, json!({})), half.clone()).0, ["-web-1"]);
        let partition = json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}});
        assert!(run(set(3, partition.clone()), half.clone()).0.is_empty());
        // A lost pod below the partition comes back as it was.
        assert_eq!(run(set(3, partition), vec![good(1, "old"), good(2, "new")]).0, ["+web-0:old"]);
        let two = json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 2}}});
        assert_eq!(run(set(3, two), old()).0, ["-web-2", "-web-1"]);
        assert!(run(set(3, json!({"updateStrategy": {"type": "OnDelete"}})), old()).0.is_empty());
    }

    #[test]
    fn the_current_revision_moves_when_the_update_is_complete() {
        let (_, status) = run(set(2, json!({})), vec![good(0, "new"), good(1, "old")]);
        assert_eq!(
            (status.current_revision.as_deref(), status.current_replicas, status.updated_replicas),
            (Some("old"), Some(1), Some(1))
        );
        let (_, status) = run(set(2, json!({})), vec![good(0, "new"), good(1, "new")]);
        assert_eq!((status.current_revision.as_deref(), status.current_replicas), (Some("new"), Some(2)));
    }
}

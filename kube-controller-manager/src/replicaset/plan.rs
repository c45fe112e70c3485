//! What one ReplicaSet needs done.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::owner::{self, Claim};
use crate::pod_control::BURST;
use crate::{pods, selector};

/// A ReplicaSet and the pods that it might own.
pub struct Observed {
    pub set: Arc<ReplicaSet>,
    /// The pods that it controls, and those of its namespace that nobody does.
    pub pods: Vec<Arc<Pod>>,
    /// Pods of all ReplicaSets of the same owner: scaling down spreads over nodes counting them.
    pub related: Vec<Arc<Pod>>,
    /// Whether all earlier creations and deletions were seen.
    pub settled: bool,
}

/// Adoption comes first: what it does decides which pods count.
#[derive(Default)]
pub struct Claims {
    pub keep: Vec<Arc<Pod>>,
    pub adopt: Vec<Arc<Pod>>,
    pub release: Vec<Arc<Pod>>,
    pub terminating: i32,
}

/// Which pods are the set's. Finished pods stay whose they are, and count for nothing.
pub fn claims(observed: &Observed) -> Claims {
    let mut claims = Claims::default();
    for pod in &observed.pods {
        let claim = owner::claim_by(
            &observed.set.metadata,
            &observed.set.spec.as_ref().map(|s| s.selector.clone()).unwrap_or_default(),
            &pod.metadata,
        );
        if pods::is_terminating(pod) && claim == Claim::Keep {
            claims.terminating += 1;
        }
        if !pods::is_active(pod) {
            continue;
        }
        match claim {
            Claim::Keep => claims.keep.push(Arc::clone(pod)),
            Claim::Adopt => claims.adopt.push(Arc::clone(pod)),
            Claim::Release => claims.release.push(Arc::clone(pod)),
            Claim::Ignore => {}
        }
    }
    claims
}

#[derive(Debug, PartialEq)]
pub enum Scale {
    Nothing,
    Create(usize),
    Delete(Vec<Arc<Pod>>),
}

/// How far the pods in hand are from the wish.
pub fn scale(observed: &Observed, active: &[Arc<Pod>], now: Timestamp) -> Scale {
    if !observed.settled || observed.set.metadata.deletion_timestamp.is_some() {
        return Scale::Nothing;
    }
    let wanted = usize::try_from(replicas(&observed.set)).unwrap_or(0);
    match active.len() {
        have if have < wanted => Scale::Create((wanted - have).min(BURST)),
        have if have > wanted => Scale::Delete(pods::to_delete(active, &observed.related, (have - wanted).min(BURST), now)),
        _ => Scale::Nothing,
    }
}

pub fn replicas(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

/// The status that follows from the pods and from how scaling went.
/// Upstream: calculateStatus (pkg/controller/replicaset/replica_set_utils.go).
pub fn status(
    set: &ReplicaSet,
    active: &[Arc<Pod>],
    terminating: Option<i32>,
    error: Option<&str>,
    now: Timestamp,
) -> ReplicaSetStatus {
    let old = set.status.clone().unwrap_or_default();
    let none = BTreeMap::new();
    let spec = set.spec.as_ref();
    let template_labels =
        spec.and_then(|s| s.template.as_ref()).and_then(|t| t.metadata.as_ref()).and_then(|m| m.labels.as_ref());
    let min_ready = spec.and_then(|s| s.min_ready_seconds).unwrap_or(0);
    let count = |keep: &dyn Fn(&Pod) -> bool| i32::try_from(active.iter().filter(|pod| keep(pod)).count()).unwrap_or(i32::MAX);
    let labelled = |pod: &Pod| {
        template_labels.is_none_or(|wanted| {
            wanted.is_empty() || selector::matches_map(Some(wanted), pod.metadata.labels.as_ref().unwrap_or(&none))
        })
    };
    let mut conditions = old.conditions.clone().unwrap_or_default();
    let failing = conditions.iter().any(|condition| condition.type_ == "ReplicaFailure");
    match error {
        Some(message) if !failing => {
            let missing = i64::try_from(active.len()).unwrap_or(i64::MAX) < i64::from(replicas(set));
            conditions.push(ReplicaSetCondition {
                type_: "ReplicaFailure".to_owned(),
                status: "True".to_owned(),
                reason: Some(if missing { "FailedCreate" } else { "FailedDelete" }.to_owned()),
                message: Some(message.to_owned()),
                last_transition_time: Some(Time(now)),
            });
        }
        None => conditions.retain(|condition| condition.type_ != "ReplicaFailure"),
        Some(_) => {}
    }
    ReplicaSetStatus {
        replicas: count(&|_| true),
        fully_labeled_replicas: Some(count(&labelled)),
        ready_replicas: Some(count(&pods::is_ready)),
        available_replicas: Some(count(&|pod| pods::is_available(pod, min_ready, now))),
        terminating_replicas: terminating,
        observed_generation: set.metadata.generation,
        conditions: (!conditions.is_empty()).then_some(conditions),
    }
}

/// Whether writing `new` over `old` would change anything; absent counts are zero.
pub fn differs(old: &ReplicaSetStatus, new: &ReplicaSetStatus) -> bool {
    let n = |value: Option<i32>| value.unwrap_or(0);
    old.replicas != new.replicas
        || n(old.fully_labeled_replicas) != n(new.fully_labeled_replicas)
        || n(old.ready_replicas) != n(new.ready_replicas)
        || n(old.available_replicas) != n(new.available_replicas)
        || old.terminating_replicas != new.terminating_replicas
        || old.observed_generation.unwrap_or(0) != new.observed_generation.unwrap_or(0)
        || old.conditions.as_deref().unwrap_or_default() != new.conditions.as_deref().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn set(replicas: i32) -> Arc<ReplicaSet> {
        Arc::new(
            serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "d", "uid": "rs", "generation": 3},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web", "v": "1"}}, "spec": {"containers": []}}}}))
            .unwrap(),
        )
    }

    fn pod(name: &str, owner: Option<&str>, app: &str, phase: &str, deleting: bool) -> Arc<Pod> {
        let mut v: Value = json!({"metadata": {"name": name, "uid": name, "namespace": "d", "labels": {"app": app, "v": "1"}},
            "spec": {"containers": []}, "status": {"phase": phase}});
        if let Some(uid) = owner {
            v["metadata"]["ownerReferences"] =
                json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": uid, "controller": true}]);
        }
        if deleting {
            v["metadata"]["deletionTimestamp"] = json!("2024-01-01T00:00:00Z");
        }
        Arc::new(serde_json::from_value(v).unwrap())
    }

    fn observed(replicas: i32, pods: Vec<Arc<Pod>>) -> Observed {
        Observed { set: set(replicas), related: pods.clone(), pods, settled: true }
    }

    fn now() -> Timestamp {
        "2024-01-01T00:01:00Z".parse().unwrap()
    }

    #[test]
    fn pods_are_claimed_by_owner_selector_and_life() {
        let claims = claims(&observed(
            3,
            vec![
                pod("mine", Some("rs"), "web", "Running", false),
                pod("relabelled", Some("rs"), "db", "Running", false),
                pod("orphan", None, "web", "Running", false),
                pod("other", None, "db", "Running", false),
                pod("theirs", Some("x"), "web", "Running", false),
                pod("done", Some("rs"), "web", "Succeeded", false),
                pod("dying", Some("rs"), "web", "Running", true),
            ],
        ));
        let names = |list: &[Arc<Pod>]| list.iter().map(|p| p.metadata.name.clone().unwrap()).collect::<Vec<_>>();
        assert_eq!(names(&claims.keep), ["mine"]);
        assert_eq!(names(&claims.adopt), ["orphan"]);
        assert_eq!(names(&claims.release), ["relabelled"]);
        assert_eq!(claims.terminating, 1);
    }

    #[test]
    fn scaling_follows_the_difference_and_waits_for_expectations() {
        let mine: Vec<_> = ["a", "b", "c"].map(|n| pod(n, Some("rs"), "web", "Running", false)).into();
        assert_eq!(scale(&observed(5, mine.clone()), &mine, now()), Scale::Create(2));
        assert_eq!(scale(&observed(3, mine.clone()), &mine, now()), Scale::Nothing);
        assert_eq!(scale(&observed(2000, mine.clone()), &mine, now()), Scale::Create(500));
        let Scale::Delete(gone) = scale(&observed(1, mine.clone()), &mine, now()) else { panic!("deletes") };
        assert_eq!(gone.len(), 2);
        let waiting = Observed { settled: false, ..observed(5, mine.clone()) };
        assert_eq!(scale(&waiting, &mine, now()), Scale::Nothing);
    }

    #[test]
    fn a_failure_is_a_condition_until_it_is_over() {
        let failed = status(&set(2), &[], Some(0), Some("quota"), now());
        let condition = &failed.conditions.as_ref().unwrap()[0];
        assert_eq!((condition.type_.as_str(), condition.reason.as_deref()), ("ReplicaFailure", Some("FailedCreate")));
        let mut with = (*set(2)).clone();
        with.status = Some(failed.clone());
        assert!(status(&with, &[], Some(0), None, now()).conditions.is_none());
        assert_eq!(failed.observed_generation, Some(3));
        assert!(!differs(&failed, &failed.clone()));
    }
}

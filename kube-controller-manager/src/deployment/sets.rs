//! Facts about the ReplicaSets of a Deployment: which is new, their revisions, sizes and annotations.
//!
//! Upstream: pkg/controller/deployment/util/deployment_util.go

use std::cmp::Ordering;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;

use crate::int_or_percent::fenceposts;

pub const REVISION: &str = "deployment.kubernetes.io/revision";
pub const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
pub const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
pub const HASH_LABEL: &str = "pod-template-hash";

/// Annotations of a Deployment that its ReplicaSets do not get.
const NOT_COPIED: &[&str] = &[
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
    "deprecated.deployment.rollback.to",
];

/// Longest list of past revisions that one ReplicaSet keeps, bytes. Upstream: maxRevHistoryLengthInChars.
const MAX_HISTORY: usize = 2000;

pub fn replicas(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

pub fn set_replicas(set: &mut ReplicaSet, replicas: i32) {
    set.spec.get_or_insert_default().replicas = Some(replicas);
}

pub fn desired(deployment: &Deployment) -> i32 {
    deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

pub fn is_rolling(deployment: &Deployment) -> bool {
    strategy_type(deployment) == "RollingUpdate"
}

pub fn strategy_type(deployment: &Deployment) -> &str {
    deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref()?.type_.as_deref()).unwrap_or("RollingUpdate")
}

fn limits(deployment: &Deployment) -> (i32, i32) {
    let rolling = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref()?.rolling_update.as_ref());
    fenceposts(rolling.and_then(|r| r.max_surge.as_ref()), rolling.and_then(|r| r.max_unavailable.as_ref()), desired(deployment))
}

pub fn max_surge(deployment: &Deployment) -> i32 {
    if is_rolling(deployment) { limits(deployment).0 } else { 0 }
}

pub fn max_unavailable(deployment: &Deployment) -> i32 {
    if !is_rolling(deployment) || desired(deployment) == 0 {
        return 0;
    }
    limits(deployment).1.min(desired(deployment))
}

pub fn name(set: &ReplicaSet) -> &str {
    set.metadata.name.as_deref().unwrap_or("")
}

pub fn annotation<'a>(set: &'a ReplicaSet, key: &str) -> Option<&'a str> {
    set.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

pub fn revision(set: &ReplicaSet) -> i64 {
    annotation(set, REVISION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Older first; equally old by name.
pub fn by_creation(a: &ReplicaSet, b: &ReplicaSet) -> Ordering {
    a.metadata.creation_timestamp.cmp(&b.metadata.creation_timestamp).then_with(|| name(a).cmp(name(b)))
}

/// Whether two templates make the same pods: all but our own hash label is compared.
pub fn same_template(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    let strip = |template: &PodTemplateSpec| {
        let mut template = template.clone();
        if let Some(labels) = template.metadata.as_mut().and_then(|meta| meta.labels.as_mut()) {
            labels.remove(HASH_LABEL);
        }
        template
    };
    strip(a) == strip(b)
}

/// The oldest ReplicaSet with the Deployment's template.
pub fn find_new(deployment: &Deployment, sets: &[ReplicaSet]) -> Option<usize> {
    let wanted = &deployment.spec.as_ref()?.template;
    let same =
        |set: &ReplicaSet| set.spec.as_ref().and_then(|spec| spec.template.as_ref()).is_some_and(|t| same_template(t, wanted));
    (0..sets.len()).filter(|&at| same(&sets[at])).min_by(|&a, &b| by_creation(&sets[a], &sets[b]))
}

/// Writes the sizes that proportional scaling will need; says whether that changed anything.
pub fn set_size_annotations(set: &mut ReplicaSet, deployment: &Deployment) -> bool {
    let wanted = desired(deployment);
    let annotations = set.metadata.annotations.get_or_insert_default();
    let mut changed = false;
    for (key, value) in [(DESIRED_REPLICAS, wanted), (MAX_REPLICAS, wanted + max_surge(deployment))] {
        let value = value.to_string();
        if annotations.get(key) != Some(&value) {
            annotations.insert(key.to_owned(), value);
            changed = true;
        }
    }
    changed
}

/// Copies the Deployment's annotations and sets the revision, remembering the one it had. Says whether that changed anything.
pub fn set_annotations(set: &mut ReplicaSet, deployment: &Deployment, new_revision: i64, exists: bool) -> bool {
    let mut changed = false;
    let annotations = set.metadata.annotations.get_or_insert_default();
    for (key, value) in deployment.metadata.annotations.iter().flatten() {
        if !NOT_COPIED.contains(&key.as_str()) && annotations.get(key) != Some(value) {
            annotations.insert(key.clone(), value.clone());
            changed = true;
        }
    }
    let old = annotations.get(REVISION).cloned();
    if old.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0_i64) < new_revision {
        annotations.insert(REVISION.to_owned(), new_revision.to_string());
        changed = true;
        if let Some(old) = old.filter(|old| !old.is_empty()) {
            let history = annotations.get(REVISION_HISTORY).cloned().unwrap_or_default();
            annotations.insert(REVISION_HISTORY.to_owned(), extend_history(&history, &old));
        }
    }
    if !exists && set_size_annotations(set, deployment) {
        changed = true;
    }
    changed
}

/// `history` with `revision` at the end and, where it would grow too long, without its oldest entries.
fn extend_history(history: &str, revision: &str) -> String {
    let mut entries: Vec<&str> = history.split(',').filter(|entry| !entry.is_empty()).collect();
    entries.push(revision);
    while entries.len() > 1 && entries.iter().map(|entry| entry.len() + 1).sum::<usize>() > MAX_HISTORY {
        entries.remove(0);
    }
    entries.join(",")
}

/// How many replicas the new set should have now, so that the total stays within the surge.
pub fn new_set_replicas(deployment: &Deployment, total: i32, current: i32) -> i32 {
    let wanted = desired(deployment);
    if !is_rolling(deployment) {
        return wanted;
    }
    let most = wanted + max_surge(deployment);
    if total >= most { current } else { current + (most - total).min(wanted - current) }
}

/// By how much proportional scaling changes one set. `added` is what the sets before it got of `to_add`.
pub fn proportion(set: &ReplicaSet, deployment: &Deployment, to_add: i32, added: i32) -> i32 {
    if replicas(set) == 0 || to_add == 0 || to_add == added {
        return 0;
    }
    let fraction = fraction(set, deployment);
    let allowed = to_add - added;
    if to_add > 0 { fraction.min(allowed) } else { fraction.max(allowed) }
}

fn fraction(set: &ReplicaSet, deployment: &Deployment) -> i32 {
    if desired(deployment) == 0 {
        return -replicas(set);
    }
    let most = f64::from(desired(deployment) + max_surge(deployment));
    let before = annotation(set, MAX_REPLICAS).and_then(|text| text.parse::<i32>().ok()).filter(|&n| n != 0);
    let before = before.unwrap_or_else(|| deployment.status.as_ref().and_then(|status| status.replicas).unwrap_or(0));
    if before == 0 {
        return 0;
    }
    let size = f64::from(replicas(set)) * most / f64::from(before);
    #[allow(clippy::cast_possible_truncation)] // counts of pods
    let rounded = size.round() as i32;
    rounded - replicas(set)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn revisions_move_to_the_history() {
        let deployment: Deployment = serde_json::from_value(json!({"metadata": {"annotations": {"a": "b", REVISION: "9"}},
            "spec": {"replicas": 4, "selector": {}, "template": {}}}))
        .unwrap();
        let mut set = ReplicaSet::default();
        assert!(set_annotations(&mut set, &deployment, 1, false));
        assert_eq!(annotation(&set, "a"), Some("b"));
        assert_eq!((revision(&set), annotation(&set, REVISION_HISTORY), annotation(&set, MAX_REPLICAS)), (1, None, Some("4")));
        assert!(!set_annotations(&mut set, &deployment, 1, true));
        assert!(set_annotations(&mut set, &deployment, 3, true));
        assert!(set_annotations(&mut set, &deployment, 5, true));
        assert_eq!((revision(&set), annotation(&set, REVISION_HISTORY)), (5, Some("1,3")));
    }
}

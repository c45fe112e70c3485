//! ControllerRevisions: the past templates of DaemonSets and StatefulSets, for rollbacks.
//!
//! Upstream: pkg/controller/history/controller_history.go

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, StatefulSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::api::PostParams;
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};

use crate::context::{Context, Object};
use crate::{api_error, hash, owner};

/// The label that tells which revision a pod was made from.
pub const HASH_LABEL: &str = "controller-revision-hash";

pub fn hash_of(revision: &ControllerRevision) -> &str {
    revision.metadata.labels.as_ref().and_then(|labels| labels.get(HASH_LABEL)).map_or("", String::as_str)
}

pub fn name(revision: &ControllerRevision) -> &str {
    revision.metadata.name.as_deref().unwrap_or("")
}

/// The patch that brings a template back: what a revision keeps.
pub fn template_patch(template: &PodTemplateSpec) -> Value {
    let mut template = serde_json::to_value(template).unwrap_or_default();
    template["$patch"] = json!("replace");
    json!({"spec": {"template": template}})
}

/// Whether two patches bring the same template back. Absent, null and empty are the same: servers differ in which they write.
fn same(a: &Value, b: &Value) -> bool {
    prune(a) == prune(b)
}

fn prune(value: &Value) -> Value {
    let empty = |value: &Value| match value {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    };
    match value {
        Value::Object(map) => Value::Object(map.iter().map(|(k, v)| (k.clone(), prune(v))).filter(|(_, v)| !empty(v)).collect()),
        Value::Array(list) => Value::Array(list.iter().map(prune).collect()),
        other => other.clone(),
    }
}

#[derive(Debug, PartialEq)]
pub enum Op {
    Create(Box<ControllerRevision>),
    /// Only the revision number changes: an old template is in force again.
    Update(Box<ControllerRevision>),
}

/// Which revision is in force, and what has to be written for that. `revisions` are those of the owner.
pub fn current(
    revisions: &[Arc<ControllerRevision>],
    patch: &Value,
    owner: &OwnerReference,
    namespace: &str,
    labels: &BTreeMap<String, String>,
    collision_count: Option<i32>,
) -> (ControllerRevision, Option<Op>) {
    let newest = revisions.iter().map(|revision| revision.revision).max().unwrap_or(0);
    let equal = revisions.iter().filter(|revision| revision.data.as_ref().is_some_and(|data| same(&data.0, patch)));
    if let Some(found) = equal.max_by_key(|revision| revision.revision) {
        let mut found = (**found).clone();
        if found.revision == newest {
            return (found, None);
        }
        found.revision = newest + 1;
        return (found.clone(), Some(Op::Update(Box::new(found))));
    }
    let hash = hash::of(patch, collision_count);
    let mut labels = labels.clone();
    labels.insert(HASH_LABEL.to_owned(), hash.clone());
    let made = ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", owner.name)),
            namespace: Some(namespace.to_owned()),
            labels: Some(labels),
            owner_references: Some(vec![owner.clone()]),
            ..ObjectMeta::default()
        },
        data: Some(RawExtension(patch.clone())),
        revision: newest + 1,
    };
    (made.clone(), Some(Op::Create(Box::new(made))))
}

/// A kind that keeps revisions.
pub trait Revised: Object + Resource<Scope = NamespaceResourceScope> + serde::Serialize {
    fn collision_count(&self) -> Option<i32>;
    fn with_collision_count(&self, count: i32) -> Self;
}

impl Revised for DaemonSet {
    fn collision_count(&self) -> Option<i32> {
        self.status.as_ref().and_then(|status| status.collision_count)
    }

    fn with_collision_count(&self, count: i32) -> Self {
        let mut changed = self.clone();
        changed.status.get_or_insert_default().collision_count = Some(count);
        changed
    }
}

impl Revised for StatefulSet {
    fn collision_count(&self) -> Option<i32> {
        self.status.as_ref().and_then(|status| status.collision_count)
    }

    fn with_collision_count(&self, count: i32) -> Self {
        let mut changed = self.clone();
        changed.status.get_or_insert_default().collision_count = Some(count);
        changed
    }
}

/// Writes the revision of `template`, where it is not there yet or not the newest, and returns it.
///
/// # Errors
/// A write failed; or another template has the same hash: the next try hashes with a higher collision count.
pub async fn record<K: Revised>(
    ctx: &Context,
    set: &K,
    template: &PodTemplateSpec,
    revisions: &[Arc<ControllerRevision>],
) -> anyhow::Result<ControllerRevision> {
    let (uid, namespace) = (set.uid().unwrap_or_default(), set.namespace().unwrap_or_default());
    let labels: BTreeMap<_, _> = template.metadata.as_ref().and_then(|meta| meta.labels.clone()).unwrap_or_default();
    let reference = owner::controller_ref(&K::api_version(&()), &K::kind(&()), set.meta());
    let count = set.collision_count();
    let (revision, op) = current(revisions, &template_patch(template), &reference, &namespace, &labels, count);
    let api = ctx.namespaced::<ControllerRevision>(&namespace);
    match op {
        None => {}
        Some(Op::Update(revision)) => drop(api.replace(&revision.name_any(), &PostParams::default(), &revision).await?),
        Some(Op::Create(revision)) => match api.create(&PostParams::default(), &revision).await {
            Ok(_) => {}
            Err(error) if api_error::is_already_exists(&error) => {
                let existing = api.get(&revision.name_any()).await?;
                if !owner::is_controlled_by(&existing.metadata, &uid) || existing.data != revision.data {
                    let changed = set.with_collision_count(count.unwrap_or(0) + 1);
                    ctx.namespaced::<K>(&namespace).replace_status(&set.name_any(), &PostParams::default(), &changed).await?;
                    return Err(error.into());
                }
            }
            Err(error) => return Err(error.into()),
        },
    }
    Ok(revision)
}

/// Names of revisions to delete: the oldest beyond `limit` that are neither in force nor used by a pod.
pub fn surplus(revisions: &[Arc<ControllerRevision>], live: &HashSet<String>, limit: usize) -> Vec<String> {
    let mut dead: Vec<&Arc<ControllerRevision>> =
        revisions.iter().filter(|revision| !live.contains(name(revision)) && !live.contains(hash_of(revision))).collect();
    dead.sort_by_key(|revision| revision.revision);
    let count = dead.len().saturating_sub(limit);
    dead.into_iter().take(count).map(|revision| name(revision).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_numbered_found_again_and_forgotten() {
        let owner = OwnerReference { name: "web".into(), uid: "u".into(), ..OwnerReference::default() };
        let template = |image: &str| -> PodTemplateSpec {
            serde_json::from_value(json!({"spec": {"containers": [{"name": "c", "image": image}]}})).unwrap()
        };
        let (one, op) = current(&[], &template_patch(&template("a")), &owner, "d", &BTreeMap::new(), None);
        assert!(matches!(op, Some(Op::Create(_))) && one.revision == 1);
        assert_eq!(name(&one), format!("web-{}", hash_of(&one)));
        let one = Arc::new(one);
        let (two, _) = current(&[Arc::clone(&one)], &template_patch(&template("b")), &owner, "d", &BTreeMap::new(), None);
        assert_eq!(two.revision, 2);
        let all = [Arc::clone(&one), Arc::new(two.clone())];
        assert_eq!(current(&all, &template_patch(&template("b")), &owner, "d", &BTreeMap::new(), None), (two.clone(), None));
        let (again, op) = current(&all, &template_patch(&template("a")), &owner, "d", &BTreeMap::new(), None);
        assert!(matches!(op, Some(Op::Update(_))) && again.revision == 3 && name(&again) == name(&one));
        assert_eq!(surplus(&all, &[name(&two).to_owned()].into(), 0), [name(&one)]);
        assert!(surplus(&all, &HashSet::new(), 2).is_empty());
    }
}

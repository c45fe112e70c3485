//! Who owns whom: every object of the cluster as a small node, kept from metadata watches. No I/O.
//!
//! Upstream: pkg/controller/garbagecollector/{graph,graph_builder}.go

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

pub const FOREGROUND: &str = "foregroundDeletion";
pub const ORPHAN: &str = "orphan";

/// A uid; shared, since it is in many places.
pub type Uid = Arc<str>;

/// Owners known to be gone are remembered, so that their dependents need not ask again. Upstream: absentOwnerCache, 500.
const ABSENT: usize = 500;

/// Where an object is to be found.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// `group/Kind`, shared by all objects of a kind.
    pub kind: Arc<str>,
    pub namespace: Arc<str>,
    pub name: String,
}

#[derive(Debug, Clone, PartialEq)]
struct Owner {
    uid: Uid,
    blocks: bool,
}

#[derive(Debug)]
struct Node {
    place: Place,
    owners: Vec<Owner>,
    dependents: HashSet<Uid>,
    /// Seen by a watch; otherwise known only as somebody's owner.
    observed: bool,
    deleting: bool,
    /// Being deleted in the foreground: goes when its blocking dependents are gone.
    deleting_dependents: bool,
    orphaning: bool,
}

/// What has to be looked at after a change.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Work {
    /// The object may have to go (or its foreground deletion may be over).
    Delete(Uid),
    /// Its dependents have to be let go of.
    Orphan(Uid),
}

#[derive(Default)]
pub struct Graph {
    nodes: HashMap<Uid, Node>,
    absent: BTreeSet<Uid>,
}

/// What a worker needs to know of an object.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    pub place: Place,
    pub observed: bool,
    pub deleting: bool,
    pub deleting_dependents: bool,
    pub dependents: usize,
}

fn kind_of(owner: &OwnerReference) -> Arc<str> {
    let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
    Arc::from(format!("{group}/{}", owner.kind))
}

impl Graph {
    /// Notes an object as a watch shows it.
    pub fn apply(&mut self, place: Place, meta: &ObjectMeta) -> Vec<Work> {
        let Some(uid) = meta.uid.as_deref().map(Uid::from) else { return Vec::new() };
        let mut work = Vec::new();
        let owner = |owner: &OwnerReference| Owner {
            uid: Uid::from(owner.uid.as_str()),
            blocks: owner.block_owner_deletion == Some(true),
        };
        let owners: Vec<Owner> = meta.owner_references.iter().flatten().map(owner).collect();
        let namespace = Arc::clone(&place.namespace);
        let deleting = meta.deletion_timestamp.is_some();
        let has = |finalizer: &str| meta.finalizers.iter().flatten().any(|f| f == finalizer);
        let before = self.nodes.remove(&uid);
        let old_owners = before.as_ref().map(|node| node.owners.clone()).unwrap_or_default();
        let node = Node {
            place,
            dependents: before.as_ref().map(|node| node.dependents.clone()).unwrap_or_default(),
            observed: true,
            deleting,
            deleting_dependents: deleting && has(FOREGROUND),
            orphaning: deleting && has(ORPHAN),
            owners,
        };
        if node.orphaning && !before.as_ref().is_some_and(|before| before.orphaning) {
            work.push(Work::Orphan(uid.clone()));
        }
        if node.deleting_dependents && !before.as_ref().is_some_and(|before| before.deleting_dependents) {
            work.extend(node.dependents.iter().cloned().map(Work::Delete));
            work.push(Work::Delete(uid.clone()));
        }
        let new_owners = node.owners.clone();
        self.nodes.insert(uid.clone(), node);
        for old in &old_owners {
            let now = new_owners.iter().find(|new| new.uid == old.uid);
            if now.is_none()
                && let Some(owner) = self.nodes.get_mut(&old.uid)
            {
                owner.dependents.remove(&uid);
            }
            // The owner may be waiting for this very dependent.
            if old.blocks
                && now.is_none_or(|now| !now.blocks)
                && self.nodes.get(&old.uid).is_some_and(|owner| owner.deleting_dependents)
            {
                work.push(Work::Delete(old.uid.clone()));
            }
        }
        for reference in meta.owner_references.iter().flatten() {
            self.link(&uid, reference, &namespace, &mut work);
        }
        work
    }

    fn link(&mut self, dependent: &Uid, reference: &OwnerReference, namespace: &Arc<str>, work: &mut Vec<Work>) {
        let owner_uid = Uid::from(reference.uid.as_str());
        if let Some(owner) = self.nodes.get_mut(&owner_uid) {
            let added = owner.dependents.insert(dependent.clone());
            if added && owner.deleting_dependents {
                work.push(Work::Delete(dependent.clone()));
            }
            return;
        }
        if self.absent.contains(&owner_uid) {
            work.push(Work::Delete(dependent.clone()));
            return;
        }
        let place = Place { kind: kind_of(reference), namespace: Arc::clone(namespace), name: reference.name.clone() };
        let node = Node {
            place,
            owners: Vec::new(),
            dependents: HashSet::from([dependent.clone()]),
            observed: false,
            deleting: false,
            deleting_dependents: false,
            orphaning: false,
        };
        self.nodes.insert(owner_uid.clone(), node);
        work.push(Work::Delete(owner_uid));
    }

    /// Notes that an object is gone.
    pub fn remove(&mut self, uid: &str) -> Vec<Work> {
        let Some((uid, node)) = self.nodes.remove_entry(uid) else { return Vec::new() };
        let mut work = Vec::new();
        for owner in &node.owners {
            if let Some(parent) = self.nodes.get_mut(&owner.uid) {
                parent.dependents.remove(&uid);
                if parent.deleting_dependents {
                    work.push(Work::Delete(owner.uid.clone()));
                } else if !parent.observed && parent.dependents.is_empty() {
                    self.nodes.remove(&owner.uid);
                }
            }
        }
        if !node.dependents.is_empty() {
            if self.absent.len() >= ABSENT {
                self.absent.pop_first();
            }
            self.absent.insert(uid);
        }
        work.extend(node.dependents.into_iter().map(Work::Delete));
        work
    }

    /// The observed uids of a kind: what a new list must be compared with.
    pub fn of_kind(&self, kind: &str) -> Vec<Uid> {
        self.nodes.iter().filter(|(_, node)| node.observed && &*node.place.kind == kind).map(|(uid, _)| uid.clone()).collect()
    }

    pub fn item(&self, uid: &str) -> Option<Item> {
        let node = self.nodes.get(uid)?;
        Some(Item {
            place: node.place.clone(),
            observed: node.observed,
            deleting: node.deleting,
            deleting_dependents: node.deleting_dependents,
            dependents: node.dependents.len(),
        })
    }

    pub fn is_absent(&self, uid: &str) -> bool {
        self.absent.contains(uid)
    }

    /// The dependents, with where they are and whether they are being deleted in the foreground themselves.
    pub fn dependents(&self, uid: &str) -> Vec<(Uid, Place, bool)> {
        let Some(node) = self.nodes.get(uid) else { return Vec::new() };
        let known = node.dependents.iter().filter_map(|dependent| Some((dependent, self.nodes.get(dependent)?)));
        known.map(|(dependent, node)| (dependent.clone(), node.place.clone(), node.deleting_dependents)).collect()
    }

    /// Dependents that keep a foreground deletion from ending, and whether each is being deleted in the foreground itself.
    pub fn blocking(&self, uid: &str) -> Vec<(Uid, bool)> {
        let Some(node) = self.nodes.get(uid) else { return Vec::new() };
        let blocks = |node: &Node| node.owners.iter().any(|owner| &*owner.uid == uid && owner.blocks);
        let known = node.dependents.iter().filter_map(|dependent| Some((dependent, self.nodes.get(dependent)?)));
        known.filter(|(_, node)| blocks(node)).map(|(dependent, node)| (dependent.clone(), node.deleting_dependents)).collect()
    }

    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn place(kind: &str, name: &str) -> Place {
        Place { kind: Arc::from(kind), namespace: Arc::from("d"), name: name.to_owned() }
    }

    fn meta(uid: &str, owners: &[&str], extra: Value) -> ObjectMeta {
        let owners: Vec<Value> = owners
            .iter()
            .map(
                |uid| json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": uid, "uid": uid, "blockOwnerDeletion": true}),
            )
            .collect();
        let mut v = json!({"uid": uid, "name": uid, "namespace": "d", "ownerReferences": owners});
        for (key, value) in extra.as_object().unwrap() {
            v[key] = value.clone();
        }
        serde_json::from_value(v).unwrap()
    }

    fn delete(uid: &str) -> Work {
        Work::Delete(Uid::from(uid))
    }

    const DELETED: &str = "2024-01-01T00:00:00Z";

    #[test]
    fn dependents_of_what_is_gone_are_looked_at() {
        let mut graph = Graph::default();
        assert_eq!(graph.apply(place("apps/ReplicaSet", "rs"), &meta("rs", &[], json!({}))), []);
        assert_eq!(graph.apply(place("/Pod", "p"), &meta("p", &["rs"], json!({}))), []);
        assert_eq!(graph.remove("rs"), [delete("p")]);
        assert!(graph.is_absent("rs"));
        // A dependent that comes later, of an owner known to be gone.
        assert_eq!(graph.apply(place("/Pod", "q"), &meta("q", &["rs"], json!({}))), [delete("q")]);
    }

    #[test]
    fn an_owner_that_was_never_seen_is_asked_for() {
        let mut graph = Graph::default();
        assert_eq!(graph.apply(place("/Pod", "p"), &meta("p", &["rs"], json!({}))), [delete("rs")]);
        let item = graph.item("rs").unwrap();
        assert_eq!((item.observed, item.place), (false, place("apps/ReplicaSet", "rs")));
        graph.apply(place("apps/ReplicaSet", "rs"), &meta("rs", &[], json!({})));
        assert!(graph.item("rs").unwrap().observed);
        assert_eq!(graph.dependents("rs").len(), 1);
        graph.remove("p");
        graph.remove("rs");
        assert_eq!(graph.len(), 0);
    }

    #[test]
    fn a_foreground_deletion_looks_at_dependents_and_ends_with_the_last_blocking_one() {
        let mut graph = Graph::default();
        graph.apply(place("apps/ReplicaSet", "rs"), &meta("rs", &[], json!({})));
        graph.apply(place("/Pod", "p"), &meta("p", &["rs"], json!({})));
        let work = graph.apply(
            place("apps/ReplicaSet", "rs"),
            &meta("rs", &[], json!({"deletionTimestamp": DELETED, "finalizers": [FOREGROUND]})),
        );
        assert_eq!(work, [delete("p"), delete("rs")]);
        assert_eq!(graph.blocking("rs"), [(Uid::from("p"), false)]);
        // Seen again without news: nothing to do.
        assert_eq!(
            graph.apply(
                place("apps/ReplicaSet", "rs"),
                &meta("rs", &[], json!({"deletionTimestamp": DELETED, "finalizers": [FOREGROUND]}))
            ),
            []
        );
        assert_eq!(graph.remove("p"), [delete("rs")]);
        assert!(graph.blocking("rs").is_empty());
    }

    #[test]
    fn orphaning_is_noticed_and_released_dependents_are_unlinked() {
        let mut graph = Graph::default();
        graph.apply(place("apps/ReplicaSet", "rs"), &meta("rs", &[], json!({})));
        graph.apply(place("/Pod", "p"), &meta("p", &["rs"], json!({})));
        let work = graph.apply(
            place("apps/ReplicaSet", "rs"),
            &meta("rs", &[], json!({"deletionTimestamp": DELETED, "finalizers": [ORPHAN]})),
        );
        assert_eq!(work, [Work::Orphan(Uid::from("rs"))]);
        graph.apply(place("/Pod", "p"), &meta("p", &[], json!({})));
        assert!(graph.dependents("rs").is_empty());
        assert_eq!(graph.remove("rs"), []);
    }
}

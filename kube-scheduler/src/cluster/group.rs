//! Pods that are alike to selectors and affinity terms: same namespace, labels and terms. Counted per node.
//!
//! Replicas of a workload are one group, so that questions over all pods ask each group once instead of each pod.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::cluster::NodeIdx;
use crate::object::pod::{Pod, PodAffinity};
use crate::object::{Labels, Named};

/// A group's number.
pub type GroupId = u32;

/// What makes pods alike.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Alike {
    namespace: String,
    labels: Labels,
    terminating: bool,
    affinity: Option<Arc<PodAffinity>>,
}

/// Pods that are alike.
#[derive(Clone, Debug)]
pub struct Group {
    alike: Arc<Alike>,
    /// How many are on each node; ordered by node, none with zero.
    pub nodes: Vec<(NodeIdx, u32)>,
}

impl Group {
    /// Their namespace.
    pub fn namespace(&self) -> &str {
        &self.alike.namespace
    }

    /// Their labels.
    pub fn labels(&self) -> &Labels {
        &self.alike.labels
    }

    /// Whether they are being deleted.
    pub fn terminating(&self) -> bool {
        self.alike.terminating
    }

    /// Their terms on other pods.
    pub fn affinity(&self) -> Option<&PodAffinity> {
        self.alike.affinity.as_deref()
    }

    /// How many are on a node.
    pub fn on(&self, idx: NodeIdx) -> u32 {
        self.nodes.binary_search_by_key(&idx, |(node, _)| *node).map_or(0, |at| self.nodes[at].1)
    }
}

/// All groups.
#[derive(Default)]
pub struct Groups {
    all: Vec<Option<Group>>,
    free: Vec<GroupId>,
    by_alike: HashMap<Arc<Alike>, GroupId>,
    by_namespace: HashMap<String, BTreeSet<GroupId>>,
    with_affinity: BTreeSet<GroupId>,
}

impl Groups {
    /// How many groups there are.
    pub fn len(&self) -> usize {
        self.by_alike.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_alike.is_empty()
    }

    /// All groups.
    pub fn iter(&self) -> impl Iterator<Item = &Group> {
        self.all.iter().flatten()
    }

    /// The groups of a namespace.
    pub fn of_namespace(&self, namespace: &str) -> impl Iterator<Item = &Group> {
        self.by_namespace.get(namespace).into_iter().flatten().filter_map(|id| self.all[*id as usize].as_ref())
    }

    /// The groups that have terms on other pods.
    pub fn with_affinity(&self) -> impl Iterator<Item = &Group> {
        self.with_affinity.iter().filter_map(|id| self.all[*id as usize].as_ref())
    }

    pub(super) fn add(&mut self, pod: &Pod, idx: NodeIdx) -> GroupId {
        let alike = alike(pod);
        let id = match self.by_alike.get(&alike) {
            Some(id) => *id,
            None => self.create(Arc::new(alike)),
        };
        if let Some(group) = &mut self.all[id as usize] {
            match group.nodes.binary_search_by_key(&idx, |(node, _)| *node) {
                Ok(at) => group.nodes[at].1 += 1,
                Err(at) => group.nodes.insert(at, (idx, 1)),
            }
        }
        id
    }

    pub(super) fn remove(&mut self, id: GroupId, idx: NodeIdx) {
        let Some(group) = &mut self.all[id as usize] else { return };
        let Ok(at) = group.nodes.binary_search_by_key(&idx, |(node, _)| *node) else { return };
        group.nodes[at].1 -= 1;
        if group.nodes[at].1 == 0 {
            group.nodes.remove(at);
        }
        if !group.nodes.is_empty() {
            return;
        }
        let alike = group.alike.clone();
        self.all[id as usize] = None;
        self.by_alike.remove(&alike);
        self.with_affinity.remove(&id);
        if let Some(ids) = self.by_namespace.get_mut(&alike.namespace) {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_namespace.remove(&alike.namespace);
            }
        }
        self.free.push(id);
    }

    /// Whether the pod belongs to the group.
    pub(super) fn holds(&self, id: GroupId, pod: &Pod) -> bool {
        let Some(group) = &self.all[id as usize] else { return false };
        let own = &group.alike;
        own.terminating == pod.terminating()
            && own.namespace == pod.namespace()
            && own.labels == *pod.labels()
            && own.affinity == pod.spec.affinity
    }

    fn create(&mut self, alike: Arc<Alike>) -> GroupId {
        let group = Group { alike: alike.clone(), nodes: Vec::new() };
        let id = match self.free.pop() {
            Some(id) => id,
            None => {
                self.all.push(None);
                (self.all.len() - 1) as GroupId
            }
        };
        if alike.affinity.is_some() {
            self.with_affinity.insert(id);
        }
        self.by_namespace.entry(alike.namespace.clone()).or_default().insert(id);
        self.by_alike.insert(alike, id);
        self.all[id as usize] = Some(group);
        id
    }
}

fn alike(pod: &Pod) -> Alike {
    Alike {
        namespace: pod.namespace().to_owned(),
        labels: pod.labels().clone(),
        terminating: pod.terminating(),
        affinity: pod.spec.affinity.clone(),
    }
}

//! What the scheduler knows: nodes, the pods on them (bound and assumed), and indexes that make a decision cheap.
//!
//! Changed in place, one object at a time: a decision never rebuilds it. Not locked here; its owner does that.

pub mod group;
pub mod node_info;
pub mod nominated;
pub mod topology;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::cluster::group::Groups;
use crate::cluster::node_info::{NodeInfo, Placed};
use crate::cluster::nominated::Nominated;
use crate::cluster::topology::Topology;
use crate::object::Named;
use crate::object::node::Node;
use crate::object::pod::Pod;

/// A node's number: stable while the node, or a pod on it, is known.
pub type NodeIdx = u32;

/// The label by which nodes are visited zone by zone.
const ZONE: &str = "topology.kubernetes.io/zone";
const REGION: &str = "topology.kubernetes.io/region";

/// The cluster.
#[derive(Default)]
pub struct Cluster {
    nodes: Vec<NodeInfo>,
    by_name: HashMap<String, NodeIdx>,
    free: Vec<NodeIdx>,
    /// Nodes in visiting order: one of each zone in turn. Made anew when nodes come or go.
    order: Vec<NodeIdx>,
    order_stale: bool,
    /// How many nodes have ever come.
    arrivals: u64,
    pods: HashMap<String, Known>,
    /// Pods that are alike, counted per node.
    pub groups: Groups,
    topologies: Mutex<HashMap<String, Arc<Topology>>>,
    /// On how many nodes each image is.
    images: HashMap<String, u32>,
    /// Pods that wait for room on a node.
    pub nominated: Nominated,
}

/// Where a pod is.
struct Known {
    node: NodeIdx,
    assumed: bool,
}

impl Cluster {
    /// A node by number.
    pub fn node(&self, idx: NodeIdx) -> &NodeInfo {
        &self.nodes[idx as usize]
    }

    /// A node by name, also where only pods on it are known.
    pub fn find(&self, name: &str) -> Option<NodeIdx> {
        self.by_name.get(name).copied()
    }

    /// One more than the largest number in use.
    pub fn bound(&self) -> usize {
        self.nodes.len()
    }

    /// All nodes that exist, in visiting order. Call [`Cluster::refresh`] after changes.
    pub fn order(&self) -> &[NodeIdx] {
        &self.order
    }

    /// How many pods are known, and how many of them are only assumed.
    pub fn counts(&self) -> (usize, usize) {
        (self.pods.len(), self.pods.values().filter(|known| known.assumed).count())
    }

    /// On how many nodes an image is.
    pub fn image_nodes(&self, image: &str) -> u32 {
        self.images.get(image).copied().unwrap_or(0)
    }

    /// Brings the visiting order up to date. Cheap when no node came or went.
    pub fn refresh(&mut self) {
        if !self.order_stale {
            return;
        }
        let mut zones: BTreeMap<usize, Vec<NodeIdx>> = BTreeMap::new();
        let mut numbers: HashMap<(&str, &str), usize> = HashMap::new();
        // By when they came, as upstream: numbers are used again and say nothing about that.
        let mut present: Vec<_> = self.nodes.iter().enumerate().filter(|(_, info)| info.node.is_some()).collect();
        present.sort_unstable_by_key(|(_, info)| info.arrival);
        for (idx, info) in present {
            let Some(node) = &info.node else { continue };
            let label = |key: &str| node.labels().get(key).map_or("", String::as_str);
            let next = numbers.len();
            let zone = *numbers.entry((label(REGION), label(ZONE))).or_insert(next);
            zones.entry(zone).or_default().push(idx as NodeIdx);
        }
        self.order.clear();
        let longest = zones.values().map(Vec::len).max().unwrap_or(0);
        for position in 0..longest {
            self.order.extend(zones.values().filter_map(|nodes| nodes.get(position)));
        }
        self.order_stale = false;
    }

    /// Notes a node as it is now.
    pub fn upsert_node(&mut self, node: Arc<Node>) {
        let idx = self.entry(node.name());
        let info = &mut self.nodes[idx as usize];
        if info.node.is_none() {
            self.arrivals += 1;
            info.arrival = self.arrivals;
        }
        let old = info.set(Some(node.clone()));
        if old.as_ref().is_none_or(|old| old.labels() != node.labels()) {
            self.order_stale = true;
            self.topologies.get_mut().clear();
        }
        if old.as_ref().is_none_or(|old| old.images != node.images) {
            self.forget_images(old.as_deref());
            for image in node.images.keys() {
                *self.images.entry(image.clone()).or_default() += 1;
            }
        }
    }

    /// Notes that a node is gone. Pods on it stay known until they are gone too.
    pub fn remove_node(&mut self, name: &str) {
        let Some(idx) = self.find(name) else { return };
        let old = self.nodes[idx as usize].set(None);
        self.forget_images(old.as_deref());
        self.order_stale = true;
        self.topologies.get_mut().clear();
        self.drop_if_empty(idx);
    }

    /// Notes a pod on a node, as bound there.
    pub fn upsert_pod(&mut self, pod: Arc<Pod>) {
        let idx = self.entry(&pod.node_name.clone());
        self.place(pod, idx, false);
    }

    /// Notes a pod on a node, before the API server has confirmed it.
    pub fn assume(&mut self, pod: Arc<Pod>, idx: NodeIdx) {
        self.place(pod, idx, true);
    }

    /// Whether the pod is known on a node, and whether it is only assumed there.
    pub fn placed(&self, uid: &str) -> Option<(NodeIdx, bool)> {
        self.pods.get(uid).map(|known| (known.node, known.assumed))
    }

    /// Forgets a pod.
    pub fn remove_pod(&mut self, uid: &str) {
        let Some(known) = self.pods.remove(uid) else { return };
        if let Some(placed) = self.nodes[known.node as usize].take(uid) {
            self.groups.remove(placed.group, known.node);
        }
        self.drop_if_empty(known.node);
    }

    /// The values of a node label, by node.
    pub fn topology(&self, key: &str) -> Arc<Topology> {
        let mut topologies = self.topologies.lock();
        if let Some(known) = topologies.get(key) {
            return known.clone();
        }
        let fresh = Arc::new(Topology::new(key, &self.nodes));
        topologies.insert(key.to_owned(), fresh.clone());
        fresh
    }

    fn place(&mut self, pod: Arc<Pod>, idx: NodeIdx, assumed: bool) {
        let uid = pod.uid().to_owned();
        match self.pods.get(&uid) {
            // The same pod at the same place: only what is read from it may have changed.
            Some(known) if known.node == idx && self.nodes[idx as usize].swap(&pod, &self.groups) => {
                self.pods.insert(uid, Known { node: idx, assumed });
                return;
            }
            Some(_) => self.remove_pod(&uid),
            None => {}
        }
        // Removing may have freed the node's entry, if it was known by this pod only.
        let idx = if self.nodes[idx as usize].name.is_empty() { self.entry(&pod.node_name.clone()) } else { idx };
        let group = self.groups.add(&pod, idx);
        self.nodes[idx as usize].put(Placed { pod, group });
        self.pods.insert(uid, Known { node: idx, assumed });
    }

    fn entry(&mut self, name: &str) -> NodeIdx {
        if let Some(idx) = self.find(name) {
            return idx;
        }
        let info = NodeInfo { name: Arc::from(name), ..NodeInfo::default() };
        let idx = match self.free.pop() {
            Some(idx) => {
                self.nodes[idx as usize] = info;
                idx
            }
            None => {
                self.nodes.push(info);
                (self.nodes.len() - 1) as NodeIdx
            }
        };
        self.by_name.insert(name.to_owned(), idx);
        self.topologies.get_mut().clear();
        idx
    }

    fn drop_if_empty(&mut self, idx: NodeIdx) {
        let info = &mut self.nodes[idx as usize];
        if info.node.is_none() && info.pods.is_empty() && !info.name.is_empty() {
            self.by_name.remove(&*info.name);
            *info = NodeInfo::default();
            self.free.push(idx);
        }
    }

    fn forget_images(&mut self, node: Option<&Node>) {
        for image in node.into_iter().flat_map(|node| node.images.keys()) {
            if let Some(count) = self.images.get_mut(image) {
                *count -= 1;
                if *count == 0 {
                    self.images.remove(image);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(name: &str, zone: &str) -> Arc<Node> {
        Arc::new(serde_json::from_value(json!({"metadata": {"name": name, "labels": {ZONE: zone}}})).unwrap())
    }

    fn pod(name: &str, node: &str) -> Arc<Pod> {
        let value = json!({
            "metadata": {"name": name, "uid": name, "namespace": "d", "labels": {"app": "a"}},
            "spec": {"nodeName": node, "containers": [{"resources": {"requests": {"cpu": "100m"}}}]},
        });
        Arc::new(serde_json::from_value(value).unwrap())
    }

    #[test]
    fn nodes_are_visited_zone_by_zone() {
        let mut cluster = Cluster::default();
        for (name, zone) in [("a", "x"), ("b", "x"), ("c", "y"), ("d", "x")] {
            cluster.upsert_node(node(name, zone));
        }
        cluster.refresh();
        let names: Vec<_> = cluster.order().iter().map(|idx| &*cluster.node(*idx).name).collect();
        assert_eq!(names, ["a", "c", "b", "d"]);
        // Numbers that became free are used again; the order is still that of arrival.
        cluster.remove_node("b");
        cluster.remove_node("a");
        for (name, zone) in [("e", "y"), ("f", "x")] {
            cluster.upsert_node(node(name, zone));
        }
        cluster.refresh();
        let names: Vec<_> = cluster.order().iter().map(|idx| &*cluster.node(*idx).name).collect();
        assert_eq!(names, ["c", "d", "e", "f"]);
    }

    #[test]
    fn pods_come_and_go_and_leave_nothing() {
        let mut cluster = Cluster::default();
        cluster.upsert_pod(pod("p", "n"));
        cluster.upsert_node(node("n", "x"));
        let idx = cluster.find("n").unwrap();
        cluster.assume(pod("q", ""), idx);
        assert_eq!(cluster.node(idx).requested.milli_cpu, 200);
        assert_eq!(cluster.counts(), (2, 1));
        cluster.upsert_pod(pod("q", "n"));
        assert_eq!((cluster.counts(), cluster.node(idx).requested.milli_cpu), ((2, 0), 200));
        cluster.upsert_pod(pod("q", "m"));
        assert_eq!(cluster.node(idx).requested.milli_cpu, 100);
        cluster.remove_pod("q");
        assert!(cluster.find("m").is_none());
        cluster.remove_node("n");
        assert!(cluster.find("n").is_some(), "a pod is still on it");
        cluster.remove_pod("p");
        assert!(cluster.find("n").is_none());
        assert_eq!(cluster.groups.len(), 0);
    }
}

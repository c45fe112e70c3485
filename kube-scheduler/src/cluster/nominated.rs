//! Pods that preempted others and wait for the room.

use std::collections::HashMap;
use std::sync::Arc;

use crate::object::Named;
use crate::object::pod::Pod;

/// Nominated pods, by node.
#[derive(Default)]
pub struct Nominated {
    by_node: HashMap<String, Vec<Arc<Pod>>>,
    nodes: HashMap<String, String>,
}

impl Nominated {
    /// Notes that a pod waits for a node; "" for none.
    pub fn set(&mut self, pod: Arc<Pod>, node: &str) {
        self.remove(pod.uid());
        if node.is_empty() {
            return;
        }
        self.nodes.insert(pod.uid().to_owned(), node.to_owned());
        self.by_node.entry(node.to_owned()).or_default().push(pod);
    }

    /// Forgets a pod.
    pub fn remove(&mut self, uid: &str) {
        let Some(node) = self.nodes.remove(uid) else { return };
        if let Some(pods) = self.by_node.get_mut(&node) {
            pods.retain(|pod| pod.uid() != uid);
            if pods.is_empty() {
                self.by_node.remove(&node);
            }
        }
    }

    /// The node that a pod waits for.
    pub fn node_of(&self, uid: &str) -> Option<&str> {
        self.nodes.get(uid).map(String::as_str)
    }

    /// The pods that wait for a node.
    pub fn on(&self, node: &str) -> &[Arc<Pod>] {
        self.by_node.get(node).map_or(&[], Vec::as_slice)
    }

    /// Whether there are none at all.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }
}

//! One node, and the sum of what is on it.

use std::sync::Arc;

use crate::cluster::group::{GroupId, Groups};
use crate::object::Named;
use crate::object::node::{Effect, Node};
use crate::object::pod::{HostPort, Pod};
use crate::object::resources::Resources;

/// A pod on a node.
#[derive(Clone)]
pub struct Placed {
    /// The pod.
    pub pod: Arc<Pod>,
    /// Its group.
    pub group: GroupId,
}

/// A node.
#[derive(Clone, Default)]
pub struct NodeInfo {
    /// Its name.
    pub name: Arc<str>,
    /// Which of all nodes it was to come.
    pub arrival: u64,
    /// What pods may use; here, since every decision reads it.
    pub allocatable: Resources,
    /// The node is cordoned.
    pub unschedulable: bool,
    /// It has taints that forbid.
    pub forbids: bool,
    /// It has taints that only count against it.
    pub discourages: bool,
    /// The node; `None` where only pods on it are known.
    pub node: Option<Arc<Node>>,
    /// The pods on it.
    pub pods: Vec<Placed>,
    /// Sum of requests.
    pub requested: Resources,
    /// Sum of CPU and memory where absent requests count as defaults.
    pub scored: (i64, i64),
    /// Host ports in use, repeated where several pods use one.
    pub ports: Vec<HostPort>,
}

impl NodeInfo {
    /// Whether a port cannot be had any more.
    pub fn conflicts(&self, wanted: &HostPort) -> bool {
        self.ports.iter().any(|used| {
            used.port == wanted.port
                && used.protocol == wanted.protocol
                && (used.ip == wanted.ip || used.ip == "0.0.0.0" || wanted.ip == "0.0.0.0")
        })
    }

    /// Notes the node as it is now; returns what it was before.
    pub(super) fn set(&mut self, node: Option<Arc<Node>>) -> Option<Arc<Node>> {
        (self.forbids, self.discourages) = (false, false);
        for taint in node.iter().flat_map(|node| &node.taints) {
            let soft = taint.effect == Effect::PreferNoSchedule;
            self.discourages |= soft;
            self.forbids |= !soft;
        }
        self.unschedulable = node.as_ref().is_some_and(|node| node.unschedulable);
        self.allocatable = node.as_ref().map(|node| node.allocatable.clone()).unwrap_or_default();
        std::mem::replace(&mut self.node, node)
    }

    /// Adds a pod.
    pub fn put(&mut self, placed: Placed) {
        let spec = &placed.pod.spec;
        self.requested.add(&spec.requests);
        self.scored.0 += spec.scored.0;
        self.scored.1 += spec.scored.1;
        self.ports.extend(spec.ports.iter().cloned());
        self.pods.push(placed);
    }

    /// Takes a pod off.
    pub fn take(&mut self, uid: &str) -> Option<Placed> {
        let at = self.pods.iter().position(|placed| placed.pod.uid() == uid)?;
        let placed = self.pods.swap_remove(at);
        let spec = &placed.pod.spec;
        self.requested.sub(&spec.requests);
        self.scored.0 -= spec.scored.0;
        self.scored.1 -= spec.scored.1;
        for port in &spec.ports {
            if let Some(at) = self.ports.iter().position(|own| own == port) {
                self.ports.swap_remove(at);
            }
        }
        Some(placed)
    }

    /// Replaces a pod by its newer self, if nothing that is summed or grouped has changed; whether that was so.
    pub(super) fn swap(&mut self, pod: &Arc<Pod>, groups: &Groups) -> bool {
        let Some(placed) = self.pods.iter_mut().find(|placed| placed.pod.uid() == pod.uid()) else { return false };
        let old = &placed.pod.spec;
        let alike = old.requests == pod.spec.requests && old.scored == pod.spec.scored && old.ports == pod.spec.ports;
        let same = (Arc::ptr_eq(old, &pod.spec) || alike) && groups.holds(placed.group, pod);
        if same {
            placed.pod = pod.clone();
        }
        same
    }
}

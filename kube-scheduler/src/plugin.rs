//! The table of plugins, in the order of upstream's default profile.
//!
//! Adding one: a file below `plugin/` with `pub const PLUGIN`, and its line in [`PLUGINS`]. Order matters: the first filter
//! that refuses a node names the reason.
//!
//! Upstream: pkg/scheduler/apis/config/v1/default_plugins.go

pub mod default_binder;
pub mod default_preemption;
pub mod dynamic_resources;
pub mod image_locality;
pub mod inter_pod_affinity;
pub mod node_affinity;
pub mod node_name;
pub mod node_ports;
pub mod node_resources_balanced_allocation;
pub mod node_resources_fit;
pub mod node_unschedulable;
pub mod node_volume_limits;
pub mod pod_topology_spread;
pub mod priority_sort;
pub mod scheduling_gates;
pub mod taint_toleration;
pub mod volume_binding;
pub mod volume_restrictions;
pub mod volume_zone;

use std::borrow::Cow;

use smallvec::SmallVec;

use crate::cluster::node_info::NodeInfo;
use crate::cluster::{Cluster, NodeIdx};
use crate::config::Args;
use crate::event::Event;
use crate::object::pod::Pod;
use crate::stores::Stores;

/// All plugins.
pub const PLUGINS: [&Plugin; 19] = [
    &scheduling_gates::PLUGIN,
    &priority_sort::PLUGIN,
    &node_unschedulable::PLUGIN,
    &node_name::PLUGIN,
    &taint_toleration::PLUGIN,
    &node_affinity::PLUGIN,
    &node_ports::PLUGIN,
    &node_resources_fit::PLUGIN,
    &volume_restrictions::PLUGIN,
    &node_volume_limits::PLUGIN,
    &volume_binding::PLUGIN,
    &volume_zone::PLUGIN,
    &pod_topology_spread::PLUGIN,
    &inter_pod_affinity::PLUGIN,
    &dynamic_resources::PLUGIN,
    &default_preemption::PLUGIN,
    &node_resources_balanced_allocation::PLUGIN,
    &image_locality::PLUGIN,
    &default_binder::PLUGIN,
];

/// The best score. Upstream: MaxNodeScore
pub const MAX_SCORE: i64 = 100;

/// What a plugin does. What it does not do is `None`.
pub struct Plugin {
    /// Upstream's name.
    pub name: &'static str,
    /// How much its score counts in the default profile; 0 where it does not score.
    pub weight: i64,
    /// Looks at the pod, and makes what looks at nodes.
    pub filter: Option<for<'a> fn(&Context<'a>, &'a Pod) -> Begin<'a>>,
    /// Looks at the pod and the feasible nodes, and makes what scores them; `None` where nothing is to be scored.
    pub score: Option<MakeScore>,
    /// Whether an event may let a pod through that this plugin refused.
    pub hint: Option<fn(&Pod, &Event) -> bool>,
}

/// Looks at the pod and the feasible nodes, and makes what scores them.
pub type MakeScore = for<'a> fn(&Context<'a>, &'a Pod, &[NodeIdx]) -> Option<Box<dyn Score + 'a>>;

impl Plugin {
    /// A plugin that only has a name.
    pub const fn named(name: &'static str) -> Self {
        Self { name, weight: 0, filter: None, score: None, hint: None }
    }
}

/// A plugin by upstream's name.
pub fn by_name(name: &str) -> Option<&'static Plugin> {
    PLUGINS.into_iter().find(|plugin| plugin.name == name)
}

/// What plugins see.
pub struct Context<'a> {
    /// Nodes and pods.
    pub cluster: &'a Cluster,
    /// Everything else.
    pub stores: &'a Stores,
    /// The profile's arguments.
    pub args: &'a Args,
}

/// What a filter plugin says on seeing the pod.
pub enum Begin<'a> {
    /// It will refuse no node.
    Skip,
    /// No node will do.
    Reject(Failure),
    /// It depends on the node.
    Check(Box<dyn Filter + 'a>),
    /// It depends on the node, and only these can do.
    Only(Box<dyn Filter + 'a>, Vec<NodeIdx>),
}

impl Begin<'_> {
    /// Upstream's name for it.
    pub fn status(&self) -> &'static str {
        match self {
            Self::Skip => "Skip",
            Self::Reject(failure) => crate::schedule::status(Some(failure)),
            Self::Check(_) | Self::Only(..) => "Success",
        }
    }
}

/// Looks at nodes for one pod.
pub trait Filter {
    /// Whether the pod can run there.
    ///
    /// # Errors
    /// Why not.
    fn check(&self, idx: NodeIdx, node: &NodeInfo) -> Result<(), Failure>;

    /// Takes note of a pod that is to be thought onto the node.
    fn add(&mut self, _idx: NodeIdx, _pod: &Pod) {}

    /// Takes note of a pod that is to be thought off the node.
    fn remove(&mut self, _idx: NodeIdx, _pod: &Pod) {}
}

/// Scores nodes for one pod.
pub trait Score {
    /// The raw score.
    fn score(&self, idx: NodeIdx, node: &NodeInfo) -> i64;

    /// Brings raw scores to 0…100; `nodes` and `scores` go together.
    fn normalize(&self, _nodes: &[NodeIdx], _scores: &mut [i64]) {}
}

/// Why a pod cannot run on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Whether other pods going could help. Upstream: Unschedulable, as against UnschedulableAndUnresolvable.
    pub resolvable: bool,
    /// In upstream's words.
    pub reasons: SmallVec<[Cow<'static, str>; 1]>,
    /// Who says so; the framework fills it in.
    pub plugin: &'static str,
}

impl Failure {
    /// Other pods going could help.
    pub fn resolvable(reason: impl Into<Cow<'static, str>>) -> Self {
        Self { resolvable: true, reasons: SmallVec::from_iter([reason.into()]), plugin: "" }
    }

    /// Other pods going cannot help.
    pub fn unresolvable(reason: impl Into<Cow<'static, str>>) -> Self {
        Self { resolvable: false, ..Self::resolvable(reason) }
    }
}

/// Scales scores to 0…100 by the largest, the other way round where `reverse`. Upstream: DefaultNormalizeScore
pub fn normalize_by_max(scores: &mut [i64], reverse: bool) {
    let max = scores.iter().copied().max().unwrap_or(0);
    for score in scores {
        let scaled = if max == 0 { 0 } else { MAX_SCORE * *score / max };
        *score = if reverse { MAX_SCORE - scaled } else { scaled };
    }
}

#[cfg(test)]
mod hint_tests;
#[cfg(test)]
mod tests;

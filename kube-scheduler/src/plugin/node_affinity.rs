//! Node selector and node affinity.
//!
//! Upstream: pkg/scheduler/framework/plugins/nodeaffinity

use crate::cluster::NodeIdx;
use crate::cluster::node_info::NodeInfo;
use crate::event::Event;
use crate::object::Named;
use crate::object::pod::Pod;
use crate::object::selector::{NodeSelector, NodeTerm};
use crate::plugin::{Begin, Context, Failure, Filter, Plugin, Score, normalize_by_max};

/// NodeAffinity.
pub const PLUGIN: Plugin = Plugin {
    weight: 2,
    filter: Some(filter),
    score: Some(|cx, pod, _| {
        let added = &cx.args.node_affinity.preferred;
        if pod.spec.preferred_nodes.is_empty() && added.is_empty() {
            return None;
        }
        Some(Box::new(Preferred(pod.spec.preferred_nodes.iter().chain(added).collect())))
    }),
    hint: Some(hint),
    ..Plugin::named("NodeAffinity")
};

fn filter<'a>(cx: &Context<'a>, pod: &'a Pod) -> Begin<'a> {
    let added = cx.args.node_affinity.required.as_ref();
    if !pod.restricts_nodes() && added.is_none() {
        return Begin::Skip;
    }
    let check = Box::new(Wanted { pod, added });
    match pod.spec.node_affinity.as_ref().and_then(NodeSelector::names) {
        Some(names) => Begin::Only(check, names.iter().filter_map(|name| cx.cluster.find(name)).collect()),
        None => Begin::Check(check),
    }
}

struct Wanted<'a> {
    pod: &'a Pod,
    added: Option<&'a NodeSelector>,
}

impl Filter for Wanted<'_> {
    fn check(&self, _idx: NodeIdx, node: &NodeInfo) -> Result<(), Failure> {
        let Some(node) = &node.node else { return Ok(()) };
        if self.added.is_some_and(|added| !added.matches(node.labels(), node.name())) {
            return Err(Failure::unresolvable("node(s) didn't match scheduler-enforced node affinity"));
        }
        if self.pod.wants_node(node.labels(), node.name()) {
            Ok(())
        } else {
            Err(Failure::unresolvable("node(s) didn't match Pod's node affinity/selector"))
        }
    }
}

struct Preferred<'a>(Vec<&'a (i64, NodeTerm)>);

impl Score for Preferred<'_> {
    fn score(&self, _idx: NodeIdx, node: &NodeInfo) -> i64 {
        let Some(node) = &node.node else { return 0 };
        let matching = self.0.iter().filter(|(_, term)| term.matches(node.labels(), node.name()));
        matching.map(|(weight, _)| weight).sum()
    }

    fn normalize(&self, _nodes: &[NodeIdx], scores: &mut [i64]) {
        normalize_by_max(scores, false);
    }
}

fn hint(pod: &Pod, event: &Event) -> bool {
    match event {
        Event::NodeAdded(node) => pod.wants_node(node.labels(), node.name()),
        Event::NodeUpdated(old, new) => {
            old.labels() != new.labels() && pod.wants_node(new.labels(), new.name()) && !pod.wants_node(old.labels(), old.name())
        }
        _ => false,
    }
}

//! Taints that the pod does not tolerate: NoSchedule and NoExecute forbid, PreferNoSchedule counts against.
//!
//! Upstream: pkg/scheduler/framework/plugins/tainttoleration

use crate::cluster::NodeIdx;
use crate::cluster::node_info::NodeInfo;
use crate::event::Event;
use crate::object::node::{Effect, Node};
use crate::object::pod::Pod;
use crate::plugin::{Begin, Failure, Filter, Plugin, Score, normalize_by_max};

/// TaintToleration.
pub const PLUGIN: Plugin = Plugin {
    weight: 3,
    filter: Some(|_, pod| Begin::Check(Box::new(Tolerant(pod)))),
    score: Some(|cx, pod, nodes| {
        // Without any such taint every node scores alike.
        if nodes.iter().any(|idx| cx.cluster.node(*idx).discourages) { Some(Box::new(Tolerant(pod))) } else { None }
    }),
    hint: Some(hint),
    ..Plugin::named("TaintToleration")
};

struct Tolerant<'a>(&'a Pod);

impl Filter for Tolerant<'_> {
    fn check(&self, _idx: NodeIdx, node: &NodeInfo) -> Result<(), Failure> {
        match &node.node {
            Some(own) if node.forbids && !tolerated(self.0, own) => {
                Err(Failure::unresolvable("node(s) had untolerated taint(s)"))
            }
            _ => Ok(()),
        }
    }
}

impl Score for Tolerant<'_> {
    fn score(&self, _idx: NodeIdx, node: &NodeInfo) -> i64 {
        let taints = node.node.iter().flat_map(|node| &node.taints);
        let against = taints.filter(|taint| taint.effect == Effect::PreferNoSchedule).filter(|taint| {
            let candidates = self.0.spec.tolerations.iter();
            // Only tolerations for that effect, or for all, count here.
            !candidates
                .filter(|toleration| toleration.effect.is_none_or(|effect| effect == Effect::PreferNoSchedule))
                .any(|toleration| toleration.tolerates(&taint.key, &taint.value, taint.effect))
        });
        i64::try_from(against.count()).unwrap_or(i64::MAX)
    }

    fn normalize(&self, _nodes: &[NodeIdx], scores: &mut [i64]) {
        normalize_by_max(scores, true);
    }
}

/// Whether the pod tolerates everything on the node that forbids.
pub fn tolerated(pod: &Pod, node: &Node) -> bool {
    let forbidding = node.taints.iter().filter(|taint| taint.effect != Effect::PreferNoSchedule);
    forbidding.into_iter().all(|taint| pod.tolerates(&taint.key, &taint.value, taint.effect))
}

fn hint(pod: &Pod, event: &Event) -> bool {
    match event {
        Event::NodeAdded(node) => tolerated(pod, node),
        Event::NodeUpdated(old, new) => !tolerated(pod, old) && tolerated(pod, new),
        Event::PodUpdated(old, new) => old.spec.tolerations != new.spec.tolerations,
        _ => false,
    }
}

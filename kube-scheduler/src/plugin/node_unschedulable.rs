//! Cordoned nodes, unless the pod tolerates the taint that goes with it.
//!
//! Upstream: pkg/scheduler/framework/plugins/nodeunschedulable

use crate::cluster::NodeIdx;
use crate::cluster::node_info::NodeInfo;
use crate::event::Event;
use crate::object::node::Effect;
use crate::object::pod::Pod;
use crate::plugin::{Begin, Failure, Filter, Plugin};

/// NodeUnschedulable.
pub const PLUGIN: Plugin = Plugin {
    filter: Some(|_, pod| {
        if pod.tolerates("node.kubernetes.io/unschedulable", "", Effect::NoSchedule) {
            Begin::Skip
        } else {
            Begin::Check(Box::new(Schedulable))
        }
    }),
    hint: Some(hint),
    ..Plugin::named("NodeUnschedulable")
};

struct Schedulable;

impl Filter for Schedulable {
    fn check(&self, _idx: NodeIdx, node: &NodeInfo) -> Result<(), Failure> {
        if node.unschedulable { Err(Failure::unresolvable("node(s) were unschedulable")) } else { Ok(()) }
    }
}

fn hint(_pod: &Pod, event: &Event) -> bool {
    match event {
        Event::NodeAdded(node) => !node.unschedulable,
        Event::NodeUpdated(old, new) => old.unschedulable && !new.unschedulable,
        Event::PodUpdated(old, new) => old.spec.tolerations != new.spec.tolerations,
        _ => false,
    }
}

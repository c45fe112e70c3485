//! Host ports that are taken.
//!
//! Upstream: pkg/scheduler/framework/plugins/nodeports

use crate::cluster::NodeIdx;
use crate::cluster::node_info::NodeInfo;
use crate::event::Event;
use crate::object::pod::Pod;
use crate::plugin::{Begin, Failure, Filter, Plugin};

/// NodePorts.
pub const PLUGIN: Plugin = Plugin {
    filter: Some(|_, pod| if pod.spec.ports.is_empty() { Begin::Skip } else { Begin::Check(Box::new(Free(pod))) }),
    hint: Some(hint),
    ..Plugin::named("NodePorts")
};

struct Free<'a>(&'a Pod);

impl Filter for Free<'_> {
    fn check(&self, _idx: NodeIdx, node: &NodeInfo) -> Result<(), Failure> {
        if self.0.spec.ports.iter().any(|port| node.conflicts(port)) {
            Err(Failure::resolvable("node(s) didn't have free ports for the requested pod ports"))
        } else {
            Ok(())
        }
    }
}

fn hint(pod: &Pod, event: &Event) -> bool {
    match event {
        Event::NodeAdded(_) => true,
        Event::AssignedPodDeleted(gone) => {
            gone.spec.ports.iter().any(|freed| pod.spec.ports.iter().any(|own| own.port == freed.port))
        }
        _ => false,
    }
}

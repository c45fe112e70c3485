//! A pod that names its node fits no other.
//!
//! Upstream: pkg/scheduler/framework/plugins/nodename

use crate::cluster::NodeIdx;
use crate::cluster::node_info::NodeInfo;
use crate::event::Event;
use crate::plugin::{Begin, Failure, Filter, Plugin};

/// NodeName.
pub const PLUGIN: Plugin = Plugin {
    filter: Some(|_, pod| if pod.node_name.is_empty() { Begin::Skip } else { Begin::Check(Box::new(Named(&pod.node_name))) }),
    hint: Some(|pod, event| matches!(event, Event::NodeAdded(node) if crate::object::Named::name(&**node) == pod.node_name)),
    ..Plugin::named("NodeName")
};

struct Named<'a>(&'a str);

impl Filter for Named<'_> {
    fn check(&self, _idx: NodeIdx, node: &NodeInfo) -> Result<(), Failure> {
        if *node.name == *self.0 { Ok(()) } else { Err(Failure::unresolvable("node(s) didn't match the requested node name")) }
    }
}

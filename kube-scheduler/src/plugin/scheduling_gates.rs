//! Pods with scheduling gates wait outside of the queue until the last gate is gone.
//!
//! Upstream: pkg/scheduler/framework/plugins/schedulinggates

use crate::event::Event;
use crate::object::pod::Pod;
use crate::plugin::Plugin;

/// SchedulingGates.
pub const PLUGIN: Plugin = Plugin {
    hint: Some(|_, event| matches!(event, Event::PodUpdated(_, new) if new.spec.gates.is_empty())),
    ..Plugin::named("SchedulingGates")
};

/// Whether the pod must wait for a gate.
pub fn gated(pod: &Pod) -> bool {
    !pod.spec.gates.is_empty()
}

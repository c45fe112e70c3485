//! The order of the active queue: higher priority first, then whoever came first. The queue itself does it.
//!
//! Upstream: pkg/scheduler/framework/plugins/queuesort

use crate::plugin::Plugin;

/// PrioritySort.
pub const PLUGIN: Plugin = Plugin::named("PrioritySort");

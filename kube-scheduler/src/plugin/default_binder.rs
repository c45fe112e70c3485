//! Binding by the pod's `binding` subresource; see [`crate::bind`].
//!
//! Upstream: pkg/scheduler/framework/plugins/defaultbinder

use crate::plugin::Plugin;

/// DefaultBinder.
pub const PLUGIN: Plugin = Plugin::named("DefaultBinder");

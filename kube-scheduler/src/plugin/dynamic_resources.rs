//! Resource claims. Pods that need devices wait: allocation of devices is not there yet, and says so.
//!
//! Upstream: pkg/scheduler/framework/plugins/dynamicresources

use crate::plugin::{Begin, Failure, Plugin};

/// What upstream's plugin adds to the message of every pod that fits nowhere.
pub const POST_FILTER_MESSAGE: &str = "no new claims to deallocate";

/// DynamicResources.
pub const PLUGIN: Plugin = Plugin {
    filter: Some(|_, pod| {
        if pod.spec.resource_claims {
            Begin::Reject(Failure::unresolvable("resource claims are not supported by this scheduler"))
        } else {
            Begin::Skip
        }
    }),
    ..Plugin::named("DynamicResources")
};

//! ResourceQuotas.
//!
//! Upstream: pkg/registry/core/resourcequota, printResourceQuota

use serde_json::Value;

use crate::column::{self, text};
use crate::pod_spec::defaults::resource_list;
use crate::resource::Resource;
use crate::rules::Rules;
use crate::tree::Tree;

/// Rules and columns of ResourceQuotas.
pub fn build(resource: &mut Resource) {
    resource.strategy = Rules {
        default: |object| {
            if let Some(hard) = object.child("spec").child_if("hard") {
                resource_list(hard);
            }
        },
        status: true,
        ..Rules::GENERIC
    }
    .strategy();
    resource.columns = vec![
        column::name(),
        text("Request", "Request represents a minimum amount of cpu/memory that a container may consume.", |object, _| {
            usage(object, false).into()
        }),
        text(
            "Limit",
            "Limits control the maximum amount of cpu/memory that a container may use independent of contention on the node.",
            |object, _| usage(object, true).into(),
        ),
        column::age(),
    ];
}

fn usage(object: &Value, limits: bool) -> String {
    let hard = object.path("status.hard");
    let mut names: Vec<&String> = hard.as_object().map(|map| map.keys().collect()).unwrap_or_default();
    names.sort();
    names
        .into_iter()
        .filter(|name| name.starts_with("limits") == limits)
        .map(|name| {
            let used = match object.path("status.used").text(name) {
                "" => "0",
                used => used,
            };
            format!("{name}: {used}/{}", hard.text(name))
        })
        .collect::<Vec<_>>()
        .join(", ")
}

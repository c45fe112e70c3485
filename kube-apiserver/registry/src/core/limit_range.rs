//! LimitRanges.
//!
//! Upstream: pkg/registry/core/limitrange, ValidateLimitRange

use serde_json::Value;

use crate::column;
use crate::pod_spec::defaults::resource_list;
use crate::resource::Resource;
use crate::rules::Rules;
use crate::tree::Tree;

/// Rules and columns of LimitRanges.
pub fn build(resource: &mut Resource) {
    resource.strategy = Rules { default, ..Rules::GENERIC }.strategy();
    resource.columns = vec![column::name(), column::created_at()];
}

/// A container's default limit comes from its maximum; its default request from the default limit, then from the minimum.
fn default(object: &mut Value) {
    for item in object.child("spec").items_mut("limits") {
        for key in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
            if let Some(list) = item.child_if(key) {
                resource_list(list);
            }
        }
        if item.text("type") != "Container" {
            continue;
        }
        for (from, to) in [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")] {
            for (name, amount) in item.at(from).as_object().cloned().unwrap_or_default() {
                item.child(to).fill(&name, amount);
            }
        }
    }
}

//! ServiceCIDRs.

use serde_json::json;

use crate::column::{self, text};
use crate::resource::Resource;
use crate::rules::Rules;
use crate::tree::Tree;

/// Rules and columns of ServiceCIDRs.
pub fn build(resource: &mut Resource) {
    resource.strategy = Rules { create: |_, object| object.set("status", json!({})), status: true, unconditional_update: false, ..Rules::GENERIC }.strategy();
    resource.columns = vec![
        column::name(),
        text("CIDRs", "CIDRs defines the IP blocks in CIDR notation", |object, _| {
            object.at("spec").items("cidrs").iter().filter_map(serde_json::Value::as_str).collect::<Vec<_>>().join(",").into()
        }),
        column::age(),
    ];
}

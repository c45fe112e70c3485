//! CSINodes.

use serde_json::Value;

use crate::column::{self, integer};
use crate::resource::Resource;
use crate::rules::Rules;
use crate::tree::Tree;

/// Rules and columns of CSINodes.
pub fn build(resource: &mut Resource) {
    resource.strategy = Rules {
        default: |object| {
            for driver in object.child("spec").items_mut("drivers") {
                if !driver.has("topologyKeys") {
                    driver.set("topologyKeys", Value::Null);
                }
            }
        },
        ..Rules::GENERIC
    }
    .strategy();
    resource.columns = vec![
        column::name(),
        integer("Drivers", "Drivers indicates the number of CSI drivers registered on the node", |object, _| {
            object.at("spec").len_of("drivers").into()
        }),
        column::age(),
    ];
}

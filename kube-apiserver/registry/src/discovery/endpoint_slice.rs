//! EndpointSlices.
//!
//! Upstream: pkg/registry/discovery/endpointslice, printEndpointSlice

use serde_json::Value;

use crate::column::{self, text};
use crate::core::endpoints::abbreviate;
use crate::resource::{Context, Resource};
use crate::rules::{Generation, Rules};
use crate::tree::{Tree, same};

/// Rules and columns of EndpointSlices.
pub fn build(resource: &mut Resource) {
    resource.strategy =
        Rules { default, update, generation: Generation::Fields(&["endpoints", "ports", "addressType"]), ..Rules::GENERIC }
            .strategy();
    resource.columns = vec![
        column::name(),
        text("AddressType", "addressType specifies the type of address carried by this EndpointSlice.", |object, _| {
            object.text("addressType").into()
        }),
        text("Ports", "ports specifies the list of network ports exposed by each endpoint in this slice.", |object, _| {
            ports(object).into()
        }),
        text("Endpoints", "endpoints is a list of unique endpoints in this slice.", |object, _| endpoints(object).into()),
        column::age(),
    ];
}

fn default(object: &mut Value) {
    for port in object.items_mut("ports") {
        port.fill("name", "");
        port.fill("protocol", "TCP");
    }
    for endpoint in object.items_mut("endpoints") {
        endpoint.fill("conditions", serde_json::json!({}));
    }
}

/// Metadata that users write counts as a change too.
fn update(_context: &Context, new: &mut Value, old: &Value) {
    let changed = ["labels", "annotations", "ownerReferences", "finalizers"]
        .iter()
        .any(|field| !same(new.at("metadata").at(field), old.at("metadata").at(field)));
    let before = old.at("metadata").int("generation").unwrap_or(0);
    if changed {
        new.child("metadata").set("generation", before + 1);
    }
}

fn ports(object: &Value) -> String {
    let all: Vec<String> = object
        .items("ports")
        .iter()
        .map(|port| port.int("port").map_or_else(|| "*".to_owned(), |port| port.to_string()))
        .collect();
    if all.is_empty() { "<unset>".to_owned() } else { abbreviate(&all) }
}

fn endpoints(object: &Value) -> String {
    let all: Vec<String> = object
        .items("endpoints")
        .iter()
        .flat_map(|endpoint| endpoint.items("addresses"))
        .filter_map(|address| address.as_str().map(str::to_owned))
        .collect();
    if all.is_empty() { "<unset>".to_owned() } else { abbreviate(&all) }
}

//! EndpointSlices.
//!
//! Upstream: pkg/registry/discovery/endpointslice, printEndpointSlice

use api::field::{Errors, Path};
use serde_json::Value;

use crate::check;
use crate::column::{self, text};
use crate::core::endpoints::abbreviate;
use crate::core::service::non_special_ip;
use crate::identifier;
use crate::metadata::immutable_text;
use crate::pod_spec::container::protocol;
use crate::resource::{Context, Resource};
use crate::rules::{Generation, Rules};
use crate::tree::{Tree, same};

/// Rules and columns of EndpointSlices.
pub fn build(resource: &mut Resource) {
    resource.strategy = Rules {
        default,
        update,
        generation: Generation::Fields(&["endpoints", "ports", "addressType"]),
        validate: |_, object, errors| validate(object, errors),
        validate_update: |_, new, old, errors| {
            validate(new, errors);
            immutable_text(new.text("addressType"), old.text("addressType"), &Path::new("addressType"), errors);
        },
        ..Rules::GENERIC
    }
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

/// Upstream: maxEndpoints, maxAddresses, maxPorts
const MAX_ENDPOINTS: usize = 1000;
const MAX_ADDRESSES: usize = 100;
const MAX_PORTS: usize = 20000;

fn validate(object: &Value, errors: &mut Errors) {
    let kind = object.text("addressType");
    match kind {
        "IPv4" | "IPv6" | "FQDN" => {}
        "" => errors.required(&Path::new("addressType"), ""),
        other => errors.not_supported(&Path::new("addressType"), other, &["FQDN", "IPv4", "IPv6"]),
    }
    let path = Path::new("endpoints");
    let endpoints = object.items("endpoints");
    if endpoints.len() > MAX_ENDPOINTS {
        errors.too_many(&path, endpoints.len(), MAX_ENDPOINTS);
        return;
    }
    for (index, endpoint) in endpoints.iter().enumerate() {
        let path = path.index(index);
        let at = path.child("addresses");
        let addresses = endpoint.items("addresses");
        if addresses.is_empty() {
            errors.required(&at, "must contain at least 1 address");
        } else if addresses.len() > MAX_ADDRESSES {
            errors.too_many(&at, addresses.len(), MAX_ADDRESSES);
        }
        for (index, address) in addresses.iter().enumerate() {
            self::address(kind, address.as_str().unwrap_or(""), &at.index(index), errors);
        }
        if endpoint.has("nodeName") {
            check::subdomain(endpoint.text("nodeName"), &path.child("nodeName"), errors);
        }
        for (key, value) in endpoint.entries("deprecatedTopology") {
            check::qualified(key, &path.child("deprecatedTopology"), errors);
            let value = value.as_str().unwrap_or("");
            check::each(identifier::label_value(value), value, &path.child("deprecatedTopology"), errors);
        }
        if endpoint.has("hostname") {
            check::label_name(endpoint.text("hostname"), &path.child("hostname"), errors);
        }
    }
    slice_ports(object, errors);
}

fn address(kind: &str, text: &str, path: &Path, errors: &mut Errors) {
    if kind == "FQDN" {
        check::subdomain(text, path, errors);
        return;
    }
    if kind != "IPv4" && kind != "IPv6" {
        return;
    }
    let messages = identifier::ip(text);
    if !messages.is_empty() {
        check::each(messages, text, path, errors);
        return;
    }
    if (kind == "IPv6") != text.contains(':') {
        errors.invalid(path, text, format!("must be an {kind} address"));
    }
    non_special_ip(text, path, errors);
}

fn slice_ports(object: &Value, errors: &mut Errors) {
    let path = Path::new("ports");
    let ports = object.items("ports");
    if ports.len() > MAX_PORTS {
        errors.too_many(&path, ports.len(), MAX_PORTS);
        return;
    }
    let mut names = Vec::new();
    for (index, port) in ports.iter().enumerate() {
        let path = path.index(index);
        let name = port.text("name");
        if !name.is_empty() {
            check::label_name(name, &path.child("name"), errors);
        }
        if names.contains(&name) {
            errors.duplicate(&path.child("name"), name);
        } else {
            names.push(name);
        }
        protocol(port.text("protocol"), &path.child("protocol"), errors);
        if port.has("appProtocol") {
            check::qualified(port.text("appProtocol"), &path.child("appProtocol"), errors);
        }
    }
}

//! Endpoints.
//!
//! Upstream: pkg/registry/core/endpoint, formatEndpoints

use api::field::{Errors, Path};
use serde_json::Value;

use crate::check;
use crate::column::{self, text};
use crate::core::service::non_special_ip;
use crate::identifier;
use crate::pod_spec::container::protocol;
use crate::resource::Resource;
use crate::rules::Rules;
use crate::tree::Tree;

/// Rules and columns of Endpoints.
pub fn build(resource: &mut Resource) {
    resource.strategy = Rules {
        default: |object| {
            for subset in object.items_mut("subsets") {
                for port in subset.items_mut("ports") {
                    port.fill_text("protocol", "TCP");
                }
            }
        },
        create_on_update: true,
        validate: |_, object, errors| validate(object, errors),
        validate_update: |_, new, _, errors| validate(new, errors),
        ..Rules::GENERIC
    }
    .strategy();
    resource.deprecation = Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice");
    resource.columns = vec![
        column::name(),
        text(
            "Endpoints",
            "The set of all endpoints is the union of all subsets. Addresses are placed into subsets according to the IPs they share.",
            |object, _| format(object).into(),
        ),
        column::age(),
    ];
}

/// Most addresses shown before `+ n more...`.
const SHOWN: usize = 3;

/// A list cut after three with a count of the rest.
pub fn abbreviate(all: &[String]) -> String {
    let head = all[..all.len().min(SHOWN)].join(",");
    if all.len() > SHOWN { format!("{head} + {} more...", all.len() - SHOWN) } else { head }
}

fn format(object: &Value) -> String {
    if object.items("subsets").is_empty() {
        return "<none>".to_owned();
    }
    let mut all = Vec::new();
    for subset in object.items("subsets") {
        let ports = subset.items("ports");
        for address in subset.items("addresses") {
            if ports.is_empty() {
                all.push(address.text("ip").to_owned());
            }
        }
        for port in ports {
            for address in subset.items("addresses") {
                let ip = address.text("ip");
                let ip = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
                all.push(format!("{ip}:{}", port.int("port").unwrap_or(0)));
            }
        }
    }
    if all.is_empty() { "<none>".to_owned() } else { abbreviate(&all) }
}

fn validate(object: &Value, errors: &mut Errors) {
    for (index, subset) in object.items("subsets").iter().enumerate() {
        let path = Path::new("subsets").index(index);
        if subset.items("addresses").is_empty() && subset.items("notReadyAddresses").is_empty() {
            errors.required(&path, "must specify `addresses` or `notReadyAddresses`");
        }
        for key in ["addresses", "notReadyAddresses"] {
            for (index, address) in subset.items(key).iter().enumerate() {
                let path = path.child(key).index(index);
                let ip = address.text("ip");
                check::each(identifier::ip(ip), ip, &path.child("ip"), errors);
                if !address.text("hostname").is_empty() {
                    check::label_name(address.text("hostname"), &path.child("hostname"), errors);
                }
                if address.has("nodeName") {
                    check::subdomain(address.text("nodeName"), &path.child("nodeName"), errors);
                }
                non_special_ip(ip, &path.child("ip"), errors);
            }
        }
        let ports = subset.items("ports");
        for (index, port) in ports.iter().enumerate() {
            let path = path.child("ports").index(index);
            let name = port.text("name");
            if ports.len() > 1 && name.is_empty() {
                errors.required(&path.child("name"), "");
            } else if !name.is_empty() {
                check::label_name(name, &path.child("name"), errors);
            }
            let number = port.int("port").unwrap_or(0);
            check::each(identifier::port_number(number), number, &path.child("port"), errors);
            protocol(port.text("protocol"), &path.child("protocol"), errors);
            if port.has("appProtocol") {
                check::qualified(port.text("appProtocol"), &path.child("appProtocol"), errors);
            }
        }
    }
}

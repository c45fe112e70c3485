//! Endpoints.
//!
//! Upstream: pkg/registry/core/endpoint, formatEndpoints

use serde_json::Value;

use crate::column::{self, text};
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
        ..Rules::GENERIC
    }
    .strategy();
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

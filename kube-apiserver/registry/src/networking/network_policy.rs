//! NetworkPolicies.

use api::field::{Errors, Path};
use serde_json::{Value, json};

use crate::check;
use crate::column::{self, text};
use crate::identifier;
use crate::resource::Resource;
use crate::rules::{Rules, SPEC};
use crate::tree::Tree;

/// Rules and columns of NetworkPolicies.
pub fn build(resource: &mut Resource) {
    resource.strategy = Rules {
        default,
        generation: SPEC,
        validate: |_, object, errors| validate(object, errors),
        validate_update: |_, new, _, errors| validate(new, errors),
        ..Rules::GENERIC
    }
    .strategy();
    resource.columns = vec![
        column::name(),
        text("Pod-Selector", "PodSelector for the NetworkPolicy", |object, _| {
            column::selector(object.path("spec.podSelector")).into()
        }),
        column::age(),
    ];
}

fn default(object: &mut Value) {
    let spec = object.child("spec");
    spec.fill("podSelector", json!({}));
    for key in ["ingress", "egress"] {
        for rule in spec.items_mut(key) {
            for port in rule.items_mut("ports") {
                port.fill("protocol", "TCP");
            }
        }
    }
    if spec.items("policyTypes").is_empty() {
        let types = if spec.items("egress").is_empty() { json!(["Ingress"]) } else { json!(["Ingress", "Egress"]) };
        spec.set("policyTypes", types);
    }
}

fn validate(object: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let spec = object.at("spec");
    check::label_selector(spec.at("podSelector"), &path.child("podSelector"), errors);
    for (key, peers) in [("ingress", "from"), ("egress", "to")] {
        for (index, rule) in spec.items(key).iter().enumerate() {
            let path = path.child(key).index(index);
            for (index, port) in rule.items("ports").iter().enumerate() {
                self::port(port, &path.child("ports").index(index), errors);
            }
            for (index, peer) in rule.items(peers).iter().enumerate() {
                self::peer(peer, &path.child(peers).index(index), errors);
            }
        }
    }
    let types = spec.items("policyTypes");
    let at = path.child("policyTypes");
    if types.len() > 2 {
        errors.invalid(&at, types.to_vec(), "may not specify more than two policyTypes");
        return;
    }
    for (index, kind) in types.iter().enumerate() {
        if kind != "Ingress" && kind != "Egress" {
            errors.not_one_of(&at.index(index), kind.clone(), &["Ingress", "Egress"]);
        }
    }
}

fn port(port: &Value, path: &Path, errors: &mut Errors) {
    let protocol = port.text("protocol");
    if port.has("protocol") && !matches!(protocol, "TCP" | "UDP" | "SCTP") {
        errors.not_one_of(&path.child("protocol"), protocol, &["TCP", "UDP", "SCTP"]);
    }
    let end = port.int("endPort");
    let at = path.child("endPort");
    match port.at("port") {
        Value::Null => {
            if let Some(end) = end {
                errors.invalid(&at, end, "may not be specified when `port` is not specified");
            }
        }
        Value::String(name) => {
            if let Some(end) = end {
                errors.invalid(&at, end, "may not be specified when `port` is non-numeric");
            }
            check::each(identifier::port_name(name), name.as_str(), &path.child("port"), errors);
        }
        number => {
            let number = number.as_i64().unwrap_or(0);
            check::each(identifier::port_number(number), number, &path.child("port"), errors);
            if let Some(end) = end {
                if end < number {
                    errors.invalid(&at, number, "must be greater than or equal to `port`");
                }
                check::each(identifier::port_number(end), end, &at, errors);
            }
        }
    }
}

fn peer(peer: &Value, path: &Path, errors: &mut Errors) {
    let mut count = 0;
    for key in ["podSelector", "namespaceSelector"] {
        if peer.has(key) {
            count += 1;
            check::label_selector(peer.at(key), &path.child(key), errors);
        }
    }
    if peer.has("ipBlock") {
        count += 1;
        block(peer.at("ipBlock"), &path.child("ipBlock"), errors);
    }
    if count == 0 {
        errors.required(path, "must specify a peer");
    } else if count > 1 && peer.has("ipBlock") {
        errors.forbidden(path, "may not specify both ipBlock and another peer");
    }
}

fn block(block: &Value, path: &Path, errors: &mut Errors) {
    let cidr = block.text("cidr");
    if cidr.is_empty() {
        errors.required(&path.child("cidr"), "");
        return;
    }
    let messages = identifier::cidr(cidr);
    if !messages.is_empty() {
        check::each(messages, cidr, &path.child("cidr"), errors);
        return;
    }
    let whole = cidr.parse::<ipnet::IpNet>().ok();
    for (index, except) in block.items("except").iter().enumerate() {
        let (except, path) = (except.as_str().unwrap_or(""), path.child("except").index(index));
        match (whole, except.parse::<ipnet::IpNet>().ok()) {
            (Some(whole), Some(part)) => {
                if !whole.contains(&part.addr()) || whole.prefix_len() >= part.prefix_len() {
                    errors.invalid(&path, except, "must be a strict subset of `cidr`");
                }
            }
            _ => check::each(identifier::cidr(except), except, &path, errors),
        }
    }
}

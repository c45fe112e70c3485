//! Ingresses.
//!
//! Upstream: pkg/registry/networking/ingress, printIngress

use serde_json::{Value, json};

use crate::column::{self, text};
use crate::core::endpoints::abbreviate;
use crate::core::service::load_balancer;
use crate::resource::Resource;
use crate::rules::{Rules, SPEC};
use crate::tree::Tree;

/// Rules and columns of Ingresses.
pub fn build(resource: &mut Resource) {
    resource.strategy = Rules {
        default: |object| object.child("status").fill("loadBalancer", json!({})),
        create: |_, object| object.set("status", json!({"loadBalancer": {}})),
        generation: SPEC,
        status: true,
        ..Rules::GENERIC
    }
    .strategy();
    resource.columns = vec![
        column::name(),
        text("Class", "The name of the IngressClass resource that should be used for additional configuration", |object, _| {
            match object.at("spec").text("ingressClassName") {
                "" => "<none>".into(),
                class => class.into(),
            }
        }),
        text("Hosts", "Hosts that incoming requests are matched against before the ingress rule", |object, _| {
            hosts(object).into()
        }),
        text("Address", "Address is a list containing ingress points for the load-balancer", |object, _| {
            load_balancer(object.path("status.loadBalancer")).join(",").into()
        }),
        text("Ports", "Ports of TLS configurations that open", |object, _| {
            if object.at("spec").items("tls").is_empty() { "80".into() } else { "80, 443".into() }
        }),
        column::age(),
    ];
}

fn hosts(object: &Value) -> String {
    let all: Vec<String> = object
        .at("spec")
        .items("rules")
        .iter()
        .map(|rule| rule.text("host").to_owned())
        .filter(|host| !host.is_empty())
        .collect();
    if all.is_empty() { "*".to_owned() } else { abbreviate(&all) }
}

//! NetworkPolicies.

use serde_json::{Value, json};

use crate::column::{self, text};
use crate::resource::Resource;
use crate::rules::{Rules, SPEC};
use crate::tree::Tree;

/// Rules and columns of NetworkPolicies.
pub fn build(resource: &mut Resource) {
    resource.strategy = Rules { default, generation: SPEC, ..Rules::GENERIC }.strategy();
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

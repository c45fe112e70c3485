//! The flowcontrol.apiserver.k8s.io group.
//!
//! Upstream: pkg/apis/flowcontrol/v1/defaults.go

use serde_json::{Value, json};

use crate::column::{self, integer, text};
use crate::resource::Resource;
use crate::rules::{Rules, SPEC};
use crate::tree::Tree;

/// FlowSchemas.
pub fn flow_schema(resource: &mut Resource) {
    resource.strategy = Rules {
        default: |object| object.child("spec").fill_int("matchingPrecedence", 1000),
        create: |_, object| object.set("status", json!({})),
        generation: SPEC,
        status: true,
        ..Rules::GENERIC
    }
    .strategy();
    resource.columns = vec![
        column::name(),
        text("PriorityLevel", "The PriorityLevelConfiguration that requests go to.", |object, _| {
            object.path("spec.priorityLevelConfiguration").text("name").into()
        }),
        integer("MatchingPrecedence", "Lower values are tried first.", |object, _| {
            object.at("spec").int("matchingPrecedence").unwrap_or(0).into()
        }),
        text("DistinguisherMethod", "How flows are told apart.", |object, _| {
            match object.path("spec.distinguisherMethod").text("type") {
                "" => "<none>".into(),
                kind => kind.into(),
            }
        }),
        column::age(),
        text("MissingPL", "Whether the priority level is missing.", |object, _| {
            let dangling = object.at("status").items("conditions").iter().find(|c| c.text("type") == "Dangling");
            dangling.map_or("?", |condition| condition.text("status")).into()
        }),
    ];
}

/// PriorityLevelConfigurations.
pub fn priority_level(resource: &mut Resource) {
    resource.strategy =
        Rules { default, create: |_, object| object.set("status", json!({})), generation: SPEC, status: true, ..Rules::GENERIC }
            .strategy();
    resource.columns = vec![
        column::name(),
        text("Type", "Exempt or Limited.", |object, _| object.at("spec").text("type").into()),
        text("NominalConcurrencyShares", "Share of the server's concurrency.", |object, _| {
            let part = if object.at("spec").text("type") == "Exempt" { "spec.exempt" } else { "spec.limited" };
            match object.path(part).int("nominalConcurrencyShares") {
                Some(shares) => shares.into(),
                None => "<none>".into(),
            }
        }),
        text("Queues", "Number of queues.", |object, _| queue(object, "queues")),
        text("HandSize", "Queues dealt to a flow.", |object, _| queue(object, "handSize")),
        text("QueueLengthLimit", "Requests a queue may hold.", |object, _| queue(object, "queueLengthLimit")),
        column::age(),
    ];
}

fn queue(object: &Value, field: &str) -> Value {
    object.path("spec.limited.limitResponse.queuing").int(field).map_or_else(|| "<none>".into(), Value::from)
}

fn default(object: &mut Value) {
    let spec = object.child("spec");
    if spec.text("type") == "Exempt" && !spec.has("exempt") {
        spec.set("exempt", json!({}));
    }
    if let Some(exempt) = spec.child_if("exempt") {
        exempt.fill("nominalConcurrencyShares", 0);
        exempt.fill("lendablePercent", 0);
    }
    if let Some(limited) = spec.child_if("limited") {
        limited.fill("nominalConcurrencyShares", 30);
        limited.fill("lendablePercent", 0);
        if let Some(queuing) = limited.child("limitResponse").child_if("queuing") {
            queuing.fill_int("handSize", 8);
            queuing.fill_int("queues", 64);
            queuing.fill_int("queueLengthLimit", 50);
        }
    }
}

//! The apiregistration.k8s.io group.
//!
//! Upstream: kube-aggregator/pkg/registry/apiservice

use serde_json::{Value, json};

use crate::column::{self, text};
use crate::resource::{Context, Resource};
use crate::rules::Rules;
use crate::tree::Tree;

/// APIServices.
pub fn api_service(resource: &mut Resource) {
    resource.strategy = Rules { default, create, status: true, ..Rules::GENERIC }.strategy();
    resource.columns = vec![
        column::name(),
        text("Service", "The reference to the service that hosts this API endpoint.", |object, _| {
            let service = object.path("spec.service");
            if service.is_null() {
                "Local".into()
            } else {
                format!("{}/{}", service.text("namespace"), service.text("name")).into()
            }
        }),
        text("Available", "Whether this service is available.", |object, _| {
            let Some(condition) = object.at("status").items("conditions").iter().find(|c| c.text("type") == "Available") else {
                return "Unknown".into();
            };
            match condition.text("status") {
                "True" => "True".into(),
                status => format!("{status} ({})", condition.text("reason")).into(),
            }
        }),
        column::age(),
    ];
}

fn default(object: &mut Value) {
    if let Some(service) = object.child("spec").child_if("service") {
        service.fill("port", 443);
    }
}

/// Local API groups are available from the start.
fn create(context: &Context, object: &mut Value) {
    let status = if object.at("spec").has("service") {
        json!({})
    } else {
        json!({"conditions": [{
            "type": "Available", "status": "True", "lastTransitionTime": context.now,
            "reason": "Local", "message": "Local APIServices are always available",
        }]})
    };
    object.set("status", status);
}

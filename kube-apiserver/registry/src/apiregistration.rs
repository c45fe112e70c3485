//! The apiregistration.k8s.io group.
//!
//! Upstream: kube-aggregator/pkg/registry/apiservice

use api::field::{Errors, Path};
use serde_json::{Value, json};

use crate::check;
use crate::column::{self, text};
use crate::identifier;
use crate::resource::{Context, Resource};
use crate::rules::Rules;
use crate::tree::Tree;

/// APIServices.
pub fn api_service(resource: &mut Resource) {
    resource.strategy = Rules {
        default,
        create,
        validate: |_, object, errors| validate(object, errors),
        validate_update: |_, new, _, errors| validate(new, errors),
        name: identifier::name_is_free,
        status: true,
        unconditional_update: false,
        ..Rules::GENERIC
    }
    .strategy();
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

fn validate(object: &Value, errors: &mut Errors) {
    let spec = object.at("spec");
    let path = Path::new("spec");
    let (group, version, name) = (spec.text("group"), spec.text("version"), object.at("metadata").text("name"));
    let wanted = format!("{version}.{group}");
    if !name.is_empty() && name != wanted {
        errors.invalid(&Path::new("metadata.name"), name, format!("must be `spec.version+\".\"+spec.group`: {wanted:?}"));
    }
    if group.is_empty() {
        if version != "v1" {
            errors.required(&path.child("group"), "only v1 may have an empty group and it better be legacy kube");
        }
    } else {
        check::subdomain(group, &path.child("group"), errors);
    }
    check::each(identifier::dns1035_label(version), version, &path.child("version"), errors);
    for (field, most) in [("groupPriorityMinimum", 20000), ("versionPriority", 1000)] {
        let number = spec.int(field).unwrap_or(0);
        if number <= 0 || number > most {
            errors.invalid(&path.child(field), number, format!("must be positive and less than {most}"));
        }
    }
    let service = spec.at("service");
    if service.is_null() {
        if spec.truth("insecureSkipTLSVerify") {
            errors.invalid(&path.child("insecureSkipTLSVerify"), true, "local APIServices may not have insecureSkipTLSVerify");
        }
        return;
    }
    for field in ["namespace", "name"] {
        if service.text(field).is_empty() {
            errors.required(&path.child("service").child(field), "");
        }
    }
    let port = service.int("port").unwrap_or(443);
    for message in identifier::port_number(port) {
        errors.invalid(&path.child("service.port"), port, format!("port is not valid: {message}"));
    }
    if spec.truth("insecureSkipTLSVerify") && !spec.text("caBundle").is_empty() {
        errors.invalid(&path.child("insecureSkipTLSVerify"), true, "may not be true if caBundle is present");
    }
}

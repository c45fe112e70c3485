//! ResourceQuotas.
//!
//! Upstream: pkg/registry/core/resourcequota, printResourceQuota

use api::field::{Errors, Path};
use serde_json::Value;

use crate::column::{self, text};
use crate::pod_spec::defaults::resource_list;
use crate::pod_spec::resources;
use crate::resource::Resource;
use crate::rules::Rules;
use crate::tree::{Tree, same};

/// Rules and columns of ResourceQuotas.
pub fn build(resource: &mut Resource) {
    resource.strategy = Rules {
        default: |object| {
            if let Some(hard) = object.child("spec").child_if("hard") {
                resource_list(hard);
            }
        },
        status: true,
        validate: |_, object, errors| validate(object, errors),
        validate_update: |_, new, old, errors| {
            validate(new, errors);
            if !same(new.path("spec.scopes"), old.path("spec.scopes")) {
                errors.invalid(&Path::new("spec.scopes"), new.path("spec.scopes").clone(), "field is immutable");
            }
        },
        ..Rules::GENERIC
    }
    .strategy();
    resource.columns = vec![
        column::name(),
        text("Request", "Request represents a minimum amount of cpu/memory that a container may consume.", |object, _| {
            usage(object, false).into()
        }),
        text(
            "Limit",
            "Limits control the maximum amount of cpu/memory that a container may use independent of contention on the node.",
            |object, _| usage(object, true).into(),
        ),
        column::age(),
    ];
}

fn usage(object: &Value, limits: bool) -> String {
    let hard = object.path("status.hard");
    let mut names: Vec<&String> = hard.as_object().map(|map| map.keys().collect()).unwrap_or_default();
    names.sort();
    names
        .into_iter()
        .filter(|name| name.starts_with("limits") == limits)
        .map(|name| {
            let used = match object.path("status.used").text(name) {
                "" => "0",
                used => used,
            };
            format!("{name}: {used}/{}", hard.text(name))
        })
        .collect::<Vec<_>>()
        .join(", ")
}

const SCOPES: &[&str] = &[
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];

fn validate(object: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let spec = object.at("spec");
    for (name, amount) in spec.entries("hard") {
        let path = path.child("hard").key(name);
        resources::quota_name(name, &path, errors);
        resources::amount(name, amount, &path, errors);
    }
    for scope in spec.items("scopes") {
        let scope = scope.as_str().unwrap_or("");
        if !SCOPES.contains(&scope) {
            errors.invalid(&path.child("scopes"), spec.at("scopes").clone(), "unsupported scope");
        }
    }
}

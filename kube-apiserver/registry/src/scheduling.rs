//! The scheduling.k8s.io group.

use api::field::{Errors, Path};
use serde_json::Value;

use crate::column::{self, boolean, integer, text};
use crate::resource::Resource;
use crate::rules::{Generation, Rules};
use crate::tree::Tree;

/// PriorityClasses.
pub fn priority_class(resource: &mut Resource) {
    resource.strategy = Rules {
        default: |object| object.fill("preemptionPolicy", "PreemptLowerPriority"),
        validate: |_, object, errors| validate(object, errors),
        validate_update: |_, new, old, errors| {
            if new.int("value").unwrap_or(0) != old.int("value").unwrap_or(0) {
                errors.forbidden(&Path::new("value"), "may not be changed in an update.");
            }
            if new.at("preemptionPolicy") != old.at("preemptionPolicy") {
                errors.invalid(&Path::new("preemptionPolicy"), new.at("preemptionPolicy").clone(), "field is immutable");
            }
        },
        generation: Generation::Once,
        ..Rules::GENERIC
    }
    .strategy();
    resource.columns = vec![
        column::name(),
        integer("Value", "value represents the integer value of this priority class.", |object, _| {
            object.int("value").unwrap_or(0).into()
        }),
        boolean(
            "Global-Default",
            "globalDefault specifies whether this PriorityClass should be considered as the default priority for pods that do not have any priority class.",
            |object, _| object.truth("globalDefault").into(),
        ),
        column::age(),
        text("PreemptionPolicy", "preemptionPolicy is the Policy for preempting pods with lower priority.", |object, _| {
            object.text("preemptionPolicy").into()
        }),
    ];
}

/// The highest value that users may give. Upstream: HighestUserDefinablePriority
const HIGHEST: i64 = 1_000_000_000;
const SYSTEM: &[(&str, i64)] = &[("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];

fn validate(object: &Value, errors: &mut Errors) {
    let name = object.at("metadata").text("name");
    let value = object.int("value").unwrap_or(0);
    if name.starts_with("system-") {
        let known = SYSTEM.iter().any(|(system, number)| *system == name && *number == value);
        if !known {
            errors.forbidden(
                &Path::new("metadata.name"),
                format!("priority class names with 'system-' prefix are reserved for system use only. error: {name} is not a known system priority class"),
            );
        }
    } else if value > HIGHEST {
        errors.forbidden(&Path::new("value"), format!("maximum allowed value of a user defined priority is {HIGHEST}"));
    }
    match object.text("preemptionPolicy") {
        "PreemptLowerPriority" | "Never" => {}
        "" => errors.required(&Path::new("preemptionPolicy"), ""),
        other => errors.not_one_of(&Path::new("preemptionPolicy"), other, &["PreemptLowerPriority", "Never"]),
    }
}

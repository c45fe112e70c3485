//! DaemonSets.
//!
//! Upstream: pkg/registry/apps/daemonset, SetDefaults_DaemonSet

use api::field::{Errors, Path};
use serde_json::{Value, json};

use crate::check;
use crate::column::{self, integer, text, wide};
use crate::pod_spec::{defaults, template, warnings};
use crate::resource::{Context, Resource};
use crate::rules::{Rules, SPEC};
use crate::tree::{Tree, same};

/// Counts changes of the template; old clients read it. Upstream: apps.DeprecatedTemplateGeneration
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

/// Rules and columns of DaemonSets.
pub fn build(resource: &mut Resource) {
    resource.strategy = Rules {
        default,
        create,
        update,
        validate: |_, object, errors| validate(object, errors),
        validate_update: |_, new, old, errors| {
            check::immutable_selector(new.path("spec.selector"), old.path("spec.selector"), &Path::new("spec.selector"), errors);
            validate(new, errors);
        },
        warnings: |_, new, _| warnings::pod(new.path("spec.template"), "spec.template"),
        generation: SPEC,
        status: true,
        ..Rules::GENERIC
    }
    .strategy();
    resource.columns = vec![
        column::name(),
        integer(
            "Desired",
            "The total number of nodes that should be running the daemon pod (including nodes correctly running the daemon pod).",
            |object, _| count(object, "desiredNumberScheduled"),
        ),
        integer(
            "Current",
            "The number of nodes that are running at least 1 daemon pod and are supposed to run the daemon pod.",
            |object, _| count(object, "currentNumberScheduled"),
        ),
        integer(
            "Ready",
            "numberReady is the number of nodes that should be running the daemon pod and have one or more of the daemon pod running with a Ready Condition.",
            |object, _| count(object, "numberReady"),
        ),
        integer("Up-to-date", "The total number of nodes that are running updated daemon pod", |object, _| {
            count(object, "updatedNumberScheduled")
        }),
        integer(
            "Available",
            "The number of nodes that should be running the daemon pod and have one or more of the daemon pod running and available",
            |object, _| count(object, "numberAvailable"),
        ),
        text("Node Selector", "NodeSelector is a selector which must be true for the pod to fit on a node.", |object, _| {
            column::labels(object.path("spec.template.spec.nodeSelector")).into()
        }),
        column::age(),
        wide(text("Containers", "Names of each container in the template.", |object, _| {
            column::container_names(object.path("spec.template.spec")).into()
        })),
        wide(text("Images", "Images referenced by each container in the template.", |object, _| {
            column::container_images(object.path("spec.template.spec")).into()
        })),
        wide(text("Selector", "A label query over pods that are managed by the daemon set.", |object, _| {
            column::selector(object.path("spec.selector")).into()
        })),
    ];
}

fn count(object: &Value, field: &str) -> Value {
    object.at("status").int(field).unwrap_or(0).into()
}

fn default(object: &mut Value) {
    // Upstream's conversion always writes the annotation, so whoever writes the object owns it; create and update set the count.
    object.child("metadata").child("annotations").fill(TEMPLATE_GENERATION, "0");
    let spec = object.child("spec");
    let strategy = spec.child("updateStrategy");
    strategy.fill_text("type", "RollingUpdate");
    if strategy.text("type") == "RollingUpdate" {
        let rolling = strategy.child("rollingUpdate");
        rolling.fill("maxUnavailable", 1);
        rolling.fill("maxSurge", 0);
    }
    spec.fill("revisionHistoryLimit", 10);
    defaults::template(spec);
    let status = object.child("status");
    for field in ["currentNumberScheduled", "numberMisscheduled", "desiredNumberScheduled", "numberReady"] {
        status.fill(field, 0);
    }
}

fn create(_context: &Context, object: &mut Value) {
    object.set(
        "status",
        json!({"currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0}),
    );
    object.child("metadata").child("annotations").set(TEMPLATE_GENERATION, "1");
}

fn update(_context: &Context, new: &mut Value, old: &Value) {
    let before: i64 = old.at("metadata").at("annotations").text(TEMPLATE_GENERATION).parse().unwrap_or(0);
    let changed = !same(new.path("spec.template"), old.path("spec.template"));
    let now = before + i64::from(changed);
    new.child("metadata").child("annotations").set(TEMPLATE_GENERATION, now.to_string());
}

fn validate(object: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let spec = object.at("spec");
    let at = path.child("template");
    let selector = spec.at("selector");
    check::label_selector(selector, &path.child("selector"), errors);
    template::matches(selector, spec.at("template"), &at, errors);
    if !selector.is_null() && check::is_empty_selector(selector) {
        check::invalid_selector(selector, &path.child("selector"), "empty selector is invalid for daemonset", errors);
    }
    template::template(spec.at("template"), &at, errors);
    template::always_restarted(spec.at("template"), "DaemonSet", &at, errors);
    check::non_negative_field(spec, "minReadySeconds", &path, errors);
    strategy(spec.at("updateStrategy"), &path.child("updateStrategy"), errors);
    check::non_negative_field(spec, "revisionHistoryLimit", &path, errors);
}

fn strategy(strategy: &Value, path: &Path, errors: &mut Errors) {
    let rolling = strategy.at("rollingUpdate");
    let at = path.child("rollingUpdate");
    match strategy.text("type") {
        "OnDelete" => {}
        "RollingUpdate" => {
            if rolling.is_null() {
                errors.required(&at, "");
                return;
            }
            for field in ["maxUnavailable", "maxSurge"] {
                check::int_or_percent(rolling.at(field), &at.child(field), errors);
                check::at_most_100_percent(rolling.at(field), &at.child(field), errors);
            }
            let (down, up) = (check::amount_of(rolling.at("maxUnavailable")) != 0, check::amount_of(rolling.at("maxSurge")) != 0);
            if down && up {
                errors.invalid(
                    &at.child("maxSurge"),
                    rolling.at("maxSurge").clone(),
                    "may not be set when maxUnavailable is non-zero",
                );
            } else if !down && !up {
                errors.required(&at.child("maxUnavailable"), "cannot be 0 when maxSurge is 0");
            }
        }
        _ => {
            let shown = crate::internal::compact("DeploymentStrategy", strategy);
            errors.add_shown(
                api::field::ErrorType::NotSupported,
                path,
                shown,
                "supported values: \"RollingUpdate\", \"OnDelete\"",
            );
        }
    }
}

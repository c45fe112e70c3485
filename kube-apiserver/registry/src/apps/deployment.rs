//! Deployments.
//!
//! Upstream: pkg/registry/apps/deployment, SetDefaults_Deployment

use api::field::{ErrorType, Errors, Path};
use serde_json::{Value, json};

use crate::check;
use crate::column::{self, text, wide};
use crate::pod_spec::{defaults, template, warnings};
use crate::resource::Resource;
use crate::rules::{Generation, Rules};
use crate::tree::{Tree, same};

/// Rules and columns of Deployments.
pub fn build(resource: &mut Resource) {
    resource.strategy = Rules {
        default,
        create: |_, object| object.set("status", json!({})),
        update: |_, new, old| {
            // Annotations count: rollouts write their revision there.
            let annotations = |object: &Value| object.at("metadata").at("annotations").clone();
            if !same(&annotations(new), &annotations(old)) && same(new.at("spec"), old.at("spec")) {
                let before = old.at("metadata").int("generation").unwrap_or(0);
                new.child("metadata").set("generation", before + 1);
            }
        },
        status_update: |_, new, old| new.child("metadata").keep("labels", old.at("metadata")),
        validate: |_, object, errors| validate(object, errors),
        validate_update: |_, new, old, errors| {
            validate(new, errors);
            check::immutable_selector(new.path("spec.selector"), old.path("spec.selector"), &Path::new("spec.selector"), errors);
        },
        warnings: |_, new, _| warnings::pod(new.path("spec.template"), "spec.template"),
        generation: Generation::Fields(&["spec"]),
        status: true,
        ..Rules::GENERIC
    }
    .strategy();
    resource.columns = vec![
        column::name(),
        text("Ready", "Number of the pod with ready state", |object, _| {
            format!(
                "{}/{}",
                object.at("status").int("readyReplicas").unwrap_or(0),
                object.at("spec").int("replicas").unwrap_or(0)
            )
            .into()
        }),
        text(
            "Up-to-date",
            "Total number of non-terminated pods targeted by this deployment that have the desired template spec.",
            |object, _| object.at("status").int("updatedReplicas").unwrap_or(0).into(),
        ),
        text(
            "Available",
            "Total number of available non-terminating pods (ready for at least minReadySeconds) targeted by this deployment.",
            |object, _| object.at("status").int("availableReplicas").unwrap_or(0).into(),
        ),
        column::age(),
        wide(text("Containers", "Names of each container in the template.", |object, _| {
            column::container_names(object.path("spec.template.spec")).into()
        })),
        wide(text("Images", "Images referenced by each container in the template.", |object, _| {
            column::container_images(object.path("spec.template.spec")).into()
        })),
        wide(text("Selector", "Label selector for pods.", |object, _| column::selector(object.path("spec.selector")).into())),
    ];
}

fn default(object: &mut Value) {
    let spec = object.child("spec");
    spec.fill("replicas", 1);
    let strategy = spec.child("strategy");
    strategy.fill_text("type", "RollingUpdate");
    if strategy.text("type") == "RollingUpdate" {
        let rolling = strategy.child("rollingUpdate");
        rolling.fill("maxUnavailable", "25%");
        rolling.fill("maxSurge", "25%");
    }
    spec.fill("revisionHistoryLimit", 10);
    spec.fill("progressDeadlineSeconds", 600);
    defaults::template(spec);
}

fn validate(object: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let spec = object.at("spec");
    check::non_negative_field(spec, "replicas", &path, errors);
    super::selector_and_template(spec, "deployment", "invalid label selector", &path, errors);
    template::always_restarted(spec.at("template"), "ReplicaSet", &path.child("template"), errors);
    strategy(spec.at("strategy"), &path.child("strategy"), errors);
    check::non_negative_field(spec, "minReadySeconds", &path, errors);
    check::non_negative_field(spec, "revisionHistoryLimit", &path, errors);
    if let Some(seconds) = spec.int("progressDeadlineSeconds") {
        let path = path.child("progressDeadlineSeconds");
        check::non_negative(&seconds.into(), &path, errors);
        if seconds <= spec.int("minReadySeconds").unwrap_or(0) {
            errors.invalid(&path, seconds, "must be greater than minReadySeconds");
        }
    }
}

fn strategy(strategy: &Value, path: &Path, errors: &mut Errors) {
    let rolling = strategy.at("rollingUpdate");
    let at = path.child("rollingUpdate");
    match strategy.text("type") {
        "Recreate" => {
            if !rolling.is_null() {
                errors.forbidden(&at, "may not be specified when strategy `type` is 'Recreate'");
            }
        }
        "RollingUpdate" => {
            if rolling.is_null() {
                errors.required(&at, "this should be defaulted and never be nil");
                return;
            }
            for field in ["maxUnavailable", "maxSurge"] {
                check::int_or_percent(rolling.at(field), &at.child(field), errors);
            }
            if check::amount_of(rolling.at("maxUnavailable")) == 0 && check::amount_of(rolling.at("maxSurge")) == 0 {
                errors.invalid(
                    &at.child("maxUnavailable"),
                    rolling.at("maxUnavailable").clone(),
                    "may not be 0 when `maxSurge` is 0",
                );
            }
            check::at_most_100_percent(rolling.at("maxUnavailable"), &at.child("maxUnavailable"), errors);
        }
        _ => {
            let shown = crate::internal::compact("DeploymentStrategy", strategy);
            errors.add_shown(ErrorType::NotSupported, path, shown, "supported values: \"Recreate\", \"RollingUpdate\"");
        }
    }
}

//! StatefulSets.
//!
//! Upstream: pkg/registry/apps/statefulset, SetDefaults_StatefulSet

use api::field::{Errors, Path};
use serde_json::{Value, json};

use crate::check;
use crate::column::{self, text, wide};
use crate::core::persistent_volume_claim;
use crate::identifier;
use crate::pod_spec::{defaults, template, volume, warnings};
use crate::resource::Resource;
use crate::rules::{Rules, SPEC};
use crate::tree::{Tree, same};

/// Rules and columns of StatefulSets.
pub fn build(resource: &mut Resource) {
    resource.strategy = Rules {
        default,
        create: |_, object| object.set("status", json!({"replicas": 0, "availableReplicas": 0})),
        validate: |_, object, errors| {
            validate(object, errors);
            for (index, claim) in object.at("spec").items("volumeClaimTemplates").iter().enumerate() {
                let path = Path::new("spec.volumeClaimTemplates").index(index);
                volume::claim_spec(claim.at("spec"), &path.child("spec"), errors);
            }
            let service = object.at("spec").text("serviceName");
            if !service.is_empty() {
                check::label_name(service, &Path::new("spec.serviceName"), errors);
            }
        },
        validate_update: |_, new, old, errors| {
            validate(new, errors);
            validate_change(new, old, errors);
        },
        warnings: |_, new, _| warnings::pod(new.path("spec.template"), "spec.template"),
        name: identifier::name_is_dns_label,
        generation: SPEC,
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
        column::age(),
        wide(text("Containers", "Names of each container in the template.", |object, _| {
            column::container_names(object.path("spec.template.spec")).into()
        })),
        wide(text("Images", "Images referenced by each container in the template.", |object, _| {
            column::container_images(object.path("spec.template.spec")).into()
        })),
    ];
}

fn default(object: &mut Value) {
    let spec = object.child("spec");
    spec.fill_text("podManagementPolicy", "OrderedReady");
    let strategy = spec.child("updateStrategy");
    if strategy.text("type").is_empty() {
        strategy.set("type", "RollingUpdate");
        strategy.child("rollingUpdate").fill("partition", 0);
    } else if strategy.text("type") == "RollingUpdate" && strategy.has("rollingUpdate") {
        strategy.child("rollingUpdate").fill("partition", 0);
    }
    let retention = spec.child("persistentVolumeClaimRetentionPolicy");
    retention.fill_text("whenDeleted", "Retain");
    retention.fill_text("whenScaled", "Retain");
    spec.fill("replicas", 1);
    spec.fill("revisionHistoryLimit", 10);
    for claim in spec.items_mut("volumeClaimTemplates") {
        claim.fill_text("apiVersion", "v1");
        claim.fill_text("kind", "PersistentVolumeClaim");
        persistent_volume_claim::default(claim);
    }
    defaults::template(spec);
    let status = object.child("status");
    status.fill("replicas", 0);
    status.fill("availableReplicas", 0);
}

fn validate(object: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let spec = object.at("spec");
    match spec.text("podManagementPolicy") {
        "OrderedReady" | "Parallel" => {}
        "" => errors.required(&path.child("podManagementPolicy"), ""),
        other => errors.invalid(&path.child("podManagementPolicy"), other, "must be 'OrderedReady' or 'Parallel'"),
    }
    strategy(spec.at("updateStrategy"), &path.child("updateStrategy"), errors);
    for field in ["whenDeleted", "whenScaled"] {
        let path = path.child("persistentVolumeClaimRetentionPolicy").child(field);
        match spec.at("persistentVolumeClaimRetentionPolicy").text(field) {
            "Retain" | "Delete" => {}
            other => errors.not_one_of(&path, other, &["Retain", "Delete"]),
        }
    }
    check::non_negative_field(spec, "replicas", &path, errors);
    check::non_negative_field(spec, "minReadySeconds", &path, errors);
    if spec.has("ordinals") {
        check::non_negative_field(spec.at("ordinals"), "start", &path.child("ordinals"), errors);
    }
    let labels = spec.path("template.metadata.labels");
    let parsed = check::selects(spec.at("selector"), labels);
    let mut whole = api::field::Errors::new();
    super::selector_and_template(&with_claims(spec), "statefulset", "", &path, &mut whole);
    if !spec.at("selector").is_null() && parsed.is_some() {
        // Upstream looks at the template's labels on its own, after the selector, before it looks at the whole template.
        let mut twice = api::field::Errors::new();
        crate::metadata::validate_labels(labels, &path.child("template.labels"), &mut twice);
        let at = whole
            .0
            .iter()
            .position(|error| error.field.starts_with("spec.template") && error.field != "spec.template.metadata.labels");
        let at = at.unwrap_or(whole.0.len());
        whole.0.splice(at..at, twice.0);
    }
    errors.extend(whole);
    template::always_restarted(spec.at("template"), "StatefulSet", &path.child("template"), errors);
    check::non_negative_field(spec, "revisionHistoryLimit", &path, errors);
}

/// The spec with the claims' volumes in front of the template's own, as its pods will have them.
fn with_claims(spec: &Value) -> Value {
    let mut out = spec.clone();
    let claims: Vec<Value> = spec
        .items("volumeClaimTemplates")
        .iter()
        .map(|claim| {
            let name = claim.at("metadata").text("name");
            json!({"name": name, "persistentVolumeClaim": {"claimName": name}})
        })
        .collect();
    if !claims.is_empty() {
        let pod = out.child("template").child("spec");
        let names: Vec<String> = claims.iter().map(|claim| claim.text("name").to_owned()).collect();
        let own: Vec<Value> =
            pod.items("volumes").iter().filter(|volume| !names.iter().any(|name| name == volume.text("name"))).cloned().collect();
        pod.set("volumes", claims.into_iter().chain(own).collect::<Vec<_>>());
    }
    out
}

fn strategy(strategy: &Value, path: &Path, errors: &mut Errors) {
    let rolling = strategy.at("rollingUpdate");
    let at = path.child("rollingUpdate");
    match strategy.text("type") {
        "" => errors.required(path, ""),
        "OnDelete" => {
            if !rolling.is_null() {
                errors.invalid(&at, rolling.clone(), "only allowed for updateStrategy 'RollingUpdate'");
            }
        }
        "RollingUpdate" => {
            check::non_negative_field(rolling, "partition", &at, errors);
            if rolling.has("maxUnavailable") {
                let (value, at) = (rolling.at("maxUnavailable"), at.child("maxUnavailable"));
                check::int_or_percent(value, &at, errors);
                if check::amount_of(value) == 0 {
                    errors.invalid(&at, value.clone(), "cannot be 0");
                }
                check::at_most_100_percent(value, &at, errors);
            }
        }
        _ => {
            let shown = crate::internal::compact("StatefulSetUpdateStrategy", strategy);
            errors.add_shown(api::field::ErrorType::Invalid, path, shown, "must be 'RollingUpdate' or 'OnDelete'");
        }
    }
}

fn validate_change(new: &Value, old: &Value, errors: &mut Errors) {
    let mut kept = new.at("spec").clone();
    for field in [
        "replicas",
        "template",
        "updateStrategy",
        "minReadySeconds",
        "ordinals",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
    ] {
        kept.keep(field, old.at("spec"));
    }
    if !same(&kept, old.at("spec")) {
        errors.forbidden(&Path::new("spec"), "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden");
    }
}

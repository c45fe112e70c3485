//! Validation of Jobs.
//!
//! Upstream: pkg/apis/batch/validation

use api::field::{ErrorType, Errors, Path};
use serde_json::Value;

use super::failure_policy;
use crate::check;
use crate::identifier;
use crate::internal::compact;
use crate::metadata::immutable;
use crate::pod_spec::template;
use crate::tree::{Tree, same};

/// Pods of an indexed job at most at a time. Upstream: maxParallelismForIndexedJob
const MAX_INDEXED: i64 = 100_000;

pub(super) fn create(job: &Value, errors: &mut Errors) {
    generated_selector(job, errors);
    spec_with_selector(job, errors);
    let spec = job.at("spec");
    if spec.text("completionMode") == "Indexed"
        && let Some(completions) = spec.int("completions").filter(|completions| *completions > 0)
    {
        let name = job.at("metadata").text("name");
        let last = format!("{name}-{}", completions - 1);
        if !identifier::dns1123_label(&last).is_empty() {
            errors.invalid(
                &Path::new("metadata.name"),
                name,
                format!("will not able to create pod with invalid DNS label: {last}"),
            );
        }
    }
}

fn spec_with_selector(job: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let spec = job.at("spec");
    job_spec(spec, &path, errors);
    let selector = spec.at("selector");
    if selector.is_null() {
        errors.required(&path.child("selector"), "");
    } else {
        check::label_selector(selector, &path.child("selector"), errors);
    }
    template::matches(selector, spec.at("template"), &path.child("template"), errors);
}

/// Labels and selector that the server made must still be as it makes them.
fn generated_selector(job: &Value, errors: &mut Errors) {
    let spec = job.at("spec");
    if spec.truth("manualSelector") {
        return;
    }
    let metadata = job.at("metadata");
    let (name, uid) = (metadata.text("name"), metadata.text("uid"));
    if uid.is_empty() {
        return;
    }
    let labels = spec.path("template.metadata.labels");
    let at = Path::new("spec.template.metadata.labels");
    for (key, wanted) in [
        ("controller-uid", uid),
        ("job-name", name),
        ("batch.kubernetes.io/controller-uid", uid),
        ("batch.kubernetes.io/job-name", name),
    ] {
        if labels.at(key).is_null() {
            errors.required(&at.key(key), format!("must be '{wanted}'"));
        } else if labels.text(key) != wanted {
            errors.invalid(&at, labels.clone(), format!("must be '{wanted}'"));
        }
    }
    let expected = serde_json::json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}});
    let older = serde_json::json!({"matchLabels": {"controller-uid": uid}});
    if !same(spec.at("selector"), &expected) && !same(spec.at("selector"), &older) {
        let shown = compact("*LabelSelector", spec.at("selector"));
        errors.add_shown(ErrorType::Invalid, &Path::new("spec.selector"), shown, "`selector` not auto-generated");
    }
}

/// The spec of a job, also inside a CronJob.
pub(crate) fn job_spec(spec: &Value, path: &Path, errors: &mut Errors) {
    for field in
        ["parallelism", "completions", "activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished", "backoffLimitPerIndex"]
    {
        check::non_negative_field(spec, field, path, errors);
    }
    if spec.has("maxFailedIndexes") {
        check::non_negative_field(spec, "maxFailedIndexes", path, errors);
        if !spec.has("backoffLimitPerIndex") {
            errors.required(&path.child("backoffLimitPerIndex"), "when maxFailedIndexes is specified");
        }
    }
    if spec.has("managedBy") {
        let by = spec.text("managedBy");
        check::each(identifier::domain_prefixed_path(by), by, &path.child("managedBy"), errors);
        if by.len() > 63 {
            errors.too_long(&path.child("managedBy"), 63);
        }
    }
    let mode = spec.text("completionMode");
    if spec.has("completionMode") && !matches!(mode, "NonIndexed" | "Indexed") {
        errors.not_one_of(&path.child("completionMode"), mode, &["NonIndexed", "Indexed"]);
    }
    if mode == "Indexed" {
        if !spec.has("completions") {
            errors.required(&path.child("completions"), "when completion mode is Indexed");
        }
        if let Some(parallel) = spec.int("parallelism").filter(|parallel| *parallel > MAX_INDEXED) {
            errors.invalid(
                &path.child("parallelism"),
                parallel,
                format!("must be less than or equal to {MAX_INDEXED} when completion mode is Indexed"),
            );
        }
        if let (Some(completions), Some(failed)) = (spec.int("completions"), spec.int("maxFailedIndexes"))
            && failed > completions
        {
            errors.invalid(&path.child("maxFailedIndexes"), failed, "must be less than or equal to completions");
        }
    } else if mode == "NonIndexed" {
        for field in ["backoffLimitPerIndex", "maxFailedIndexes"] {
            if let Some(number) = spec.int(field) {
                errors.invalid(&path.child(field), number, "requires indexed completion mode");
            }
        }
    }
    if spec.has("podFailurePolicy") {
        failure_policy::validate(spec, &path.child("podFailurePolicy"), errors);
    }
    if spec.has("successPolicy") {
        if mode != "Indexed" {
            let shown = compact("SuccessPolicy", spec.at("successPolicy"));
            errors.add_shown(ErrorType::Invalid, &path.child("successPolicy"), shown, "requires indexed completion mode");
        } else if spec.at("successPolicy").items("rules").is_empty() {
            errors.required(
                &path.child("successPolicy.rules"),
                "at least one rules must be specified when the successPolicy is specified",
            );
        }
    }
    if spec.has("podReplacementPolicy") {
        let policy = spec.text("podReplacementPolicy");
        let at = path.child("podReplacementPolicy");
        if spec.has("podFailurePolicy") {
            if policy != "Failed" {
                errors.not_one_of(&at, policy, &["Failed"]);
            }
        } else if !matches!(policy, "Failed" | "TerminatingOrFailed") {
            errors.not_supported(&at, policy, &["Failed", "TerminatingOrFailed"]);
        }
    }
    template::template(spec.at("template"), &path.child("template"), errors);
    let restart = path.child("template.spec.restartPolicy");
    match spec.path("template.spec.restartPolicy").as_str().unwrap_or("") {
        "Always" | "" => errors.required(&restart, "valid values: \"OnFailure\", \"Never\""),
        policy @ ("OnFailure" | "Never") => {
            if spec.has("podFailurePolicy") && policy != "Never" {
                errors.invalid(&restart, policy, "only \"Never\" is supported when podFailurePolicy is specified");
            }
        }
        other => errors.not_one_of(&restart, other, &["OnFailure", "Never"]),
    }
}

pub(super) fn update(new: &Value, old: &Value, errors: &mut Errors) {
    if !new.path("spec.selector").is_null() {
        generated_selector(new, errors);
    }
    // Upstream validates the new spec in both of its passes.
    spec_with_selector(new, errors);
    spec_with_selector(new, errors);
    let path = Path::new("spec");
    let (after, before) = (new.at("spec"), old.at("spec"));
    // Completions of an indexed job follow its parallelism.
    let elastic = after.text("completionMode") == "Indexed"
        && after.has("completions")
        && after.at("completions") == after.at("parallelism");
    if after.at("completions") != before.at("completions") {
        if after.text("completionMode") == "Indexed" {
            // That they are there is asked elsewhere.
            if after.has("completions") && !elastic {
                errors.invalid(
                    &path.child("completions"),
                    after.at("completions").clone(),
                    format!("can only be modified in tandem with {}", path.child("parallelism")),
                );
            }
        } else {
            immutable(after.at("completions"), before.at("completions"), &path.child("completions"), errors);
        }
    }
    check::immutable_selector(after.at("selector"), before.at("selector"), &path.child("selector"), errors);
    template_change(new, old, &path.child("template"), errors);
    for field in ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"] {
        let (now, then) = (after.at(field), before.at(field));
        let kind = match field {
            "podFailurePolicy" => "*PodFailurePolicy",
            "successPolicy" => "*SuccessPolicy",
            _ => {
                immutable(now, then, &path.child(field), errors);
                continue;
            }
        };
        if !same(now, then) {
            errors.add_shown(ErrorType::Invalid, &path.child(field), compact(kind, now), "field is immutable");
        }
    }
}

/// A job that is suspended and has not run may still be told where to run.
fn template_change(new: &Value, old: &Value, path: &Path, errors: &mut Errors) {
    let mut template = new.path("spec.template").clone();
    let before = old.path("spec.template");
    let suspended = old.at("spec").truth("suspend") && !old.at("status").has("startTime");
    if suspended {
        let pod = template.child("spec");
        for field in ["nodeSelector", "affinity", "tolerations", "schedulingGates"] {
            pod.keep(field, before.at("spec"));
        }
        for field in ["labels", "annotations"] {
            template.child("metadata").keep(field, before.at("metadata"));
        }
    }
    if !same(&template, before) {
        let shown = compact("PodTemplateSpec", &template);
        errors.add_shown(ErrorType::Invalid, path, shown, "field is immutable");
    }
}

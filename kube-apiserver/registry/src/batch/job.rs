//! Jobs.
//!
//! Upstream: pkg/registry/batch/job, SetDefaults_Job, printJob

use serde_json::{Value, json};

use crate::column::{self, human_duration, text, unix, wide};
use crate::pod_spec::{defaults, warnings};
use crate::resource::{Context, Resource};
use crate::rules::{Rules, SPEC};
use crate::tree::Tree;

mod failure_policy;
mod validate;

pub(super) use validate::job_spec as validate_job_spec;

/// Rules and columns of Jobs.
pub fn build(resource: &mut Resource) {
    resource.strategy = Rules {
        default,
        create,
        validate: |_, job, errors| validate::create(job, errors),
        validate_update: |_, new, old, errors| validate::update(new, old, errors),
        warnings: |_, new, _| warnings::pod(new.path("spec.template"), "spec.template"),
        generation: SPEC,
        status: true,
        orphan: true,
        ..Rules::GENERIC
    }
    .strategy();
    resource.selectable = vec![("status.successful", |job| job.at("status").int("succeeded").unwrap_or(0).to_string())];
    resource.columns = vec![
        column::name(),
        text("Status", "Status of the job.", |job, _| status(job).into()),
        text(
            "Completions",
            "Completions specifies the desired number of successfully finished pods the job should be run with.",
            |job, _| completions(job).into(),
        ),
        text("Duration", "Time required to complete the job.", |job, now| duration(job, now).into()),
        column::age(),
        wide(text("Containers", "Names of each container in the template.", |job, _| {
            column::container_names(job.path("spec.template.spec")).into()
        })),
        wide(text("Images", "Images referenced by each container in the template.", |job, _| {
            column::container_images(job.path("spec.template.spec")).into()
        })),
        wide(text("Selector", "A label query over pods that should match the pod count.", |job, _| {
            column::selector(job.path("spec.selector")).into()
        })),
    ];
}

fn default(job: &mut Value) {
    let labels = job.path("spec.template.metadata.labels").clone();
    if labels.is_object() && job.at("metadata").len_of("labels") == 0 {
        job.child("metadata").set("labels", labels);
    }
    let spec = job.child("spec");
    if !spec.has("completions") && !spec.has("parallelism") {
        spec.set("completions", 1);
        spec.set("parallelism", 1);
    }
    spec.fill("parallelism", 1);
    let limit = if spec.has("backoffLimitPerIndex") { i64::from(i32::MAX) } else { 6 };
    spec.fill("backoffLimit", limit);
    spec.fill("completionMode", "NonIndexed");
    spec.fill("suspend", false);
    let policy = if spec.has("podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" };
    spec.fill("podReplacementPolicy", policy);
    spec.fill("manualSelector", false);
    job_spec(spec);
}

/// Defaults that also hold inside a CronJob's template.
pub fn job_spec(spec: &mut Value) {
    if let Some(policy) = spec.child_if("podFailurePolicy") {
        for rule in policy.items_mut("rules") {
            for pattern in rule.items_mut("onPodConditions") {
                pattern.fill_text("status", "True");
            }
        }
    }
    defaults::template(spec);
}

/// Unless the user selects by hand, pods are found by labels that hold the job's uid.
fn create(_context: &Context, job: &mut Value) {
    job.set("status", json!({}));
    if job.at("spec").truth("manualSelector") {
        return;
    }
    let (name, uid) = (job.at("metadata").text("name").to_owned(), job.at("metadata").text("uid").to_owned());
    let spec = job.child("spec");
    let labels = spec.child("template").child("metadata").child("labels");
    labels.set("job-name", name.clone());
    labels.set("controller-uid", uid.clone());
    labels.set("batch.kubernetes.io/job-name", name);
    labels.set("batch.kubernetes.io/controller-uid", uid.clone());
    spec.child("selector").child("matchLabels").set("batch.kubernetes.io/controller-uid", uid);
    // Upstream's defaulting runs again on whatever is read from storage.
    let labels = job.path("spec.template.metadata.labels").clone();
    let named = crate::identifier::label_value(labels.text("job-name")).is_empty();
    if job.at("metadata").len_of("labels") == 0 && named {
        job.child("metadata").set("labels", labels);
    }
}

fn status(job: &Value) -> &'static str {
    let is =
        |kind: &str| job.at("status").items("conditions").iter().any(|c| c.text("type") == kind && c.text("status") == "True");
    for condition in ["Complete", "Failed"] {
        if is(condition) {
            return if condition == "Complete" { "Complete" } else { "Failed" };
        }
    }
    if job.at("metadata").has("deletionTimestamp") {
        return "Terminating";
    }
    if is("Suspended") {
        return "Suspended";
    }
    if is("FailureTarget") {
        return "FailureTarget";
    }
    if is("SuccessCriteriaMet") {
        return "SuccessCriteriaMet";
    }
    "Running"
}

fn completions(job: &Value) -> String {
    let succeeded = job.at("status").int("succeeded").unwrap_or(0);
    match job.at("spec").int("completions") {
        Some(wanted) => format!("{succeeded}/{wanted}"),
        None => match job.at("spec").int("parallelism").unwrap_or(0) {
            parallel if parallel > 1 => format!("{succeeded}/1 of {parallel}"),
            _ => format!("{succeeded}/1"),
        },
    }
}

fn duration(job: &Value, now: i64) -> String {
    let status = job.at("status");
    match (unix(status.at("startTime")), unix(status.at("completionTime"))) {
        (None, _) => String::new(),
        (Some(start), None) => human_duration(now - start),
        (Some(start), Some(end)) => human_duration(end - start),
    }
}

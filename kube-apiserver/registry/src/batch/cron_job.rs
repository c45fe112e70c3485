//! CronJobs.
//!
//! Upstream: pkg/registry/batch/cronjob, SetDefaults_CronJob, printCronJob

use api::field::{Errors, Path};
use serde_json::{Value, json};

use super::job;
use crate::check;
use crate::column::{self, integer, since, text, wide};
use crate::resource::Resource;
use crate::rules::{Rules, SPEC};
use crate::tree::Tree;

/// Rules and columns of CronJobs.
pub fn build(resource: &mut Resource) {
    resource.strategy = Rules {
        default,
        create: |_, object| object.set("status", json!({})),
        validate: |_, object, errors| {
            validate(object, errors);
            let name = object.at("metadata").text("name");
            if name.len() > MAX_NAME {
                errors.invalid(&Path::new("metadata.name"), name, format!("must be no more than {MAX_NAME} characters"));
            }
        },
        validate_update: |_, new, _, errors| validate(new, errors),
        warnings: |_, new, _| {
            crate::pod_spec::warnings::pod(new.path("spec.jobTemplate.spec.template"), "spec.jobTemplate.spec.template")
        },
        generation: SPEC,
        status: true,
        ..Rules::GENERIC
    }
    .strategy();
    resource.columns = vec![
        column::name(),
        text("Schedule", "The schedule in Cron format, see https://en.wikipedia.org/wiki/Cron.", |object, _| {
            object.at("spec").text("schedule").into()
        }),
        text(
            "Timezone",
            "The time zone name for the given schedule, see https://en.wikipedia.org/wiki/List_of_tz_database_time_zones.",
            |object, _| match object.at("spec").text("timeZone") {
                "" => "<none>".into(),
                zone => zone.into(),
            },
        ),
        text(
            "Suspend",
            "This flag tells the controller to suspend subsequent executions, it does not apply to already started executions.",
            |object, _| match object.at("spec").at("suspend") {
                Value::Bool(true) => "True".into(),
                Value::Bool(false) => "False".into(),
                _ => "<unset>".into(),
            },
        ),
        integer("Active", "A list of pointers to currently running jobs.", |object, _| {
            object.at("status").len_of("active").into()
        }),
        text("Last Schedule", "Information when was the last time the job was successfully scheduled.", |object, now| {
            let last = object.at("status").at("lastScheduleTime");
            if last.is_null() { "<none>".into() } else { since(last, now).into() }
        }),
        column::age(),
        wide(text("Containers", "Names of each container in the template.", |object, _| {
            column::container_names(object.path(POD)).into()
        })),
        wide(text("Images", "Images referenced by each container in the template.", |object, _| {
            column::container_images(object.path(POD)).into()
        })),
        wide(text("Selector", "A label query over pods that should match the pod count.", |object, _| {
            column::selector(object.path("spec.jobTemplate.spec.selector")).into()
        })),
    ];
}

/// Eleven less than a label: the job's name gets a dash and a time behind it.
const MAX_NAME: usize = 52;
const POD: &str = "spec.jobTemplate.spec.template.spec";

fn default(object: &mut Value) {
    let spec = object.child("spec");
    spec.fill_text("concurrencyPolicy", "Allow");
    spec.fill("suspend", false);
    spec.fill("successfulJobsHistoryLimit", 3);
    spec.fill("failedJobsHistoryLimit", 1);
    let template = spec.child("jobTemplate");
    template.fill("metadata", json!({}));
    job::job_spec(template.child("spec"));
}

fn validate(object: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let spec = object.at("spec");
    let schedule = spec.text("schedule");
    let at = path.child("schedule");
    if schedule.is_empty() {
        errors.required(&at, "");
    } else {
        if let Err(why) = super::schedule::check(schedule) {
            errors.invalid(&at, schedule, why);
        }
        if schedule.contains("TZ") && spec.has("timeZone") {
            errors.invalid(&at, schedule, "cannot use both timeZone field and TZ or CRON_TZ in schedule");
        } else if schedule.contains("TZ") {
            errors.invalid(&at, schedule, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead");
        }
    }
    check::non_negative_field(spec, "startingDeadlineSeconds", &path, errors);
    if spec.has("timeZone") {
        time_zone(spec.text("timeZone"), &path.child("timeZone"), errors);
    }
    match spec.text("concurrencyPolicy") {
        "Allow" | "Forbid" | "Replace" => {}
        "" => errors.required(&path.child("concurrencyPolicy"), ""),
        other => errors.not_one_of(&path.child("concurrencyPolicy"), other, &["Allow", "Forbid", "Replace"]),
    }
    job::validate_job_spec(spec.path("jobTemplate.spec"), &path.child("jobTemplate.spec"), errors);
    check::non_negative_field(spec, "successfulJobsHistoryLimit", &path, errors);
    check::non_negative_field(spec, "failedJobsHistoryLimit", &path, errors);
}

fn time_zone(zone: &str, path: &Path, errors: &mut Errors) {
    if zone.is_empty() {
        errors.invalid(path, zone, "timeZone must be nil or non-empty string");
    } else if zone.eq_ignore_ascii_case("local") {
        errors.invalid(path, zone, "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones");
    } else if jiff::tz::TimeZone::get(zone).is_err() {
        errors.invalid(path, zone, format!("unknown time zone {zone}"));
    }
}

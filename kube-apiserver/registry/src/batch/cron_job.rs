//! CronJobs.
//!
//! Upstream: pkg/registry/batch/cronjob, SetDefaults_CronJob, printCronJob

use serde_json::{Value, json};

use super::job;
use crate::column::{self, integer, since, text, wide};
use crate::resource::Resource;
use crate::rules::{Rules, SPEC};
use crate::tree::Tree;

/// Rules and columns of CronJobs.
pub fn build(resource: &mut Resource) {
    resource.strategy =
        Rules { default, create: |_, object| object.set("status", json!({})), generation: SPEC, status: true, ..Rules::GENERIC }
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

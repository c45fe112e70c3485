//! What one CronJob needs done now.
//!
//! Upstream: pkg/controller/cronjob/{cronjob_controllerv2,utils}.go

use std::sync::Arc;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::ResourceExt;

use super::schedule::{self, Schedule};
use crate::{job, owner};

/// Upstream: CronJobScheduledTimestampAnnotation.
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

/// More missed starts than this are reported: something is wrong, perhaps the clock.
const TOO_MANY: usize = 100;

#[derive(Debug, PartialEq)]
pub struct Event {
    pub warning: bool,
    pub reason: &'static str,
    pub message: String,
}

#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    pub status: CronJobStatus,
    /// Finished Jobs beyond the history limits.
    pub forget: Vec<String>,
    /// Running Jobs that the next one replaces.
    pub replace: Vec<ObjectReference>,
    pub start: Option<(Job, Timestamp)>,
    pub events: Vec<Event>,
    pub look_again: Option<Timestamp>,
}

fn finished(job: &Job) -> Option<&'static str> {
    match () {
        () if job::plan::has_condition(job, "Complete") => Some("Complete"),
        () if job::plan::has_condition(job, "Failed") => Some("Failed"),
        () => None,
    }
}

/// `children` are the Jobs that the CronJob controls.
pub fn plan(cron: &CronJob, children: &[Arc<Job>], now: Timestamp) -> Plan {
    let mut plan = Plan { status: cron.status.clone().unwrap_or_default(), ..Plan::default() };
    let spec = &cron.spec;
    follow_children(cron, children, &mut plan);
    forget_old(spec.successful_jobs_history_limit, children, "Complete", &mut plan);
    forget_old(spec.failed_jobs_history_limit, children, "Failed", &mut plan);
    if cron.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let zone = match spec.time_zone.as_deref() {
        None => TimeZone::UTC,
        Some(name) => match schedule::zone(name) {
            Some(zone) => zone,
            None => {
                plan.events.push(warning("UnknownTimeZone", format!("invalid timeZone: {name:?}: unknown time zone {name}")));
                return plan;
            }
        },
    };
    if spec.suspend == Some(true) {
        return plan;
    }
    let schedule = match Schedule::parse(&spec.schedule) {
        Ok(schedule) => schedule,
        Err(error) => {
            plan.events.push(warning("UnparseableSchedule", format!("unparseable schedule: {:?} : {error}", spec.schedule)));
            return plan;
        }
    };
    plan.look_again = schedule.next(now, &zone);
    let Some((due, missed)) = most_recent(cron, &schedule, &zone, now) else { return plan };
    if missed > TOO_MANY {
        let advice = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
        plan.events.push(warning("TooManyMissedTimes", advice.to_owned()));
    }
    if spec
        .starting_deadline_seconds
        .is_some_and(|seconds| due.saturating_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX) < now)
    {
        plan.events.push(warning(
            "MissSchedule",
            format!("Missed scheduled time to start a job: {}", due.strftime("%a, %d %b %Y %H:%M:%S +0000")),
        ));
        return plan;
    }
    if plan.status.last_schedule_time.as_ref().is_some_and(|last| last.0 == due) {
        return plan;
    }
    let job = new_job(cron, due, &zone);
    let running = plan.status.active.clone().unwrap_or_default();
    if running.iter().any(|active| active.name == job.metadata.name) {
        return plan;
    }
    match spec.concurrency_policy.as_deref().unwrap_or("Allow") {
        "Forbid" if !running.is_empty() => {
            let message = "Not starting job because prior execution is running and concurrency policy is Forbid";
            plan.events.push(Event { warning: false, reason: "JobAlreadyActive", message: message.to_owned() });
            return plan;
        }
        "Replace" => plan.replace = running,
        _ => {}
    }
    plan.start = Some((job, due));
    plan
}

fn warning(reason: &'static str, message: String) -> Event {
    Event { warning: true, reason, message }
}

/// Keeps the list of running Jobs true.
fn follow_children(cron: &CronJob, children: &[Arc<Job>], plan: &mut Plan) {
    let mut active = plan.status.active.clone().unwrap_or_default();
    for child in children {
        let known = active.iter().position(|reference| reference.uid == child.uid());
        match (finished(child), known) {
            (Some(condition), Some(at)) => {
                active.remove(at);
                let message = format!("Saw completed job: {}, condition: {condition}", child.name_any());
                plan.events.push(Event { warning: false, reason: "SawCompletedJob", message });
            }
            (None, None) if cron.metadata.deletion_timestamp.is_none() => {
                let message = format!("Saw a job that the controller did not create or forgot: {}", child.name_any());
                plan.events.push(warning("UnexpectedJob", message));
            }
            _ => {}
        }
        if finished(child) == Some("Complete") {
            let at = child.status.as_ref().and_then(|status| status.completion_time.clone());
            plan.status.last_successful_time = plan.status.last_successful_time.take().max(at);
        }
    }
    // What is listed and gone is asked for by whoever applies the plan: the cache may be behind a start of a moment ago.
    plan.status.active = (!active.is_empty()).then_some(active);
}

fn forget_old(limit: Option<i32>, children: &[Arc<Job>], condition: &str, plan: &mut Plan) {
    let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok()) else { return };
    let mut done: Vec<&Arc<Job>> =
        children.iter().filter(|job| finished(job) == Some(condition) && job.metadata.deletion_timestamp.is_none()).collect();
    done.sort_by_key(|job| (job.status.as_ref().and_then(|status| status.start_time.clone()), job.name_any()));
    let surplus = done.len().saturating_sub(limit);
    plan.forget.extend(done.into_iter().take(surplus).map(|job| job.name_any()));
}

/// The latest time up to now at which a Job was due and none was started, and how many such times there were (counted a little
/// beyond "too many").
fn most_recent(cron: &CronJob, schedule: &Schedule, zone: &TimeZone, now: Timestamp) -> Option<(Timestamp, usize)> {
    let last = cron.status.as_ref().and_then(|status| status.last_schedule_time.as_ref());
    let mut earliest = last.or(cron.metadata.creation_timestamp.as_ref())?.0;
    if let Some(seconds) = cron.spec.starting_deadline_seconds {
        earliest = earliest.max(now.saturating_sub(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MIN));
    }
    let first = schedule.next(earliest, zone).filter(|first| *first <= now)?;
    let (mut recent, mut missed) = (first, 1);
    while let Some(next) = schedule.next(recent, zone).filter(|next| *next <= now) {
        recent = next;
        missed += 1;
        if missed > TOO_MANY + 1 {
            // Far behind: jump close to now, by the distance of two neighbouring times.
            let Some(after) = schedule.next(recent, zone) else { break };
            let step = after.duration_since(recent).as_secs().max(1);
            let jumps = (now.duration_since(recent).as_secs() / step - 2).max(0);
            let target = recent.saturating_add(SignedDuration::from_secs(jumps * step)).unwrap_or(recent);
            while let Some(next) = schedule.next(recent.max(target), zone).filter(|next| *next <= now) {
                recent = next;
            }
            break;
        }
    }
    Some((recent, missed))
}

/// The Job of a scheduled time; its name is that of the minute, so that a time is never started twice.
fn new_job(cron: &CronJob, due: Timestamp, zone: &TimeZone) -> Job {
    let template = cron.spec.job_template.clone();
    let meta = template.metadata.unwrap_or_default();
    let mut annotations = meta.annotations.unwrap_or_default();
    let local = due.to_zoned(zone.clone());
    let stamp = if *zone == TimeZone::UTC { due.to_string() } else { local.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string() };
    annotations.insert(SCHEDULED.to_owned(), stamp);
    Job {
        metadata: ObjectMeta {
            name: Some(format!("{}-{}", cron.name_any(), due.as_second() / 60)),
            namespace: cron.namespace(),
            labels: meta.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![owner::controller_ref("batch/v1", "CronJob", &cron.metadata)]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}

/// The status after a Job was started.
pub fn started(status: &mut CronJobStatus, reference: ObjectReference, due: Timestamp, replaced: &[ObjectReference]) {
    let active = status.active.get_or_insert_default();
    active.retain(|known| !replaced.iter().any(|gone| gone.uid == known.uid));
    active.push(reference);
    status.last_schedule_time = Some(Time(due));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn cron(spec: Value, status: Value) -> CronJob {
        let mut full = json!({"schedule": "*/10 * * * *", "jobTemplate": {"metadata": {"labels": {"a": "b"}}}, "successfulJobsHistoryLimit": 1, "failedJobsHistoryLimit": 1});
        for (key, value) in spec.as_object().unwrap() {
            full[key] = value.clone();
        }
        serde_json::from_value(json!({"metadata": {"name": "c", "namespace": "d", "uid": "cu", "creationTimestamp": "2024-01-01T00:01:00Z"}, "spec": full, "status": status})).unwrap()
    }

    fn child(name: &str, condition: &str, start: u32) -> Arc<Job> {
        let conditions = if condition.is_empty() { json!([]) } else { json!([{"type": condition, "status": "True"}]) };
        Arc::new(
            serde_json::from_value(json!({"metadata": {"name": name, "uid": name}, "status": {"conditions": conditions,
            "startTime": format!("2024-01-01T00:{start:02}:00Z"), "completionTime": format!("2024-01-01T00:{start:02}:30Z")}}))
            .unwrap(),
        )
    }

    fn at(minutes: u32) -> Timestamp {
        format!("2024-01-01T{:02}:{:02}:02Z", minutes / 60, minutes % 60).parse().unwrap()
    }

    fn reasons(plan: &Plan) -> Vec<&str> {
        plan.events.iter().map(|event| event.reason).collect()
    }

    #[test]
    fn a_job_starts_at_its_time_and_once() {
        assert!(plan(&cron(json!({}), json!({})), &[], at(5)).start.is_none());
        let due = plan(&cron(json!({}), json!({})), &[], at(10));
        let (job, time) = due.start.clone().unwrap();
        assert_eq!((job.name_any(), time.to_string()), ("c-28401130".to_owned(), "2024-01-01T00:10:00Z".to_owned()));
        assert_eq!((job.annotations()[SCHEDULED].as_str(), job.labels()["a"].as_str()), ("2024-01-01T00:10:00Z", "b"));
        assert_eq!(due.look_again.unwrap().to_string(), "2024-01-01T00:20:00Z");
        assert!(plan(&cron(json!({}), json!({"lastScheduleTime": "2024-01-01T00:10:00Z"})), &[], at(11)).start.is_none());
        assert!(plan(&cron(json!({"suspend": true}), json!({})), &[], at(10)).start.is_none());
    }

    #[test]
    fn missed_times_are_made_up_once_unless_too_late() {
        let (_, time) = plan(&cron(json!({}), json!({})), &[], at(59)).start.unwrap();
        assert_eq!(time.to_string(), "2024-01-01T00:50:00Z");
        let late = plan(&cron(json!({"startingDeadlineSeconds": 30}), json!({})), &[], at(59));
        assert!(late.start.is_none());
        let much = plan(&cron(json!({"schedule": "* * * * *"}), json!({})), &[], at(1200));
        assert_eq!(
            (reasons(&much), much.start.as_ref().unwrap().1.to_string()),
            (vec!["TooManyMissedTimes"], "2024-01-01T20:00:00Z".to_owned())
        );
    }

    #[test]
    fn concurrency_is_allowed_forbidden_or_replaced() {
        let status = json!({"active": [{"name": "old", "uid": "old"}], "lastScheduleTime": "2024-01-01T00:10:00Z"});
        let old = [child("old", "", 10)];
        assert!(plan(&cron(json!({"concurrencyPolicy": "Allow"}), status.clone()), &old, at(20)).start.is_some());
        let forbidden = plan(&cron(json!({"concurrencyPolicy": "Forbid"}), status.clone()), &old, at(20));
        assert!(forbidden.start.is_none() && reasons(&forbidden) == ["JobAlreadyActive"]);
        let replaced = plan(&cron(json!({"concurrencyPolicy": "Replace"}), status), &old, at(20));
        assert_eq!((replaced.replace.len(), replaced.start.is_some()), (1, true));
    }

    #[test]
    fn finished_jobs_leave_the_list_and_the_history_is_kept_short() {
        let status = json!({"active": [{"name": "b", "uid": "b"}], "lastScheduleTime": "2024-01-01T00:10:00Z"});
        let children = [child("a", "Complete", 1), child("b", "Complete", 2), child("x", "Failed", 1), child("y", "Failed", 3)];
        let plan = plan(&cron(json!({}), status), &children, at(12));
        assert_eq!(
            (plan.status.active.clone(), reasons(&plan), plan.forget.clone()),
            (None, vec!["SawCompletedJob"], vec!["a".to_owned(), "x".to_owned()])
        );
        assert_eq!(plan.status.last_successful_time.unwrap().0.to_string(), "2024-01-01T00:02:30Z");
    }

    #[test]
    fn bad_schedules_and_zones_are_told() {
        assert_eq!(reasons(&plan(&cron(json!({"schedule": "x"}), json!({})), &[], at(10))), ["UnparseableSchedule"]);
        assert_eq!(reasons(&plan(&cron(json!({"timeZone": "Nowhere"}), json!({})), &[], at(10))), ["UnknownTimeZone"]);
    }
}

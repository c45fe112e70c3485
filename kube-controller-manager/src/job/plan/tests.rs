use serde_json::{Value, json};

use super::*;

fn now() -> Timestamp {
    "2024-01-01T01:00:00Z".parse().unwrap()
}

fn job(spec: Value, status: Value) -> Arc<Job> {
    let mut full = json!({"parallelism": 2, "completions": 3, "backoffLimit": 2, "template": {}});
    for (key, value) in spec.as_object().unwrap() {
        full[key] = value.clone();
    }
    Arc::new(
        serde_json::from_value(json!({"metadata": {"name": "j", "namespace": "d", "uid": "ju"}, "spec": full, "status": status}))
            .unwrap(),
    )
}

fn pod(name: &str, phase: &str, extra: Value) -> Arc<Pod> {
    let mut v = json!({"metadata": {"name": name, "uid": name, "finalizers": [FINALIZER]}, "status": {"phase": phase}});
    for (key, value) in extra.as_object().unwrap() {
        match key.as_str() {
            "index" => v["metadata"]["annotations"][INDEX] = json!(value.to_string()),
            "failures" => v["metadata"]["annotations"][INDEX_FAILURES] = json!(value.to_string()),
            _ => v["metadata"][key] = value.clone(),
        }
    }
    Arc::new(serde_json::from_value(v).unwrap())
}

fn run(job: &Arc<Job>, pods: &[Arc<Pod>]) -> Plan {
    plan(&Observed { job: Arc::clone(job), pods: pods.to_vec(), settled: true, backoff_until: None }, now())
}

fn names(list: &[Arc<Pod>]) -> Vec<String> {
    list.iter().map(|pod| pod.name_any()).collect()
}

fn condition(status: &JobStatus) -> Vec<String> {
    status
        .conditions
        .iter()
        .flatten()
        .map(|c| format!("{}={} {}", c.type_, c.status, c.reason.clone().unwrap_or_default()))
        .collect()
}

/// A job after the API server stored `status`.
fn with(job: &Arc<Job>, status: &JobStatus) -> Arc<Job> {
    Arc::new(Job { status: Some(status.clone()), ..(**job).clone() })
}

#[test]
fn pods_are_made_up_to_parallelism_and_to_what_is_left() {
    let j = job(json!({}), json!({}));
    assert_eq!(run(&j, &[]).create.len(), 2);
    assert_eq!(run(&j, &[pod("a", "Running", json!({}))]).create.len(), 1);
    let two_done = job(json!({}), json!({"succeeded": 2}));
    assert_eq!(run(&two_done, &[]).create.len(), 1);
    let fewer = job(json!({"parallelism": 1}), json!({}));
    assert_eq!(run(&fewer, &[pod("a", "Running", json!({})), pod("b", "Pending", json!({}))]).delete.len(), 1);
    let waiting = plan(&Observed { job: j, pods: vec![], settled: false, backoff_until: None }, now());
    assert!(waiting.create.is_empty());
}

#[test]
fn a_finished_pod_is_counted_once_whatever_step_is_interrupted() {
    let j = job(json!({"completions": 1}), json!({}));
    let done = pod("a", "Succeeded", json!({}));
    // 1: the uid is noted, the finalizer may go.
    let first = run(&j, std::slice::from_ref(&done));
    assert_eq!(first.status.uncounted_terminated_pods.as_ref().unwrap().succeeded.as_ref().unwrap(), &["a"]);
    assert_eq!((names(&first.unfinalize), first.status.succeeded), (vec!["a".to_owned()], None));
    assert_eq!(condition(&first.status), ["SuccessCriteriaMet=True CompletionsReached"]);
    assert!(first.create.is_empty());
    // The same again (a crash before the finalizer went): nothing is counted twice.
    let again = run(&with(&j, &first.status), &[done]);
    assert_eq!(
        (again.status.uncounted_terminated_pods.clone(), again.status.succeeded),
        (first.status.uncounted_terminated_pods.clone(), None)
    );
    // 2: without the finalizer, or altogether gone, it counts, and the job is complete.
    for after in [vec![pod("a", "Succeeded", json!({"finalizers": []}))], vec![]] {
        let counted = run(&with(&j, &first.status), &after);
        assert_eq!(counted.status.succeeded, Some(1));
        assert_eq!(
            condition(&counted.status),
            ["SuccessCriteriaMet=True CompletionsReached", "Complete=True CompletionsReached"]
        );
        assert_eq!(counted.events[0].message, "Job completed");
    }
}

#[test]
fn too_many_failures_end_the_job_after_its_pods() {
    let j = job(json!({"backoffLimit": 1}), json!({"failed": 1, "startTime": "2024-01-01T00:00:00Z"}));
    let plan = run(&j, &[pod("bad", "Failed", json!({})), pod("good", "Running", json!({}))]);
    assert_eq!(condition(&plan.status), ["FailureTarget=True BackoffLimitExceeded"]);
    assert_eq!((names(&plan.delete), names(&plan.unfinalize)), (vec!["good".to_owned()], vec!["bad".to_owned()]));
    let dying = pod("good", "Running", json!({"deletionTimestamp": "2024-01-01T00:30:00Z"}));
    let later = run(&with(&j, &plan.status), &[dying]);
    assert_eq!(condition(&later.status), ["FailureTarget=True BackoffLimitExceeded"]);
    assert_eq!(names(&later.unfinalize), ["good"]);
    let end = run(&with(&j, &later.status), &[]);
    assert_eq!(condition(&end.status), ["FailureTarget=True BackoffLimitExceeded", "Failed=True BackoffLimitExceeded"]);
    assert_eq!(end.status.failed, Some(3));
}

#[test]
fn failures_delay_the_next_pod() {
    let j = job(json!({}), json!({}));
    let until = now() + SignedDuration::from_secs(5);
    let waiting = plan(&Observed { job: j, pods: vec![], settled: true, backoff_until: Some(until) }, now());
    assert_eq!((waiting.create.len(), waiting.look_again), (0, Some(until)));
    assert_eq!([1, 2, 3, 30].map(|n| backoff(n).as_secs()), [10, 20, 40, 600]);
}

#[test]
fn indexed_jobs_fill_the_lowest_free_indexes() {
    let spec = json!({"completionMode": "Indexed", "completions": 5, "parallelism": 3});
    let j = job(spec.clone(), json!({"completedIndexes": "0"}));
    let indexes = |plan: &Plan| plan.create.iter().filter_map(|new| new.index).collect::<Vec<_>>();
    assert_eq!(indexes(&run(&j, &[pod("a", "Running", json!({"index": 2}))])), [1, 3]);
    let plan = run(&j, &[pod("b", "Succeeded", json!({"index": 1})), pod("c", "Succeeded", json!({"index": 4}))]);
    assert_eq!((plan.status.completed_indexes.as_deref(), plan.status.succeeded), (Some("0,1,4"), Some(3)));
    // Two pods of one index, and one beyond the range: the surplus goes.
    let twice = [
        pod("d", "Running", json!({"index": 1})),
        pod("e", "Pending", json!({"index": 1})),
        pod("f", "Running", json!({"index": 9})),
    ];
    let mut gone = names(&run(&j, &twice).delete);
    gone.sort();
    assert_eq!(gone, ["e", "f"]);
}

#[test]
fn limits_by_index_fail_the_index_and_spare_the_rest() {
    let spec =
        json!({"completionMode": "Indexed", "completions": 2, "parallelism": 2, "backoffLimit": 100, "backoffLimitPerIndex": 1});
    let j = job(spec, json!({}));
    // The first failure: the pod keeps its finalizer until the next one has the count.
    let ended = json!({"index": 0, "failures": 0, "deletionTimestamp": "2024-01-01T00:00:00Z"});
    let first = run(&j, &[pod("a", "Failed", ended), pod("b", "Running", json!({"index": 1}))]);
    assert_eq!(
        (names(&first.unfinalize).len(), first.create.clone()),
        (0, vec![NewPod { index: Some(0), failures: Some((1, 0)) }])
    );
    // The second: the index is lost, the other goes on.
    let second = run(&j, &[pod("c", "Failed", json!({"index": 0, "failures": 1})), pod("b", "Running", json!({"index": 1}))]);
    assert_eq!((second.status.failed_indexes.as_deref(), second.create.len()), (Some("0"), 0));
    assert_eq!(names(&second.unfinalize), ["c"]);
    let end = run(&j, &[pod("c", "Failed", json!({"index": 0, "failures": 1})), pod("b", "Succeeded", json!({"index": 1}))]);
    assert_eq!(condition(&end.status), ["FailureTarget=True FailedIndexes"]);
}

#[test]
fn suspending_takes_the_pods_away_and_resuming_starts_anew() {
    let j = job(json!({"suspend": true}), json!({"startTime": "2024-01-01T00:00:00Z"}));
    let plan = run(&j, &[pod("a", "Running", json!({}))]);
    assert_eq!((names(&plan.delete), plan.status.start_time.clone()), (vec!["a".to_owned()], None));
    assert_eq!(
        (condition(&plan.status), plan.events[0].reason.as_str()),
        (vec!["Suspended=True JobSuspended".to_owned()], "Suspended")
    );
    let resumed = job(json!({}), serde_json::to_value(&plan.status).unwrap());
    let plan = run(&resumed, &[]);
    assert_eq!((plan.create.len(), plan.status.start_time.clone()), (2, Some(Time(now()))));
    assert_eq!(condition(&plan.status), ["Suspended=False JobResumed"]);
}

#[test]
fn deadlines_policies_and_replacement_are_heeded() {
    let late = job(json!({"activeDeadlineSeconds": 60}), json!({"startTime": "2024-01-01T00:00:00Z"}));
    assert_eq!(condition(&run(&late, &[]).status)[0], "FailureTarget=True DeadlineExceeded");
    let timely = job(json!({"activeDeadlineSeconds": 7200}), json!({"startTime": "2024-01-01T00:00:00Z"}));
    assert_eq!(run(&timely, &[]).look_again, Some("2024-01-01T02:00:00Z".parse().unwrap()));
    // A pod that is going away is replaced at once, or only when it has ended.
    let dying = pod("a", "Running", json!({"deletionTimestamp": "2024-01-01T00:30:00Z"}));
    assert_eq!(run(&job(json!({"completions": 1}), json!({})), std::slice::from_ref(&dying)).create.len(), 1);
    assert_eq!(run(&job(json!({"completions": 1, "podReplacementPolicy": "Failed"}), json!({})), &[dying]).create.len(), 0);
    let winners = json!({"completionMode": "Indexed", "successPolicy": {"rules": [{"succeededIndexes": "1"}]}});
    let plan =
        run(&job(winners, json!({})), &[pod("a", "Succeeded", json!({"index": 1})), pod("b", "Running", json!({"index": 0}))]);
    assert_eq!(
        (condition(&plan.status), names(&plan.delete)),
        (vec!["SuccessCriteriaMet=True SuccessPolicy".to_owned()], vec!["b".to_owned()])
    );
}

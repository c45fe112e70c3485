use std::collections::HashMap;

use serde_json::{Value, json};

use super::*;
use crate::runtime::actions::Health;
use crate::runtime::label::Recovered;
use crate::runtime::observed::{ContainerRecord, Sandbox, State};

fn pod(spec: Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec})).unwrap()
}

fn record(name: &str, run: u32, state: State, exit_code: i32) -> ContainerRecord {
    let about = Recovered { name: name.into(), restart_count: run, ..Default::default() };
    ContainerRecord {
        id: format!("{name}{run}"),
        sandbox_id: "s".into(),
        about,
        state,
        exit_code,
        started_at: 5_000_000_000,
        ..Default::default()
    }
}

fn runtime(containers: Vec<ContainerRecord>) -> PodRuntime {
    let sandbox = Sandbox { id: "s".into(), ready: true, ips: vec!["10.0.0.9".into()], ..Default::default() };
    PodRuntime { sandboxes: vec![sandbox], containers }
}

fn make(pod: &Pod, runtime: &PodRuntime, edit: impl FnOnce(&mut Observed<'_>)) -> PodStatus {
    let (verdicts, errors, previous) = (Verdicts::default(), StartErrors::new(), PodStatus::default());
    let mut observed = Observed {
        pod,
        runtime,
        verdicts: &verdicts,
        errors: &errors,
        previous: &previous,
        host_ips: &["192.168.0.1".into()],
        runtime_name: "containerd",
        terminal: false,
        verdict: None,
        resize: &Default::default(),
        now: Timestamp::from_second(1_000).unwrap(),
    };
    edit(&mut observed);
    generate(&observed)
}

/// What, restart policy, init containers, what the runtime has, whether the pod is over, the phase.
type PhaseRow = (&'static str, &'static str, Value, Vec<ContainerRecord>, bool, &'static str);

#[test]
fn phases_follow_containers_and_policy() {
    let (run, exit) = (|name: &str| record(name, 0, State::Running, 0), |name: &str, code| record(name, 0, State::Exited, code));
    let rows: Vec<PhaseRow> = vec![
        ("new", "Always", json!([]), vec![], false, "Pending"),
        ("runs", "Always", json!([]), vec![run("a"), run("b")], false, "Running"),
        ("one to come", "Always", json!([]), vec![run("a")], false, "Pending"),
        ("one ended", "Always", json!([]), vec![run("a"), exit("b", 1)], false, "Running"),
        ("all ended, always", "Always", json!([]), vec![exit("a", 0), exit("b", 1)], false, "Running"),
        ("all ended well", "OnFailure", json!([]), vec![exit("a", 0), exit("b", 0)], false, "Succeeded"),
        ("one failed, on failure", "OnFailure", json!([]), vec![exit("a", 0), exit("b", 1)], false, "Running"),
        ("one failed, never", "Never", json!([]), vec![exit("a", 0), exit("b", 1)], false, "Failed"),
        ("killed", "Always", json!([]), vec![exit("a", 0), exit("b", 0)], true, "Succeeded"),
        ("killed badly", "Always", json!([]), vec![exit("a", 0), exit("b", 137)], true, "Failed"),
        ("init runs", "Always", json!([{"name": "i"}]), vec![run("i")], false, "Pending"),
        ("init failed", "Never", json!([{"name": "i"}]), vec![exit("i", 1)], false, "Failed"),
        ("init failed, retried", "Always", json!([{"name": "i"}]), vec![exit("i", 1)], false, "Pending"),
        ("sidecar only", "Always", json!([{"name": "i", "restartPolicy": "Always"}]), vec![run("i")], false, "Pending"),
        (
            "sidecar and main",
            "Never",
            json!([{"name": "i", "restartPolicy": "Always"}]),
            vec![run("i"), run("a"), run("b")],
            false,
            "Running",
        ),
        (
            "sidecar outlives main",
            "Never",
            json!([{"name": "i", "restartPolicy": "Always"}]),
            vec![run("i"), exit("a", 0), exit("b", 0)],
            false,
            "Running",
        ),
    ];
    for (what, policy, inits, records, terminal, phase) in rows {
        let pod = pod(json!({"restartPolicy": policy, "initContainers": inits, "containers": [{"name": "a"}, {"name": "b"}]}));
        let got = make(&pod, &runtime(records), |observed| observed.terminal = terminal);
        assert_eq!(got.phase.as_deref(), Some(phase), "{what}");
    }
}

#[test]
fn a_crash_loop_waits_and_remembers_its_last_end() {
    let pod = pod(json!({"restartPolicy": "Always", "containers": [{"name": "a", "image": "i"}]}));
    let mut ended = record("a", 2, State::Exited, 3);
    ended.reason = "Error".into();
    let runtime = runtime(vec![ended]);
    let errors = StartErrors::from([("a".to_owned(), ("CrashLoopBackOff".to_owned(), "back-off 20s".to_owned()))]);
    let (verdicts, previous) = (Verdicts::default(), PodStatus::default());
    let got = generate(&Observed {
        pod: &pod,
        runtime: &runtime,
        verdicts: &verdicts,
        errors: &errors,
        previous: &previous,
        host_ips: &[],
        runtime_name: "containerd",
        terminal: false,
        verdict: None,
        resize: &Default::default(),
        now: Timestamp::UNIX_EPOCH,
    });
    let status = &got.container_statuses.unwrap()[0];
    assert_eq!(status.state.as_ref().unwrap().waiting.as_ref().unwrap().reason.as_deref(), Some("CrashLoopBackOff"));
    let last = status.last_state.as_ref().unwrap().terminated.as_ref().unwrap();
    assert_eq!(
        (last.exit_code, last.reason.as_deref(), last.container_id.as_deref()),
        (3, Some("Error"), Some("containerd://a2"))
    );
    assert_eq!(status.restart_count, 2);
    assert_eq!(got.phase.as_deref(), Some("Running"));
}

#[test]
fn readiness_needs_probe_and_gate() {
    let pod = pod(
        json!({"containers": [{"name": "a", "readinessProbe": {"tcpSocket": {"port": 1}}}], "readinessGates": [{"conditionType": "x/y"}]}),
    );
    let runtime = runtime(vec![record("a", 0, State::Running, 0)]);
    let condition = |status: &PodStatus, kind: &str| {
        let condition = status.conditions.iter().flatten().find(|condition| condition.type_ == kind).unwrap().clone();
        (condition.status, condition.reason.unwrap_or_default())
    };
    let got = make(&pod, &runtime, |_| {});
    assert_eq!(condition(&got, "Ready"), ("False".into(), "ContainersNotReady".into()));
    assert_eq!(condition(&got, "Initialized").0, "True");
    assert_eq!(condition(&got, "PodReadyToStartContainers").0, "True");
    let verdicts = Verdicts { readiness: HashMap::from([("a0".to_owned(), Health::Success)]), ..Default::default() };
    let (errors, previous) = (StartErrors::new(), got.clone());
    let got = generate(&Observed {
        pod: &pod,
        runtime: &runtime,
        verdicts: &verdicts,
        errors: &errors,
        previous: &previous,
        host_ips: &[],
        runtime_name: "containerd",
        terminal: false,
        verdict: None,
        resize: &Default::default(),
        now: Timestamp::from_second(2_000).unwrap(),
    });
    assert_eq!(condition(&got, "ContainersReady").0, "True");
    assert_eq!(condition(&got, "Ready"), ("False".into(), "ReadinessGatesNotReady".into()));
    let time = |kind: &str| {
        got.conditions
            .iter()
            .flatten()
            .find(|condition| condition.type_ == kind)
            .unwrap()
            .last_transition_time
            .clone()
            .unwrap()
            .0
            .as_second()
    };
    assert_eq!((time("Ready"), time("ContainersReady")), (1_000, 2_000), "a condition keeps its time until it turns");
}

#[test]
fn host_network_pods_have_the_nodes_address() {
    let pod = pod(json!({"hostNetwork": true, "containers": [{"name": "a"}]}));
    let mut runtime = runtime(vec![]);
    runtime.sandboxes[0].ips.clear();
    assert_eq!(make(&pod, &runtime, |_| {}).pod_ip.as_deref(), Some("192.168.0.1"));
}

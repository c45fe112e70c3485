use serde_json::{Value, json};

use super::*;
use crate::runtime::label::Recovered;
use crate::runtime::observed::Sandbox;

fn pod(policy: &str, inits: Value, names: &[&str]) -> Pod {
    let containers: Vec<_> = names.iter().map(|name| json!({"name": name, "image": "i"})).collect();
    serde_json::from_value(
        json!({"metadata": {"name": "p"}, "spec": {"restartPolicy": policy, "initContainers": inits, "containers": containers}}),
    )
    .unwrap()
}

fn init(name: &str) -> Value {
    json!({"name": name, "image": "i"})
}

fn sidecar(name: &str) -> Value {
    json!({"name": name, "image": "i", "restartPolicy": "Always"})
}

/// `a=run`, `a=0` (exited with 0), `a=unknown`, `a=created`.
fn runtime(sandbox_ready: Option<bool>, containers: &[&str]) -> PodRuntime {
    let sandbox =
        Sandbox { id: "s".into(), ready: sandbox_ready == Some(true), ips: vec!["10.0.0.1".into()], ..Default::default() };
    let containers = containers.iter().map(|text| {
        let (name, state) = text.split_once('=').unwrap();
        let hash = pod::container::hash(&Container { name: name.into(), image: Some("i".into()), ..Default::default() });
        let (state, exit_code) = match state {
            "run" => (State::Running, 0),
            "unknown" => (State::Unknown, 0),
            "created" => (State::Created, 0),
            code => (State::Exited, code.parse().unwrap()),
        };
        let about = Recovered { name: name.into(), hash, ..Default::default() };
        ContainerRecord { id: format!("id-{name}"), sandbox_id: "s".into(), about, state, exit_code, ..Default::default() }
    });
    PodRuntime { sandboxes: sandbox_ready.map(|_| sandbox).into_iter().collect(), containers: containers.collect() }
}

fn text(actions: &Actions) -> String {
    let mut out = Vec::new();
    if actions.kill_pod {
        out.push("kill-pod".to_owned());
    }
    if let Some(attempt) = actions.create_sandbox {
        out.push(format!("sandbox-{attempt}"));
    }
    out.extend(actions.kill.iter().map(|kill| format!("kill-{}", kill.name)));
    out.extend(actions.start.iter().map(|slot| match slot {
        Slot::Init(index) => format!("init-{index}"),
        Slot::Main(index) => format!("main-{index}"),
        Slot::Ephemeral(index) => format!("eph-{index}"),
    }));
    out.join(" ")
}

#[test]
fn a_pod_goes_through_its_life() {
    let none = || json!([]);
    let rows = [
        ("new", pod("Always", none(), &["a", "b"]), runtime(None, &[]), "kill-pod sandbox-0 main-0 main-1"),
        ("new with init", pod("Always", json!([init("i")]), &["a"]), runtime(None, &[]), "kill-pod sandbox-0 init-0"),
        ("sandbox up", pod("Always", none(), &["a"]), runtime(Some(true), &[]), "main-0"),
        ("all run", pod("Always", none(), &["a", "b"]), runtime(Some(true), &["a=run", "b=run"]), ""),
        ("one died", pod("Always", none(), &["a", "b"]), runtime(Some(true), &["a=run", "b=1"]), "main-1"),
        ("one done, on failure", pod("OnFailure", none(), &["a", "b"]), runtime(Some(true), &["a=run", "b=0"]), ""),
        ("one failed, on failure", pod("OnFailure", none(), &["a", "b"]), runtime(Some(true), &["a=0", "b=2"]), "main-1"),
        ("all done, on failure", pod("OnFailure", none(), &["a", "b"]), runtime(Some(true), &["a=0", "b=0"]), "kill-pod"),
        ("all done, never", pod("Never", none(), &["a"]), runtime(Some(true), &["a=1"]), "kill-pod"),
        ("sandbox died", pod("Always", none(), &["a"]), runtime(Some(false), &["a=137"]), "kill-pod sandbox-1 main-0"),
        ("sandbox died, never", pod("Never", none(), &["a"]), runtime(Some(false), &["a=137"]), "kill-pod"),
        (
            "sandbox died, one done",
            pod("OnFailure", none(), &["a", "b"]),
            runtime(Some(false), &["a=0", "b=137"]),
            "kill-pod sandbox-1 main-1",
        ),
        ("unknown", pod("Always", none(), &["a"]), runtime(Some(true), &["a=unknown"]), "kill-a main-0"),
        ("created, not started", pod("Never", none(), &["a"]), runtime(Some(true), &["a=created"]), "main-0"),
        ("image changed", pod("Never", none(), &["a"]), changed(runtime(Some(true), &["a=run"])), "kill-a main-0"),
        ("init runs", pod("Always", json!([init("i"), init("j")]), &["a"]), runtime(Some(true), &["i=run"]), ""),
        ("init done", pod("Always", json!([init("i"), init("j")]), &["a"]), runtime(Some(true), &["i=0"]), "init-1"),
        ("inits done", pod("Always", json!([init("i"), init("j")]), &["a"]), runtime(Some(true), &["i=0", "j=0"]), "main-0"),
        ("init failed", pod("Always", json!([init("i")]), &["a"]), runtime(Some(true), &["i=1"]), "init-0"),
        ("init failed for good", pod("Never", json!([init("i")]), &["a"]), runtime(Some(true), &["i=1"]), "kill-pod"),
        ("init record collected", pod("Always", json!([init("i")]), &["a"]), runtime(Some(true), &["a=run"]), ""),
        ("sidecar first", pod("Always", json!([sidecar("s"), init("i")]), &["a"]), runtime(Some(true), &[]), "init-0"),
        ("sidecar runs", pod("Always", json!([sidecar("s"), init("i")]), &["a"]), runtime(Some(true), &["s=run"]), "init-1"),
        (
            "sidecar died in init",
            pod("Never", json!([sidecar("s"), init("i")]), &["a"]),
            runtime(Some(true), &["s=1", "i=run"]),
            "init-0",
        ),
        ("sidecar died later", pod("Never", json!([sidecar("s")]), &["a"]), runtime(Some(true), &["s=0", "a=run"]), "init-0"),
        (
            "main done ends sidecars",
            pod("Never", json!([sidecar("s")]), &["a"]),
            runtime(Some(true), &["s=run", "a=0"]),
            "kill-pod",
        ),
        (
            "main done, sidecar dead",
            pod("Never", json!([sidecar("s")]), &["a"]),
            runtime(Some(true), &["s=1", "a=0"]),
            "kill-pod",
        ),
    ];
    for (what, pod, runtime, expected) in rows {
        assert_eq!(text(&pod_actions(&pod, &runtime, &Verdicts::default())), expected, "{what}");
    }
}

fn changed(mut runtime: PodRuntime) -> PodRuntime {
    runtime.containers[0].about.hash ^= 1;
    runtime
}

#[test]
fn failed_probes_kill_and_restart_by_policy() {
    let failed = |_: &str| HashMap::from([("id-a".to_owned(), Health::Failure)]);
    for (policy, expected) in [("Always", "kill-a main-0"), ("OnFailure", "kill-a main-0"), ("Never", "kill-a")] {
        let pod = pod(policy, json!([]), &["a", "b"]);
        let verdicts = Verdicts { liveness: failed("a"), ..Default::default() };
        let actions = pod_actions(&pod, &runtime(Some(true), &["a=run", "b=run"]), &verdicts);
        assert_eq!(text(&actions), expected);
        assert!(actions.kill[0].message.starts_with("Container a failed liveness probe"));
        let verdicts = Verdicts { startup: failed("a"), ..Default::default() };
        assert_eq!(text(&pod_actions(&pod, &runtime(Some(true), &["a=run", "b=run"]), &verdicts)), expected);
    }
}

#[test]
fn a_sidecar_with_startup_probe_holds_the_rest_until_it_passed() {
    let mut probed = sidecar("s");
    probed["startupProbe"] = json!({"tcpSocket": {"port": 1}});
    let pod = pod("Always", json!([probed]), &["a"]);
    let state = runtime(Some(true), &["s=run"]);
    assert_eq!(text(&pod_actions(&pod, &state, &Verdicts::default())), "");
    let verdicts = Verdicts { startup: HashMap::from([("id-s".to_owned(), Health::Success)]), ..Default::default() };
    assert_eq!(text(&pod_actions(&pod, &state, &verdicts)), "main-0");
}

#[test]
fn ephemeral_containers_start_once() {
    let mut pod = pod("Always", json!([]), &["a"]);
    pod.spec.as_mut().unwrap().ephemeral_containers =
        Some(vec![k8s_openapi::api::core::v1::EphemeralContainer { name: "e".into(), ..Default::default() }]);
    assert_eq!(text(&pod_actions(&pod, &runtime(Some(true), &["a=run"]), &Verdicts::default())), "eph-0");
    assert_eq!(text(&pod_actions(&pod, &runtime(Some(true), &["a=run", "e=1"]), &Verdicts::default())), "");
}

#[test]
fn restart_rules_of_a_container_win_over_the_pods_policy() {
    let pod: Pod = serde_json::from_value(
        json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "a", "image": "i", "restartPolicy": "Never",
        "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]}]}}),
    )
    .unwrap();
    assert_eq!(text(&pod_actions(&pod, &runtime(Some(true), &["a=42"]), &Verdicts::default())), "main-0");
    assert_eq!(text(&pod_actions(&pod, &runtime(Some(true), &["a=1"]), &Verdicts::default())), "kill-pod");
}

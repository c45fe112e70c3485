use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::object::node::Node;
use crate::plugin::default_preemption::{Outcome, best, preempt};
use crate::plugin::dynamic_resources::POST_FILTER_MESSAGE;

fn node(value: Value) -> Arc<Node> {
    Arc::new(serde_json::from_value(value).unwrap())
}

fn pod(value: Value) -> Arc<Pod> {
    Arc::new(serde_json::from_value(value).unwrap())
}

/// Decides as the scheduler does: the node's name, or the message of the condition.
fn decide(cluster: &mut Cluster, stores: &Stores, profile: &Profile, pod: &Pod) -> Result<String, String> {
    decide_with(cluster, stores, profile, pod, &mut Rotation::default())
}

fn decide_with(
    cluster: &mut Cluster,
    stores: &Stores,
    profile: &Profile,
    pod: &Pod,
    rotation: &mut Rotation,
) -> Result<String, String> {
    cluster.refresh();
    let total = cluster.order().len();
    let mut attempt = Attempt::begin(cluster, stores, profile, pod).map_err(|diagnosis| diagnosis.message(total, None))?;
    match attempt.choose(rotation) {
        Ok(choice) => Ok(cluster.node(choice.node).name.to_string()),
        Err(diagnosis) => {
            let post = match preempt(&mut attempt, &diagnosis, 0) {
                Outcome::Found(candidates) => {
                    let candidate = best(candidates, |candidate| (&candidate.victims, candidate.violations)).unwrap();
                    let names: Vec<_> = candidate.victims.iter().map(|victim| victim.name().to_owned()).collect();
                    return Err(format!("preempt {} on {}", names.join(","), cluster.node(candidate.node).name));
                }
                Outcome::Hopeless(message) => message,
                Outcome::NotEligible(message) => message.to_owned(),
            };
            Err(diagnosis.message(total, Some(&format!("{POST_FILTER_MESSAGE}, preemption: {post}"))))
        }
    }
}

/// Upstream's own answers for random clusters, where the reference data is at hand. The clusters come from the recorder's own
/// generator, so Python is needed as well.
#[test]
fn decisions_are_upstreams_in_its_recorded_clusters() {
    let reference = "/work/shared/reference/golden";
    let Ok(answers) = std::fs::read_to_string(format!("{reference}/scheduling-answers.json")) else {
        assert!(std::env::var_os("CI").is_none(), "no reference data");
        eprintln!("SKIPPED: no reference data at {reference}");
        return;
    };
    let script = format!(
        "import sys,types,json; sys.modules['golden']=types.ModuleType('golden'); sys.path.insert(0,{reference:?}); \
         sys.dont_write_bytecode=True; import scheduling; \
         print(json.dumps({{k: scheduling.scenario(int(k)) for k in json.load(open({reference:?}+'/scheduling-answers.json'))}}))"
    );
    let output = std::process::Command::new("python3").args(["-c", &script]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let scenarios: Value = serde_json::from_slice(&output.stdout).unwrap();
    let answers: Value = serde_json::from_str(&answers).unwrap();
    let (stores, profile) = (Stores::default(), Profile::named("default-scheduler"));
    let mut wrong = Vec::new();
    let (mut compared, mut ties, mut other_side) = (0, 0, 0);
    for (seed, answer) in answers.as_object().unwrap() {
        let message = answer["message"].as_str();
        if message.is_some_and(|message| message.starts_with("refused")) {
            continue;
        }
        compared += 1;
        let scenario = &scenarios[seed];
        let mut cluster = Cluster::default();
        for value in scenario[0].as_array().unwrap() {
            cluster.upsert_node(node(value.clone()));
        }
        for value in scenario[1].as_array().unwrap() {
            let mut value = value.clone();
            value["metadata"]["namespace"] = "s".into();
            value["metadata"]["uid"] = value["metadata"]["name"].clone();
            cluster.upsert_pod(pod(value));
        }
        let mut value = scenario[2].clone();
        value["metadata"]["namespace"] = "s".into();
        value["metadata"]["name"] = "p0".into();
        value["metadata"]["uid"] = "p0".into();
        let subject = pod(value);
        let chosen: Vec<&str> = answer["chosen"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        let mut rotation = Rotation::default();
        let got = decide_with(&mut cluster, &stores, &profile, &subject, &mut rotation);
        let right = match (message, &got) {
            (Some(message), Err(text)) => text == message,
            (None, Ok(node)) => chosen.contains(&node.as_str()),
            _ => false,
        };
        // Upstream looks at nodes in parallel: among equals, the order in which its threads got to them counts.
        let best = rotation.totals.iter().max();
        let tie = got.is_ok() && rotation.totals.iter().filter(|total| Some(*total) == best).count() > 1;
        ties += usize::from(tie);
        if !right && tie {
            other_side += 1;
        } else if !right {
            wrong.push(format!("{seed}: want {answer}, got {got:?}"));
        }
    }
    assert!(ties * 20 < compared, "{ties} ties of {compared}: the scores do not tell nodes apart");
    assert!(other_side * 100 <= compared, "{other_side} of {ties} ties are broken in another way than upstream's");
    assert!(compared > 100, "{compared}");
    assert!(wrong.is_empty(), "{} of {compared} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn among_equals_the_top_of_the_heap_is_chosen() {
    for (totals, position) in [
        (vec![7], 0),
        (vec![5, 5], 0),
        (vec![1, 5, 5], 1),
        (vec![1, 2, 5, 5], 3),
        (vec![0, 0, 0, 9, 9], 3),
        (vec![1, 2, 9, 9, 3], 3),
    ] {
        assert_eq!(top(&totals, &mut Vec::new()), position, "{totals:?}");
    }
}

fn simple_node(name: &str, cpu: &str) -> Arc<Node> {
    node(json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {"allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "110"}},
    }))
}

fn simple_pod(name: &str, on: &str, priority: i32, cpu: &str) -> Arc<Pod> {
    pod(json!({
        "metadata": {"name": name, "uid": name, "namespace": "d", "labels": {"app": name}},
        "spec": {"nodeName": on, "priority": priority, "containers": [{"resources": {"requests": {"cpu": cpu}}}]},
    }))
}

#[test]
fn the_least_important_pods_make_room() {
    let mut cluster = Cluster::default();
    for name in ["a", "b"] {
        cluster.upsert_node(simple_node(name, "2"));
    }
    cluster.upsert_pod(simple_pod("high", "a", 50, "1500m"));
    cluster.upsert_pod(simple_pod("low", "b", 10, "1"));
    cluster.upsert_pod(simple_pod("lower", "b", 5, "1"));
    let (stores, profile) = (Stores::default(), Profile::named("x"));
    let want = |cluster: &mut Cluster, priority, cpu| decide(cluster, &stores, &profile, &simple_pod("p", "", priority, cpu));
    assert_eq!(want(&mut cluster, 100, "1"), Err("preempt lower on b".into()));
    assert_eq!(want(&mut cluster, 100, "2"), Err("preempt low,lower on b".into()));
    assert_eq!(want(&mut cluster, 100, "300m"), Ok("a".into()));
    let hopeless = "0/2 nodes are available: 2 Insufficient cpu. no new claims to deallocate, preemption: \
                    0/2 nodes are available: 2 No preemption victims found for incoming pod.";
    assert_eq!(want(&mut cluster, 1, "1"), Err(hopeless.into()));
    let too_large = "0/2 nodes are available: 2 Insufficient cpu. no new claims to deallocate, preemption: \
                     0/2 nodes are available: 2 Preemption is not helpful for scheduling.";
    assert_eq!(want(&mut cluster, 100, "3"), Err(too_large.into()));
}

#[test]
fn a_budget_protects_where_there_is_a_choice() {
    let mut cluster = Cluster::default();
    for name in ["a", "b"] {
        cluster.upsert_node(simple_node(name, "1"));
    }
    cluster.upsert_pod(simple_pod("guarded", "a", 0, "1"));
    cluster.upsert_pod(simple_pod("free", "b", 9, "1"));
    let stores = Stores::default();
    let budget = json!({
        "metadata": {"name": "g", "namespace": "d"}, "spec": {"selector": {"matchLabels": {"app": "guarded"}}},
        "status": {"disruptionsAllowed": 0},
    });
    stores.budgets.put("d/g", Arc::new(serde_json::from_value(budget).unwrap()));
    let profile = Profile::named("x");
    let subject = simple_pod("p", "", 100, "1");
    assert_eq!(decide(&mut cluster, &stores, &profile, &subject), Err("preempt free on b".into()));
    stores.budgets.remove("d/g");
    assert_eq!(decide(&mut cluster, &stores, &profile, &subject), Err("preempt guarded on a".into()));
}

#[test]
fn a_promised_node_is_full_for_others_of_no_higher_priority() {
    let mut cluster = Cluster::default();
    cluster.upsert_node(simple_node("a", "1"));
    let promised = simple_pod("promised", "", 10, "1");
    cluster.nominated.set(promised.clone(), "a");
    let (stores, profile) = (Stores::default(), Profile::named("x"));
    assert!(decide(&mut cluster, &stores, &profile, &simple_pod("p", "", 0, "1")).is_err());
    assert_eq!(decide(&mut cluster, &stores, &profile, &promised), Ok("a".into()));
    assert_eq!(decide(&mut cluster, &stores, &profile, &simple_pod("q", "", 20, "1")), Ok("a".into()));
}

#[test]
fn how_many_nodes_are_enough() {
    for (total, percentage, wanted) in
        [(50, 0, 50), (1000, 0, 420), (5000, 0, 500), (10_000, 0, 500), (1000, 30, 300), (200, 10, 100), (500, 100, 500)]
    {
        assert_eq!(feasible_wanted(total, percentage), wanted, "{total} {percentage}");
    }
}

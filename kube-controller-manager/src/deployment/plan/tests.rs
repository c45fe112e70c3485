use serde_json::{Value, json};

use super::*;

fn now() -> Timestamp {
    "2024-01-01T01:00:00Z".parse().unwrap()
}

fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}})
}

fn deployment(replicas: i32, image: &str, strategy: Value) -> Deployment {
    serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "d", "uid": "du", "generation": 1},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template(image),
            "strategy": strategy, "progressDeadlineSeconds": 600, "revisionHistoryLimit": 1}}))
    .unwrap()
}

fn rolling(surge: Value, unavailable: Value) -> Value {
    json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}})
}

/// A set at `size` with `available` pods, made in minute `age` and sized for `desired`/`max`.
fn set(name: &str, image: &str, size: i32, available: i32, age: u32, desired: i32, max: i32) -> ReplicaSet {
    serde_json::from_value(json!({"metadata": {"name": name, "namespace": "d", "uid": name, "creationTimestamp": format!("2024-01-01T00:{age:02}:00Z"),
            "annotations": {sets::REVISION: age.to_string(), sets::DESIRED_REPLICAS: desired.to_string(), sets::MAX_REPLICAS: max.to_string()}},
        "spec": {"replicas": size, "selector": {}, "template": template(image)},
        "status": {"replicas": size, "readyReplicas": available, "availableReplicas": available}}))
    .unwrap()
}

fn run(deployment: Deployment, sets: Vec<ReplicaSet>) -> Plan {
    plan(
        &Observed { deployment: Arc::new(deployment), sets: sets.into_iter().map(Arc::new).collect(), pods: BTreeMap::new() },
        now(),
    )
}

/// `+name=size` for a creation, `name=size` for a change, `-name` for a deletion.
fn ops(plan: &Plan) -> Vec<String> {
    let row = |op: &Op| match op {
        Op::Create(set) => format!("+={}", replicas(set)),
        Op::Update { set, .. } => format!("{}={}", sets::name(set), replicas(set)),
        Op::Delete(name) => format!("-{name}"),
    };
    plan.ops.iter().map(row).collect()
}

#[test]
fn the_first_sync_makes_a_set_with_revision_one() {
    let plan = run(deployment(3, "a", rolling(json!("25%"), json!("25%"))), vec![]);
    assert_eq!(ops(&plan), ["+=3"]);
    assert_eq!(plan.revision.as_deref(), Some("1"));
    let Op::Create(set) = &plan.ops[0] else { panic!("a creation") };
    let labels = set.spec.as_ref().unwrap().template.as_ref().unwrap().metadata.as_ref().unwrap().labels.clone().unwrap();
    assert_eq!(sets::name(set), format!("web-{}", labels[sets::HASH_LABEL]));
    assert_eq!(set.spec.as_ref().unwrap().selector.match_labels.as_ref().unwrap()[sets::HASH_LABEL], labels[sets::HASH_LABEL]);
    let condition = plan.status.conditions.as_ref().unwrap().iter().find(|c| c.type_ == "Progressing").unwrap();
    assert_eq!(condition.reason.as_deref(), Some("NewReplicaSetCreated"));
}

#[test]
fn a_rolling_update_stays_within_surge_and_unavailability() {
    let strategy = rolling(json!(1), json!(1));
    // New template: one more than wanted may exist, so the new set starts with one, and one old pod may go.
    let plan = run(deployment(4, "b", strategy.clone()), vec![set("old", "a", 4, 4, 1, 4, 5)]);
    assert_eq!(ops(&plan), ["+=1", "old=3"]);
    assert_eq!(plan.revision.as_deref(), Some("2"));
    // The new pod is not available yet: the old stay.
    let plan = run(deployment(4, "b", strategy.clone()), vec![set("old", "a", 3, 3, 1, 4, 5), set("new", "b", 2, 0, 2, 4, 5)]);
    assert_eq!(ops(&plan), Vec::<String>::new());
    // One is: one old goes.
    let plan = run(deployment(4, "b", strategy.clone()), vec![set("old", "a", 3, 3, 1, 4, 5), set("new", "b", 2, 1, 2, 4, 5)]);
    assert_eq!(ops(&plan), ["old=2"]);
    // Unhealthy old pods go first and do not cost availability.
    let plan = run(deployment(4, "b", strategy), vec![set("old", "a", 3, 1, 1, 4, 5), set("new", "b", 2, 2, 2, 4, 5)]);
    assert_eq!(ops(&plan), ["old=1"]);
}

#[test]
fn undo_brings_the_old_set_back_with_a_new_revision() {
    let plan = run(
        deployment(2, "a", rolling(json!(1), json!(0))),
        vec![set("one", "a", 0, 0, 1, 2, 3), set("two", "b", 2, 2, 2, 2, 3)],
    );
    assert_eq!(ops(&plan), ["one=1"]);
    let Op::Update { set, scaled } = &plan.ops[0] else { panic!("an update") };
    assert_eq!((revision(set), *scaled, sets::annotation(set, sets::REVISION_HISTORY)), (3, Some(0), Some("1")));
    assert_eq!(plan.revision.as_deref(), Some("3"));
}

#[test]
fn recreate_waits_until_the_old_pods_are_gone() {
    let strategy = json!({"type": "Recreate"});
    let plan = run(deployment(2, "b", strategy.clone()), vec![set("old", "a", 2, 2, 1, 2, 2)]);
    assert_eq!(ops(&plan), ["old=0"]);
    let observed = |pods: BTreeMap<String, Vec<Arc<Pod>>>| Observed {
        deployment: Arc::new(deployment(2, "b", strategy.clone())),
        sets: vec![Arc::new(set("old", "a", 0, 0, 1, 2, 2))],
        pods,
    };
    let running: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "status": {"phase": "Running"}})).unwrap();
    assert_eq!(ops(&super::plan(&observed([("old".to_owned(), vec![Arc::new(running)])].into()), now())), Vec::<String>::new());
    assert_eq!(ops(&super::plan(&observed(BTreeMap::new()), now())), ["+=2"]);
}

#[test]
fn scaling_in_the_middle_of_a_rollout_is_proportional() {
    // 10 → 20 with surge 0 while 6 old and 4 new exist (sized for 10).
    let strategy = rolling(json!(0), json!(1));
    let plan =
        run(deployment(20, "b", strategy.clone()), vec![set("old", "a", 6, 6, 1, 10, 10), set("new", "b", 4, 4, 2, 10, 10)]);
    assert_eq!(ops(&plan), ["new=8", "old=12"].into_iter().rev().collect::<Vec<_>>());
    // Down to zero: all.
    let plan = run(deployment(0, "b", strategy), vec![set("old", "a", 6, 6, 1, 10, 10), set("new", "b", 4, 4, 2, 10, 10)]);
    assert_eq!(ops(&plan), ["old=0", "new=0"]);
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let mut paused = deployment(5, "b", rolling(json!(1), json!(1)));
    paused.spec.as_mut().unwrap().paused = Some(true);
    let plan = run(paused, vec![set("old", "a", 3, 3, 1, 3, 4)]);
    assert_eq!(ops(&plan), ["old=5"]);
    let condition = plan.status.conditions.as_ref().unwrap().iter().find(|c| c.type_ == "Progressing").unwrap();
    assert_eq!((condition.status.as_str(), condition.reason.as_deref()), ("Unknown", Some("DeploymentPaused")));
}

#[test]
fn progress_is_judged_against_the_deadline() {
    let reason = |plan: &Plan| {
        let conditions = plan.status.conditions.as_ref().unwrap();
        conditions.iter().find(|c| c.type_ == "Progressing").unwrap().reason.clone().unwrap()
    };
    let strategy = rolling(json!(1), json!(0));
    let mut d = deployment(1, "a", strategy);
    d.status = Some(
        serde_json::from_value(
            json!({"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "unavailableReplicas": 1, "conditions":
        [{"type": "Progressing", "status": "True", "reason": "ReplicaSetUpdated", "lastUpdateTime": "2024-01-01T00:55:00Z"}]}),
        )
        .unwrap(),
    );
    let plan = run(d.clone(), vec![set("s", "a", 1, 0, 1, 1, 2)]);
    assert_eq!((reason(&plan).as_str(), plan.look_again), ("ReplicaSetUpdated", Some("2024-01-01T01:05:00Z".parse().unwrap())));
    d.status.as_mut().unwrap().conditions.as_mut().unwrap()[0].last_update_time =
        Some(Time("2024-01-01T00:40:00Z".parse().unwrap()));
    assert_eq!(reason(&run(d.clone(), vec![set("s", "a", 1, 0, 1, 1, 2)])), "ProgressDeadlineExceeded");
    assert_eq!(reason(&run(d, vec![set("s", "a", 1, 1, 1, 1, 2)])), "NewReplicaSetAvailable");
}

#[test]
fn history_beyond_the_limit_goes_once_the_rollout_is_complete() {
    let mut d = deployment(1, "c", rolling(json!(1), json!(0)));
    d.status = Some(
        serde_json::from_value(json!({"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "availableReplicas": 1}))
            .unwrap(),
    );
    let sets = vec![set("one", "a", 0, 0, 1, 1, 2), set("two", "b", 0, 0, 2, 1, 2), set("three", "c", 1, 1, 3, 1, 2)];
    assert_eq!(ops(&run(d, sets)), ["-one"]);
}

use super::*;
use crate::bootstrap::flow::{levels, schemas};
use crate::request_info::Query;

fn defaults(seats: usize) -> Vec<Arc<Schema>> {
    let arcs = |list: Vec<Value>| list.into_iter().map(Arc::new).collect::<Vec<_>>();
    compile(&arcs(schemas()), &arcs(levels()), seats, &HashMap::new())
}

fn of(schemas: &[Arc<Schema>], method: &str, target: &str, user: &User) -> (String, String) {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let info = RequestInfo::of(&method.parse().unwrap(), path, &Query::parse(query));
    let found = schemas.iter().find(|schema| schema.matches(&info, user)).unwrap();
    (found.name.clone(), found.level.name.clone())
}

#[test]
fn the_defaults_sort_as_upstreams() {
    let schemas = defaults(600);
    let user = |name: &str, groups: &[&str]| User::new(name, &[groups, &["system:authenticated"]].concat());
    let account = user("system:serviceaccount:kube-system:x", &["system:serviceaccounts"]);
    let node = user("system:node:a", &["system:nodes"]);
    let lease = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/x";
    let cases = [
        ("GET", "/api/v1/pods", user("a", &["system:masters"]), "exempt", "exempt"),
        ("GET", "/readyz", User::anonymous(), "probes", "exempt"),
        ("PUT", lease, user("system:kube-scheduler", &[]), "system-leader-election", "leader-election"),
        ("GET", "/api/v1/pods", user("system:kube-scheduler", &[]), "kube-scheduler", "workload-high"),
        ("PUT", "/api/v1/nodes/a/status", node.clone(), "system-node-high", "node-high"),
        ("GET", "/api/v1/namespaces/a/pods", node, "system-nodes", "system"),
        ("GET", "/api/v1/pods", account, "kube-system-service-accounts", "workload-high"),
        (
            "GET",
            "/api/v1/pods",
            user("system:serviceaccount:a:x", &["system:serviceaccounts"]),
            "service-accounts",
            "workload-low",
        ),
        ("GET", "/api/v1/pods", user("jane", &[]), "global-default", "global-default"),
        ("GET", "/version", User::anonymous(), "global-default", "global-default"),
    ];
    for (method, target, user, schema, level) in cases {
        assert_eq!(of(&schemas, method, target, &user), (schema.into(), level.into()), "{method} {target} {}", user.name);
    }
}

#[tokio::test]
async fn flows_take_turns_and_queues_end() {
    let object = serde_json::json!({"metadata": {"name": "l"}, "spec": {"type": "Limited", "limited": {
        "limitResponse": {"type": "Queue", "queuing": {"queues": 4, "handSize": 1, "queueLengthLimit": 3}},
    }}});
    let level = Arc::new(Level::of(&object, 1));
    let seat = level.clone().enter(1).await.unwrap();
    let order = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let mut waiting = Vec::new();
    // Three of a greedy flow wait before one of another.
    for (name, flow) in [("a1", 1), ("a2", 1), ("a3", 1), ("b1", 2)] {
        let (level_of, order) = (level.clone(), order.clone());
        waiting.push(tokio::spawn(async move {
            let seat = level_of.enter(flow).await.unwrap();
            order.lock().push(name);
            drop(seat);
        }));
        while level.load().1 != waiting.len() {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(level.clone().enter(1).await.err(), Some("queue-full"));
    // One gives up: its place is offered to the next.
    waiting.remove(1).abort();
    while !waiting[0].is_finished() && level.load().1 > 4 {
        tokio::task::yield_now().await;
    }
    drop(seat);
    for task in waiting {
        task.await.unwrap();
    }
    assert_eq!(*order.lock(), ["a1", "b1", "a3"]);
    assert_eq!(level.load(), (0, 0));
    let reject = serde_json::json!({"metadata": {"name": "r"}, "spec": {"type": "Limited", "limited": {"limitResponse": {"type": "Reject"}}}});
    let level = Arc::new(Level::of(&reject, 1));
    let _seat = level.clone().enter(1).await.unwrap();
    assert_eq!(level.enter(2).await.err(), Some("concurrency-limit"));
}

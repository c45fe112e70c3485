//! Write semantics over a real etcd: concurrency, allocation, deletion, and the rules of several servers on one store.
#![allow(clippy::unwrap_used)]

mod fixture;

use std::collections::HashSet;
use std::sync::Arc;

use fixture::{Api, Etcd, names};
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const MERGE: &str = "application/merge-patch+json";

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_changes_on_three_servers_all_survive() {
    let etcd = Etcd::start();
    let apis =
        [Arc::new(Api::start(&etcd, &[]).await), Arc::new(Api::start(&etcd, &[]).await), Arc::new(Api::start(&etcd, &[]).await)];
    apis[0].config_map("m", "x").await;
    let tasks: Vec<_> = (0..40)
        .map(|index| {
            let api = apis[index % 3].clone();
            tokio::spawn(async move {
                let patch = json!({"data": {format!("k{index}"): "v"}}).to_string();
                api.ask("PATCH", &format!("{MAPS}/m"), MERGE, &patch).await
            })
        })
        .collect();
    for task in tasks {
        let (code, answer) = task.await.unwrap();
        assert_eq!(code, 200, "{answer}");
    }
    let (_, map) = apis[0].get(&format!("{MAPS}/m")).await;
    assert_eq!(map["data"].as_object().unwrap().len(), 41);
    // Optimistic concurrency: an old version loses, with the reason clients retry on.
    let mut stale = map.clone();
    apis[1].ask("PATCH", &format!("{MAPS}/m"), MERGE, r#"{"data":{"z":"z"}}"#).await;
    stale["data"] = json!({});
    let (code, answer) = apis[0].ask("PUT", &format!("{MAPS}/m"), "application/json", &stale.to_string()).await;
    assert_eq!((code, answer["reason"].as_str()), (409, Some("Conflict")));
}

#[tokio::test(flavor = "multi_thread")]
async fn service_addresses_and_ports_are_handed_out_once() {
    let etcd = Etcd::start();
    let extra = ["--service-node-port-range=30000-30063"];
    let apis = [Arc::new(Api::start(&etcd, &extra).await), Arc::new(Api::start(&etcd, &extra).await)];
    let services = "/api/v1/namespaces/default/services";
    let service =
        |index: usize| json!({"metadata": {"name": format!("s{index}")}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}});
    let tasks: Vec<_> = (0..60)
        .map(|index| {
            let (api, body) = (apis[index % 2].clone(), service(index));
            tokio::spawn(async move { api.post(services, &body).await })
        })
        .collect();
    let (mut addresses, mut ports) = (HashSet::new(), HashSet::new());
    for task in tasks {
        let (code, made) = task.await.unwrap();
        assert_eq!(code, 201, "{made}");
        assert!(addresses.insert(made["spec"]["clusterIP"].as_str().unwrap().to_owned()));
        assert!(ports.insert(made["spec"]["ports"][0]["nodePort"].as_u64().unwrap()));
    }
    // What is taken cannot be asked for; what is given back can.
    let taken = addresses.iter().next().unwrap().clone();
    let wanted = json!({"metadata": {"name": "w"}, "spec": {"clusterIP": taken, "ports": [{"port": 80}]}});
    let (code, refused) = apis[0].post(services, &wanted).await;
    assert_eq!(code, 422);
    assert!(refused["message"].as_str().unwrap().contains("provided IP is already allocated"), "{refused}");
    let (_, list) = apis[0].get(services).await;
    let holder = list["items"].as_array().unwrap().iter().find(|item| item["spec"]["clusterIP"] == taken.as_str()).unwrap();
    let name = holder["metadata"]["name"].as_str().unwrap();
    assert_eq!(apis[1].ask("DELETE", &format!("{services}/{name}"), "application/json", "").await.0, 200);
    assert_eq!(apis[0].post(services, &wanted).await.0, 201);
    // A refused Service keeps nothing: neither the address (nobody is given one of the lowest sixteen unasked) nor the port.
    let port = (30000..30064).find(|port| !ports.contains(port)).unwrap();
    let wanted = |name: &str| {
        json!({"metadata": {"name": name}, "spec": {
            "type": "NodePort", "clusterIP": "10.0.0.9", "ports": [{"port": 80, "nodePort": port}],
        }})
    };
    let (code, refused) = apis[0].post(services, &wanted("Bad Name")).await;
    assert_eq!(code, 422, "{refused}");
    assert!(refused["message"].as_str().unwrap().contains("metadata.name"), "{refused}");
    let (code, made) = apis[1].post(services, &wanted("good")).await;
    assert_eq!(code, 201, "{made}");
    // All that are left can be had, and then no more.
    let held = names(&apis[0].get(services).await.1).len();
    let mut more = 0;
    loop {
        let (code, made) = apis[more % 2].post(services, &service(1000 + more)).await;
        if code != 201 {
            assert!(made["message"].as_str().unwrap().contains("range is full"), "{made}");
            break;
        }
        assert!(made["spec"]["ports"][0]["nodePort"].as_u64() != Some(port));
        more += 1;
    }
    // 64 ports; `kubernetes` and the one that asked for an address hold none.
    assert_eq!(held - 2 + more, 64);
}

#[tokio::test(flavor = "multi_thread")]
async fn finalizers_grace_and_preconditions_hold_a_delete() {
    let etcd = Etcd::start();
    let api = Api::start(&etcd, &[]).await;
    let body = json!({"metadata": {"name": "f", "finalizers": ["example.com/hold"]}});
    let (_, made) = api.post(MAPS, &body).await;
    let path = format!("{MAPS}/f");
    let wrong = json!({"preconditions": {"uid": "other"}}).to_string();
    assert_eq!(api.ask("DELETE", &path, "application/json", &wrong).await.0, 409);
    let (code, marked) = api.ask("DELETE", &path, "application/json", "").await;
    assert_eq!(code, 200);
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(marked["metadata"]["uid"], made["metadata"]["uid"]);
    assert_eq!(api.get(&path).await.0, 200);
    // A marked object takes no new finalizers.
    let more = r#"{"metadata":{"finalizers":["example.com/hold","example.com/more"]}}"#;
    assert_eq!(api.ask("PATCH", &path, MERGE, more).await.0, 422);
    assert_eq!(api.ask("PATCH", &path, MERGE, r#"{"metadata":{"finalizers":null}}"#).await.0, 200);
    assert_eq!(api.get(&path).await.0, 404);
    // Propagation leaves its finalizer for the garbage collector.
    api.config_map("g", "x").await;
    api.ask("DELETE", &format!("{MAPS}/g"), "application/json", r#"{"propagationPolicy":"Foreground"}"#).await;
    let (_, waiting) = api.get(&format!("{MAPS}/g")).await;
    assert_eq!(waiting["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    // A scheduled pod gets its grace; the kubelet's delete with 0 removes it.
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}});
    assert_eq!(api.post(pods, &pod).await.0, 201);
    let (_, marked) = api.ask("DELETE", &format!("{pods}/p"), "application/json", "").await;
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
    assert_eq!(api.ask("DELETE", &format!("{pods}/p"), "application/json", r#"{"gracePeriodSeconds":0}"#).await.0, 200);
    assert_eq!(api.get(&format!("{pods}/p")).await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_are_bound_once_and_evicted_within_their_budget() {
    let etcd = Etcd::start();
    let api = Api::start(&etcd, &[]).await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({"metadata": {"name": "p", "labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    api.post(pods, &pod).await;
    let bind = |node: &str| json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": node}});
    let (code, answer) = api.post(&format!("{pods}/p/binding"), &bind("n1")).await;
    assert_eq!((code, answer["status"].as_str()), (201, Some("Success")));
    let (code, answer) = api.post(&format!("{pods}/p/binding"), &bind("n2")).await;
    assert_eq!(code, 409);
    assert_eq!(
        answer["message"],
        "Operation cannot be fulfilled on pods/binding \"p\": pod p is already assigned to node \"n1\""
    );
    let (_, bound) = api.get(&format!("{pods}/p")).await;
    assert_eq!(bound["spec"]["nodeName"], "n1");
    assert!(bound["status"]["conditions"].as_array().unwrap().iter().any(|condition| condition["type"] == "PodScheduled"));
    let status = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}).to_string();
    assert_eq!(api.ask("PATCH", &format!("{pods}/p/status"), MERGE, &status).await.0, 200);
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let budget = json!({"metadata": {"name": "b"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"a": "b"}}}});
    assert_eq!(api.post(budgets, &budget).await.0, 201);
    let evict = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}});
    let (code, refused) = api.post(&format!("{pods}/p/eviction"), &evict).await;
    assert_eq!(code, 429);
    assert_eq!(refused["details"]["causes"][0]["reason"], "DisruptionBudget");
    let allow = json!({"status": {"observedGeneration": 1, "disruptionsAllowed": 1, "currentHealthy": 2, "desiredHealthy": 1, "expectedPods": 2}});
    assert_eq!(api.ask("PATCH", &format!("{budgets}/b/status"), MERGE, &allow.to_string()).await.0, 200);
    assert_eq!(api.post(&format!("{pods}/p/eviction"), &evict).await.0, 201);
    let (_, after) = api.get(&format!("{budgets}/b")).await;
    assert_eq!(after["status"]["disruptionsAllowed"], 0);
    assert!(after["status"]["disruptedPods"]["p"].is_string());
    assert!(api.get(&format!("{pods}/p")).await.1["metadata"]["deletionTimestamp"].is_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn scale_generate_name_dry_run_and_collections() {
    let etcd = Etcd::start();
    let api = Api::start(&etcd, &[]).await;
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let body = json!({"metadata": {"name": "d"}, "spec": {"replicas": 2, "selector": {"matchLabels": {"a": "b"}}, "template": template}});
    let (code, made) = api.post(deployments, &body).await;
    assert_eq!((code, made["metadata"]["generation"].as_u64()), (201, Some(1)));
    let (code, scale) = api.ask("PATCH", &format!("{deployments}/d/scale"), MERGE, r#"{"spec":{"replicas":5}}"#).await;
    assert_eq!((code, &scale["spec"]["replicas"], &scale["status"]["selector"]), (200, &json!(5), &json!("a=b")));
    let (_, after) = api.get(&format!("{deployments}/d")).await;
    assert_eq!((&after["spec"]["replicas"], &after["metadata"]["generation"]), (&json!(5), &json!(2)));
    let (_, a) = api.post(MAPS, &json!({"metadata": {"generateName": "gen-", "labels": {"x": "y"}}})).await;
    let name = a["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("gen-") && name.len() == 9);
    let (code, dry) = api.post(&format!("{MAPS}?dryRun=All"), &json!({"metadata": {"name": "dry"}})).await;
    assert_eq!(code, 201);
    assert!(dry["metadata"]["resourceVersion"].is_null() && dry["metadata"]["uid"].is_string());
    assert_eq!(api.get(&format!("{MAPS}/dry")).await.0, 404);
    api.config_map("stays", "x").await;
    let (_, gone) = api.ask("DELETE", &format!("{MAPS}?labelSelector=x"), "application/json", "").await;
    assert_eq!(names(&gone), [name]);
    assert!(names(&api.get(MAPS).await.1).contains(&"stays".to_owned()));
    // Nothing changed: nothing written.
    let (_, before) = api.get(&format!("{MAPS}/stays")).await;
    let (_, same) = api.ask("PATCH", &format!("{MAPS}/stays"), MERGE, r#"{"data":{"k":"x"}}"#).await;
    assert_eq!(before["metadata"]["resourceVersion"], same["metadata"]["resourceVersion"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_terminate_and_are_finalized() {
    let etcd = Etcd::start();
    let api = Api::start(&etcd, &[]).await;
    let (code, made) = api.post("/api/v1/namespaces", &json!({"metadata": {"name": "n"}})).await;
    assert_eq!((code, &made["spec"]["finalizers"]), (201, &json!(["kubernetes"])));
    let (_, marked) = api.ask("DELETE", "/api/v1/namespaces/n", "application/json", "").await;
    assert_eq!(marked["status"]["phase"], "Terminating");
    let (code, refused) = api.post("/api/v1/namespaces/n/configmaps", &json!({"metadata": {"name": "late"}})).await;
    assert_eq!((code, refused["reason"].as_str()), (403, Some("Forbidden")));
    let mut done = marked.clone();
    done["spec"]["finalizers"] = json!([]);
    let (code, _) = api.ask("PUT", "/api/v1/namespaces/n/finalize", "application/json", &done.to_string()).await;
    assert_eq!(code, 200);
    assert_eq!(api.get("/api/v1/namespaces/n").await.0, 404);
    let (code, _) = api.post("/api/v1/namespaces/missing/configmaps", &json!({"metadata": {"name": "x"}})).await;
    assert_eq!(code, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_is_told_so() {
    let etcd = Etcd::start();
    let api = Api::start(&etcd, &[]).await;
    let as_jane = |path: &'static str| {
        let api = &api;
        async move {
            let response = api.send("GET", path, &[("impersonate-user", "jane")], "").await;
            response.status().as_u16()
        }
    };
    assert_eq!(as_jane("/api/v1/nodes").await, 403);
    assert_eq!(as_jane("/version").await, 200);
    let role = json!({"metadata": {"name": "r"}, "rules": [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["list"]}]});
    api.post("/apis/rbac.authorization.k8s.io/v1/clusterroles", &role).await;
    let binding = json!({
        "metadata": {"name": "b"}, "subjects": [{"kind": "User", "name": "jane", "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "r"},
    });
    let (code, made) = api.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &binding).await;
    assert_eq!(code, 201, "{made}");
    api.until("the binding to be seen", || async { as_jane("/api/v1/nodes").await == 200 }).await;
    let review: Value = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {"user": "jane", "resourceAttributes": {"verb": "list", "resource": "nodes"}}});
    let (_, answer) = api.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", &review).await;
    assert_eq!(answer["status"]["allowed"], true);
}

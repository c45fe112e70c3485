//! Several etcds: members of one cluster that come and go, and resources that lie in an etcd of their own.
#![allow(clippy::unwrap_used)]

mod fixture;

use fixture::{Api, Etcd, names, version};
use serde_json::json;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const EVENTS: &str = "/api/v1/namespaces/default/events";

#[tokio::test(flavor = "multi_thread")]
async fn any_member_of_an_etcd_cluster_may_go() {
    let mut members = Etcd::cluster(3);
    let servers: Vec<String> = members.iter().map(|member| format!("http://127.0.0.1:{}", member.port)).collect();
    let flag = format!("--etcd-servers={}", servers.join(","));
    let api = Api::start(&members[0], &[&flag]).await;
    api.config_map("start", "x").await;
    let (_, list) = api.get(MAPS).await;
    let mut watch = api.watch(&format!("{MAPS}?watch=1&resourceVersion={}&labelSelector=l", version(&list))).await;
    for (gone, member) in members.iter_mut().enumerate() {
        member.stop();
        let name = format!("without-{gone}");
        // A write may fail while a leader is chosen, or when it was sent to the one that is gone.
        api.until("a write", || async { matches!(api.config_map(&name, "x").await.0, 201 | 409) }).await;
        api.until("readiness", || async { api.get("/readyz").await.0 == 200 }).await;
        let (code, list) = api.get(MAPS).await;
        assert_eq!(code, 200, "{list}");
        assert!(names(&list).contains(&name));
        assert_eq!(watch.brief().await.1, name, "the watch goes on");
        member.run("data");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn resources_may_lie_in_an_etcd_of_their_own() {
    let (main, mut other) = (Etcd::start(), Etcd::start());
    let flag = format!("--etcd-servers-overrides=/events#http://127.0.0.1:{0},apps/deployments#http://127.0.0.1:{0}", other.port);
    let api = Api::start(&main, &[&flag]).await;
    let event = |name: &str| json!({"metadata": {"name": name}, "involvedObject": {"namespace": "default", "kind": "Pod", "name": "p"}, "reason": "Test"});
    let (code, made) = api.post(EVENTS, &event("e1")).await;
    assert_eq!(code, 201, "{made}");
    api.config_map("m", "x").await;
    let keys =
        |etcd: &Etcd| String::from_utf8_lossy(&etcd.ctl(&["get", "--prefix", "--keys-only", "/registry/"]).stdout).into_owned();
    assert!(keys(&other).contains("/registry/events/default/e1") && !keys(&other).contains("configmaps"));
    assert!(keys(&main).contains("/registry/configmaps/default/m") && !keys(&main).contains("/registry/events/"));
    // The versions of a resource are those of its etcd, in lists, watches and single reads, by either name.
    let (_, list) = api.get(EVENTS).await;
    assert!(names(&list).contains(&"e1".to_owned()));
    let (_, newer) = api.get("/apis/events.k8s.io/v1/namespaces/default/events/e1").await;
    assert_eq!(version(&newer), version(&made));
    let mut watch = api.watch(&format!("{EVENTS}?watch=1&resourceVersion={}", version(&list))).await;
    let (_, second) = api.post(EVENTS, &event("e2")).await;
    assert_eq!(watch.brief().await, ("ADDED".into(), "e2".into(), version(&second)));
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    assert_eq!(api.post(deployments, &deployment).await.0, 201);
    let scale =
        api.ask("PATCH", &format!("{deployments}/d/scale"), "application/merge-patch+json", r#"{"spec":{"replicas":3}}"#).await;
    assert_eq!((scale.0, &scale.1["spec"]["replicas"]), (200, &json!(3)));
    assert_eq!(api.ask("DELETE", &format!("{EVENTS}/e1"), "application/json", "").await.0, 200);
    // Without the other one: not ready, the rest goes on.
    other.stop();
    api.until("readyz to fail", || async { api.get("/readyz").await.0 == 500 }).await;
    assert_eq!(api.get(&format!("{MAPS}/m")).await.0, 200);
    other.run("data");
    api.until("readyz", || async { api.get("/readyz").await.0 == 200 }).await;
    assert_eq!(names(&api.get(EVENTS).await.1), ["e2"]);
    for wrong in ["events", "/events", "/nonsense#http://127.0.0.1:1", "/resourcequotas#http://127.0.0.1:1"] {
        let flag = format!("--etcd-servers-overrides={wrong}");
        assert!(Api::try_start(&main, &[&flag]).await.is_err(), "{wrong}");
    }
}

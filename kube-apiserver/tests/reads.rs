//! Read semantics over a real etcd: consistency, exact versions, pages, watches, and what breaks the chain of revisions.
#![allow(clippy::unwrap_used)]

mod fixture;

use fixture::{Api, Etcd, copy_dir, names, version};
use serde_json::json;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test(flavor = "multi_thread")]
async fn a_list_sees_every_write_that_was_answered_on_any_server() {
    let etcd = Etcd::start();
    let (a, b) = (Api::start(&etcd, &[]).await, Api::start(&etcd, &[]).await);
    for index in 0..50 {
        let name = format!("m{index}");
        assert_eq!(a.config_map(&name, "x").await.0, 201);
        let (_, list) = b.get(MAPS).await;
        assert!(names(&list).contains(&name), "{name} is missing on the other server");
        let (code, got) = b.get(&format!("{MAPS}/{name}")).await;
        assert_eq!(code, 200);
        assert!(version(&list) >= version(&got));
        assert_eq!(b.ask("DELETE", &format!("{MAPS}/{name}"), "application/json", "").await.0, 200);
        assert_eq!(a.get(&format!("{MAPS}/{name}")).await.0, 404);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_others_do_not_stall_consistent_reads() {
    let etcd = Etcd::start();
    let api = Api::start(&etcd, &[]).await;
    for index in 0..5 {
        assert!(etcd.ctl(&["put", "/somebody/else", &index.to_string()]).status.success());
        assert_eq!(api.get(MAPS).await.0, 200);
    }
    // A version that only keys outside of the prefix have reached can be waited for as well.
    assert!(etcd.ctl(&["put", "/somebody/else", "x"]).status.success());
    let (_, list) = api.get(MAPS).await;
    let (code, _) = api.get(&format!("{MAPS}?resourceVersion={}", version(&list))).await;
    assert_eq!(code, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_of_one_version_while_objects_change() {
    let etcd = Etcd::start();
    let api = Api::start(&etcd, &[]).await;
    for index in 0..10 {
        api.config_map(&format!("m{index}"), "old").await;
    }
    let (_, first) = api.get(&format!("{MAPS}?limit=4&labelSelector=l")).await;
    assert_eq!(names(&first), ["m0", "m1", "m2", "m3"]);
    // With a selector nobody knows what remains.
    assert!(first["metadata"]["remainingItemCount"].is_null());
    let (_, first) = api.get(&format!("{MAPS}?limit=4")).await;
    let total = first["metadata"]["remainingItemCount"].as_u64().unwrap() + 4;
    api.ask("DELETE", &format!("{MAPS}/m5"), "application/json", "").await;
    api.ask("PATCH", &format!("{MAPS}/m6"), "application/merge-patch+json", r#"{"data":{"k":"new"}}"#).await;
    api.config_map("m55", "new").await;
    let (mut all, mut token) = (names(&first), first["metadata"]["continue"].as_str().unwrap().to_owned());
    while !token.is_empty() {
        let (code, page) = api.get(&format!("{MAPS}?limit=4&continue={token}")).await;
        assert_eq!(code, 200, "{page}");
        assert_eq!(page["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
        for item in page["items"].as_array().unwrap() {
            if item["metadata"]["name"] == "m6" {
                assert_eq!(item["data"]["k"], "old");
            }
        }
        all.extend(names(&page));
        token = page["metadata"]["continue"].as_str().unwrap_or("").to_owned();
    }
    assert_eq!(all.len() as u64, total);
    assert!(all.contains(&"m5".to_owned()) && !all.contains(&"m55".to_owned()));
    // The exact version again, whole.
    let rv = version(&first);
    let (_, exact) = api.get(&format!("{MAPS}?resourceVersion={rv}&resourceVersionMatch=Exact")).await;
    assert_eq!(names(&exact), all);
    // Beyond the window (a new server has none): from etcd's history.
    let other = Api::start(&etcd, &[]).await;
    let (code, exact) = other.get(&format!("{MAPS}?resourceVersion={rv}&resourceVersionMatch=Exact")).await;
    assert_eq!((code, names(&exact)), (200, all));
    // Compacted: 410, and the token of the answer leads on.
    let (_, now) = other.get(MAPS).await;
    assert!(etcd.ctl(&["compact", &version(&now).to_string()]).status.success());
    let token = first["metadata"]["continue"].as_str().unwrap();
    let (code, gone) = other.get(&format!("{MAPS}?limit=4&continue={token}")).await;
    assert_eq!((code, gone["reason"].as_str()), (410, Some("Expired")));
    let token = gone["metadata"]["continue"].as_str().unwrap();
    let (code, rest) = other.get(&format!("{MAPS}?limit=100&continue={token}")).await;
    assert_eq!(code, 200);
    assert!(names(&rest).contains(&"m55".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_begin_and_go_on_as_asked() {
    let etcd = Etcd::start();
    let api = Api::start(&etcd, &[]).await;
    api.config_map("a", "1").await;
    let (_, list) = api.get(MAPS).await;
    let from = version(&list);
    let mut since = api.watch(&format!("{MAPS}?watch=1&resourceVersion={from}&labelSelector=l%3Db")).await;
    let mut initial = api
        .watch(&format!("{MAPS}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"))
        .await;
    let mut one = api.watch(&format!("{MAPS}?watch=1&resourceVersion={from}&fieldSelector=metadata.name%3Da")).await;
    // Objects of the default namespace that the server makes may come first.
    loop {
        let event = initial.next().await.unwrap();
        if event["type"] == "BOOKMARK" {
            assert_eq!(event["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
            assert_eq!(event["object"]["kind"], "ConfigMap");
            break;
        }
        assert_eq!(event["type"], "ADDED");
    }
    let (_, b) = api.config_map("b", "1").await;
    assert_eq!(since.brief().await, ("ADDED".into(), "b".into(), version(&b)));
    assert_eq!(initial.brief().await, ("ADDED".into(), "b".into(), version(&b)));
    // It leaves the selection: gone for one, changed for the other.
    let patch = r#"{"metadata":{"labels":{"l":"other"}}}"#;
    let (_, b) = api.ask("PATCH", &format!("{MAPS}/b"), "application/merge-patch+json", patch).await;
    assert_eq!(since.brief().await, ("DELETED".into(), "b".into(), version(&b)));
    assert_eq!(initial.brief().await, ("MODIFIED".into(), "b".into(), version(&b)));
    api.ask("DELETE", &format!("{MAPS}/b"), "application/json", "").await;
    assert_eq!(initial.brief().await.0, "DELETED");
    let (_, a) = api.ask("PATCH", &format!("{MAPS}/a"), "application/merge-patch+json", r#"{"data":{"k":"2"}}"#).await;
    // The one that watches a single name has seen nothing else.
    assert_eq!(one.brief().await, ("MODIFIED".into(), "a".into(), version(&a)));
    // A version from before the window: the stream says 410.
    let other = Api::start(&etcd, &[]).await;
    let mut old = other.watch(&format!("{MAPS}?watch=1&resourceVersion={from}")).await;
    let event = old.next().await.unwrap();
    assert_eq!((event["type"].as_str(), event["object"]["code"].as_u64()), (Some("ERROR"), Some(410)));
    // A version that does not exist yet is refused after a while, not served silently.
    let mut future = other.watch(&format!("{MAPS}?watch=1&resourceVersion=99999999")).await;
    assert_eq!(future.next().await.unwrap()["object"]["code"], 504);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_etcd_is_picked_up_where_it_was() {
    let mut etcd = Etcd::start();
    let api = Api::start(&etcd, &[]).await;
    api.config_map("a", "1").await;
    let (_, list) = api.get(MAPS).await;
    let mut watch = api.watch(&format!("{MAPS}?watch=1&resourceVersion={}", version(&list))).await;
    etcd.stop();
    etcd.run("data");
    api.until("a write after the restart", || async { api.config_map("b", "1").await.0 == 201 }).await;
    assert_eq!(watch.brief().await.1, "b");
    let (_, list) = api.get(MAPS).await;
    assert!(names(&list).contains(&"b".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_etcd_is_believed_not_the_cache() {
    let mut etcd = Etcd::start();
    let api = Api::start(&etcd, &[]).await;
    api.config_map("kept", "old").await;
    etcd.stop();
    copy_dir(&etcd.dir.path().join("data"), &etcd.dir.path().join("older"));
    etcd.run("data");
    api.until("a write", || async { api.config_map("lost", "x").await.0 == 201 }).await;
    api.ask("PATCH", &format!("{MAPS}/kept"), "application/merge-patch+json", r#"{"data":{"k":"new"}}"#).await;
    for index in 0..20 {
        api.config_map(&format!("lost{index}"), "x").await;
    }
    let (_, list) = api.get(MAPS).await;
    let mut watch = api.watch(&format!("{MAPS}?watch=1&resourceVersion={}", version(&list))).await;
    etcd.stop();
    etcd.run("older");
    api.until("reads of the restored state", || async {
        let (code, kept) = api.get(&format!("{MAPS}/kept")).await;
        code == 200 && kept["data"]["k"] == "old"
    })
    .await;
    assert_eq!(api.get(&format!("{MAPS}/lost")).await.0, 404);
    let (_, list) = api.get(&format!("{MAPS}?resourceVersion=0")).await;
    assert!(!names(&list).iter().any(|name| name.starts_with("lost")));
    // The watch of the other history ended.
    while let Some(event) = watch.next().await {
        assert_ne!(event["type"], "ADDED", "{event}");
    }
    assert_eq!(api.config_map("lost", "again").await.0, 201);
    assert_eq!(api.get(&format!("{MAPS}/lost")).await.1["data"], json!({"k": "again"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn values_that_upstream_wrote_are_read() {
    let etcd = Etcd::start();
    let object = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "theirs", "namespace": "default", "uid": "u", "creationTimestamp": "2026-01-02T03:04:05Z"},
        "data": {"k": "v"},
    });
    let bytes = api::proto::encode(&object).unwrap();
    assert!(bytes.starts_with(b"k8s\0"));
    let mut child = std::process::Command::new("etcdctl")
        .env("ETCDCTL_API", "3")
        .args(["--endpoints", &format!("http://127.0.0.1:{}", etcd.port), "put", "/registry/configmaps/default/theirs"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), &bytes).unwrap();
    assert!(child.wait().unwrap().success());
    let api = Api::start(&etcd, &[]).await;
    let (code, got) = api.get(&format!("{MAPS}/theirs")).await;
    assert_eq!((code, &got["data"]), (200, &object["data"]));
    let (code, _) = api.ask("PATCH", &format!("{MAPS}/theirs"), "application/merge-patch+json", r#"{"data":{"k":"w"}}"#).await;
    assert_eq!(code, 200);
}

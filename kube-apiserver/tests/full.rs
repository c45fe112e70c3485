//! etcd out of space: what still works, what is said, and that it ends.
#![allow(clippy::unwrap_used)]

mod fixture;

use fixture::{Api, Etcd, names, version};
use serde_json::Value;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test(flavor = "multi_thread")]
async fn a_full_etcd_still_reads_and_deletes_and_recovers() {
    let etcd = Etcd::start_with(&["--unsafe-no-fsync", "--quota-backend-bytes=8388608"]);
    let api = Api::start(&etcd, &[]).await;
    let big = "x".repeat(400_000);
    let mut made = 0;
    let refused: Value = loop {
        let (code, answer) = api.config_map(&format!("m{made}"), &big).await;
        if code != 201 {
            assert_eq!(code, 500, "{answer}");
            break answer;
        }
        made += 1;
        assert!(made < 100, "the quota has no effect");
    };
    assert_eq!(refused["message"], "etcdserver: mvcc: database space exceeded");
    assert!(made > 2);
    // Readiness tells why; liveness does not ask for a restart that would not help.
    api.until("readyz to tell", || async {
        let (code, text) = api.get("/readyz").await;
        code == 500 && text.as_str().is_some_and(|text| text.contains("[-]etcd-readiness failed") && text.contains("NOSPACE"))
    })
    .await;
    assert_eq!(api.get("/livez").await.0, 200);
    // Reads and watches go on, also of another server that starts now.
    let (code, list) = api.get(MAPS).await;
    assert_eq!((code, names(&list).len()), (200, made));
    assert_eq!(api.get(&format!("{MAPS}/m0")).await.0, 200);
    let mut watch = api.watch(&format!("{MAPS}?watch=1&resourceVersion={}", version(&list))).await;
    // Deletes work.
    for index in 0..made {
        let (code, answer) = api.ask("DELETE", &format!("{MAPS}/m{index}"), "application/json", "").await;
        assert_eq!(code, 200, "{answer}");
    }
    assert_eq!(watch.brief().await.0, "DELETED");
    assert_eq!(api.get(&format!("{MAPS}/m0")).await.0, 404);
    // What an operator does then.
    let (_, now) = api.get(MAPS).await;
    for step in [&["compact", &version(&now).to_string()][..], &["defrag"], &["alarm", "disarm"]] {
        let out = etcd.ctl(step);
        assert!(out.status.success(), "{step:?}: {}", String::from_utf8_lossy(&out.stderr));
    }
    api.until("a write", || async { api.config_map("again", "x").await.0 == 201 }).await;
    api.until("readiness", || async { api.get("/readyz").await.0 == 200 }).await;
    assert_eq!(names(&api.get(MAPS).await.1), ["again"]);
}

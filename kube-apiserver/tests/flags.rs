//! What flags switch on, over a real etcd: encryption at rest, audit, compression, priority and fairness, TLS.
#![allow(clippy::unwrap_used)]

mod fixture;

use std::io::Read as _;
use std::sync::Arc;

use fixture::{Api, Etcd, names};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const MERGE: &str = "application/merge-patch+json";

fn stored(etcd: &Etcd, key: &str) -> Vec<u8> {
    etcd.ctl(&["get", "--print-value-only", key]).stdout
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_encrypted_and_rotated_by_being_written() {
    let etcd = Etcd::start();
    let file = etcd.dir.path().join("encryption.yaml");
    let flag = format!("--encryption-provider-config={}", file.display());
    let write = |providers: &str| {
        let text = format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  providers: {providers}\n"
        );
        std::fs::write(&file, text).unwrap();
    };
    let key = |name: &str| format!("{{name: {name}, secret: MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=}}");
    let secret = |name: &str| json!({"metadata": {"name": name}, "stringData": {"password": "tell-nobody"}});
    // Before there was any encryption.
    let api = Api::start(&etcd, &[]).await;
    api.post(SECRETS, &secret("old")).await;
    assert!(String::from_utf8_lossy(&stored(&etcd, "/registry/secrets/default/old")).contains("kind"));
    api.stop();
    write(&format!("[{{aescbc: {{keys: [{}]}}}}, {{identity: {{}}}}]", key("one")));
    let api = Api::start(&etcd, &[&flag]).await;
    let (code, made) = api.post(SECRETS, &secret("new")).await;
    assert_eq!(code, 201, "{made}");
    assert!(stored(&etcd, "/registry/secrets/default/new").starts_with(b"k8s:enc:aescbc:v1:one:"));
    api.config_map("plain", "x").await;
    assert!(stored(&etcd, "/registry/configmaps/default/plain").starts_with(b"{"));
    // Both are read, from memory and by another server.
    let (_, list) = api.get(SECRETS).await;
    assert_eq!(names(&list), ["new", "old"]);
    assert_eq!(list["items"][0]["data"], list["items"][1]["data"]);
    // `kubectl get secrets -o json | kubectl replace -f -`: nothing changes but how it is stored.
    let (code, answer) = api.ask("PUT", &format!("{SECRETS}/old"), "application/json", &list["items"][1].to_string()).await;
    assert_eq!(code, 200, "{answer}");
    assert!(stored(&etcd, "/registry/secrets/default/old").starts_with(b"k8s:enc:aescbc:v1:one:"));
    let (_, again) = api.ask("PUT", &format!("{SECRETS}/old"), "application/json", &answer.to_string()).await;
    assert_eq!(again["metadata"]["resourceVersion"], answer["metadata"]["resourceVersion"], "fresh values are not written again");
    api.stop();
    // The next key, of another provider; the old one still reads.
    write(&format!("[{{secretbox: {{keys: [{}]}}}}, {{aescbc: {{keys: [{}]}}}}]", key("two"), key("one")));
    let api = Api::start(&etcd, &[&flag]).await;
    let patch = r#"{"metadata":{"labels":{"a":"b"}}}"#;
    assert_eq!(api.ask("PATCH", &format!("{SECRETS}/old"), MERGE, patch).await.0, 200);
    assert!(stored(&etcd, "/registry/secrets/default/old").starts_with(b"k8s:enc:secretbox:v1:two:"));
    assert_eq!(api.get(&format!("{SECRETS}/new")).await.1["data"], list["items"][0]["data"]);
    assert_eq!(api.ask("DELETE", &format!("{SECRETS}/new"), "application/json", "").await.0, 200);
    api.stop();
    // A key that is gone takes its secrets with it: that is said, and no list pretends that they were never there.
    write(&format!("[{{aescbc: {{keys: [{}]}}}}, {{identity: {{}}}}]", key("one")));
    let api = Api::start(&etcd, &[&flag]).await;
    for path in [format!("{SECRETS}/old"), SECRETS.to_owned(), "/api/v1/secrets".to_owned()] {
        let (code, answer) = api.get(&path).await;
        assert_eq!(code, 500, "{answer}");
        assert!(answer["message"].as_str().unwrap().contains("unable to transform key"), "{answer}");
    }
    assert_eq!(api.post(SECRETS, &secret("other")).await.0, 201);
    assert_eq!(api.get(&format!("{SECRETS}/other")).await.0, 200);
    api.stop();
    // Wrong configurations stop the start, by name.
    write("[{kms: {name: x}}]");
    let refused = Api::try_start(&etcd, &[&flag]).await.err().unwrap();
    assert!(format!("{refused:#}").contains("not yet supported"), "{refused:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn audit_tells_who_did_what_at_the_level_of_the_policy() {
    let etcd = Etcd::start();
    let (policy, log) = (etcd.dir.path().join("policy.yaml"), etcd.dir.path().join("logs/audit.log"));
    std::fs::write(
        &policy,
        "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n\
         - {level: Metadata, resources: [{group: '', resources: [secrets]}]}\n\
         - {level: RequestResponse, omitManagedFields: true, resources: [{group: '', resources: [configmaps]}]}\n\
         - {level: Metadata, resources: [{group: '', resources: [pods]}]}\n\
         - {level: None}\n",
    )
    .unwrap();
    let flags = [format!("--audit-policy-file={}", policy.display()), format!("--audit-log-path={}", log.display())];
    let api = Api::start(&etcd, &[&flags[0], &flags[1]]).await;
    let events = || -> Vec<Value> {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let all = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        all.filter(|event| event["user"]["username"] != "system:apiserver").collect()
    };
    api.post(SECRETS, &json!({"metadata": {"name": "s"}, "stringData": {"p": "tell-nobody"}})).await;
    api.config_map("m", "told").await;
    api.config_map("m", "twice").await;
    api.get(MAPS).await;
    api.get("/api/v1/nodes").await;
    let denied = api.send("GET", SECRETS, &[("impersonate-user", "jane"), ("user-agent", "tester/1")], "").await;
    assert_eq!(denied.status(), 403);
    let id = denied.headers()["audit-id"].to_str().unwrap().to_owned();
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(!text.contains("tell-nobody") && !text.contains("managedFields"));
    let events_now = events();
    let find = |verb: &str, resource: &str, code: u64| -> Value {
        let found = events_now.iter().find(|event| {
            event["verb"] == verb && event["objectRef"]["resource"] == resource && event["responseStatus"]["code"] == code
        });
        found.unwrap_or_else(|| panic!("no {verb} {resource} {code} in {text}")).clone()
    };
    assert!(events_now.iter().all(|event| event["kind"] == "Event" && event["apiVersion"] == "audit.k8s.io/v1"));
    assert!(events_now.iter().all(|event| event["stage"] == "ResponseComplete" && event["objectRef"]["resource"] != "nodes"));
    let made = find("create", "secrets", 201);
    assert_eq!((&made["objectRef"]["name"], &made["requestObject"]), (&json!("s"), &Value::Null));
    assert_eq!(made["user"]["groups"], json!(["system:masters", "system:authenticated"]));
    assert_eq!(made["annotations"]["authorization.k8s.io/decision"], "allow");
    let map = find("create", "configmaps", 201);
    assert_eq!((&map["requestObject"]["data"]["k"], &map["responseObject"]["data"]["k"]), (&json!("told"), &json!("told")));
    let twice = find("create", "configmaps", 409);
    assert_eq!(twice["responseStatus"]["reason"], "AlreadyExists");
    assert_eq!(find("list", "configmaps", 200)["responseObject"]["kind"], "ConfigMapList");
    let refused = find("list", "secrets", 403);
    assert_eq!((refused["auditID"].as_str(), &refused["impersonatedUser"]["username"]), (Some(id.as_str()), &json!("jane")));
    assert_eq!((&refused["userAgent"], &refused["sourceIPs"]), (&json!("tester/1"), &json!(["127.0.0.1"])));
    assert_eq!(refused["annotations"]["authorization.k8s.io/decision"], "forbid");
    // A watch is told of when it starts and when it ends.
    let watch = api.watch("/api/v1/namespaces/default/pods?watch=1&timeoutSeconds=1").await;
    drop(watch);
    api.until("both stages of the watch", || async {
        let stages: Vec<Value> =
            events().iter().filter(|event| event["verb"] == "watch").map(|event| event["stage"].clone()).collect();
        stages == ["ResponseStarted", "ResponseComplete"]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_answers_are_compressed_for_those_who_ask() {
    let etcd = Etcd::start();
    let api = Api::start(&etcd, &[]).await;
    for index in 0..20 {
        api.config_map(&format!("m{index}"), &"abcdefgh".repeat(2500)).await;
    }
    let fetch = async |path: &str, headers: &[(&str, &str)]| {
        let response = api.send("GET", path, headers, "").await;
        assert_eq!(response.status(), 200);
        let zipped = response.headers().get("content-encoding").is_some_and(|value| value == "gzip");
        (zipped, response.into_body().collect().await.unwrap().to_bytes())
    };
    let (zipped, plain) = fetch(MAPS, &[]).await;
    assert!(!zipped && plain.len() > 400_000);
    for accept in ["application/json", "application/vnd.kubernetes.protobuf", "application/yaml"] {
        let (_, plain) = fetch(MAPS, &[("accept", accept)]).await;
        let (zipped, small) = fetch(MAPS, &[("accept", accept), ("accept-encoding", "gzip")]).await;
        assert!(zipped && small.len() < plain.len() / 10, "{accept}");
        let mut out = Vec::new();
        flate2::read::GzDecoder::new(small.as_ref()).read_to_end(&mut out).unwrap();
        assert_eq!(out, plain, "{accept}");
    }
    assert!(!fetch(&format!("{MAPS}/m1"), &[("accept-encoding", "gzip")]).await.0, "small answers go out as they are");
    assert!(fetch("/openapi/v2", &[("accept-encoding", "gzip")]).await.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_sorted_into_priority_levels() {
    let etcd = Etcd::start();
    let flags = ["--max-requests-inflight=8", "--max-mutating-requests-inflight=4"];
    let api = Arc::new(Api::start(&etcd, &flags).await);
    let (schemas, levels) = (
        "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas",
        "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations",
    );
    assert_eq!(names(&api.get(schemas).await.1).len(), 13);
    assert_eq!(names(&api.get(levels).await.1).len(), 8);
    let sorted = async |path: &str, headers: &[(&str, &str)]| {
        let response = api.send("GET", path, headers, "").await;
        let header =
            |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
        (header("x-kubernetes-pf-flowschema-uid"), header("x-kubernetes-pf-prioritylevel-uid"))
    };
    let uid =
        async |list: &str, name: &str| api.get(&format!("{list}/{name}")).await.1["metadata"]["uid"].as_str().unwrap().to_owned();
    let exempt = (uid(schemas, "exempt").await, uid(levels, "exempt").await);
    assert_eq!(sorted(MAPS, &[]).await, exempt);
    let default = (uid(schemas, "global-default").await, uid(levels, "global-default").await);
    // As jane from here on, by a schema of her own once that is there.
    assert_eq!(sorted("/version", &[("impersonate-user", "jane"), ("impersonate-group", "system:authenticated")]).await, default);
    let own = json!({"metadata": {"name": "janes"}, "spec": {
        "matchingPrecedence": 50, "priorityLevelConfiguration": {"name": "catch-all"},
        "rules": [{"subjects": [{"kind": "User", "user": {"name": "jane"}}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]}],
    }});
    let (code, made) = api.post(schemas, &own).await;
    assert_eq!(code, 201, "{made}");
    let wanted = (made["metadata"]["uid"].as_str().unwrap().to_owned(), uid(levels, "catch-all").await);
    api.until("the new schema to be used", || async { sorted("/version", &[("impersonate-user", "jane")]).await == wanted })
        .await;
    // Mandatory objects come back, and schemas say whether their level is there.
    assert_eq!(api.ask("DELETE", &format!("{schemas}/catch-all"), "application/json", "").await.0, 200);
    let dangling = json!({"metadata": {"name": "lost"}, "spec": {
        "matchingPrecedence": 60, "priorityLevelConfiguration": {"name": "none"},
        "rules": [{"subjects": [{"kind": "User", "user": {"name": "jane"}}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]}],
    }});
    api.post(schemas, &dangling).await;
    api.until("the condition", || async {
        let (_, schema) = api.get(&format!("{schemas}/lost")).await;
        schema["status"]["conditions"][0]["status"] == "True"
    })
    .await;
    assert_eq!(api.get(&format!("{schemas}/exempt")).await.1["status"]["conditions"][0]["status"], "False");
    // APIServices: of all that is served here, available.
    let (_, services) = api.get("/apis/apiregistration.k8s.io/v1/apiservices").await;
    let found = names(&services);
    for name in ["v1.", "v1.apps", "v2.autoscaling", "v1.rbac.authorization.k8s.io"] {
        assert!(found.iter().any(|have| have == name), "{found:?}");
    }
    for service in services["items"].as_array().unwrap() {
        let condition = &service["status"]["conditions"][0];
        assert_eq!(
            (&condition["type"], &condition["status"], &condition["reason"]),
            (&json!("Available"), &json!("True"), &json!("Local"))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_as_the_flags_say() {
    let etcd = Etcd::start();
    let dir = etcd.dir.path();
    let run = |script: &str| {
        assert!(std::process::Command::new("sh").arg("-c").arg(script).current_dir(dir).output().unwrap().status.success())
    };
    run(
        "openssl req -x509 -newkey rsa:2048 -nodes -keyout sni.key -out sni.crt -days 2 -subj /CN=sni -addext 'subjectAltName=DNS:*.example.com'",
    );
    let sni = format!("--tls-sni-cert-key={0}/sni.crt,{0}/sni.key", dir.display());
    let flags = [
        sni.as_str(),
        "--tls-min-version=VersionTLS12",
        "--tls-cipher-suites=TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
        "--strict-transport-security-directives=max-age=31536000,includeSubDomains",
        "--cors-allowed-origins=https://example\\.com$",
        "--external-hostname=api.example.com",
    ];
    let api = Api::start(&etcd, &flags).await;
    let shake = |extra: &str| {
        let script = format!("openssl s_client -connect 127.0.0.1:{} {extra} </dev/null 2>&1", api.port);
        String::from_utf8_lossy(&std::process::Command::new("sh").arg("-c").arg(script).output().unwrap().stdout).into_owned()
    };
    let named = shake("-servername a.example.com -tls1_2");
    assert!(named.contains("CN = sni") && named.contains("ECDHE-RSA-AES256-GCM-SHA384"), "{named}");
    assert!(!shake("-servername other -tls1_2").contains("CN = sni"));
    assert!(shake("-tls1_2 -cipher ECDHE-ECDSA-AES128-GCM-SHA256").contains("alert"), "a suite that is not allowed");
    let response = api.send("GET", "/version", &[("origin", "https://example.com")], "").await;
    assert_eq!(response.headers()["strict-transport-security"], "max-age=31536000; includeSubDomains");
    assert_eq!(response.headers()["access-control-allow-origin"], "https://example.com");
    assert!(
        !api.send("GET", "/version", &[("origin", "https://example.org")], "")
            .await
            .headers()
            .contains_key("access-control-allow-origin")
    );
    assert_eq!(api.send("OPTIONS", "/api", &[("origin", "https://example.com")], "").await.status(), 204);
    let (_, versions) = api.get("/api").await;
    let address = versions["serverAddressByClientCIDRs"][0]["serverAddress"].as_str().unwrap();
    assert!(address.starts_with("api.example.com:"), "{address}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_an_openid_issuer_are_believed() {
    let etcd = Etcd::start();
    let dir = etcd.dir.path();
    let run = |script: &str| {
        assert!(std::process::Command::new("sh").arg("-c").arg(script).current_dir(dir).output().unwrap().status.success())
    };
    run(
        "openssl req -x509 -newkey rsa:2048 -nodes -keyout tls.key -out tls.crt -days 2 -subj /CN=issuer -addext 'subjectAltName=IP:127.0.0.1' -addext basicConstraints=critical,CA:FALSE",
    );
    // Another API server is the issuer: it publishes its keys, and makes tokens for any audience.
    let port = fixture::free_port();
    let url = format!("https://127.0.0.1:{port}");
    let file = |name: &str| dir.join(name).display().to_string();
    let flags = [
        format!("--secure-port={port}"),
        format!("--tls-cert-file={}", file("tls.crt")),
        format!("--tls-private-key-file={}", file("tls.key")),
        format!("--service-account-issuer={url}"),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let issuer = Api::start_without(&etcd, &flags, "--service-account-issuer").await;
    let binding = json!({
        "metadata": {"name": "open"}, "subjects": [{"kind": "Group", "name": "system:unauthenticated", "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:service-account-issuer-discovery"},
    });
    issuer.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &binding).await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    issuer.post(accounts, &json!({"metadata": {"name": "robot"}})).await;
    let token = async |audience: &str| {
        let request =
            json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": [audience]}});
        let (code, made) = issuer.post(&format!("{accounts}/robot/token"), &request).await;
        assert_eq!(code, 201, "{made}");
        made["status"]["token"].as_str().unwrap().to_owned()
    };
    let (good, other) = (token("our-cluster").await, token("elsewhere").await);
    let ask = async |api: &Api, token: &str| {
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
        api.post("/apis/authentication.k8s.io/v1/tokenreviews", &review).await.1["status"].clone()
    };
    let etcd = Etcd::start();
    let (ca, url_flag) = (format!("--oidc-ca-file={}", file("tls.crt")), format!("--oidc-issuer-url={url}"));
    let api = Api::start(&etcd, &[&ca, &url_flag, "--oidc-client-id=our-cluster"]).await;
    api.until("the issuer's keys", || async { ask(&api, &good).await["authenticated"] == true }).await;
    let status = ask(&api, &good).await;
    assert_eq!(status["user"]["username"], format!("{url}#system:serviceaccount:default:robot"));
    let status = ask(&api, &other).await;
    assert!(status["authenticated"] != true && status["error"].as_str().unwrap().contains("expected audience"), "{status}");
    let broken = format!("{}x", &good[..good.len() - 4]);
    assert!(ask(&api, &broken).await["error"].as_str().unwrap().contains("signature"));
    api.stop();
    // The same by files, which also say where nobody needs to be known.
    let pem = std::fs::read_to_string(dir.join("tls.crt")).unwrap().replace('\n', "\n      ");
    let text = format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt:\n- issuer:\n    url: {url}\n    audiences: [our-cluster]\n    certificateAuthority: |\n      {pem}\n  claimMappings:\n    username: {{claim: sub, prefix: 'oidc:'}}\nanonymous:\n  enabled: true\n  conditions: [{{path: /livez}}]\n"
    );
    std::fs::write(dir.join("authn.yaml"), text).unwrap();
    let order = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers: [{type: Node, name: node}, {type: RBAC, name: rbac}]\n";
    std::fs::write(dir.join("authz.yaml"), order).unwrap();
    let (authn, authz) =
        (format!("--authentication-config={}", file("authn.yaml")), format!("--authorization-config={}", file("authz.yaml")));
    assert!(Api::try_start(&etcd, &[&authz]).await.is_err(), "not beside --authorization-mode");
    let api = Api::start_without(&etcd, &[&authn, &authz], "--authorization-mode").await;
    api.until("the issuer's keys", || async { ask(&api, &good).await["authenticated"] == true }).await;
    assert_eq!(ask(&api, &good).await["user"]["username"], "oidc:system:serviceaccount:default:robot");
    let code = async |path: &str| api.send("GET", path, &[("authorization", "")], "").await.status().as_u16();
    assert_eq!((code("/livez").await, code("/readyz").await, code("/api").await), (200, 401, 401));
}

//! What strangers send: broken bodies, selectors, tokens, patches, paths and upgrades; slow, idle and huge clients. Every answer is a
//! Status with a client's error code, memory stays bounded, and the server is there afterwards.
#![allow(clippy::unwrap_used)]

mod fixture;

use std::sync::Arc;
use std::time::Duration;

use fixture::{Etcd, Process};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Growth of the server's memory that a test may cause, kB: what stays of answers and connections, far below what was sent.
const GROWTH: u64 = 200 * 1024;
const PODS: &str = "/api/v1/namespaces/default/pods";
const JSON: &str = "application/json";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"a": "b"}, "annotations": {"x": "\u{1f600}\n"}},
        "spec": {
            "containers": [{
                "name": "c", "image": "i", "ports": [{"containerPort": 80}], "env": [{"name": "A", "value": "b"}],
                "resources": {"limits": {"cpu": "100m", "memory": "1Gi"}}, "args": ["-c", "true"],
            }],
            "tolerations": [{"key": "k", "operator": "Exists", "effect": "NoSchedule"}], "terminationGracePeriodSeconds": 5,
            "volumes": [{"name": "v", "configMap": {"name": "m", "items": [{"key": "a", "path": "b"}]}}],
        },
    })
}

/// The bytes, bent: flipped, cut, doubled, swapped, or with something odd put in.
fn bent(rng: &mut StdRng, bytes: &[u8]) -> Vec<u8> {
    const ODD: &[&[u8]] = &[
        b"null",
        b"{}",
        b"[]",
        b"-1",
        b"1e400",
        b"99999999999999999999",
        b"\"\\ud800\"",
        b"\xff\xfe",
        b"\0",
        b"{{{{",
        b"\"",
        b"&a *a",
        b"1.5",
        b"true",
        b"\"9223372036854775808\"",
        b"k8s\0",
    ];
    let mut out = bytes.to_vec();
    for _ in 0..rng.random_range(1..4) {
        if out.is_empty() {
            break;
        }
        let at = rng.random_range(0..out.len());
        match rng.random_range(0..6) {
            0 => out[at] ^= 1 << rng.random_range(0..8),
            1 => out.truncate(at),
            2 => {
                let piece = out[at..(at + rng.random_range(1..40)).min(out.len())].to_vec();
                out.splice(at..at, piece);
            }
            3 => drop(out.drain(at..(at + rng.random_range(1..20)).min(out.len()))),
            4 => {
                let odd = ODD[rng.random_range(0..ODD.len())];
                out.splice(at..at, odd.iter().copied());
            }
            _ => {
                // Instead of a whole token: what follows a colon.
                if let Some(colon) = out[at..].iter().position(|byte| *byte == b':').map(|offset| at + offset + 1) {
                    let end =
                        out[colon..].iter().position(|byte| b",}]\n".contains(byte)).map_or(out.len(), |offset| colon + offset);
                    let odd = ODD[rng.random_range(0..ODD.len())];
                    out.splice(colon..end, odd.iter().copied());
                }
            }
        }
    }
    out
}

/// Mistakes of clients that upstream answers with 500, recorded from it.
const ITS_500: &[&str] = &[
    "does not contain declared merge key",
    "doesn't match $setElementOrder list",
    "failed to convert new object",
    "failed to create typed patch object",
    "list element types are not identical",
    "resourceVersion: Invalid value",
    "unable to find api field",
];

/// An answer that a client can work with.
fn sane(what: &str, code: u16, body: &Value) {
    let known = code == 500 && ITS_500.iter().any(|words| body["message"].as_str().unwrap_or("").contains(words));
    assert!((200..500).contains(&code) || code == 504 || known, "{what}: {code} {body}");
    if code >= 400 && !body.is_null() {
        assert_eq!(body["kind"], "Status", "{what}: {code} {body}");
        let message = body["message"].as_str().unwrap_or("");
        assert!(!message.is_empty() && !message.contains("panic"), "{what}: {code} {body}");
    }
}

async fn started() -> (Etcd, Arc<Process>) {
    let etcd = Etcd::start();
    let server = Process::new(&etcd);
    server.run();
    server.until_ready().await;
    (etcd, Arc::new(server))
}

/// Alive, without a panic, and no larger than it may be.
async fn well(server: &Process, before: u64) {
    server.until_ready().await;
    let after = server.memory().expect("the server runs");
    assert!(after < before + GROWTH, "memory grew from {before} to {after} kB");
    let metrics = server.raw("GET", "/metrics", &[], b"").await.unwrap().1;
    let text = String::from_utf8_lossy(&metrics).into_owned();
    assert!(text.contains("apiserver_request_total") && !text.contains("rk_apiserver_panics_total{"), "a request panicked");
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_bodies_are_refused_as_bodies() {
    let (_etcd, server) = started().await;
    let before = server.memory().unwrap();
    let mut rng = StdRng::seed_from_u64(7);
    let json_bytes = serde_json::to_vec(&pod()).unwrap();
    let yaml_bytes = serde_yaml::to_string(&pod()).unwrap().into_bytes();
    let proto_bytes = api::proto::encode(&pod()).unwrap();
    let patch = br#"{"metadata":{"labels":{"a":null}},"spec":{"$setElementOrder/containers":[{"name":"c"}],"containers":[{"name":"c","image":"j"}]}}"#;
    let ops = br#"[{"op":"replace","path":"/spec/containers/0/image","value":"j"},{"op":"test","path":"/a~1b","value":1}]"#;
    server.ask("POST", PODS, JSON, &pod().to_string()).await.unwrap();
    let kinds: [(&str, &str, &str, &[u8]); 9] = [
        ("POST", PODS, JSON, &json_bytes),
        ("POST", PODS, "application/yaml", &yaml_bytes),
        ("POST", PODS, PROTOBUF, &proto_bytes),
        ("PUT", "/api/v1/namespaces/default/pods/p", JSON, &json_bytes),
        ("PATCH", "/api/v1/namespaces/default/pods/p", "application/strategic-merge-patch+json", patch),
        ("PATCH", "/api/v1/namespaces/default/pods/p", "application/merge-patch+json", patch),
        ("PATCH", "/api/v1/namespaces/default/pods/p", "application/json-patch+json", ops),
        ("PATCH", "/api/v1/namespaces/default/pods/q?fieldManager=f", "application/apply-patch+yaml", &yaml_bytes),
        (
            "DELETE",
            "/api/v1/namespaces/default/pods/p?dryRun=All",
            JSON,
            br#"{"propagationPolicy":"Foreground","gracePeriodSeconds":5}"#,
        ),
    ];
    for round in 0..120 {
        for (method, path, content_type, bytes) in kinds {
            let body = bent(&mut rng, bytes);
            let path = if path.contains('?') { format!("{path}&dryRun=All") } else { format!("{path}?dryRun=All") };
            let (code, answer) = server.raw(method, &path, &[("content-type", content_type)], &body).await.unwrap();
            let what = format!("round {round}: {method} {path} {content_type} {:?}", String::from_utf8_lossy(&body));
            sane(&what, code, &serde_json::from_slice(&answer).unwrap_or(Value::Null));
        }
    }
    // Bombs: small on the wire, huge if believed.
    let levels: Vec<String> = (1..9).map(|n| format!("l{n}: &l{n} [{}]", vec![format!("*l{}", n - 1); 9].join(","))).collect();
    let bomb = format!("apiVersion: v1\nkind: Pod\nl0: &l0 [x,x,x,x,x,x,x,x,x]\n{}\n", levels.join("\n"));
    let deep = format!("{}1{}", "{\"a\":".repeat(200_000), "}".repeat(200_000));
    let deep_yaml = "[".repeat(100_000);
    let quantity = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"containers": [
        {"name": "c", "image": "i", "resources": {"limits": {"cpu": format!("1e{}", "9".repeat(1000)), "memory": "9".repeat(100_000)}}},
    ]}})
    .to_string();
    for (content_type, body) in [
        ("application/yaml", &bomb),
        (JSON, &deep),
        ("application/yaml", &deep_yaml),
        ("application/apply-patch+yaml", &bomb),
        (JSON, &quantity),
    ] {
        let method = if content_type.contains("patch") { "PATCH" } else { "POST" };
        let path = if method == "PATCH" { format!("{PODS}/x?fieldManager=f") } else { PODS.to_owned() };
        let (code, answer) = server.ask(method, &path, content_type, body).await.unwrap();
        assert!((400..500).contains(&code), "{content_type} {}: {code} {answer}", &body[..40]);
    }
    // A gzip bomb's sister: a protobuf that claims to be longer than it is.
    let lie = [b"k8s\0\x0a\xff\xff\xff\xff\x07".as_slice(), &[0xff; 64]].concat();
    assert_eq!(server.raw("POST", PODS, &[("content-type", PROTOBUF)], &lie).await.unwrap().0, 400);
    well(&server, before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_questions_are_refused_as_questions() {
    let (_etcd, server) = started().await;
    let before = server.memory().unwrap();
    let mut rng = StdRng::seed_from_u64(11);
    let token = "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MSwic3RhcnQiOiJhXHUwMDAwIn0";
    let good: [(&str, &str); 11] = [
        ("labelSelector", "a in (b,c),!d,e!=f,g notin (h),n>2"),
        ("fieldSelector", "metadata.name=p,spec.nodeName!=n,status.phase==Running"),
        ("continue", token),
        ("resourceVersion", "1"),
        ("resourceVersionMatch", "NotOlderThan"),
        ("limit", "500"),
        ("timeoutSeconds", "1"),
        ("timeout", "1m30s"),
        ("pretty", "true"),
        ("dryRun", "All"),
        ("sendInitialEvents", "true"),
    ];
    for round in 0..600 {
        let mut query = Vec::new();
        for _ in 0..rng.random_range(1..4) {
            let (key, value) = good[rng.random_range(0..good.len())];
            let value = if rng.random_bool(0.8) { bent(&mut rng, value.as_bytes()) } else { value.as_bytes().to_vec() };
            let escaped: String = value.iter().map(|byte| format!("%{byte:02X}")).collect();
            query.push(format!("{key}={escaped}"));
        }
        let watch = if rng.random_bool(0.1) { "watch=1&timeoutSeconds=1&" } else { "" };
        // The first of two values counts.
        let path = format!("{PODS}?{watch}{}", query.join("&"));
        let (code, answer) = server.raw("GET", &path, &[], b"").await.unwrap();
        sane(&format!("round {round}: {path}"), code, &serde_json::from_slice(&answer).unwrap_or(Value::Null));
    }
    let segments = [
        "api",
        "apis",
        "v1",
        "apps",
        "namespaces",
        "default",
        "pods",
        "p",
        "log",
        "exec",
        "proxy",
        "..",
        "%2e%2e",
        "%00",
        "a%2Fb",
        "",
        "watch",
    ];
    for round in 0..600 {
        let mut path = String::new();
        for _ in 0..rng.random_range(1..9) {
            path.push('/');
            path.push_str(segments[rng.random_range(0..segments.len())]);
        }
        // Watches among them would go on.
        path.push_str("?timeoutSeconds=1");
        let method = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "BREW"][rng.random_range(0..8)];
        let upgrades: &[(&str, &str)] = match rng.random_range(0..4) {
            0 => &[
                ("connection", "upgrade"),
                ("upgrade", "websocket"),
                ("sec-websocket-version", "13"),
                ("sec-websocket-key", "bad"),
            ],
            1 => &[("connection", "Upgrade"), ("upgrade", "SPDY/3.1"), ("x-stream-protocol-version", "v9.channel.k8s.io")],
            2 => &[("connection", "upgrade"), ("upgrade", "h2c")],
            _ => &[("accept", "text/plain;q=,;;,application/json;as=Table")],
        };
        let answer = server.raw(method, &path, upgrades, b"").await;
        let (code, answer) = answer.unwrap_or_else(|why| panic!("round {round}: {method} {path} {upgrades:?}: {why}"));
        let what = format!("round {round}: {method} {path} {upgrades:?}");
        assert!(
            (101..500).contains(&code) || matches!(code, 501 | 503 | 504),
            "{what}: {code} {}",
            String::from_utf8_lossy(&answer)
        );
    }
    well(&server, before).await;
}

fn connector(alpn: &[u8]) -> TlsConnector {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(auth::authn::x509::any_server_cert())
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    TlsConnector::from(Arc::new(config))
}

async fn tls(server: &Process, alpn: &[u8]) -> TlsStream<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", server.port)).await.unwrap();
    connector(alpn).connect("localhost".try_into().unwrap(), stream).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_idle_and_huge_clients_hold_nobody_up() {
    let (_etcd, server) = started().await;
    let before = server.memory().unwrap();
    let mut held = Vec::new();
    // A thousand that say nothing; some after the handshake, most before it.
    for _ in 0..900 {
        held.push(TcpStream::connect(("127.0.0.1", server.port)).await.unwrap());
    }
    let mut shaken = Vec::new();
    for index in 0..100 {
        let mut stream = tls(&server, if index % 2 == 0 { b"http/1.1" } else { b"h2" }).await;
        if index % 2 == 0 {
            // Slow: a head without an end, a body that does not come.
            let head = if index % 4 == 0 {
                "GET /version HTTP/1.1\r\nhost: x\r\nx-slow: ".to_owned()
            } else {
                format!(
                    "POST {PODS} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer secret\r\ncontent-type: {JSON}\r\ncontent-length: 100\r\n\r\n{{"
                )
            };
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.flush().await.unwrap();
        }
        shaken.push(stream);
    }
    // Not TLS, not HTTP.
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\x16\x03\x01\xff\xff", &[0xff; 4096]] {
        let mut stream = TcpStream::connect(("127.0.0.1", server.port)).await.unwrap();
        let _ = stream.write_all(garbage).await;
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut answer)).await.expect("it is cut");
    }
    let mut stream = tls(&server, b"h2").await;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\x00\x00\x00\x00\x00\x00").await.unwrap();
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut answer)).await.expect("it is cut");
    // Meanwhile others are served.
    assert_eq!(server.ask("GET", PODS, JSON, "").await.unwrap().0, 200);
    // Heads without measure.
    let long = "x".repeat(2 << 20);
    let (code, _) = server.raw("GET", "/version", &[("x-long", &long)], b"").await.unwrap_or((431, Vec::new()));
    assert_eq!(code, 431);
    // Bodies without measure: refused before they are read to their end.
    for (path, content_type) in [(PODS, JSON), (PODS, "application/yaml"), (PODS, PROTOBUF)] {
        let mut stream = tls(&server, b"http/1.1").await;
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer secret\r\ncontent-type: {content_type}\r\ntransfer-encoding: chunked\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let chunk = [format!("{:x}\r\n", 1 << 20).into_bytes(), vec![b'x'; 1 << 20], b"\r\n".to_vec()].concat();
        for _ in 0..200 {
            // It hangs up while we still speak.
            if stream.write_all(&chunk).await.is_err() {
                break;
            }
        }
        let mut answer = vec![0; 4096];
        let length = stream.read(&mut answer).await.unwrap_or(0);
        let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 413"), "{answer}");
    }
    let large = format!(r#"{{"x":"{}"}}"#, "y".repeat(3 << 20));
    let (code, answer) = server.ask("POST", PODS, JSON, &large).await.unwrap();
    assert_eq!((code, answer["reason"].as_str()), (413, Some("RequestEntityTooLarge")));
    assert_eq!(held.len() + shaken.len(), 1000);
    well(&server, before).await;
    drop((held, shaken));
    well(&server, before).await;
}

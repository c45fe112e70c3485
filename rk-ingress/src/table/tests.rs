use serde_json::json;

use super::*;

fn ingress(name: &str, spec: serde_json::Value, annotations: serde_json::Value) -> Arc<Ingress> {
    Arc::new(
        serde_json::from_value(
            json!({"metadata": {"namespace": "shop", "name": name, "annotations": annotations}, "spec": spec}),
        )
        .unwrap(),
    )
}

fn rule(host: &str, paths: &[(&str, &str, &str)]) -> serde_json::Value {
    let paths: Vec<_> = paths
        .iter()
        .map(|(kind, path, service)| {
            json!({"path": path, "pathType": kind, "backend": {"service": {"name": service, "port": {"number": 80}}}})
        })
        .collect();
    json!({"host": host, "http": {"paths": paths}})
}

fn objects(ingresses: Vec<Arc<Ingress>>) -> Objects {
    let mut objects = Objects { ingresses, ..Objects::default() };
    for (class, controller) in [("rk", crate::CONTROLLER), ("other", "example.com/other")] {
        let class = json!({"metadata": {"name": class}, "spec": {"controller": controller}});
        objects.classes.push(Arc::new(serde_json::from_value(class).unwrap()));
    }
    for (index, name) in ["one", "two", "three", "four"].iter().enumerate() {
        let service = json!({
            "metadata": {"namespace": "shop", "name": name},
            "spec": {"ports": [{"name": "web", "port": 80, "targetPort": "http"}, {"name": "admin", "port": 81}]},
        });
        objects.services.push(Arc::new(serde_json::from_value(service).unwrap()));
        let slice = json!({
            "metadata": {"namespace": "shop", "name": format!("{name}-1"), "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4",
            "ports": [{"name": "web", "port": 8080}, {"name": "admin", "port": 9090}],
            "endpoints": [
                {"addresses": [format!("10.0.{index}.1")], "conditions": {"ready": true}},
                {"addresses": [format!("10.0.{index}.2")], "conditions": {"ready": false}},
            ],
        });
        objects.slices.push(Arc::new(serde_json::from_value(slice).unwrap()));
    }
    objects
}

fn selection() -> Selection {
    Selection { class: "rk".into(), controller: crate::CONTROLLER.into(), ..Selection::default() }
}

/// `service:port path`, as the backend sees it.
fn goes(table: &Table, host: &str, path: &str) -> String {
    match table.route(host, path) {
        Route::None => "-".to_owned(),
        Route::To(rule, rewritten) => {
            format!("{} {}", rule.backend.name.trim_start_matches("shop/"), rewritten.as_deref().unwrap_or(path))
        }
    }
}

#[test]
fn hosts_and_paths_in_the_api_s_order() {
    let spec = json!({"ingressClassName": "rk", "rules": [
        rule("a.com", &[("Prefix", "/", "one"), ("Prefix", "/api", "two"), ("Exact", "/api", "three")]),
        rule("*.a.com", &[("Prefix", "/", "four")]),
        rule("", &[("Prefix", "/only", "two")]),
    ]});
    let table = build(&objects(vec![ingress("x", spec, json!({}))]), &selection());
    assert_eq!(table.problems, []);
    for (host, path, want) in [
        ("a.com", "/", "one:80 /"),
        ("A.com", "/x", "one:80 /x"),
        ("a.com", "/api", "three:80 /api"),
        ("a.com", "/api/v1", "two:80 /api/v1"),
        ("a.com", "/apis", "one:80 /apis"),
        ("b.a.com", "/x", "four:80 /x"),
        ("c.b.a.com", "/x", "-"),
        ("elsewhere", "/only/x", "two:80 /only/x"),
        ("elsewhere", "/x", "-"),
        // Another host's rules are no fallback.
        ("b.a.com", "/only", "four:80 /only"),
    ] {
        assert_eq!(goes(&table, host, path), want, "{host}{path}");
    }
    let Route::To(rule, _) = table.route("a.com", "/") else { panic!("no route") };
    assert_eq!(rule.backend.endpoints, ["10.0.0.1:8080".parse().unwrap()]);
}

#[test]
fn classes_choose() {
    let paths = rule("", &[("Prefix", "/", "one")]);
    let with = |class: Option<&str>, annotation: Option<&str>, without_class: bool| {
        let mut spec = json!({"rules": [paths]});
        if let Some(class) = class {
            spec["ingressClassName"] = json!(class);
        }
        let annotations = annotation.map_or(json!({}), |class| json!({CLASS_ANNOTATION: class}));
        let objects = objects(vec![ingress("x", spec, annotations)]);
        build(&objects, &Selection { without_class, ..selection() }).hosts() == 1
    };
    assert!(with(Some("rk"), None, false));
    assert!(!with(Some("other"), None, true));
    assert!(!with(Some("absent"), None, true));
    assert!(with(None, Some("rk"), false));
    assert!(!with(None, Some("nginx"), true));
    assert!(!with(None, None, false));
    assert!(with(None, None, true));
}

#[test]
fn default_backends_take_the_rest() {
    let backend = json!({"service": {"name": "four", "port": {"name": "admin"}}});
    let spec = json!({"ingressClassName": "rk", "defaultBackend": backend, "rules": [rule("a.com", &[("Prefix", "/x", "one")])]});
    let table = build(&objects(vec![ingress("x", spec, json!({}))]), &selection());
    assert_eq!(goes(&table, "a.com", "/x"), "one:80 /x");
    assert_eq!(goes(&table, "a.com", "/y"), "four:admin /y");
    assert_eq!(goes(&table, "b.com", "/x"), "four:admin /x");
    let mut last = selection();
    last.backend = Some("shop/two:80".into());
    let spec = json!({"ingressClassName": "rk", "rules": [rule("a.com", &[("Prefix", "/x", "one")])]});
    let table = build(&objects(vec![ingress("x", spec, json!({}))]), &last);
    assert_eq!((goes(&table, "a.com", "/y"), goes(&table, "q", "/")), ("two:80 /y".into(), "two:80 /".into()));
}

#[test]
fn rewrites_use_the_groups_of_the_rule() {
    let spec = json!({"ingressClassName": "rk", "rules": [rule("", &[("ImplementationSpecific", "/pay(/|$)(.*)", "one")])]});
    let annotations = json!({"nginx.ingress.kubernetes.io/rewrite-target": "/$2"});
    let table = build(&objects(vec![ingress("x", spec, annotations)]), &selection());
    assert_eq!(goes(&table, "h", "/pay/card"), "one:80 /card");
    assert_eq!(goes(&table, "h", "/payment"), "-");
}

#[test]
fn what_cannot_be_done_is_told_and_the_rest_is_done() {
    let spec = json!({"ingressClassName": "rk", "tls": [{"hosts": ["a.com"], "secretName": "gone"}], "rules": [
        rule("a.com", &[("Prefix", "/", "one"), ("Prefix", "/none", "absent")]),
        {"host": "b.com", "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": {"resource": {"kind": "A", "name": "b"}}}]}},
        {"host": "c.com", "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "one", "port": {"number": 99}}}}]}},
    ]});
    let table = build(&objects(vec![ingress("x", spec, json!({}))]), &selection());
    let problems: Vec<_> = table.problems.iter().map(|(_, why)| why.as_str()).collect();
    assert_eq!(
        problems,
        [
            "service shop/absent does not exist",
            "a backend that is a resource is not supported: use a service",
            "service shop/one has no port 99",
            "secret shop/gone: it does not exist, or is not of type kubernetes.io/tls",
        ]
    );
    assert_eq!(goes(&table, "a.com", "/x"), "one:80 /x");
    assert_eq!(goes(&table, "c.com", "/x"), "one:99 /x");
}

#[test]
fn certificates_by_host_with_wildcards() {
    let key = rcgen_pair();
    let secret = json!({"metadata": {"namespace": "shop", "name": "cert"}, "type": "kubernetes.io/tls", "data": key});
    let mut objects = objects(vec![ingress(
        "x",
        json!({"ingressClassName": "rk", "tls": [{"hosts": ["a.com", "*.b.com"], "secretName": "cert"}], "rules": [rule("a.com", &[("Prefix", "/", "one")])]}),
        json!({}),
    )]);
    objects.secrets.push(Arc::new(serde_json::from_value(secret).unwrap()));
    let table = build(&objects, &selection());
    assert_eq!(table.problems, []);
    for (host, want) in [("a.com", true), ("x.b.com", true), ("b.com", false), ("y.x.b.com", false), ("", false)] {
        assert_eq!(table.certificate(host).is_some(), want, "{host}");
    }
}

/// A self-signed pair as a Secret's data.
fn rcgen_pair() -> serde_json::Value {
    use k8s_openapi::ByteString;
    let pair = rcgen::generate_simple_self_signed(vec!["a.com".to_owned()]).unwrap();
    serde_json::json!({
        "tls.crt": ByteString(pair.cert.pem().into_bytes()),
        "tls.key": ByteString(pair.signing_key.serialize_pem().into_bytes()),
    })
}

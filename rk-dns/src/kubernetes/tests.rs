//! The specification as a table: question, outcome.

use serde_json::{Value, json};

use super::*;
use crate::config::Fallthrough;

fn config() -> Kubernetes {
    Kubernetes {
        zones: ["cluster.local", "in-addr.arpa", "ip6.arpa"].map(Zone::parse).to_vec(),
        pods: Pods::Insecure,
        fallthrough: Fallthrough::Zones(vec![Zone::parse("in-addr.arpa"), Zone::parse("ip6.arpa")]),
        ttl: 30,
        endpoint_pod_names: false,
        ignore_empty: false,
        namespaces: Vec::new(),
    }
}

fn slice(service: &str, name: &str, kind: &str, endpoints: Value) -> k8s_openapi::api::discovery::v1::EndpointSlice {
    serde_json::from_value(json!({
        "metadata": {"namespace": "default", "name": name, "labels": {"kubernetes.io/service-name": service}},
        "addressType": kind, "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints,
    }))
    .unwrap()
}

pub(crate) fn index() -> Index {
    let mut index = Index::default();
    index.namespaces.extend(["default".to_owned(), "kube-system".to_owned()]);
    let service = |namespace: &str, name: &str, spec: Value| {
        serde_json::from_value(json!({"metadata": {"namespace": namespace, "name": name}, "spec": spec})).unwrap()
    };
    let http = json!([{"name": "http", "port": 80, "protocol": "TCP"}, {"name": "dns", "port": 53, "protocol": "UDP"}]);
    index.set_service(&service(
        "default",
        "web",
        json!({"clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5", "fd00:96::5"], "ports": http}),
    ));
    index.set_service(&service("default", "db", json!({"clusterIP": "None", "ports": [{"name": "http", "port": 80}]})));
    index.set_service(&service("default", "empty", json!({"clusterIP": "None", "ports": [{"port": 80}]})));
    index.set_service(&service("default", "out", json!({"type": "ExternalName", "externalName": "www.example.org"})));
    index.set_service(&service(
        "kube-system",
        "kube-dns",
        json!({"clusterIP": "10.96.0.10", "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}]}),
    ));
    index.set_slice(&slice(
        "db",
        "db-1",
        "IPv4",
        json!([
            {"addresses": ["10.244.0.2"], "hostname": "db-0", "conditions": {"ready": true}},
            {"addresses": ["10.244.0.3"], "conditions": {"ready": true}},
            {"addresses": ["10.244.0.4"], "hostname": "db-2", "conditions": {"ready": false}},
        ]),
    ));
    index.set_slice(&slice("db", "db-2", "IPv6", json!([{"addresses": ["fd00:244::2"], "hostname": "db-0"}])));
    index.set_slice(&slice("web", "web-1", "IPv4", json!([{"addresses": ["10.244.0.9"]}])));
    index
}

fn ask(config: &Kubernetes, index: &Index, name: &str, kind: &str) -> String {
    let original = Name::from_ascii(format!("{name}.")).unwrap();
    let labels: Vec<String> = name.split('.').map(str::to_ascii_lowercase).collect();
    let question = Question { name: &original, labels: &labels, kind: kind.parse().unwrap() };
    match answer(config, index, &question) {
        Outcome::Pass => "pass".into(),
        Outcome::NoData(soa) => format!("nodata {}", soa.name),
        Outcome::NoName(soa) => format!("nxdomain {}", soa.name),
        Outcome::Alias { target, .. } => format!("alias {target}"),
        Outcome::Records { answers, .. } => {
            for answer in &answers {
                assert_eq!((answer.name.to_string(), answer.ttl), (original.to_string(), 30));
            }
            let mut all: Vec<String> = answers.iter().map(|record| record.data.to_string()).collect();
            all.sort();
            all.join(", ")
        }
    }
}

#[test]
fn the_specification_holds() {
    let (config, index) = (config(), index());
    for (name, kind, expected) in [
        ("dns-version.cluster.local", "TXT", "1.1.0"),
        ("dns-version.cluster.local", "A", "nodata cluster.local."),
        ("cluster.local", "NS", "ns.dns.cluster.local."),
        ("ns.dns.cluster.local", "A", "10.96.0.10"),
        ("web.default.svc.cluster.local", "A", "10.96.0.5"),
        ("WEB.Default.svc.Cluster.local", "A", "10.96.0.5"),
        ("web.default.svc.cluster.local", "AAAA", "fd00:96::5"),
        ("web.default.svc.cluster.local", "MX", "nodata cluster.local."),
        ("kube-dns.kube-system.svc.cluster.local", "AAAA", "nodata cluster.local."),
        ("_http._tcp.web.default.svc.cluster.local", "SRV", "0 100 80 web.default.svc.cluster.local."),
        ("_http._tcp.web.default.svc.cluster.local", "A", "nodata cluster.local."),
        ("_http._udp.web.default.svc.cluster.local", "SRV", "nxdomain cluster.local."),
        (
            "web.default.svc.cluster.local",
            "SRV",
            "0 50 53 web.default.svc.cluster.local., 0 50 80 web.default.svc.cluster.local.",
        ),
        ("db.default.svc.cluster.local", "A", "10.244.0.2, 10.244.0.3"),
        ("db.default.svc.cluster.local", "AAAA", "fd00:244::2"),
        ("db-0.db.default.svc.cluster.local", "A", "10.244.0.2"),
        ("db-0.db.default.svc.cluster.local", "AAAA", "fd00:244::2"),
        ("10-244-0-3.db.default.svc.cluster.local", "A", "10.244.0.3"),
        ("10-244-0-2.db.default.svc.cluster.local", "A", "nxdomain cluster.local."),
        ("db-2.db.default.svc.cluster.local", "A", "nxdomain cluster.local."),
        (
            "_http._tcp.db.default.svc.cluster.local",
            "SRV",
            "0 33 8080 10-244-0-3.db.default.svc.cluster.local., 0 33 8080 db-0.db.default.svc.cluster.local.",
        ),
        ("empty.default.svc.cluster.local", "A", "nxdomain cluster.local."),
        ("out.default.svc.cluster.local", "A", "alias www.example.org."),
        ("out.default.svc.cluster.local", "AAAA", "alias www.example.org."),
        ("10-244-0-77.default.pod.cluster.local", "A", "10.244.0.77"),
        ("fd00-244--2.default.pod.cluster.local", "AAAA", "fd00:244::2"),
        ("10-244-0-77.default.pod.cluster.local", "AAAA", "nodata cluster.local."),
        ("10-244-0-77.nowhere.pod.cluster.local", "A", "nxdomain cluster.local."),
        ("nonsense.default.pod.cluster.local", "A", "nxdomain cluster.local."),
        ("default.svc.cluster.local", "A", "nodata cluster.local."),
        ("nowhere.svc.cluster.local", "A", "nxdomain cluster.local."),
        ("missing.default.svc.cluster.local", "A", "nxdomain cluster.local."),
        ("web.default.cluster.local", "A", "nxdomain cluster.local."),
        ("a.b.c.d.e.f.svc.cluster.local", "A", "nxdomain cluster.local."),
        ("5.0.96.10.in-addr.arpa", "PTR", "web.default.svc.cluster.local."),
        ("2.0.244.10.in-addr.arpa", "PTR", "db-0.db.default.svc.cluster.local."),
        ("9.0.244.10.in-addr.arpa", "PTR", "10-244-0-9.web.default.svc.cluster.local."),
        ("1.1.1.1.in-addr.arpa", "PTR", "pass"),
        ("5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.0.d.f.ip6.arpa", "PTR", "web.default.svc.cluster.local."),
        ("www.example.org", "A", "pass"),
    ] {
        assert_eq!(ask(&config, &index, name, kind), expected, "{name} {kind}");
    }
}

#[test]
fn pods_may_be_off_or_verified() {
    let mut index = index();
    let pod = |ip: &str| {
        serde_json::from_value(
            json!({"metadata": {"namespace": "default", "name": ip}, "status": {"podIP": ip, "podIPs": [{"ip": ip}]}}),
        )
        .unwrap()
    };
    index.set_pod(&pod("10.244.0.2"));
    let off = Kubernetes { pods: Pods::Disabled, ..config() };
    let verified = Kubernetes { pods: Pods::Verified, ..config() };
    let name = "10-244-0-2.default.pod.cluster.local";
    assert_eq!(ask(&off, &index, name, "A"), "nxdomain cluster.local.");
    assert_eq!(ask(&verified, &index, name, "A"), "10.244.0.2");
    assert_eq!(ask(&verified, &index, "10-244-0-3.default.pod.cluster.local", "A"), "nxdomain cluster.local.");
    index.delete_pod(&pod("10.244.0.2"));
    assert_eq!(ask(&verified, &index, name, "A"), "nxdomain cluster.local.");
}

#[test]
fn what_is_deleted_is_forgotten() {
    let mut index = index();
    index.delete_service("default", "web");
    index.delete_slice(&slice("db", "db-1", "IPv4", json!([])));
    assert_eq!(ask(&config(), &index, "web.default.svc.cluster.local", "A"), "nxdomain cluster.local.");
    assert_eq!(ask(&config(), &index, "5.0.96.10.in-addr.arpa", "PTR"), "pass");
    assert_eq!(ask(&config(), &index, "2.0.244.10.in-addr.arpa", "PTR"), "pass");
    assert_eq!(ask(&config(), &index, "db.default.svc.cluster.local", "A"), "nodata cluster.local.");
}

//! Portals and their rules, as text.

use serde_json::{Value, json};

use super::*;
use crate::backend::Settings;
use crate::locality::Locality;
use crate::portal::Place;
use crate::service::ServiceName;
use crate::state::State;
use crate::state::tests::{service, slice};
use net::iptables::Family;

fn context() -> Context {
    let settings = Settings {
        family: Family::V4,
        locality: Locality::Cidr("10.244.0.0/16".parse().unwrap()),
        masquerade_all: false,
        masquerade_bit: 14,
        localhost_node_ports: true,
        node_port_addresses: Vec::new(),
        node_ips: vec!["172.30.0.1".parse().unwrap()],
    };
    Context { settings, terse: false }
}

fn rules(spec: Value, endpoints: &[(&str, &str)]) -> String {
    let mut state = State::new(Place { node: "me".into(), zone: String::new() });
    let mut object = service("web", spec);
    object.status = serde_json::from_value(json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.9"}]}})).unwrap();
    if object.spec.as_ref().unwrap().type_.as_deref() != Some("LoadBalancer") {
        object.status = None;
    }
    state.set_service(&object);
    state.set_slice(&slice("web", "web-1", json!({"port": 8080}), endpoints));
    let portals = state.portals(&ServiceName::new("ns", "web"), Family::V4);
    let rules = context().rules(&portals[0]);
    let mut out = String::new();
    for shared in &rules.shared {
        out.push_str(&format!("{:?} {} {}\n", shared.table, shared.chain, shared.rule));
    }
    for chain in &rules.chains {
        for rule in &chain.rules {
            out.push_str(&format!("{} {rule}\n", chain.name));
        }
    }
    // Hashes are checked elsewhere; here they only hide the structure.
    let hash = names::service_hash(&portals[0].port);
    let mut text = out.replace(&hash, "X");
    for (index, endpoint) in portals[0].reachable().iter().enumerate() {
        text = text.replace(&names::endpoint(&portals[0].port, *endpoint), &format!("SEP{}", index + 1));
    }
    text
}

#[test]
fn a_cluster_ip_with_two_endpoints() {
    let text = rules(json!({"clusterIP": "10.96.0.5", "ports": [{"port": 80}]}), &[("10.244.0.2", "me"), ("10.244.1.2", "you")]);
    assert_eq!(
        text,
        r#"Nat KUBE-SERVICES -m comment --comment "ns/web cluster IP" -p tcp -m tcp -d 10.96.0.5 --dport 80 -j KUBE-SVC-X
KUBE-SVC-X -m comment --comment "ns/web cluster IP" ! -s 10.244.0.0/16 -p tcp -m tcp -d 10.96.0.5 --dport 80 -j KUBE-MARK-MASQ
KUBE-SVC-X -m comment --comment "ns/web -> 10.244.0.2:8080" -m statistic --mode random --probability 0.5000000000 -j SEP1
KUBE-SVC-X -m comment --comment "ns/web -> 10.244.1.2:8080" -j SEP2
SEP1 -m comment --comment "ns/web" -s 10.244.0.2 -j KUBE-MARK-MASQ
SEP1 -m comment --comment "ns/web" -p tcp -m tcp -j DNAT --to-destination 10.244.0.2:8080
SEP2 -m comment --comment "ns/web" -s 10.244.1.2 -j KUBE-MARK-MASQ
SEP2 -m comment --comment "ns/web" -p tcp -m tcp -j DNAT --to-destination 10.244.1.2:8080
"#
    );
}

#[test]
fn without_endpoints_everything_is_rejected() {
    let text = rules(json!({"type": "NodePort", "clusterIP": "10.96.0.5", "ports": [{"port": 80, "nodePort": 30080}]}), &[]);
    assert_eq!(
        text,
        r#"Filter KUBE-SERVICES -m comment --comment "ns/web has no endpoints" -p tcp -m tcp -d 10.96.0.5 --dport 80 -j REJECT
Filter KUBE-EXTERNAL-SERVICES -m comment --comment "ns/web has no endpoints" -m addrtype --dst-type LOCAL -p tcp -m tcp --dport 30080 -j REJECT
"#
    );
}

#[test]
fn external_policy_local_without_local_endpoints_short_circuits_inside_and_drops_outside() {
    let spec = json!({"type": "LoadBalancer", "clusterIP": "10.96.0.5", "externalTrafficPolicy": "Local", "healthCheckNodePort": 31000,
        "loadBalancerSourceRanges": ["203.0.113.0/24"], "ports": [{"port": 80, "nodePort": 30080}]});
    let text = rules(spec, &[("10.244.1.2", "you")]);
    assert_eq!(
        text,
        r#"Nat KUBE-SERVICES -m comment --comment "ns/web cluster IP" -p tcp -m tcp -d 10.96.0.5 --dport 80 -j KUBE-SVC-X
Nat KUBE-SERVICES -m comment --comment "ns/web loadbalancer IP" -p tcp -m tcp -d 192.0.2.9 --dport 80 -j KUBE-FW-X
Filter KUBE-EXTERNAL-SERVICES -m comment --comment "ns/web has no local endpoints" -p tcp -m tcp -d 192.0.2.9 --dport 80 -j DROP
Filter KUBE-PROXY-FIREWALL -m comment --comment "ns/web traffic not accepted by KUBE-FW-X" -p tcp -m tcp -d 192.0.2.9 --dport 80 -j DROP
Nat KUBE-NODEPORTS -m comment --comment "ns/web" -p tcp -m tcp --dport 30080 -j KUBE-EXT-X
Filter KUBE-EXTERNAL-SERVICES -m comment --comment "ns/web has no local endpoints" -m addrtype --dst-type LOCAL -p tcp -m tcp --dport 30080 -j DROP
Filter KUBE-NODEPORTS -m comment --comment "ns/web health check node port" -p tcp -m tcp --dport 31000 -j ACCEPT
KUBE-FW-X -m comment --comment "ns/web loadbalancer IP" -s 203.0.113.0/24 -j KUBE-EXT-X
KUBE-EXT-X -m comment --comment "pod traffic for ns/web external destinations" -s 10.244.0.0/16 -j KUBE-SVC-X
KUBE-EXT-X -m comment --comment "masquerade LOCAL traffic for ns/web external destinations" -m addrtype --src-type LOCAL -j KUBE-MARK-MASQ
KUBE-EXT-X -m comment --comment "route LOCAL traffic for ns/web external destinations" -m addrtype --src-type LOCAL -j KUBE-SVC-X
KUBE-SVC-X -m comment --comment "ns/web cluster IP" ! -s 10.244.0.0/16 -p tcp -m tcp -d 10.96.0.5 --dport 80 -j KUBE-MARK-MASQ
KUBE-SVC-X -m comment --comment "ns/web -> 10.244.1.2:8080" -j SEP1
SEP1 -m comment --comment "ns/web" -s 10.244.1.2 -j KUBE-MARK-MASQ
SEP1 -m comment --comment "ns/web" -p tcp -m tcp -j DNAT --to-destination 10.244.1.2:8080
"#
    );
}

#[test]
fn affinity_looks_for_the_clients_endpoint_first() {
    let spec = json!({"clusterIP": "10.96.0.5", "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
        "ports": [{"port": 53, "protocol": "UDP"}]});
    let mut state = State::default();
    state.set_service(&service("web", spec));
    state.set_slice(&slice("web", "web-1", json!({"port": 53, "protocol": "UDP"}), &[("10.244.0.2", "a"), ("10.244.0.3", "a")]));
    let portal = &state.portals(&ServiceName::new("ns", "web"), Family::V4)[0];
    let rules = context().rules(portal);
    let svc = &rules.chains[0].rules;
    assert!(svc[1].contains("--rcheck --seconds 60 --reap --rsource"), "{svc:?}");
    assert_eq!(svc.len(), 5);
    assert!(rules.chains[1].rules[1].contains("--set --rsource -p udp -m udp -j DNAT"));
}

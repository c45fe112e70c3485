//! The contract of every backend, tried with real packets in network namespaces: TCP and UDP, IPv4 and IPv6.

mod lab;

use std::time::Duration;

use kube_proxy::backend::Scope;
use lab::{Family, Reply, each, service};
use serde_json::json;

/// Enough tries that all of three endpoints answer, but for one run in a million.
const TRIES: usize = 40;

#[test]
fn a_cluster_ip_is_balanced_and_keeps_the_pods_address() {
    each(|lab| {
        lab.set(&service("web", json!({"clusterIP": lab.vip(5), "ports": [{"port": 80}]})), &["p1", "p2", "remote"]);
        let target = lab.at(lab.vip(5), 80);
        for protocol_client in ["p3", "node"] {
            let mut seen: Vec<String> = (0..TRIES).map(|_| lab.tcp(protocol_client, &target).server()).collect();
            seen.sort();
            seen.dedup();
            assert_eq!(seen, ["p1", "p2", "remote"], "{} from {protocol_client}", lab.title());
        }
        assert_eq!(lab.tcp("p3", &target).client(), lab.ip("p3"), "{}: a pod's address is kept", lab.title());
        let outside = lab.tcp("outside", &target);
        assert_ne!(outside.client(), lab.ip("outside"), "{}: strangers are masqueraded", lab.title());
    });
}

#[test]
fn a_pod_reaches_itself_through_its_service() {
    each(|lab| {
        lab.set(&service("web", json!({"clusterIP": lab.vip(5), "ports": [{"port": 80}]})), &["p1"]);
        let reply = lab.tcp("p1", &lab.at(lab.vip(5), 80));
        assert_eq!(reply.server(), "p1");
        assert_ne!(reply.client(), lab.ip("p1"), "{}", lab.title());
    });
}

#[test]
fn a_node_port_answers_from_everywhere() {
    each(|lab| {
        lab.set(
            &service("web", json!({"type": "NodePort", "clusterIP": lab.vip(5), "ports": [{"port": 80, "nodePort": 30080}]})),
            &["p1", "remote"],
        );
        let target = lab.at(lab.ip("node"), 30080);
        for client in ["outside", "node", "p3", "p1"] {
            for _ in 0..6 {
                assert!(matches!(lab.tcp(client, &target), Reply::From { .. }), "{} from {client}", lab.title());
            }
        }
        if lab.family == Family::V4 && lab.kind.node_ports_everywhere {
            assert!(matches!(lab.tcp("node", "127.0.0.1:30080"), Reply::From { .. }), "{}", lab.title());
        }
        assert_eq!(lab.tcp("outside", &lab.at(lab.ip("node"), 30081)), Reply::Refused);
    });
}

#[test]
fn external_and_load_balancer_addresses_are_served_and_source_ranges_hold() {
    each(|lab| {
        let mut object = service(
            "web",
            json!({"type": "LoadBalancer", "clusterIP": lab.vip(5), "externalIPs": [lab.outer(50)],
                "loadBalancerSourceRanges": [format!("{}/{}", lab.outer(7), if lab.family == Family::V4 { 32 } else { 128 })],
                "ports": [{"port": 80, "nodePort": 30080}]}),
        );
        object.status = serde_json::from_value(json!({"loadBalancer": {"ingress": [{"ip": lab.outer(60)}]}})).unwrap();
        lab.set(&object, &["p1"]);
        assert_eq!(lab.tcp("outside", &lab.at(lab.outer(50), 80)).server(), "p1", "{}", lab.title());
        assert_eq!(lab.tcp("outside", &lab.at(lab.outer(60), 80)), Reply::Silent, "{}: not in the ranges", lab.title());
        object.spec.as_mut().unwrap().load_balancer_source_ranges =
            Some(vec![format!("{}/24", "192.0.2.0"), "2001:db8::/64".into()]);
        lab.set(&object, &["p1"]);
        assert_eq!(lab.tcp("outside", &lab.at(lab.outer(60), 80)).server(), "p1", "{}", lab.title());
    });
}

#[test]
fn without_endpoints_connections_are_refused_at_once() {
    each(|lab| {
        lab.set(
            &service("web", json!({"type": "NodePort", "clusterIP": lab.vip(5), "ports": [{"port": 80, "nodePort": 30080}]})),
            &[],
        );
        assert_eq!(lab.tcp("p1", &lab.at(lab.vip(5), 80)), Reply::Refused, "{}", lab.title());
        assert_eq!(lab.tcp("node", &lab.at(lab.vip(5), 80)), Reply::Refused, "{}", lab.title());
        assert_eq!(lab.tcp("outside", &lab.at(lab.ip("node"), 30080)), Reply::Refused, "{}", lab.title());
    });
}

#[test]
fn external_policy_local_keeps_the_clients_address_or_drops() {
    each(|lab| {
        let spec = json!({"type": "NodePort", "clusterIP": lab.vip(5), "externalTrafficPolicy": "Local",
            "ports": [{"port": 80, "nodePort": 30080}]});
        let target = lab.at(lab.ip("node"), 30080);
        lab.set(&service("web", spec.clone()), &["p1", "remote"]);
        for _ in 0..8 {
            let reply = lab.tcp("outside", &target);
            assert_eq!((reply.server(), reply.client()), ("p1".to_owned(), lab.ip("outside")), "{}", lab.title());
        }
        lab.set(&service("web", spec), &["remote"]);
        assert_eq!(lab.tcp("outside", &target), Reply::Silent, "{}", lab.title());
        assert_eq!(lab.tcp("p1", &target).server(), "remote", "{}: pods are short-circuited", lab.title());
        assert_eq!(lab.tcp("node", &target).server(), "remote", "{}: so is the node", lab.title());
        assert_eq!(lab.tcp("p1", &lab.at(lab.vip(5), 80)).server(), "remote", "{}", lab.title());
    });
}

#[test]
fn internal_policy_local_stays_on_the_node_or_drops() {
    each(|lab| {
        let spec = json!({"clusterIP": lab.vip(5), "internalTrafficPolicy": "Local", "ports": [{"port": 80}]});
        let target = lab.at(lab.vip(5), 80);
        lab.set(&service("web", spec.clone()), &["p1", "remote"]);
        for _ in 0..8 {
            assert_eq!(lab.tcp("p3", &target).server(), "p1", "{}", lab.title());
        }
        lab.set(&service("web", spec), &["remote"]);
        assert_eq!(lab.tcp("p3", &target), Reply::Silent, "{}", lab.title());
    });
}

#[test]
fn a_client_with_affinity_stays_with_its_endpoint() {
    each(|lab| {
        let spec = json!({"clusterIP": lab.vip(5), "sessionAffinity": "ClientIP", "ports": [{"port": 80}]});
        lab.set(&service("web", spec), &["p1", "p2", "remote"]);
        let target = lab.at(lab.vip(5), 80);
        let first = lab.tcp("p3", &target).server();
        let stays = |when: &str| {
            for _ in 0..15 {
                assert_eq!(lab.tcp("p3", &target).server(), first, "{} {when}", lab.title());
            }
        };
        stays("");
        lab.sync(Scope::All);
        stays("after a full sync");
        lab.restart();
        lab.sync(Scope::All);
        stays("after a restart");
    });
}

#[test]
fn udp_follows_its_endpoints() {
    each(|lab| {
        let spec =
            json!({"type": "NodePort", "clusterIP": lab.vip(5), "ports": [{"port": 53, "protocol": "UDP", "nodePort": 30053}]});
        lab.set(&service("dns", spec.clone()), &["p1"]);
        // The same flow all the time: the same ports, never a pause.
        let (inside, outside) = (lab.udp_client("p3"), lab.udp_client("outside"));
        let (vip, port) = (lab.at(lab.vip(5), 53), lab.at(lab.ip("node"), 30053));
        assert_eq!(lab.udp(&inside, &vip).server(), "p1", "{}", lab.title());
        assert_eq!(lab.udp(&outside, &port).server(), "p1", "{}", lab.title());
        lab.set(&service("dns", spec.clone()), &["p2"]);
        assert_eq!(lab.udp(&inside, &vip).server(), "p2", "{}", lab.title());
        assert_eq!(lab.udp(&outside, &port).server(), "p2", "{}", lab.title());
        lab.set(&service("dns", spec), &["p2", "remote"]);
        assert_eq!(lab.udp(&inside, &vip).server(), "p2", "{}: a live flow stays", lab.title());
    });
}

#[test]
fn live_connections_survive_every_kind_of_sync() {
    each(|lab| {
        let spec = json!({"clusterIP": lab.vip(5), "ports": [{"port": 80}]});
        lab.set(&service("web", spec.clone()), &["p1"]);
        let mut connection = lab.connect("p3", &lab.at(lab.vip(5), 80));
        assert!(connection.echo());
        lab.set(&service("web", spec.clone()), &["p1", "p2"]);
        assert!(connection.echo(), "{}: more endpoints", lab.title());
        lab.set(&service("other", json!({"clusterIP": lab.vip(6), "ports": [{"port": 81}]})), &["p2"]);
        assert!(connection.echo(), "{}: another service", lab.title());
        lab.sync(Scope::All);
        assert!(connection.echo(), "{}: a full sync", lab.title());
        lab.restart();
        lab.sync(Scope::All);
        assert!(connection.echo(), "{}: a restart", lab.title());
        lab.set(&service("web", spec), &["p2"]);
        assert!(connection.echo(), "{}: its endpoint is no longer offered", lab.title());
    });
}

#[test]
fn what_vanishes_is_cleaned_and_others_rules_stay() {
    each(|lab| {
        lab.add_other_peoples_rules();
        let untouched = lab.rules_without_ours();
        let spec = |port| json!({"type": "NodePort", "clusterIP": lab.vip(5), "ports": [{"port": 80, "nodePort": port}]});
        lab.set(&service("web", spec(30080)), &["p1"]);
        lab.set(&service("web", spec(30090)), &["p1"]);
        assert_eq!(lab.tcp("outside", &lab.at(lab.ip("node"), 30080)), Reply::Refused, "{}", lab.title());
        assert_eq!(lab.tcp("outside", &lab.at(lab.ip("node"), 30090)).server(), "p1", "{}", lab.title());
        lab.delete("web");
        assert!(!matches!(lab.tcp_within("p2", &lab.at(lab.vip(5), 80), Duration::from_millis(300)), Reply::From { .. }));
        // A proxy that was away while a Service vanished.
        lab.set(&service("web", spec(30080)), &["p1"]);
        lab.restart();
        lab.forget("web");
        lab.sync(Scope::All);
        assert_eq!(lab.tcp("outside", &lab.at(lab.ip("node"), 30080)), Reply::Refused, "{}", lab.title());
        assert_eq!(lab.rules_without_ours(), untouched, "{}", lab.title());
        lab.set(&service("web", spec(30080)), &["p1"]);
        lab.cleanup();
        lab.cleanup();
        assert_eq!(lab.all_rules(), untouched, "{}: nothing is left", lab.title());
    });
}

#[test]
fn flushed_rules_are_noticed_and_restored() {
    each(|lab| {
        lab.set(&service("web", json!({"clusterIP": lab.vip(5), "ports": [{"port": 80}]})), &["p1"]);
        assert!(lab.verify(), "{}", lab.title());
        lab.empty_our_chain();
        assert!(!lab.verify(), "{}: emptied", lab.title());
        lab.sync(Scope::All);
        assert!(lab.verify(), "{}", lab.title());
        lab.flush_everything();
        assert!(!lab.verify(), "{}: removed", lab.title());
        lab.sync(Scope::All);
        assert_eq!(lab.tcp("p2", &lab.at(lab.vip(5), 80)).server(), "p1", "{}", lab.title());
    });
}

#[test]
fn a_sync_that_was_killed_half_way_is_finished_by_the_next_process() {
    each(|lab| {
        let spec = json!({"type": "NodePort", "clusterIP": lab.vip(5), "ports": [{"port": 80, "nodePort": 30080}]});
        lab.set(&service("web", spec), &["p1", "p2"]);
        lab.set(
            &service("sticky", json!({"clusterIP": lab.vip(6), "sessionAffinity": "ClientIP", "ports": [{"port": 80}]})),
            &["p1"],
        );
        let whole = lab.all_rules();
        lab.leave_half_a_sync();
        assert_ne!(lab.all_rules(), whole, "{}", lab.title());
        lab.restart();
        lab.sync(Scope::All);
        assert_eq!(lab.all_rules(), whole, "{}", lab.title());
        assert!(matches!(lab.tcp("p3", &lab.at(lab.vip(5), 80)), Reply::From { .. }), "{}", lab.title());
    });
}

#[test]
fn a_process_that_is_configured_otherwise_takes_over() {
    each(|lab| {
        let spec = json!({"type": "NodePort", "clusterIP": lab.vip(5), "ports": [{"port": 80, "nodePort": 30080}]});
        lab.set(&service("web", spec), &["remote"]);
        let (vip, port) = (lab.at(lab.vip(5), 80), lab.at(lab.ip("node"), 30080));
        assert_eq!(lab.tcp("p3", &vip).client(), lab.ip("p3"), "{}", lab.title());
        assert_eq!(lab.tcp("outside", &port).server(), "remote", "{}", lab.title());
        lab.restart_with(|settings| {
            settings.masquerade_all = true;
            settings.masquerade_bit = 20;
            settings.localhost_node_ports = false;
            // None of the node's addresses that the stranger can see.
            settings.node_port_addresses = vec!["10.244.0.0/24".parse().unwrap(), "fd00:244::/64".parse().unwrap()];
        });
        lab.sync(Scope::All);
        assert_ne!(lab.tcp("p3", &vip).client(), lab.ip("p3"), "{}: all is masqueraded", lab.title());
        assert_eq!(lab.tcp("outside", &port), Reply::Refused, "{}: not on this address", lab.title());
        if lab.family == Family::V4 {
            assert_eq!(lab.tcp("node", "127.0.0.1:30080"), Reply::Refused, "{}", lab.title());
        }
        lab.cleanup();
        assert!(!lab.all_rules().iter().any(|rule| rule.contains("web")), "{}", lab.title());
    });
}

#[test]
fn a_load_balancer_in_proxy_mode_is_not_short_circuited() {
    each(|lab| {
        let mut object =
            service("web", json!({"type": "LoadBalancer", "clusterIP": lab.vip(5), "ports": [{"port": 80, "nodePort": 30080}]}));
        let ingress = |mode: &str| json!({"loadBalancer": {"ingress": [{"ip": lab.outer(60), "ipMode": mode}]}});
        object.status = serde_json::from_value(ingress("VIP")).unwrap();
        lab.set(&object, &["p1"]);
        assert_eq!(lab.tcp("p2", &lab.at(lab.outer(60), 80)).server(), "p1", "{}", lab.title());
        // Its packets have to reach the balancer itself, which nobody is here.
        object.status = serde_json::from_value(ingress("Proxy")).unwrap();
        lab.set(&object, &["p1"]);
        let reply = lab.tcp_within("p2", &lab.at(lab.outer(60), 80), Duration::from_millis(300));
        assert!(!matches!(reply, Reply::From { .. }), "{}: {reply:?}", lab.title());
        assert_eq!(lab.tcp("outside", &lab.at(lab.ip("node"), 30080)).server(), "p1", "{}", lab.title());
    });
}

#[test]
fn endpoints_that_flap_all_the_time_never_lose_a_connection_to_those_that_stay() {
    each(|lab| {
        let spec = json!({"clusterIP": lab.vip(5), "ports": [{"port": 80}]});
        let target = lab.at(lab.vip(5), 80);
        lab.set(&service("web", spec.clone()), &["p1"]);
        let mut open = lab.connect("p3", &target);
        for round in 0..100 {
            // p1 stays; others come and go, and with them the number of endpoints.
            let endpoints: &[&str] = [&["p1", "p2"][..], &["p1"], &["p1", "p2", "remote"], &["p1", "remote"]][round % 4];
            lab.set(&service("web", spec.clone()), endpoints);
            if round % 10 == 0 {
                let reply = lab.tcp("p3", &target).server();
                assert!(endpoints.contains(&reply.as_str()), "{}: {reply} of {endpoints:?}", lab.title());
                assert!(open.echo(), "{}", lab.title());
            }
        }
    });
}

#[test]
fn many_small_changes_end_where_one_large_one_does() {
    each(|lab| {
        let mut random = 12_345_u64;
        let mut next = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        let endpoints = ["p1", "p2", "p3", "remote"];
        for _ in 0..60 {
            let number = u8::try_from(next(4)).unwrap();
            let name = format!("s{number}");
            if next(6) == 0 {
                lab.delete(&name);
                continue;
            }
            let mut spec = json!({"type": "NodePort", "clusterIP": lab.vip(5 + number), "ports": [{"port": 80, "nodePort": 30080 + u32::from(number)}]});
            for (chance, key, value) in [
                (4, "externalTrafficPolicy", json!("Local")),
                (4, "internalTrafficPolicy", json!("Local")),
                (4, "sessionAffinity", json!("ClientIP")),
                (3, "externalIPs", json!([lab.outer(50 + number)])),
            ] {
                if next(chance) == 0 {
                    spec[key] = value;
                }
            }
            let chosen: Vec<&str> = endpoints.iter().copied().filter(|_| next(2) == 0).collect();
            lab.set(&service(&name, spec), &chosen);
        }
        let incremental = lab.all_rules();
        lab.sync(Scope::All);
        assert_eq!(incremental, lab.all_rules(), "{}", lab.title());
    });
}

//! The engine against itself: whatever the order of changes, the rules are those of the objects.

use super::*;
use crate::agent::policy::model::{Peer, PortMatch, Protocol, Requirement, Rule, Selector};

fn labels(key: &str, value: usize) -> Labels {
    [(key.to_owned(), value.to_string())].into()
}

fn selector(key: &str, value: usize) -> Selector {
    Selector { requirements: vec![(key.to_owned(), Requirement::In(vec![value.to_string()]))] }
}

fn pod(number: usize, app: usize, namespaces: usize) -> Pod {
    let octet = |n: usize| u8::try_from(n % 256).unwrap();
    Pod {
        namespace: format!("ns{}", number % namespaces),
        labels: labels("app", app),
        node: format!("node{}", number % 50),
        ips: vec![IpAddr::from([10, 244, octet(number / 250), octet(number % 250)])],
        ports: vec![("http".into(), Protocol::Tcp, 8000 + u16::from(octet(number % 3)))],
    }
}

fn policy(number: usize, namespaces: usize) -> Policy {
    let peer = Peer::Pods { namespaces: Some(selector("team", number % 10)), pods: selector("app", number % 5) };
    Policy {
        namespace: format!("ns{}", number % namespaces),
        pods: selector("app", number % 7),
        ingress: Some(vec![Rule { peers: Some(vec![peer]), ports: Some(vec![(Protocol::Tcp, PortMatch::Range(80, 80))]) }]),
        egress: None,
    }
}

/// 1,000 policies, 5,000 pods, 100 namespaces, 50 nodes.
fn large() -> Engine {
    let mut engine = Engine::new("node1");
    for namespace in 0..100 {
        engine.set_namespace(&format!("ns{namespace}"), Some(labels("team", namespace % 10)));
    }
    for number in 0..1000 {
        engine.set_policy(&format!("ns{}/np{number}", number % 100), Some(policy(number, 100)));
    }
    for number in 0..5000 {
        engine.set_pod(&format!("ns{}/p{number}", number % 100), Some(pod(number, number % 7, 100)));
    }
    engine
}

#[test]
fn selectors_are_shared_and_a_pods_change_is_small() {
    let mut engine = large();
    assert!(engine.rules().maps["in4"].len() >= 90, "{}", engine.rules().maps["in4"].len());
    // 10 × 5 selectors in two families, however many policies use them.
    assert!(engine.rules().sets.len() <= 100, "{}", engine.rules().sets.len());
    engine.take_changes();
    // A pod of another node: one element of one set, no rule.
    let mut moved = pod(5, 5, 100);
    moved.labels = labels("app", 4);
    engine.set_pod("ns5/p5", Some(moved));
    let changes = engine.take_changes();
    assert!(changes.chains.is_empty() && changes.sets.is_empty() && changes.verdicts.is_empty(), "{changes:?}");
    assert!(changes.elements.values().map(BTreeMap::len).sum::<usize>() <= 2, "{changes:?}");
    // A pod of this node goes: its address, and its place in groups.
    engine.set_pod("ns1/p1", None);
    let changes = engine.take_changes();
    assert_eq!((changes.verdicts.len(), changes.selves.len()), (1, 1), "{changes:?}");
}

#[test]
fn any_order_of_changes_ends_in_the_rules_of_the_objects() {
    let mut random = 7_u64;
    let mut next = |below: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(random >> 33).unwrap() % below
    };
    let mut engine = Engine::new("node1");
    let (mut pods, mut policies, mut namespaces) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for round in 0..3000 {
        let number = next(60);
        match next(8) {
            0 => {
                let name = format!("ns{}", next(4));
                let team = (next(4) > 0).then(|| labels("team", next(3)));
                engine.set_namespace(&name, team.clone());
                namespaces.insert(name, team);
            }
            1..=4 => {
                // Some share an address, and some move to another node.
                let mut object = pod(number % 50, next(4), 4);
                object.node = format!("node{}", next(2));
                let object = (next(3) > 0).then_some(object);
                let key = format!("ns{}/p{number}", number % 4);
                engine.set_pod(&key, object.clone());
                pods.insert(key, object);
            }
            _ => {
                let mut object = policy(number % 12, 4);
                object.pods = if next(3) == 0 { Selector::default() } else { selector("app", next(4)) };
                let peer = match next(5) {
                    0 => Peer::Pods { namespaces: None, pods: selector("app", next(4)) },
                    1 => Peer::Pods { namespaces: Some(Selector::default()), pods: Selector::default() },
                    2 => Peer::Block { cidr: "10.244.0.0/28".parse().unwrap(), except: vec!["10.244.0.4/30".parse().unwrap()] },
                    _ => Peer::Pods { namespaces: Some(selector("team", next(3))), pods: selector("app", next(4)) },
                };
                let port = if next(2) == 0 { PortMatch::Named("http".into()) } else { PortMatch::Any };
                let rule = Rule { peers: (next(4) > 0).then_some(vec![peer]), ports: Some(vec![(Protocol::Tcp, port)]) };
                if next(2) == 0 {
                    object.egress = Some(vec![rule]);
                } else {
                    object.ingress = Some(vec![rule]);
                }
                let object = (next(4) > 0).then_some(object);
                let key = format!("ns{}/np{}", number % 4, number % 12);
                engine.set_policy(&key, object.clone());
                policies.insert(key, object);
            }
        }
        if round % 100 != 99 {
            continue;
        }
        let mut fresh = Engine::new("node1");
        for (key, object) in &pods {
            fresh.set_pod(key, object.clone());
        }
        for (name, object) in &namespaces {
            fresh.set_namespace(name, object.clone());
        }
        for (key, object) in &policies {
            fresh.set_policy(key, object.clone());
        }
        assert_eq!(engine.rules(), fresh.rules(), "after {round} changes");
    }
}

//! What 1,000 policies over 5,000 pods in 100 namespaces cost the agent of one of 50 nodes. Prints numbers and asserts none:
//! run by hand, `cargo run --release -p rk-cni --example policies`.

use std::net::IpAddr;
use std::time::Instant;

use net::NetNs;
use rk_cni::agent::policy::engine::Engine;
use rk_cni::agent::policy::kernel::Kernel;
use rk_cni::agent::policy::model::{Labels, Peer, Pod, Policy, PortMatch, Protocol, Requirement, Rule, Selector};

const POLICIES: usize = 1_000;
const PODS: usize = 5_000;
const NAMESPACES: usize = 100;
const NODES: usize = 50;

fn labels(key: &str, value: usize) -> Labels {
    [(key.to_owned(), value.to_string())].into()
}

fn selector(key: &str, value: usize) -> Selector {
    Selector { requirements: vec![(key.to_owned(), Requirement::In(vec![value.to_string()]))] }
}

fn pod(number: usize, app: usize) -> Pod {
    let octet = |n: usize| u8::try_from(n % 256).unwrap_or_default();
    Pod {
        namespace: format!("ns{}", number % NAMESPACES),
        labels: labels("app", app),
        node: format!("node{}", number % NODES),
        ips: vec![IpAddr::from([10, 244, octet(number / 250), octet(number % 250)])],
        ports: Vec::new(),
    }
}

fn policy(number: usize) -> Policy {
    let peer = Peer::Pods { namespaces: Some(selector("team", number % 10)), pods: selector("app", number % 5) };
    Policy {
        namespace: format!("ns{}", number % NAMESPACES),
        pods: selector("app", number % 7),
        ingress: Some(vec![Rule { peers: Some(vec![peer]), ports: Some(vec![(Protocol::Tcp, PortMatch::Range(80, 80))]) }]),
        egress: None,
    }
}

fn main() {
    let namespace = NetNs::fresh().expect("root can make a network namespace");
    let begun = Instant::now();
    let mut engine = Engine::new("node1");
    for number in 0..NAMESPACES {
        engine.set_namespace(&format!("ns{number}"), Some(labels("team", number % 10)));
    }
    for number in 0..POLICIES {
        engine.set_policy(&format!("ns{}/np{number}", number % NAMESPACES), Some(policy(number)));
    }
    for number in 0..PODS {
        engine.set_pod(&format!("ns{}/p{number}", number % NAMESPACES), Some(pod(number, number % 7)));
    }
    println!("compiled: {:?}", begun.elapsed());
    let mut kernel = Kernel::default();
    let mut write = |engine: &mut Engine, what: &str| {
        let begun = Instant::now();
        let changes = engine.take_changes();
        let batch = kernel.plan(engine.rules(), &changes);
        let planned = begun.elapsed();
        let result = namespace.run(|| kernel.apply(&batch));
        println!("{what}: planned in {planned:?}, {} bytes, applied in {:?}, {:?}", batch.len(), begun.elapsed(), result.is_ok());
    };
    write(&mut engine, "everything");
    for (what, number) in [("a pod elsewhere", 5), ("a pod here", 1)] {
        let begun = Instant::now();
        engine.set_pod(&format!("ns{number}/p{number}"), Some(pod(number, 4)));
        println!("{what}: compiled in {:?}", begun.elapsed());
        write(&mut engine, what);
    }
    let begun = Instant::now();
    engine.set_policy("ns1/np1", None);
    println!("a policy: compiled in {:?}", begun.elapsed());
    write(&mut engine, "a policy");
}

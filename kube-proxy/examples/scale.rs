//! What syncing costs at 10,000 Services with 5 endpoints each. Prints numbers and asserts none: run by hand,
//! `RK_SERVICES=10000 RK_BACKEND=nftables cargo run --release --example scale`.

use std::sync::Arc;

use kube_proxy::backend::{BACKENDS, Portals, Scope, Settings};
use kube_proxy::locality::Locality;
use kube_proxy::portal::Place;
use kube_proxy::service::ServiceName;
use kube_proxy::state::State;
use net::NetNs;
use net::iptables::Family;
use serde_json::json;
use tokio::time::Instant;

const ENDPOINTS: u32 = 5;

fn settings() -> Settings {
    Settings {
        family: Family::V4,
        locality: Locality::Cidr("10.244.0.0/16".parse().unwrap()),
        masquerade_all: false,
        masquerade_bit: 14,
        localhost_node_ports: true,
        node_port_addresses: Vec::new(),
        node_ips: Vec::new(),
    }
}

fn slice(number: u32, shift: u32) -> k8s_openapi::api::discovery::v1::EndpointSlice {
    let endpoint = |index: u32| {
        let host = number * ENDPOINTS + index;
        json!({"addresses": [format!("10.{}.{}.{}", 128 + host / 65_536 + shift, host / 256 % 256, host % 256)], "nodeName": "n"})
    };
    serde_json::from_value(json!({
        "metadata": {"namespace": "ns", "name": format!("s{number}"), "labels": {"kubernetes.io/service-name": format!("s{number}")}},
        "addressType": "IPv4", "ports": [{"port": 8080}], "endpoints": (0..ENDPOINTS).map(endpoint).collect::<Vec<_>>(),
    }))
    .unwrap()
}

fn main() {
    let services: u32 = std::env::var("RK_SERVICES").ok().and_then(|text| text.parse().ok()).unwrap_or(10_000);
    let wanted = std::env::var("RK_BACKEND").unwrap_or_default();
    let changed = [7, services / 2, services - 1];
    let mut state = State::new(Place { node: "me".into(), zone: String::new() });
    for number in 0..services {
        let spec = json!({"clusterIP": format!("10.96.{}.{}", number / 250, number % 250 + 1), "ports": [{"port": 80}]});
        let name = format!("s{number}");
        state.set_service(&serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": name}, "spec": spec})).unwrap());
        state.set_slice(&slice(number, 0));
    }
    let all: Portals =
        state.take_changes().into_iter().map(|name| (name.clone(), Arc::from(state.portals(&name, Family::V4)))).collect();
    for kind in BACKENDS.iter().filter(|kind| wanted.is_empty() || kind.name == wanted) {
        let mut portals = all.clone();
        let node = NetNs::fresh().unwrap();
        node.run(|| {
            let mut backend = (kind.new)(settings());
            let begun = Instant::now();
            let report = backend.sync(&portals, Scope::All).unwrap();
            println!("{}: first sync of {services} × {ENDPOINTS}: {:?}, {} rules", kind.name, begun.elapsed(), report.written);
            for number in changed {
                state.set_slice(&slice(number, 10));
                let names = state.take_changes();
                for name in &names {
                    portals.insert(name.clone(), state.portals(name, Family::V4).into());
                }
                let begun = Instant::now();
                let report = backend.sync(&portals, Scope::Only(&names)).unwrap();
                println!("{}: endpoints of one service: {:?}, {} rules", kind.name, begun.elapsed(), report.written);
            }
            let gone = ServiceName::new("ns", "s17");
            portals.remove(&gone);
            let begun = Instant::now();
            backend.sync(&portals, Scope::Only(&[gone])).unwrap();
            println!("{}: one service goes: {:?}", kind.name, begun.elapsed());
            let begun = Instant::now();
            assert!(backend.verify().unwrap());
            println!("{}: a look at the rules: {:?}", kind.name, begun.elapsed());
            let begun = Instant::now();
            backend.sync(&portals, Scope::All).unwrap();
            println!("{}: full sync over what is there: {:?}", kind.name, begun.elapsed());
        })
        .unwrap();
        for number in changed {
            state.set_slice(&slice(number, 0));
        }
        state.take_changes();
    }
}

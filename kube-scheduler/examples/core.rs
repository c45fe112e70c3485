//! How many pods a second the core places, without an API server: `cargo run --release -p kube-scheduler --example core [NODES [PODS]]`.
//!
//! Each pod arrives, is decided on, and is confirmed as a watch would; all pods stay.

use std::sync::Arc;
use std::time::Instant;

use kube_scheduler::config::Profile;
use kube_scheduler::object::node::Node;
use kube_scheduler::object::pod::Pod;
use kube_scheduler::queue::Backoff;
use kube_scheduler::scheduler::{Scheduler, Step};
use kube_scheduler::stores::Stores;
use serde_json::{Value, json};

fn main() {
    let mut args = std::env::args().skip(1).map(|arg| arg.parse().expect("a number"));
    let (nodes, pods): (usize, usize) = (args.next().unwrap_or(5_000), args.next().unwrap_or(50_000));
    for kind in ["basic", "spread", "anti-affinity"] {
        let scheduler = Scheduler::new(vec![Profile::named("default-scheduler")], Backoff::default(), Stores::default());
        for number in 0..nodes {
            let name = format!("n{number}");
            let node = json!({
                "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": format!("z{}", number % 3)}},
                "status": {"allocatable": {"cpu": "32", "memory": "256Gi", "pods": "110"}},
            });
            scheduler.upsert_node(None, &Arc::new(serde_json::from_value::<Node>(node).expect("a node")));
        }
        let count = if kind == "anti-affinity" { pods.min(nodes * 9) } else { pods };
        let texts: Vec<String> = (0..count).map(|number| pod(kind, number).to_string()).collect();
        let cpu = cpu_seconds();
        let (start, mut placed, mut decoding) = (Instant::now(), 0, 0.0);
        for text in &texts {
            let before = Instant::now();
            let pod: Arc<Pod> = Arc::new(serde_json::from_str(text).expect("a pod"));
            decoding += before.elapsed().as_secs_f64();
            scheduler.upsert_pod(None, &pod);
            while let Some(step) = scheduler.step() {
                let Step::Bind(bind) = step else { continue };
                let mut bound = Pod::clone(&bind.waiting.pod);
                bound.node_name = bind.node;
                scheduler.upsert_pod(Some(&bind.waiting.pod), &Arc::new(bound));
                placed += 1;
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        let cpu = (cpu_seconds() - cpu) * 1e6 / count as f64;
        println!(
            "{kind}: {nodes} nodes, {placed} of {count} pods in {seconds:.2} s: {:.0}/s, {:.1} µs each ({cpu:.1} of CPU), of which {:.1} µs decoding",
            f64::from(placed) / seconds,
            seconds * 1e6 / count as f64,
            decoding * 1e6 / count as f64,
        );
    }
}

/// CPU time of this thread so far: what counts on a machine that others use, too.
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split_whitespace().next().and_then(|nanos| nanos.parse::<f64>().ok()).unwrap_or(0.0) / 1e9
}

fn pod(kind: &str, number: usize) -> Value {
    let app = format!("a{}", number % 10);
    let mut pod = json!({
        "metadata": {"name": format!("p{number}"), "namespace": "bench", "uid": format!("u{number}"), "labels": {"app": app}},
        "spec": {"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}}}]},
    });
    let selector = json!({"matchLabels": {"app": app}});
    match kind {
        "spread" => {
            pod["spec"]["topologySpreadConstraints"] = json!([
                {"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": selector},
                {"maxSkew": 3, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": selector},
            ]);
        }
        "anti-affinity" => {
            pod["spec"]["affinity"] = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
                {"topologyKey": "kubernetes.io/hostname", "labelSelector": selector},
            ]}});
        }
        _ => {}
    }
    pod
}

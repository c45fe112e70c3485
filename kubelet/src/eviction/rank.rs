//! Who goes first, and what they are told. Pure. Upstream: pkg/kubelet/eviction/helpers.go

use std::cmp::Ordering;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::signal::{Readings, Signal, Threshold};
use super::usage::{Parts, Usage, number};
use crate::pod::resources::{Requests, of_container, of_pod};
use crate::pod::{self, init_containers, quantity, spec};

/// A pod and what it uses.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The pod.
    pub pod: Arc<Pod>,
    /// Measured just now.
    pub usage: Usage,
}

/// Which parts of a pod are on the short disk. `own_image_fs`: images have a file system of their own.
fn parts(signal: Signal, own_image_fs: bool) -> Parts {
    match (signal, own_image_fs) {
        (_, false) => Parts::All,
        (Signal::ImageFs | Signal::ImageFsInodes, true) => Parts::Layers,
        (_, true) => Parts::WithoutLayers,
    }
}

impl Candidate {
    fn used(&self, signal: Signal, own_image_fs: bool) -> i64 {
        let storage = || self.usage.storage(parts(signal, own_image_fs));
        match signal {
            Signal::Memory | Signal::AllocatableMemory => self.usage.memory,
            Signal::Pids => self.usage.processes,
            Signal::NodeFs | Signal::ImageFs => number(storage().bytes),
            Signal::NodeFsInodes | Signal::ImageFsInodes => number(storage().inodes),
        }
    }

    fn requested(&self, signal: Signal) -> i64 {
        match signal {
            Signal::Memory | Signal::AllocatableMemory => of_pod(&self.pod, Requests, "memory").unwrap_or(0),
            Signal::NodeFs | Signal::ImageFs => of_pod(&self.pod, Requests, "ephemeral-storage").unwrap_or(0),
            _ => 0,
        }
    }
}

/// The pods in the order in which they go: those above their request, of the lowest priority, furthest above it.
pub fn order(mut candidates: Vec<Candidate>, signal: Signal, own_image_fs: bool) -> Vec<Candidate> {
    let compare = |a: &Candidate, b: &Candidate| {
        let used = |candidate: &Candidate| candidate.used(signal, own_image_fs);
        let excess = |candidate: &Candidate| used(candidate) - candidate.requested(signal);
        let priority = |candidate: &Candidate| spec(&candidate.pod).priority.unwrap_or(0);
        let by_request = if signal == Signal::Pids { Ordering::Equal } else { (excess(b) > 0).cmp(&(excess(a) > 0)) };
        by_request.then(priority(a).cmp(&priority(b))).then(excess(b).cmp(&excess(a)))
    };
    candidates.sort_by(compare);
    candidates
}

/// The message of the pod's status.
pub fn message(victim: &Candidate, met: &Threshold, readings: &Readings) -> String {
    let resource = met.signal.resource();
    let mut out = format!("The node was low on resource: {resource}. ");
    if let Some((available, capacity)) = readings.get(met.signal) {
        let show = |amount: i64| {
            if matches!(resource, "memory" | "ephemeral-storage") { quantity::from_bytes(amount).0 } else { amount.to_string() }
        };
        out.push_str(&format!("Threshold quantity: {}, available: {}. ", show(met.amount(capacity)), show(available)));
    }
    for measured in &victim.usage.containers {
        let mut containers = spec(&victim.pod).containers.iter().chain(init_containers(&victim.pod));
        let Some(container) = containers.find(|container| container.name == measured.name) else { continue };
        let used = match resource {
            "memory" => measured.memory,
            "ephemeral-storage" => measured.disk(),
            _ => continue,
        };
        let requested = of_container(container, Requests, resource).unwrap_or(0);
        if used > requested {
            out.push_str(&format!(
                "Container {} was using {}, request is {}, has larger consumption of {resource}. ",
                container.name,
                quantity::from_bytes(used).0,
                quantity::from_bytes(requested).0
            ));
        }
    }
    out
}

/// Whether a node under pressure takes a new pod; else the message. Upstream: managerImpl.Admit
///
/// # Errors
/// It does not.
pub fn admit(pod: &Pod, pressure: &[&str]) -> Result<(), String> {
    let best_effort = crate::pod::qos::class(pod) == crate::pod::qos::Qos::BestEffort;
    let tolerates = || {
        spec(pod).tolerations.iter().flatten().any(|toleration| {
            let key = toleration.key.as_deref().unwrap_or("");
            let exists = toleration.operator.as_deref() == Some("Exists");
            (key == "node.kubernetes.io/memory-pressure" || (key.is_empty() && exists))
                && matches!(toleration.effect.as_deref().unwrap_or(""), "" | "NoSchedule")
                && (exists || toleration.value.as_deref().unwrap_or("").is_empty())
        })
    };
    let admitted =
        pressure.is_empty() || pod::is_critical(pod) || (pressure == ["MemoryPressure"] && (!best_effort || tolerates()));
    if admitted { Ok(()) } else { Err(format!("The node had condition: [{}]. ", pressure.join(" "))) }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::eviction::usage::ContainerUsage;
    use crate::server::stats::volumes::Size;

    fn make(name: &str, request: &str, priority: i32, memory: i64) -> Candidate {
        let containers = json!([{"name": "c", "resources": {"requests": {"memory": request}}}]);
        let pod = json!({"metadata": {"name": name}, "spec": {"priority": priority, "containers": containers}});
        let own =
            ContainerUsage { name: "c".into(), memory, layer: Size { bytes: 10, inodes: 1 }, logs: Size { bytes: 7, inodes: 1 } };
        Candidate {
            pod: Arc::new(serde_json::from_value(pod).unwrap()),
            usage: Usage { memory, processes: memory, containers: vec![own], ..Default::default() },
        }
    }

    #[test]
    fn those_above_their_request_and_of_low_priority_go_first() {
        let order = |list: Vec<Candidate>, signal| -> Vec<String> {
            super::order(list, signal, false).iter().map(|candidate| pod::name(&candidate.pod).to_owned()).collect()
        };
        let list = || {
            vec![
                make("below", "100", 0, 90),
                make("high", "0", 10, 900),
                make("low", "0", 0, 20),
                make("low-large", "0", 0, 30),
                make("above", "10", 1000, 20),
            ]
        };
        assert_eq!(order(list(), Signal::Memory), ["low-large", "low", "high", "above", "below"]);
        assert_eq!(order(list(), Signal::Pids), ["below", "low-large", "low", "high", "above"]);
    }

    #[test]
    fn only_what_is_on_the_short_disk_counts() {
        let one = make("a", "0", 0, 1);
        for (signal, own, bytes) in
            [(Signal::NodeFs, false, 17), (Signal::NodeFs, true, 7), (Signal::ImageFs, true, 10), (Signal::NodeFsInodes, true, 1)]
        {
            assert_eq!(one.used(signal, own), bytes);
        }
    }

    #[test]
    fn the_message_is_upstreams() {
        let met = Threshold {
            signal: Signal::Memory,
            text: "1Mi".into(),
            grace: std::time::Duration::ZERO,
            minimum_reclaim: String::new(),
        };
        let mut readings = Readings::default();
        readings.set(Signal::Memory, 512 * 1024, 1 << 30);
        assert_eq!(
            message(&make("a", "0", 0, 2 << 20), &met, &readings),
            "The node was low on resource: memory. Threshold quantity: 1Mi, available: 512Ki. Container c was using 2Mi, request is 0, has larger consumption of memory. "
        );
    }

    #[test]
    fn a_node_under_pressure_is_choosy() {
        let pod = |resources: Value, tolerations: Value| -> Pod {
            serde_json::from_value(
                json!({"spec": {"containers": [{"name": "c", "resources": resources}], "tolerations": tolerations}}),
            )
            .unwrap()
        };
        let burstable = pod(json!({"requests": {"memory": "1"}}), json!([]));
        let plain = pod(json!({}), json!([]));
        let tolerant = pod(json!({}), json!([{"key": "node.kubernetes.io/memory-pressure", "operator": "Exists"}]));
        assert!(admit(&plain, &[]).is_ok());
        assert!(admit(&burstable, &["MemoryPressure"]).is_ok() && admit(&tolerant, &["MemoryPressure"]).is_ok());
        assert_eq!(admit(&plain, &["MemoryPressure"]).unwrap_err(), "The node had condition: [MemoryPressure]. ");
        assert_eq!(
            admit(&burstable, &["DiskPressure", "MemoryPressure"]).unwrap_err(),
            "The node had condition: [DiskPressure MemoryPressure]. "
        );
    }
}

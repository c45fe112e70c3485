//! Who goes first. Pure. Upstream: pkg/kubelet/eviction/helpers.go

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::signal::{Readings, Signal, Threshold};
use crate::pod::resources::{Requests, of_pod};
use crate::pod::{self, quantity};

/// A pod and what it uses.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The pod.
    pub pod: Arc<Pod>,
    /// Working set, bytes.
    pub memory: i64,
    /// Local storage, bytes.
    pub disk: i64,
    /// Processes.
    pub processes: i64,
}

impl Candidate {
    fn used(&self, signal: Signal) -> i64 {
        match signal {
            Signal::Memory => self.memory,
            Signal::Pids => self.processes,
            _ => self.disk,
        }
    }

    fn requested(&self, signal: Signal) -> i64 {
        match signal {
            Signal::Memory => of_pod(&self.pod, Requests, "memory").unwrap_or(0),
            Signal::NodeFs | Signal::ImageFs => of_pod(&self.pod, Requests, "ephemeral-storage").unwrap_or(0),
            _ => 0,
        }
    }
}

/// The pod to end: one above its request before one below, the lowest priority first, then the one furthest above.
pub fn worst(candidates: Vec<Candidate>, signal: Signal) -> Option<Candidate> {
    let priority = |candidate: &Candidate| pod::spec(&candidate.pod).priority.unwrap_or(0);
    candidates.into_iter().max_by(|a, b| {
        let above = |candidate: &Candidate| candidate.used(signal) > candidate.requested(signal);
        let excess = |candidate: &Candidate| candidate.used(signal) - candidate.requested(signal);
        let by_request = if signal == Signal::Pids { std::cmp::Ordering::Equal } else { above(a).cmp(&above(b)) };
        by_request.then(priority(b).cmp(&priority(a))).then(excess(a).cmp(&excess(b)))
    })
}

/// The message of the pod's status.
pub fn message(victim: &Candidate, met: &Threshold, readings: &Readings) -> String {
    let resource = met.signal.resource();
    let mut out = format!("The node was low on resource: {resource}. ");
    if let Some((available, capacity)) = readings.get(met.signal) {
        let show = |amount: i64| {
            if resource == "memory" || resource == "ephemeral-storage" {
                quantity::from_bytes(amount / 1024 * 1024).0
            } else {
                amount.to_string()
            }
        };
        out.push_str(&format!("Threshold quantity: {}, available: {}. ", show(met.amount(capacity)), show(available)));
    }
    if victim.used(met.signal) > victim.requested(met.signal)
        && let [container] = &pod::spec(&victim.pod).containers[..]
    {
        out.push_str(&format!(
            "Container {} was using {}, request is {}, has larger consumption of {resource}. ",
            container.name,
            quantity::from_bytes(victim.used(met.signal) / 1024 * 1024).0,
            quantity::from_bytes(victim.requested(met.signal)).0
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn those_above_their_request_and_of_low_priority_go_first() {
        let make = |name: &str, request: &str, priority: i32, memory: i64| {
            Candidate {
            pod: Arc::new(
                serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"priority": priority, "containers": [{"name": "c", "resources": {"requests": {"memory": request}}}]}})).unwrap(),
            ),
            memory,
            disk: 0,
            processes: 0,
        }
        };
        let pick = |list: Vec<Candidate>| pod::name(&worst(list, Signal::Memory).unwrap().pod).to_owned();
        assert_eq!(pick(vec![make("below", "100", 0, 90), make("above", "10", 1000, 20)]), "above");
        assert_eq!(pick(vec![make("low", "0", 0, 20), make("high", "0", 10, 900)]), "low");
        assert_eq!(pick(vec![make("small", "0", 0, 20), make("large", "0", 0, 900)]), "large");
        let met = Threshold { signal: Signal::Memory, text: "1Mi".into(), grace: std::time::Duration::ZERO };
        let mut readings = Readings::default();
        readings.set(Signal::Memory, 512 * 1024, 1 << 30);
        assert_eq!(
            message(&make("a", "0", 0, 2 << 20), &met, &readings),
            "The node was low on resource: memory. Threshold quantity: 1Mi, available: 512Ki. Container c was using 2Mi, request is 0, has larger consumption of memory. "
        );
    }
}

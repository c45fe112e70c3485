//! Requests and limits of a whole pod. Upstream: component-helpers/resource PodRequests, PodLimits.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::quantity;
use super::{init_containers, is_sidecar, spec};

type Amounts = BTreeMap<String, Quantity>;

/// Which half of `resources` is meant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Half {
    /// `requests`.
    Requests,
    /// `limits`.
    Limits,
}
pub use Half::{Limits, Requests};

fn half(resources: Option<&ResourceRequirements>, half: Half) -> Option<&Amounts> {
    match half {
        Requests => resources?.requests.as_ref(),
        Limits => resources?.limits.as_ref(),
    }
}

/// The amount of one container, in thousandths for `cpu` and in units else.
pub fn of_container(container: &Container, which: Half, resource: &str) -> Option<i64> {
    half(container.resources.as_ref(), which)?.get(resource).map(|amount| read(resource, amount))
}

fn read(resource: &str, amount: &Quantity) -> i64 {
    if resource == "cpu" { quantity::milli(amount) } else { quantity::value(amount) }
}

/// The amount of the whole pod: containers and sidecars together, or the largest moment of initialisation, plus overhead;
/// pod-level `resources` win. `None` where nobody names the resource.
pub fn of_pod(pod: &Pod, which: Half, resource: &str) -> Option<i64> {
    let spec = spec(pod);
    let overhead = spec.overhead.as_ref().and_then(|overhead| overhead.get(resource)).map(|amount| read(resource, amount));
    let total = match half(spec.resources.as_ref(), which).and_then(|amounts| amounts.get(resource)) {
        Some(amount) => Some(read(resource, amount)),
        None => of_containers(pod, which, resource),
    };
    match (total, overhead) {
        (None, None) => None,
        // Overhead of a resource without limit is not a limit.
        (None, Some(_)) if which == Limits => None,
        (total, overhead) => Some(total.unwrap_or(0) + overhead.unwrap_or(0)),
    }
}

fn of_containers(pod: &Pod, which: Half, resource: &str) -> Option<i64> {
    let mut seen = false;
    let mut amount = |container: &Container| {
        let amount = of_container(container, which, resource);
        seen |= amount.is_some();
        amount.unwrap_or(0)
    };
    let mut running: i64 = spec(pod).containers.iter().map(&mut amount).sum();
    let (mut sidecars, mut peak) = (0, 0);
    for container in init_containers(pod) {
        let own = amount(container);
        if is_sidecar(container) {
            sidecars += own;
            running += own;
            peak = peak.max(sidecars);
        } else {
            peak = peak.max(sidecars + own);
        }
    }
    seen.then(|| running.max(peak))
}

/// Names of all resources that any container requests or limits.
pub fn names(pod: &Pod) -> Vec<String> {
    let mut out: Vec<String> = init_containers(pod)
        .iter()
        .chain(&spec(pod).containers)
        .flat_map(|container| [half(container.resources.as_ref(), Requests), half(container.resources.as_ref(), Limits)])
        .flatten()
        .flat_map(|amounts| amounts.keys().cloned())
        .collect();
    out.sort();
    out.dedup();
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pod_requests_are_the_larger_of_init_and_run() {
        let cpu = |amount: &str| json!({"requests": {"cpu": amount}});
        for (inits, overhead, expected) in [
            (json!([]), None, Some(300)),
            (json!([{"name": "i", "resources": cpu("1")}]), None, Some(1000)),
            (
                json!([{"name": "s", "restartPolicy": "Always", "resources": cpu("100m")}, {"name": "i", "resources": cpu("1")}]),
                None,
                Some(1100),
            ),
            (json!([{"name": "s", "restartPolicy": "Always", "resources": cpu("100m")}]), Some("50m"), Some(450)),
        ] {
            let pod: Pod = serde_json::from_value(json!({"spec": {
                "containers": [{"name": "a", "resources": cpu("100m")}, {"name": "b", "resources": cpu("200m")}],
                "initContainers": inits, "overhead": overhead.map(|amount| json!({"cpu": amount})),
            }}))
            .unwrap();
            assert_eq!(of_pod(&pod, Requests, "cpu"), expected);
            assert_eq!(of_pod(&pod, Limits, "cpu"), None);
        }
    }
}

//! Quality-of-service class. Upstream: pkg/apis/core/v1/helper/qos.

use k8s_openapi::api::core::v1::Pod;

use super::resources::{Limits, Requests, of_container};
use super::{init_containers, spec};

/// How much the node promises to a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Qos {
    /// Limits equal requests for cpu and memory in every container.
    Guaranteed,
    /// Something is requested.
    Burstable,
    /// Nothing is requested.
    BestEffort,
}

impl Qos {
    /// The word of the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// The class of a pod. What its status says wins: the class is fixed at creation.
pub fn class(pod: &Pod) -> Qos {
    match pod.status.as_ref().and_then(|status| status.qos_class.as_deref()) {
        Some("Guaranteed") => return Qos::Guaranteed,
        Some("Burstable") => return Qos::Burstable,
        Some("BestEffort") => return Qos::BestEffort,
        _ => {}
    }
    compute(pod)
}

/// The class by the specification alone.
pub fn compute(pod: &Pod) -> Qos {
    const COMPUTE: [&str; 2] = ["cpu", "memory"];
    if let Some(resources) = &spec(pod).resources {
        let amount = |map: &Option<std::collections::BTreeMap<String, _>>, name: &str| {
            map.as_ref().and_then(|map| map.get(name)).map(super::quantity::milli).filter(|amount| *amount > 0)
        };
        let (requests, limits) =
            (COMPUTE.map(|name| amount(&resources.requests, name)), COMPUTE.map(|name| amount(&resources.limits, name)));
        if requests.iter().chain(&limits).any(Option::is_some) {
            let guaranteed = (0..2).all(|i| limits[i].is_some() && (requests[i].is_none() || requests[i] == limits[i]));
            return if guaranteed { Qos::Guaranteed } else { Qos::Burstable };
        }
    }
    let containers = || spec(pod).containers.iter().chain(init_containers(pod));
    let positive = |container: &_, half, name: &str| of_container(container, half, name).filter(|amount| *amount > 0);
    let mut any = false;
    let mut guaranteed = true;
    for container in containers() {
        for name in COMPUTE {
            let (request, limit) = (positive(container, Requests, name), positive(container, Limits, name));
            any |= request.is_some() || limit.is_some();
            // A missing request is defaulted to the limit.
            guaranteed &= limit.is_some() && request.is_none_or(|request| Some(request) == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => Qos::BestEffort,
        (true, true) => Qos::Guaranteed,
        (true, false) => Qos::Burstable,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn classes_follow_requests_and_limits() {
        let full = json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1", "memory": "1Gi"}});
        for (first, second, class) in [
            (json!({}), json!({}), Qos::BestEffort),
            (full.clone(), full.clone(), Qos::Guaranteed),
            (full.clone(), json!({}), Qos::Burstable),
            (json!({"limits": {"cpu": "1", "memory": "1Gi"}}), full.clone(), Qos::Guaranteed),
            (json!({"requests": {"cpu": "1"}}), json!({}), Qos::Burstable),
            (json!({"requests": {"cpu": "0"}}), json!({}), Qos::BestEffort),
            (json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}), full.clone(), Qos::Burstable),
        ] {
            let pod: Pod = serde_json::from_value(
                json!({"spec": {"containers": [{"name": "a", "resources": first}, {"name": "b", "resources": second}]}}),
            )
            .unwrap();
            assert_eq!(compute(&pod), class);
        }
    }
}

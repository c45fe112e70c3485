//! What a pod's containers are given, and whether they may be given what the definition asks for now. Pure.
//!
//! Three states per container: what the definition asks for, what this node has allocated (the status' `allocatedResources`), and what
//! the container runs with (the status' `resources`). Upstream: pkg/kubelet/allocation/allocation_manager.go

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodStatus, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::pod::resources::{Limits, Requests, of_container, of_pod};
use crate::pod::{self, init_containers, is_sidecar, spec};

/// Resources by container name.
pub type Given = BTreeMap<String, ResourceRequirements>;

/// What can be changed in place.
const RESIZABLE: [&str; 2] = ["cpu", "memory"];

/// May the pod have what it asks for?
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It has it.
    Same,
    /// Yes.
    Granted,
    /// Not while others use the node.
    Deferred(String),
    /// Never here.
    Infeasible(String),
}

/// The containers whose resources can change.
pub fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    init_containers(pod).iter().filter(|container| is_sidecar(container)).chain(&spec(pod).containers)
}

/// Whether two containers have the same of all that can change.
pub fn same(a: &ResourceRequirements, b: &ResourceRequirements) -> bool {
    let amounts = |resources: &ResourceRequirements| {
        let container = Container { resources: Some(resources.clone()), ..Default::default() };
        RESIZABLE.map(|name| [Requests, Limits].map(|half| of_container(&container, half, name)))
    };
    amounts(a) == amounts(b)
}

/// What a container asks for.
pub fn of(container: &Container) -> ResourceRequirements {
    container.resources.clone().unwrap_or_default()
}

/// What every container asks for.
pub fn asked(pod: &Pod) -> Given {
    containers(pod).map(|container| (container.name.clone(), of(container))).collect()
}

/// The pod with its containers' resources as given.
pub fn with(pod: &Pod, given: &Given) -> Pod {
    let mut out = pod.clone();
    let spec = out.spec.get_or_insert_default();
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        if let Some(have) = given.get(&container.name) {
            container.resources = Some(merged(&of(container), have));
        }
    }
    out
}

/// `asked` with the changeable amounts of `have`.
fn merged(asked: &ResourceRequirements, have: &ResourceRequirements) -> ResourceRequirements {
    let half = |asked: &Option<BTreeMap<String, Quantity>>, have: &Option<BTreeMap<String, Quantity>>| {
        let mut out = asked.clone().unwrap_or_default();
        for name in RESIZABLE {
            match have.as_ref().and_then(|have| have.get(name)) {
                Some(amount) => out.insert(name.to_owned(), amount.clone()),
                None => out.remove(name),
            };
        }
        Some(out).filter(|map| !map.is_empty())
    };
    ResourceRequirements {
        requests: half(&asked.requests, &have.requests),
        limits: half(&asked.limits, &have.limits),
        claims: asked.claims.clone(),
    }
}

/// What a former kubelet told in the status: allocated, and in force. Containers it did not tell of are not in the maps.
pub fn recover(pod: &Pod, told: &PodStatus) -> (Given, Given) {
    let (mut allocated, mut actuated) = (Given::new(), Given::new());
    for container in containers(pod) {
        let mut statuses = told.container_statuses.iter().chain(&told.init_container_statuses).flatten();
        let Some(status) = statuses.find(|status| status.name == container.name) else { continue };
        let Some(resources) = &status.resources else { continue };
        actuated.insert(container.name.clone(), resources.clone());
        let requests = status.allocated_resources.clone().or_else(|| resources.requests.clone());
        allocated.insert(container.name.clone(), ResourceRequirements { requests, ..resources.clone() });
    }
    (allocated, actuated)
}

/// Whether a change from `have` to `want` needs the container to start anew, by its `resizePolicy`.
pub fn needs_restart(container: &Container, have: &ResourceRequirements, want: &ResourceRequirements) -> bool {
    container.resize_policy.iter().flatten().filter(|policy| policy.restart_policy == "RestartContainer").any(|policy| {
        let amounts = |resources: &ResourceRequirements| {
            let container = Container { resources: Some(resources.clone()), ..Default::default() };
            [Requests, Limits].map(|half| of_container(&container, half, &policy.resource_name))
        };
        amounts(have) != amounts(want)
    })
}

/// Decides. `allocatable` is the node's, `used` what other pods have been given.
pub fn decide(desired: &Pod, allocated: &Pod, allocatable: &BTreeMap<String, i64>, used: &BTreeMap<String, i64>) -> Verdict {
    let changed = containers(desired).any(|container| {
        let have = containers(allocated).find(|other| other.name == container.name).map(of).unwrap_or_default();
        !same(&of(container), &have)
    });
    if !changed {
        return Verdict::Same;
    }
    if pod::is_static(desired) {
        return Verdict::Infeasible("In-place resize of static-pods is not supported".into());
    }
    let grows = RESIZABLE.iter().filter_map(|name| {
        let (want, have) = (of_pod(desired, Requests, name).unwrap_or(0), of_pod(allocated, Requests, name).unwrap_or(0));
        let capacity = *allocatable.get(*name)?;
        (want > have).then_some((*name, want, capacity))
    });
    let grows: Vec<_> = grows.collect();
    for (name, want, capacity) in &grows {
        if want > capacity {
            return Verdict::Infeasible(format!(
                "Node didn't have enough capacity: {name}, requested: {want}, capacity: {capacity}"
            ));
        }
    }
    for (name, want, capacity) in grows {
        let used = used.get(name).copied().unwrap_or(0);
        if want + used > capacity {
            return Verdict::Deferred(format!(
                "Node didn't have enough resource: {name}, requested: {want}, used: {used}, capacity: {capacity}"
            ));
        }
    }
    Verdict::Granted
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(resources: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "uid": "u"}, "spec": {"containers": [
            {"name": "a", "resources": resources, "resizePolicy": [{"resourceName": "memory", "restartPolicy": "RestartContainer"}]}]}}))
        .unwrap()
    }

    #[test]
    fn a_resize_is_granted_deferred_or_impossible() {
        let map = |cpu: i64, memory: i64| BTreeMap::from([("cpu".to_owned(), cpu), ("memory".to_owned(), memory)]);
        let have = pod(json!({"requests": {"cpu": "500m", "memory": "100"}}));
        for (want, used, verdict) in [
            (json!({"requests": {"cpu": "0.5", "memory": "100"}}), map(0, 0), "Same"),
            (json!({"requests": {"cpu": "600m", "memory": "100"}}), map(0, 0), "Granted"),
            (json!({"requests": {"cpu": "600m", "memory": "100"}}), map(1500, 0), "Deferred"),
            (json!({"requests": {"cpu": "3", "memory": "100"}}), map(0, 0), "Infeasible"),
            (json!({"requests": {"cpu": "100m", "memory": "100"}}), map(5000, 5000), "Granted"),
            (json!({"requests": {"cpu": "500m", "memory": "100"}, "limits": {"memory": "300"}}), map(5000, 5000), "Granted"),
            (json!({"requests": {"cpu": "500m", "memory": "2000"}}), map(0, 0), "Infeasible"),
        ] {
            let got = decide(&pod(want.clone()), &have, &map(2000, 1000), &used);
            assert!(format!("{got:?}").starts_with(verdict), "{want}: {got:?}");
        }
        let mut own = pod(json!({"requests": {"cpu": "1"}}));
        own.metadata.annotations = Some(BTreeMap::from([(pod::CONFIG_SOURCE.to_owned(), "file".to_owned())]));
        assert!(matches!(decide(&own, &have, &map(2000, 1000), &map(0, 0)), Verdict::Infeasible(_)));
    }

    #[test]
    fn what_was_told_is_recovered() {
        let desired = pod(json!({"requests": {"cpu": "2"}, "limits": {"cpu": "2", "memory": "7"}}));
        let told: PodStatus = serde_json::from_value(json!({"containerStatuses": [{"name": "a", "image": "", "imageID": "", "ready": true,
            "restartCount": 0, "allocatedResources": {"cpu": "1"}, "resources": {"requests": {"cpu": "500m"}, "limits": {"cpu": "2"}}}]}))
        .unwrap();
        let (allocated, actuated) = recover(&desired, &told);
        let have = with(&desired, &allocated);
        let container = &spec(&have).containers[0];
        assert_eq!(of_container(container, Requests, "cpu"), Some(1000));
        assert_eq!(of_container(container, Limits, "memory"), None);
        assert!(!same(&actuated["a"], &of(container)), "the change is not in force yet");
        assert!(recover(&desired, &PodStatus::default()).0.is_empty());
    }

    #[test]
    fn the_resize_policy_counts_for_its_resource_only() {
        let pod = pod(json!({}));
        let container = &spec(&pod).containers[0];
        let resources = |value: Value| serde_json::from_value::<ResourceRequirements>(value).unwrap();
        let have = resources(json!({"limits": {"cpu": "1", "memory": "10"}}));
        assert!(!needs_restart(container, &have, &resources(json!({"limits": {"cpu": "2", "memory": "10"}}))));
        assert!(needs_restart(container, &have, &resources(json!({"limits": {"cpu": "1", "memory": "11"}}))));
    }
}

//! The node's status, from what was observed. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeRuntimeHandler,
    NodeRuntimeHandlerFeatures, NodeStatus, NodeSwapStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Map, Value, json};

use super::facts::Machine;
use crate::cri::v1;
use crate::pod::quantity;

/// What a status is made from.
pub struct Observed<'a> {
    /// The machine.
    pub machine: &'a Machine,
    /// Node's name for the `Hostname` address.
    pub hostname: &'a str,
    /// Addresses, primary first.
    pub ips: &'a [IpAddr],
    /// Capacity and allocatable.
    pub resources: &'a (BTreeMap<String, i64>, BTreeMap<String, i64>),
    /// `containerd://1.6.20`.
    pub runtime_version: &'a str,
    /// Handlers of the runtime.
    pub handlers: &'a [v1::RuntimeHandler],
    /// Images.
    pub images: &'a [v1::Image],
    /// How many of them to tell; negative for all.
    pub max_images: i32,
    /// Port of the kubelet's server.
    pub port: u16,
    /// Pressure in force.
    pub pressure: &'a [&'static str],
    /// Attached volumes that pods use.
    pub volumes_in_use: &'a [String],
    /// Why the node is not ready; empty when it is.
    pub not_ready: &'a [String],
    /// The conditions told before.
    pub previous: &'a [NodeCondition],
    /// Now.
    pub now: Timestamp,
}

/// The status.
pub fn make(observed: &Observed<'_>) -> NodeStatus {
    let machine = observed.machine;
    let amounts = |map: &BTreeMap<String, i64>| -> BTreeMap<String, Quantity> {
        map.iter().map(|(name, amount)| (name.clone(), show(name, *amount))).collect()
    };
    let mut addresses: Vec<NodeAddress> =
        observed.ips.iter().map(|ip| NodeAddress { type_: "InternalIP".into(), address: ip.to_string() }).collect();
    addresses.push(NodeAddress { type_: "Hostname".into(), address: observed.hostname.to_owned() });
    NodeStatus {
        addresses: Some(addresses),
        capacity: Some(amounts(&observed.resources.0)),
        allocatable: Some(amounts(&observed.resources.1)),
        conditions: Some(conditions(observed)),
        daemon_endpoints: Some(NodeDaemonEndpoints { kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(observed.port) }) }),
        images: Some(images(observed.images, observed.max_images)),
        node_info: Some(NodeSystemInfo {
            architecture: component::version::arch().into(),
            boot_id: machine.boot_id.clone(),
            container_runtime_version: observed.runtime_version.to_owned(),
            kernel_version: machine.kernel.clone(),
            kube_proxy_version: String::new(),
            kubelet_version: component::version::current().into(),
            machine_id: machine.machine_id.clone(),
            operating_system: "linux".into(),
            os_image: machine.os_image.clone(),
            system_uuid: machine.system_uuid.clone(),
            swap: (machine.swap > 0).then_some(NodeSwapStatus { capacity: Some(machine.swap) }),
        }),
        volumes_in_use: Some(observed.volumes_in_use.to_vec()).filter(|list| !list.is_empty()),
        runtime_handlers: Some(
            observed
                .handlers
                .iter()
                .map(|handler| NodeRuntimeHandler {
                    name: Some(handler.name.clone()),
                    features: handler.features.as_ref().map(|features| NodeRuntimeHandlerFeatures {
                        recursive_read_only_mounts: Some(features.recursive_read_only_mounts),
                        user_namespaces: Some(features.user_namespaces),
                    }),
                })
                .collect(),
        )
        .filter(|list: &Vec<_>| !list.is_empty()),
        ..Default::default()
    }
}

fn show(name: &str, amount: i64) -> Quantity {
    match name {
        "cpu" => quantity::from_milli(amount),
        // Upstream writes memory and disk in Ki where that is exact.
        "memory" | "ephemeral-storage" if amount != 0 && amount % 1024 == 0 => Quantity(format!("{}Ki", amount / 1024)),
        name if name.starts_with("hugepages-") => quantity::from_bytes(amount),
        _ => Quantity(amount.to_string()),
    }
}

fn conditions(observed: &Observed<'_>) -> Vec<NodeCondition> {
    let pressure = |kind: &str| observed.pressure.contains(&kind);
    let rows = [
        (
            "MemoryPressure",
            pressure("MemoryPressure"),
            ["KubeletHasInsufficientMemory", "kubelet has insufficient memory available"],
            ["KubeletHasSufficientMemory", "kubelet has sufficient memory available"],
        ),
        (
            "DiskPressure",
            pressure("DiskPressure"),
            ["KubeletHasDiskPressure", "kubelet has disk pressure"],
            ["KubeletHasNoDiskPressure", "kubelet has no disk pressure"],
        ),
        (
            "PIDPressure",
            pressure("PIDPressure"),
            ["KubeletHasInsufficientPID", "kubelet has insufficient PID available"],
            ["KubeletHasSufficientPID", "kubelet has sufficient PID available"],
        ),
    ];
    let mut out: Vec<NodeCondition> = rows
        .into_iter()
        .map(|(kind, holds, yes, no)| {
            let [reason, message] = if holds { yes } else { no };
            condition(observed, kind, holds, reason, message)
        })
        .collect();
    let ready = observed.not_ready.is_empty();
    let message = match observed.not_ready {
        [] => "kubelet is posting ready status".to_owned(),
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    };
    out.push(condition(observed, "Ready", ready, if ready { "KubeletReady" } else { "KubeletNotReady" }, &message));
    out
}

fn condition(observed: &Observed<'_>, kind: &str, holds: bool, reason: &str, message: &str) -> NodeCondition {
    let now = Time(crate::status::to_seconds(observed.now));
    let status = if holds { "True" } else { "False" };
    let old = observed.previous.iter().find(|old| old.type_ == kind && old.status == status);
    NodeCondition {
        type_: kind.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_heartbeat_time: Some(now.clone()),
        last_transition_time: old.and_then(|old| old.last_transition_time.clone()).or(Some(now)),
    }
}

fn images(images: &[v1::Image], max: i32) -> Vec<ContainerImage> {
    let mut sorted: Vec<&v1::Image> = images.iter().collect();
    sorted.sort_by_key(|image| std::cmp::Reverse(image.size));
    if let Ok(max) = usize::try_from(max) {
        sorted.truncate(max);
    }
    // Upstream: MaxNamesPerImageInNodeStatus.
    const MAX_NAMES: usize = 5;
    sorted
        .into_iter()
        .map(|image| ContainerImage {
            names: Some(image.repo_digests.iter().chain(&image.repo_tags).take(MAX_NAMES).cloned().collect()),
            size_bytes: i64::try_from(image.size).ok(),
        })
        .collect()
}

/// The strategic merge patch from the server's status to ours; `None` where only heartbeats differ and `force` is off.
pub fn patch(old: &NodeStatus, new: &NodeStatus, force: bool) -> Option<Value> {
    let (Ok(Value::Object(old)), Ok(Value::Object(new))) = (serde_json::to_value(old), serde_json::to_value(new)) else {
        return None;
    };
    let mut out = Map::new();
    for (key, value) in &new {
        if key != "conditions" && key != "capacity" && key != "allocatable" && old.get(key) != Some(value) {
            if key == "addresses" {
                let mut list = value.as_array().cloned().unwrap_or_default();
                list.push(json!({"$patch": "replace"}));
                out.insert(key.clone(), list.into());
            } else {
                out.insert(key.clone(), value.clone());
            }
        }
    }
    if old.contains_key("volumesInUse") && !new.contains_key("volumesInUse") {
        out.insert("volumesInUse".to_owned(), Value::Null);
    }
    for key in ["capacity", "allocatable"] {
        // Others (device plugins of old, extended resources) may have added rows.
        let before = old.get(key).and_then(Value::as_object).cloned().unwrap_or_default();
        let changed: Map<String, Value> = new
            .get(key)
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .filter(|(name, value)| before.get(*name) != Some(*value))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        if !changed.is_empty() {
            out.insert(key.to_owned(), changed.into());
        }
    }
    let list = |of: &Map<String, Value>| of.get("conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    let before = list(&old);
    let turned = list(&new).iter().any(|condition| {
        let was = before.iter().find(|was| was["type"] == condition["type"]);
        was.is_none_or(|was| ["status", "reason", "message"].iter().any(|key| was.get(*key) != condition.get(*key)))
    });
    if out.is_empty() && !turned && !force {
        return None;
    }
    out.insert("conditions".into(), list(&new).into());
    Some(json!({"status": out}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(not_ready: &[String], second: i64, previous: &[NodeCondition]) -> NodeStatus {
        let machine = Machine { cpus: 2, ..Default::default() };
        let resources = (
            BTreeMap::from([("cpu".to_owned(), 2000), ("memory".to_owned(), 2048 * 1024)]),
            BTreeMap::from([("cpu".to_owned(), 1500)]),
        );
        make(&Observed {
            machine: &machine,
            hostname: "n",
            ips: &["10.0.0.1".parse().unwrap()],
            resources: &resources,
            runtime_version: "containerd://1",
            handlers: &[],
            images: &[],
            max_images: 50,
            port: 10250,
            pressure: &[],
            volumes_in_use: &[],
            not_ready,
            previous,
            now: Timestamp::from_second(second).unwrap(),
        })
    }

    #[test]
    fn a_node_becomes_ready_and_tells_it_once() {
        let before = status(&["container runtime network not ready".into()], 10, &[]);
        let ready = |status: &NodeStatus| {
            status.conditions.iter().flatten().find(|condition| condition.type_ == "Ready").cloned().unwrap()
        };
        assert_eq!((ready(&before).status.as_str(), ready(&before).reason.as_deref()), ("False", Some("KubeletNotReady")));
        let after = status(&[], 20, before.conditions.as_deref().unwrap());
        assert_eq!(ready(&after).status, "True");
        assert_eq!(ready(&after).last_transition_time.unwrap().0.as_second(), 20);
        let memory = after.conditions.as_ref().unwrap()[0].clone();
        assert_eq!(memory.last_transition_time.unwrap().0.as_second(), 10, "did not turn");
        let got = patch(&before, &after, false).unwrap();
        assert_eq!(got["status"].as_object().unwrap().keys().collect::<Vec<_>>(), ["conditions"]);
        let later = status(&[], 30, after.conditions.as_deref().unwrap());
        assert_eq!(patch(&after, &later, false), None, "only the heartbeat moved");
        assert!(patch(&after, &later, true).is_some());
        assert_eq!(after.capacity.unwrap()["memory"].0, "2048Ki");
        assert_eq!(after.allocatable.unwrap()["cpu"].0, "1500m");
    }
}

//! Limits on what a pod keeps on the node's disk. Upstream: pkg/kubelet/eviction localStorageEviction

use std::collections::HashMap;
use std::sync::Arc;

use client::events::Kind;
use k8s_openapi::api::core::v1::Pod;

use super::usage::{self, Parts, Usage, number};
use crate::kubelet::Shared;
use crate::pod::resources::{Limits, of_container, of_pod};
use crate::pod::{self, init_containers, quantity, spec};
use crate::server::stats;
use crate::worker::Stage;

const RESOURCE: &str = "ephemeral-storage";

/// A limit that was passed: the signal that counts it, and the message.
#[derive(Debug, PartialEq)]
pub struct Over {
    /// Upstream's name for the kind of limit.
    pub signal: &'static str,
    /// For the pod's status.
    pub message: String,
}

/// Ends pods that are over a limit of theirs; whether there were any. Only pods with limits are measured.
pub async fn enforce(kubelet: &Shared) -> bool {
    if !kubelet.config.kubelet.local_storage_capacity_isolation {
        return false;
    }
    let handles = kubelet.workers.list();
    let mut limited: Vec<_> =
        handles.iter().filter(|handle| handle.view().stage == Stage::Run && has_limits(&handle.request().pod)).collect();
    limited.retain(|handle| usage::evictable(&handle.request().pod));
    if limited.is_empty() {
        return false;
    }
    let needs_layers = limited.iter().any(|handle| of_pod(&handle.request().pod, Limits, RESOURCE).is_some());
    let layers = Arc::new(if needs_layers { stats::from_cri(kubelet).await } else { HashMap::new() });
    let mut ended = false;
    for handle in limited {
        let pod = handle.request().pod;
        let used = usage::measure(kubelet, handle, &layers).await;
        let Some(over) = over(&pod, &used) else { continue };
        crate::metrics::metrics().evictions.with_label_values(&[over.signal]).inc();
        kubelet.event(&pod, Kind::Warning, "Evicted", over.message.clone());
        kubelet.workers.evict(pod::uid(&pod), "Evicted", &over.message, Some(1));
        ended = true;
    }
    ended
}

fn has_limits(pod: &Pod) -> bool {
    let volumes = spec(pod).volumes.as_deref().unwrap_or_default();
    let containers = || spec(pod).containers.iter().chain(init_containers(pod));
    volumes.iter().any(|volume| volume.empty_dir.as_ref().is_some_and(|source| source.size_limit.is_some()))
        || containers().any(|container| of_container(container, Limits, RESOURCE).is_some())
        || of_pod(pod, Limits, RESOURCE).is_some()
}

/// The first limit that is passed: of a volume, of the pod, of a container. Pure.
fn over(pod: &Pod, used: &Usage) -> Option<Over> {
    for volume in spec(pod).volumes.iter().flatten() {
        let Some(limit) = volume.empty_dir.as_ref().and_then(|source| source.size_limit.as_ref()) else { continue };
        let bytes = quantity::value(limit);
        let measured = used.volumes.iter().find(|measure| measure.name == volume.name);
        if bytes > 0 && measured.is_some_and(|measure| measure.used > bytes) {
            let message = format!("Usage of EmptyDir volume \"{}\" exceeds the limit \"{}\". ", volume.name, limit.0);
            return Some(Over { signal: "emptydirfs.limit", message });
        }
    }
    // A sum only binds where every container has its part.
    let all = spec(pod).containers.iter().all(|container| of_container(container, Limits, RESOURCE).is_some());
    let pod_level =
        spec(pod).resources.as_ref().and_then(|own| own.limits.as_ref()).is_some_and(|own| own.contains_key(RESOURCE));
    if let Some(limit) = of_pod(pod, Limits, RESOURCE).filter(|_| all || pod_level)
        && number(used.storage(Parts::All).bytes) > limit
    {
        let shown = quantity::from_bytes(limit).0;
        let message = format!("Pod ephemeral local storage usage exceeds the total limit of containers {shown}. ");
        return Some(Over { signal: "ephemeralpodfs.limit", message });
    }
    for container in spec(pod).containers.iter().chain(init_containers(pod)) {
        let Some(limit) = of_container(container, Limits, RESOURCE) else { continue };
        let measured = used.containers.iter().find(|measure| measure.name == container.name);
        if measured.is_some_and(|measure| measure.disk() > limit) {
            let shown = quantity::from_bytes(limit).0;
            let message = format!("Container {} exceeded its local ephemeral storage limit \"{shown}\". ", container.name);
            return Some(Over { signal: "ephemeralcontainerfs.limit", message });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::eviction::usage::ContainerUsage;
    use crate::server::stats::volumes::{Measure, Size};

    fn pod(containers: Value, volumes: Value) -> Pod {
        serde_json::from_value(json!({"spec": {"containers": containers, "volumes": volumes}})).unwrap()
    }

    fn container(name: &str, layer: u64, logs: u64) -> ContainerUsage {
        let size = |bytes| Size { bytes, inodes: 1 };
        ContainerUsage { name: name.into(), layer: size(layer), logs: size(logs), ..Default::default() }
    }

    #[test]
    fn each_limit_has_its_message() {
        let limit = |amount: &str| json!({"limits": {"ephemeral-storage": amount}});
        let used = Usage {
            containers: vec![container("a", 600, 600), container("b", 10, 0)],
            volumes: vec![Measure { name: "v".into(), used: 5000, ..Default::default() }],
            ..Default::default()
        };
        for (pod, message) in [
            (
                pod(json!([{"name": "a"}]), json!([{"name": "v", "emptyDir": {"sizeLimit": "4k"}}])),
                Some("Usage of EmptyDir volume \"v\" exceeds the limit \"4k\". "),
            ),
            (pod(json!([{"name": "a"}]), json!([{"name": "v", "emptyDir": {"sizeLimit": "5k"}}])), None),
            (
                pod(json!([{"name": "a", "resources": limit("3Ki")}, {"name": "b", "resources": limit("3Ki")}]), json!([])),
                Some("Pod ephemeral local storage usage exceeds the total limit of containers 6Ki. "),
            ),
            (
                pod(json!([{"name": "a", "resources": limit("1Ki")}, {"name": "b", "resources": limit("100Ki")}]), json!([])),
                Some("Container a exceeded its local ephemeral storage limit \"1Ki\". "),
            ),
            (pod(json!([{"name": "a", "resources": limit("2Ki")}, {"name": "b"}]), json!([])), None),
        ] {
            assert_eq!(over(&pod, &used).map(|over| over.message).as_deref(), message);
        }
    }
}

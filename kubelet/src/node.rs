//! The node object: registration, status, lease; and what pods need to know of their node.
//!
//! Upstream: pkg/kubelet/kubelet_node_status.go, pkg/kubelet/nodestatus

pub mod capabilities;
pub mod facts;
pub mod lease;
pub mod register;
pub mod runtime_state;
pub mod status;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::node::v1::RuntimeClass;
use kube::Api;

use crate::dns;
use crate::kubelet::Kubelet;
use crate::objects::message;
use crate::pod::resources::{Requests, of_pod};
use crate::pod::{self, qos};

/// What pods' resolvers are made from.
pub fn dns(kubelet: &Kubelet) -> dns::Node {
    let config = &kubelet.config.kubelet;
    let host = std::fs::read_to_string(&config.resolv_conf).map(|text| dns::parse(&text)).unwrap_or_default();
    dns::Node { cluster_dns: config.cluster_dns.clone(), cluster_domain: config.cluster_domain.clone(), host }
}

/// Weighs the burstable class by its pods.
pub fn update_burstable(kubelet: &Kubelet) {
    let milli: i64 = kubelet
        .workers
        .list()
        .iter()
        .filter(|handle| handle.view().stage < crate::worker::Stage::Finished)
        .map(|handle| handle.request().pod)
        .filter(|pod| qos::class(pod) == qos::Qos::Burstable)
        .map(|pod| of_pod(&pod, Requests, "cpu").unwrap_or(0))
        .sum();
    if let Err(error) = kubelet.cgroups.set_burstable_requests(milli) {
        tracing::debug!(err = %error, "Failed to weigh the burstable class");
    }
}

/// The runtime handler of a pod's RuntimeClass; empty for the default.
///
/// # Errors
/// The class does not exist or cannot be read.
pub async fn runtime_handler(kubelet: &Kubelet, pod: &Pod) -> Result<String, String> {
    let Some(name) = pod::spec(pod).runtime_class_name.as_deref().filter(|name| !name.is_empty()) else {
        return Ok(String::new());
    };
    let api = kubelet.api.clone().ok_or_else(|| format!("failed to get sandbox runtime: RuntimeClass {name:?} not found"))?;
    match Api::<RuntimeClass>::all(api).get_opt(name).await {
        Ok(Some(class)) => Ok(class.handler),
        Ok(None) => Err(format!("failed to get sandbox runtime: RuntimeClass.node.k8s.io {name:?} not found")),
        Err(error) => Err(format!("failed to get sandbox runtime: {}", message(&error))),
    }
}

/// Tells the runtime the node's pod network once the node has one (containerd makes its CNI configuration from a template with it).
pub async fn runtime_pod_cidr(kubelet: &Kubelet, node: &k8s_openapi::api::core::v1::Node) {
    static TOLD: parking_lot::Mutex<String> = parking_lot::Mutex::new(String::new());
    let Some(spec) = &node.spec else { return };
    let cidr = match &spec.pod_cidrs {
        Some(list) if !list.is_empty() => list.join(","),
        _ => spec.pod_cidr.clone().unwrap_or_default(),
    };
    if !cidr.is_empty() && *TOLD.lock() != cidr && kubelet.cri.update_runtime_config(&cidr).await.is_ok() {
        *TOLD.lock() = cidr;
    }
}

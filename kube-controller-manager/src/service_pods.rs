//! What Services select: shared by the endpoints and endpointslice controllers.
//!
//! Upstream: staging/src/k8s.io/endpointslice/util, pkg/controller/endpoint

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use crate::context::{Change, Queue, Store};
use crate::key::Key;
use crate::{pods, selector};

/// Feeds `queue` with Services that change, and with those whose pods change in a way that endpoints show.
///
/// A change of a pod waits for `batch`, so that those that come meanwhile cost nothing.
pub fn feed(services: &Store<Service>, pods: &Store<Pod>, queue: &Queue<Key>, batch: Duration) {
    services.feed(queue);
    let (queue, services) = (queue.clone(), services.clone());
    pods.on_change(move |change| {
        let enqueue = |pod: &Pod| {
            for service in services.in_namespace(&pod.namespace().unwrap_or_default()) {
                if selects(&service, pod) {
                    let key = Key::of(service.as_ref());
                    if batch.is_zero() { queue.add(key) } else { queue.add_after(key, batch) }
                }
            }
        };
        match change {
            Change::Added(pod) | Change::Deleted(pod) => enqueue(pod),
            Change::Updated(old, new) => {
                if facts(old) != facts(new) {
                    enqueue(new);
                    if old.labels() != new.labels() {
                        enqueue(old);
                    }
                }
            }
        }
    });
}

pub fn selects(service: &Service, pod: &Pod) -> bool {
    selector::matches_map(service.spec.as_ref().and_then(|spec| spec.selector.as_ref()), pod.labels())
}

/// All of a pod that endpoints show.
fn facts(pod: &Pod) -> impl PartialEq {
    let ips: Vec<String> = pod_ips(pod).map(|ip| ip.to_string()).collect();
    let spec = pod.spec.as_ref();
    let text = |value: Option<&String>| value.cloned().unwrap_or_default();
    (
        pod.labels().clone(),
        ips,
        (pods::is_ready(pod), pods::is_deleting(pod), pods::is_terminal(pod), pods::node_name(pod).to_owned()),
        (text(spec.and_then(|s| s.hostname.as_ref())), text(spec.and_then(|s| s.subdomain.as_ref()))),
    )
}

pub fn pod_ips(pod: &Pod) -> impl Iterator<Item = IpAddr> {
    let status = pod.status.as_ref();
    let many = status.and_then(|status| status.pod_ips.as_ref()).into_iter().flatten().map(|ip| ip.ip.as_str());
    let one =
        status.filter(|status| status.pod_ips.as_ref().is_none_or(Vec::is_empty)).and_then(|status| status.pod_ip.as_deref());
    many.chain(one).filter_map(|ip| ip.parse().ok())
}

/// Whether a pod belongs into endpoints at all, ready or not.
pub fn is_endpoint(pod: &Pod, include_terminating: bool) -> bool {
    !pods::is_terminal(pod) && pod_ips(pod).next().is_some() && (include_terminating || !pods::is_deleting(pod))
}

/// The port of the pod that a service port leads to: its number, or what a container calls it.
pub fn target_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let spec = pod.spec.as_ref()?;
            let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
            let ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
            let mut named = ports.filter(|p| p.name.as_ref() == Some(name) && p.protocol.as_deref().unwrap_or("TCP") == protocol);
            named.next().map(|p| p.container_port)
        }
    }
}

/// The name that a pod has under its headless Service.
pub fn hostname(pod: &Pod, service: &Service) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let hostname = spec.hostname.as_ref().filter(|name| !name.is_empty())?;
    let ours = spec.subdomain.as_deref() == Some(&service.name_any()) && pod.namespace() == service.namespace();
    ours.then(|| hostname.clone())
}

pub fn reference(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".to_owned()),
        namespace: pod.namespace(),
        name: pod.metadata.name.clone(),
        uid: pod.uid(),
        ..ObjectReference::default()
    }
}

/// Whether a Service is without an address of its own.
pub fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None")
}

/// Whether this controller keeps the Service's endpoints: with a selector, and not a mere DNS alias.
pub fn is_managed(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| spec.selector.is_some() && spec.type_.as_deref() != Some("ExternalName"))
}

/// The Service's labels, without those that mean something on the endpoints themselves.
pub fn copied_labels(service: &Service, reserved: &[&str]) -> BTreeMap<String, String> {
    service
        .labels()
        .iter()
        .filter(|(key, _)| !reserved.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

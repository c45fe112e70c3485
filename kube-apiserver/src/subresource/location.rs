//! Where the kubelet of a pod or node is, and which container is meant.
//!
//! Upstream: pkg/kubelet/client, pkg/registry/core/pod/strategy.go

use std::sync::Arc;

use api::lister::Lister;
use api::status::Status;
use serde_json::Value;

use crate::call::Call;
use crate::metadata;

/// A kubelet's host and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kubelet {
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// The pod named in the path.
pub(super) async fn pod(call: &Call) -> Result<Arc<Value>, Status> {
    call.served.caches.ready().await?;
    call.served.caches.fresh().await?;
    let found = call.server.caches.get("", "pods", &call.info.namespace, &call.info.name);
    found.ok_or_else(|| Status::not_found("", "pods", &call.info.name))
}

/// The kubelet of a node by its name; `None` where the node or its address is not known.
pub(crate) fn kubelet_of(server: &crate::server::Server, node: &str) -> Option<Kubelet> {
    address(&*server.caches.get("", "nodes", "", node)?, &server.config.kubelet_address_types)
}

/// The kubelet of a node.
pub(super) fn kubelet(call: &Call, node: &str) -> Result<Kubelet, Status> {
    let object =
        call.server.caches.get("", "nodes", "", node).ok_or_else(|| Status::not_found("", call.served.plural(), node))?;
    address(&object, &call.server.config.kubelet_address_types).ok_or_else(|| {
        Status::internal(format!("no preferred addresses found; known addresses: {}", object["status"]["addresses"]))
    })
}

fn address(node: &Value, preferred: &[String]) -> Option<Kubelet> {
    let addresses = node.pointer("/status/addresses")?.as_array()?;
    let host = preferred.iter().find_map(|kind| {
        let found = addresses.iter().find(|address| address["type"] == kind.as_str())?;
        found["address"].as_str().filter(|address| !address.is_empty())
    })?;
    let port = node.pointer("/status/daemonEndpoints/kubeletEndpoint/Port").and_then(Value::as_u64).unwrap_or(0);
    let port = u16::try_from(port).ok().filter(|port| *port > 0).unwrap_or(10250);
    Some(Kubelet { host: host.to_owned(), port })
}

/// The node that runs the pod.
pub(super) fn node_of(pod: &Value) -> Result<&str, Status> {
    let name = metadata::name(pod);
    pod.pointer("/spec/nodeName")
        .and_then(Value::as_str)
        .filter(|node| !node.is_empty())
        .ok_or_else(|| Status::bad_request(format!("pod {name} does not have a host assigned")))
}

/// The container that a request means: the one it names, the pod's only one, or its default one.
pub(super) fn container(pod: &Value, asked: &str) -> Result<String, Status> {
    let names = |pointer: &str| -> Vec<&str> {
        let list = pod.pointer(pointer).and_then(Value::as_array);
        list.map(|list| list.iter().filter_map(|container| container["name"].as_str()).collect()).unwrap_or_default()
    };
    let (regular, init, ephemeral) =
        (names("/spec/containers"), names("/spec/initContainers"), names("/spec/ephemeralContainers"));
    let name = metadata::name(pod);
    if !asked.is_empty() {
        if [&regular, &init, &ephemeral].into_iter().any(|list| list.contains(&asked)) {
            return Ok(asked.to_owned());
        }
        return Err(Status::bad_request(format!("container {asked} is not valid for pod {name}")));
    }
    let default = pod.pointer("/metadata/annotations/kubectl.kubernetes.io~1default-container").and_then(Value::as_str);
    if let Some(default) = default.filter(|default| regular.contains(default)) {
        return Ok(default.to_owned());
    }
    match regular.as_slice() {
        [] => Err(Status::bad_request(format!("a container name must be specified for pod {name}"))),
        [only] => Ok((*only).to_owned()),
        many => {
            let mut message = format!("a container name must be specified for pod {name}, choose one of: [{}]", many.join(" "));
            if !init.is_empty() {
                message.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
            }
            if !ephemeral.is_empty() {
                message.push_str(&format!(" or one of the ephemeral containers: [{}]", ephemeral.join(" ")));
            }
            Err(Status::bad_request(message))
        }
    }
}

/// Encodes a query parameter's value or a path segment.
pub(super) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte as char);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_first_preferred_address_is_taken() {
        let node = json!({"status": {"addresses": [{"type": "Hostname", "address": "n"}, {"type": "InternalIP", "address": "10.0.0.1"}], "daemonEndpoints": {"kubeletEndpoint": {"Port": 10251}}}});
        let found = address(&node, &["InternalIP".into(), "Hostname".into()]).unwrap();
        assert_eq!((found.host.as_str(), found.port), ("10.0.0.1", 10251));
        assert_eq!(address(&node, &["ExternalIP".into()]), None);
    }

    #[test]
    fn containers_are_found_or_asked_for() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]}});
        assert_eq!(container(&pod, "i").unwrap(), "i");
        assert_eq!(
            container(&pod, "").unwrap_err().message,
            "a container name must be specified for pod p, choose one of: [a b] or one of the init containers: [i]"
        );
        assert_eq!(container(&pod, "x").unwrap_err().message, "container x is not valid for pod p");
        assert_eq!(encode("a b/ü"), "a%20b%2F%C3%BC");
    }
}

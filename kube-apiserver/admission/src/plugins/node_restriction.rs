//! NodeRestriction: a kubelet writes only its own node and what is bound to it.
//!
//! Upstream: plugin/pkg/admission/noderestriction

use std::sync::Arc;

use api::lister::Lister;
use api::status::Status;
use async_trait::async_trait;
use serde_json::Value;

use crate::attributes::{Attributes, Operation};
use crate::chain::Plugin;
use crate::host::Host;
use crate::pod::{MIRROR, items, text};

pub(super) fn build(host: &Host) -> Arc<dyn Plugin> {
    Arc::new(NodeRestriction { lister: host.lister.clone() })
}

struct NodeRestriction {
    lister: Arc<dyn Lister>,
}

#[async_trait]
impl Plugin for NodeRestriction {
    async fn admit(
        &self,
        request: &Attributes,
        object: &mut Value,
        old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        let Some(node) = request.user.node() else { return Ok(()) };
        if node.is_empty() {
            return Err(request.forbidden(object, format!("could not determine node from user {:?}", request.user.name)));
        }
        let verdict = match (request.group.as_str(), request.resource.as_str(), request.subresource.as_str()) {
            ("", "pods", "") => self.pod(request, node, object, old),
            ("", "pods", "status") => pod_status(request, node, object, old),
            ("", "pods", "eviction") => self.eviction(request, node, object),
            ("", "nodes", "" | "status") => own_node(request, node, object, old),
            ("", "persistentvolumeclaims", "status") => claim_status(request, object, old),
            ("", "serviceaccounts", "token") => self.token(request, node, object),
            ("coordination.k8s.io", "leases", "") => lease(request, node, object),
            ("storage.k8s.io", "csinodes", "") => csi_node(request, node, object),
            ("resource.k8s.io", "resourceslices", "") => slice(node, object, old),
            ("certificates.k8s.io", "certificatesigningrequests", "") => Ok(()),
            _ => Ok(()),
        };
        verdict.map_err(|why| request.forbidden(object, why))
    }
}

impl NodeRestriction {
    fn pod(&self, request: &Attributes, node: &str, pod: &Value, old: Option<&Value>) -> Result<(), String> {
        match request.operation {
            Operation::Create => self.mirror_pod(node, pod),
            Operation::Delete => {
                let found = old
                    .cloned()
                    .or_else(|| self.lister.get("", "pods", &request.namespace, &request.name).map(|pod| (*pod).clone()));
                match found {
                    Some(pod) if text(&pod["spec"], "nodeName") == node => Ok(()),
                    Some(_) => Err(format!("node {node:?} can only delete pods with spec.nodeName set to itself")),
                    // Nothing to delete; the store says so.
                    None => Ok(()),
                }
            }
            operation => {
                Err(format!("unexpected operation {}, node {node:?} can only create and delete mirror pods", verb(operation)))
            }
        }
    }

    fn mirror_pod(&self, node: &str, pod: &Value) -> Result<(), String> {
        if pod["metadata"]["annotations"][MIRROR].is_null() {
            return Err(format!("pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"));
        }
        if text(&pod["spec"], "nodeName") != node {
            return Err(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
        }
        let [owner] = items(&pod["metadata"], "ownerReferences") else {
            return Err(format!("node {node:?} can only create pods with a single owner reference set to itself"));
        };
        if text(owner, "apiVersion") != "v1" || text(owner, "kind") != "Node" || text(owner, "name") != node {
            return Err(format!("node {node:?} can only create pods with an owner reference set to itself"));
        }
        if owner["controller"] != true {
            return Err(format!("node {node:?} can only create pods with a controller owner reference set to itself"));
        }
        if owner["blockOwnerDeletion"] == true {
            return Err(format!("node {node:?} must not set blockOwnerDeletion on an owner reference"));
        }
        match self.lister.get("", "nodes", "", node) {
            Some(own) if own["metadata"]["uid"] != owner["uid"] => {
                return Err(format!(
                    "node {} UID mismatch: expected {} got {}",
                    node,
                    text(owner, "uid"),
                    text(&own["metadata"], "uid")
                ));
            }
            Some(_) => {}
            None => return Err(format!("node {node:?} not found")),
        }
        let refuse = |what: &str| Err(format!("node {node:?} can not create pods that reference {what}"));
        let spec = &pod["spec"];
        if !text(spec, "serviceAccountName").is_empty() {
            return refuse("a service account");
        }
        for volume in items(spec, "volumes") {
            for (field, what) in
                [("secret", "secrets"), ("configMap", "configmaps"), ("persistentVolumeClaim", "persistentvolumeclaims")]
            {
                if volume[field].is_object() {
                    return refuse(what);
                }
            }
            for source in items(&volume["projected"], "sources") {
                for (field, what) in [
                    ("secret", "secrets"),
                    ("configMap", "configmaps"),
                    ("serviceAccountToken", "serviceaccounts"),
                    ("clusterTrustBundle", "clustertrustbundles"),
                ] {
                    if source[field].is_object() {
                        return refuse(what);
                    }
                }
            }
        }
        if !items(spec, "resourceClaims").is_empty() {
            return refuse("resourceclaims");
        }
        for container in crate::pod::containers(spec) {
            for variable in items(container, "env") {
                if variable["valueFrom"]["secretKeyRef"].is_object() {
                    return refuse("secrets");
                }
                if variable["valueFrom"]["configMapKeyRef"].is_object() {
                    return refuse("configmaps");
                }
            }
            for source in items(container, "envFrom") {
                if source["secretRef"].is_object() {
                    return refuse("secrets");
                }
                if source["configMapRef"].is_object() {
                    return refuse("configmaps");
                }
            }
        }
        Ok(())
    }

    fn eviction(&self, request: &Attributes, node: &str, eviction: &Value) -> Result<(), String> {
        let name = request.name_of(eviction);
        match self.lister.get("", "pods", &request.namespace, name) {
            Some(pod) if text(&pod["spec"], "nodeName") != node => {
                Err(format!("node {node} can only evict pods with spec.nodeName set to itself"))
            }
            _ => Ok(()),
        }
    }

    /// Tokens only for pods that run here.
    fn token(&self, request: &Attributes, node: &str, review: &Value) -> Result<(), String> {
        let bound = &review["spec"]["boundObjectRef"];
        if bound.is_null() || text(bound, "apiVersion") != "v1" || text(bound, "kind") != "Pod" || text(bound, "name").is_empty()
        {
            return Err("node requested token not bound to a pod".to_owned());
        }
        if text(bound, "uid").is_empty() {
            return Err("node requested token with a pod binding without a uid".to_owned());
        }
        let name = text(bound, "name");
        let Some(pod) = self.lister.get("", "pods", &request.namespace, name) else {
            return Err(format!("pod {name:?} not found"));
        };
        if pod["metadata"]["uid"] != bound["uid"] {
            let (asked, found) = (text(bound, "uid"), text(&pod["metadata"], "uid"));
            return Err(format!(
                "the UID in the bound object reference ({asked}) does not match the UID in record. The object might have been deleted and then recreated: {found}"
            ));
        }
        if text(&pod["spec"], "nodeName") != node {
            return Err("node requested token bound to a pod scheduled on a different node".to_owned());
        }
        if text(&pod["spec"], "serviceAccountName") != request.name {
            let (own, asked) = (text(&pod["spec"], "serviceAccountName"), &request.name);
            return Err(format!("node requested token for service account {asked:?} which is not the pod's own: {own:?}"));
        }
        Ok(())
    }
}

fn verb(operation: Operation) -> &'static str {
    match operation {
        Operation::Create => "CREATE",
        Operation::Update => "UPDATE",
        Operation::Delete => "DELETE",
        Operation::Connect => "CONNECT",
    }
}

fn pod_status(request: &Attributes, node: &str, pod: &Value, old: Option<&Value>) -> Result<(), String> {
    if request.operation != Operation::Update {
        return Err(format!("unexpected operation {}, node {node:?} can only update pod status", verb(request.operation)));
    }
    let Some(old) = old else { return Ok(()) };
    if text(&old["spec"], "nodeName") != node {
        return Err(format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself"));
    }
    if pod["metadata"]["labels"] != old["metadata"]["labels"] {
        return Err(format!("node {node:?} cannot update labels through pod status"));
    }
    if pod["status"]["resourceClaimStatuses"] != old["status"]["resourceClaimStatuses"] {
        return Err(format!("node {node:?} cannot update resource claim statuses"));
    }
    Ok(())
}

/// Labels of the Kubernetes domains that a kubelet may set on itself; all others of those domains are the administrators'.
const OWN_LABELS: &[&str] = &[
    "kubernetes.io/hostname",
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "node.kubernetes.io/windows-build",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.kubernetes.io/zone",
    "failure-domain.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
];

fn is_reserved(label: &str) -> bool {
    let Some((domain, _)) = label.split_once('/') else { return false };
    let within = |base: &str| domain == base || domain.strip_suffix(base).is_some_and(|head| head.ends_with('.'));
    if !within("kubernetes.io") && !within("k8s.io") {
        return false;
    }
    let own_domain = ["kubelet.kubernetes.io", "node.kubernetes.io"].iter().any(|base| within(base));
    !OWN_LABELS.contains(&label) && !own_domain || within("node-restriction.kubernetes.io")
}

fn own_node(request: &Attributes, node: &str, object: &Value, old: Option<&Value>) -> Result<(), String> {
    let asked = request.name_of(object);
    if asked != node {
        return Err(format!("node {node:?} is not allowed to modify node {asked:?}"));
    }
    if request.subresource == "status" || !matches!(request.operation, Operation::Create | Operation::Update) {
        return Ok(());
    }
    let empty = Value::Null;
    let before = old.map_or(&empty, |old| &old["metadata"]["labels"]);
    let after = &object["metadata"]["labels"];
    let mut keys: Vec<&String> = [before, after].into_iter().filter_map(Value::as_object).flat_map(|map| map.keys()).collect();
    keys.sort();
    keys.dedup();
    let changed = |key: &&&String| before[key.as_str()] != after[key.as_str()];
    let restricted: Vec<&str> = keys.iter().filter(changed).map(|key| key.as_str()).filter(|key| is_reserved(key)).collect();
    match request.operation {
        Operation::Create => {
            // Wider than on update: old kubelets still set some labels when they register.
            let restricted: Vec<&str> = restricted
                .into_iter()
                .filter(|label| !label.starts_with("node-role.kubernetes.io/") || is_reserved(label))
                .collect();
            if !restricted.is_empty() {
                return Err(format!("node {node:?} is not allowed to set the following labels: {}", restricted.join(", ")));
            }
            if object["spec"]["configSource"].is_object() {
                return Err(format!("node {node:?} is not allowed to create pods with a non-nil configSource"));
            }
        }
        _ => {
            if let Some(old) = old {
                let taints = |object: &Value| items(&object["spec"], "taints").to_vec();
                if taints(object) != taints(old) {
                    return Err(format!("node {node:?} is not allowed to modify taints"));
                }
                if object["metadata"]["ownerReferences"] != old["metadata"]["ownerReferences"] {
                    return Err(format!("node {node:?} is not allowed to modify ownerReferences"));
                }
            }
            if !restricted.is_empty() {
                return Err(format!("node {node:?} is not allowed to modify labels: {}", restricted.join(", ")));
            }
        }
    }
    Ok(())
}

fn claim_status(request: &Attributes, claim: &Value, old: Option<&Value>) -> Result<(), String> {
    if request.operation != Operation::Update {
        return Err(format!("unexpected operation {}", verb(request.operation)));
    }
    let Some(old) = old else { return Ok(()) };
    let rest = |object: &Value| {
        let mut object = object.clone();
        if let Some(status) = object["status"].as_object_mut() {
            for key in ["capacity", "conditions", "allocatedResources", "allocatedResourceStatuses"] {
                status.remove(key);
            }
        }
        for key in ["managedFields", "resourceVersion"] {
            object["metadata"].as_object_mut().map(|metadata| metadata.remove(key));
        }
        object
    };
    if rest(claim) == rest(old) {
        Ok(())
    } else {
        Err("node is not allowed to update fields other than status.quantity and status.conditions".to_owned())
    }
}

fn lease(request: &Attributes, node: &str, lease: &Value) -> Result<(), String> {
    if request.namespace != "kube-node-lease" {
        return Err("can only access leases in the \"kube-node-lease\" system namespace".to_owned());
    }
    let name = request.name_of(lease);
    if name != node {
        return Err(format!("can only access node lease with the same name as the requesting node, {node:?} is not {name:?}"));
    }
    Ok(())
}

fn csi_node(request: &Attributes, node: &str, object: &Value) -> Result<(), String> {
    if request.name_of(object) != node {
        return Err("can only access CSINode with the same name as the requesting node".to_owned());
    }
    Ok(())
}

fn slice(node: &str, object: &Value, old: Option<&Value>) -> Result<(), String> {
    let slice = if object.is_object() { object } else { old.unwrap_or(object) };
    if text(&slice["spec"], "nodeName") != node && slice.is_object() {
        return Err("can only create ResourceSlice with the same NodeName as the requesting node".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{Cluster, admitted, request};
    use super::*;

    fn as_node(mut request: Attributes) -> Attributes {
        request.user.name = "system:node:n1".into();
        request.user.groups = vec!["system:nodes".into()];
        request
    }

    fn plugin() -> Arc<dyn Plugin> {
        build(
            &Cluster::default()
                .with("", "nodes", "", json!({"metadata": {"name": "n1", "uid": "u1"}}))
                .with("", "pods", "d", json!({"metadata": {"name": "mine", "uid": "p1"}, "spec": {"nodeName": "n1", "serviceAccountName": "default"}}))
                .with("", "pods", "d", json!({"metadata": {"name": "other", "uid": "p2"}, "spec": {"nodeName": "n2"}}))
                .host(),
        )
    }

    #[tokio::test]
    async fn a_kubelet_touches_only_its_own_node() {
        let plugin = plugin();
        let create = |name: &str| as_node(request(Operation::Create, "", "nodes", "", name));
        let labels = |label: &str| json!({"metadata": {"labels": {label: ""}}});
        assert!(admitted(&plugin, &create("n1"), labels("kubernetes.io/hostname")).await.is_ok());
        assert!(admitted(&plugin, &create("n1"), labels("example.com/x")).await.is_ok());
        assert!(admitted(&plugin, &create("n1"), labels("node-role.kubernetes.io/control-plane")).await.is_err());
        let other = admitted(&plugin, &create("n2"), json!({})).await.unwrap_err();
        assert_eq!(other.message, r#"nodes "n2" is forbidden: node "n1" is not allowed to modify node "n2""#);
        assert!(admitted(&plugin, &request(Operation::Create, "", "nodes", "", "n2"), json!({})).await.is_ok());
    }

    #[tokio::test]
    async fn a_kubelet_makes_only_mirror_pods_of_its_own() {
        let plugin = plugin();
        let create = as_node(request(Operation::Create, "", "pods", "d", "p"));
        let owner = json!({"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "u1", "controller": true});
        let mirror = json!({"metadata": {"annotations": {MIRROR: "h"}, "ownerReferences": [owner]}, "spec": {"nodeName": "n1"}});
        assert!(admitted(&plugin, &create, mirror.clone()).await.is_ok());
        for (path, value) in [
            ("/spec/nodeName", json!("n2")),
            ("/metadata/annotations", json!({})),
            ("/metadata/ownerReferences/0/uid", json!("x")),
        ] {
            let mut bad = mirror.clone();
            *bad.pointer_mut(path).unwrap() = value;
            assert!(admitted(&plugin, &create, bad).await.is_err(), "{path}");
        }
        assert!(admitted(&plugin, &as_node(request(Operation::Delete, "", "pods", "d", "mine")), Value::Null).await.is_ok());
        assert!(admitted(&plugin, &as_node(request(Operation::Delete, "", "pods", "d", "other")), Value::Null).await.is_err());
    }

    #[tokio::test]
    async fn a_kubelet_gets_tokens_only_for_pods_that_it_runs() {
        let plugin = plugin();
        let mut ask = as_node(request(Operation::Create, "", "serviceaccounts", "d", "default"));
        ask.subresource = "token".into();
        let review = |name: &str, uid: &str| json!({"spec": {"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}}});
        assert!(admitted(&plugin, &ask, review("mine", "p1")).await.is_ok());
        assert!(admitted(&plugin, &ask, review("mine", "x")).await.is_err());
        assert!(admitted(&plugin, &ask, review("other", "p2")).await.is_err());
        assert!(admitted(&plugin, &ask, json!({"spec": {}})).await.is_err());
    }
}

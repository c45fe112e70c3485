//! ExtendedResourceToleration: pods that ask for a device tolerate the taint that keeps its nodes for such pods.
//!
//! Upstream: plugin/pkg/admission/extendedresourcetoleration

use std::collections::BTreeSet;
use std::sync::Arc;

use api::status::Status;
use async_trait::async_trait;
use serde_json::{Value, json};

use crate::attributes::{Attributes, Operation};
use crate::chain::Plugin;
use crate::host::Host;
use crate::pod::containers;

pub(super) fn build(_host: &Host) -> Arc<dyn Plugin> {
    Arc::new(ExtendedResourceToleration)
}

struct ExtendedResourceToleration;

/// Names with a domain that is not Kubernetes' own.
fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/") && !name.starts_with("requests.")
}

#[async_trait]
impl Plugin for ExtendedResourceToleration {
    async fn admit(
        &self,
        request: &Attributes,
        object: &mut Value,
        _old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        if !request.is("", "pods") || !matches!(request.operation, Operation::Create | Operation::Update) {
            return Ok(());
        }
        let asked: BTreeSet<String> = containers(&object["spec"])
            .filter_map(|container| container["resources"]["requests"].as_object())
            .flat_map(|requests| requests.keys().filter(|name| is_extended(name)).cloned())
            .collect();
        for name in asked {
            let toleration = json!({"key": name, "operator": "Exists", "effect": "NoSchedule"});
            let spec = &mut object["spec"];
            match spec.get_mut("tolerations").and_then(Value::as_array_mut) {
                Some(list) if list.contains(&toleration) => {}
                Some(list) => list.push(toleration),
                None => spec["tolerations"] = json!([toleration]),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Cluster, admitted, request};
    use super::*;

    #[tokio::test]
    async fn devices_are_tolerated_once() {
        let plugin = build(&Cluster::default().host());
        let create = request(Operation::Create, "", "pods", "d", "p");
        let requests = json!({"cpu": "1", "example.com/gpu": "1", "requests.kubernetes.io/x": "1"});
        let pod = json!({"spec": {"containers": [{"resources": {"requests": requests}}]}});
        let pod = admitted(&plugin, &create, pod).await.unwrap();
        let wanted = json!([{"key": "example.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]);
        assert_eq!(pod["spec"]["tolerations"], wanted);
        assert_eq!(admitted(&plugin, &create, pod).await.unwrap()["spec"]["tolerations"], wanted);
    }
}

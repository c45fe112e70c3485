//! PodTopologyLabels: a pod that is bound gets its node's zone and region as labels.
//!
//! Upstream: plugin/pkg/admission/podtopologylabels

use std::sync::Arc;

use api::lister::Lister;
use api::status::Status;
use async_trait::async_trait;
use serde_json::{Value, json};

use crate::attributes::{Attributes, Operation};
use crate::chain::Plugin;
use crate::host::Host;
use crate::pod::text;

const LABELS: &[&str] = &["topology.kubernetes.io/region", "topology.kubernetes.io/zone"];

pub(super) fn build(host: &Host) -> Arc<dyn Plugin> {
    Arc::new(PodTopologyLabels { lister: host.lister.clone() })
}

struct PodTopologyLabels {
    lister: Arc<dyn Lister>,
}

#[async_trait]
impl Plugin for PodTopologyLabels {
    async fn admit(
        &self,
        request: &Attributes,
        object: &mut Value,
        _old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        let binding = request.is("", "bindings") || request.is_sub("", "pods", "binding");
        if request.operation != Operation::Create {
            return Ok(());
        }
        let node = if binding {
            if text(&object["target"], "kind") == "Node" { text(&object["target"], "name") } else { "" }
        } else if request.is("", "pods") {
            text(&object["spec"], "nodeName")
        } else {
            ""
        };
        if node.is_empty() {
            return Ok(());
        }
        let Some(node) = self.lister.get("", "nodes", "", node) else { return Ok(()) };
        for label in LABELS {
            let value = &node["metadata"]["labels"][label];
            if value.is_null() {
                continue;
            }
            if !object["metadata"]["labels"].is_object() {
                object["metadata"]["labels"] = json!({});
            }
            object["metadata"]["labels"][label] = value.clone();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Cluster, admitted, request};
    use super::*;

    #[tokio::test]
    async fn a_binding_carries_the_nodes_zone() {
        let node = json!({"metadata": {"name": "n", "labels": {"topology.kubernetes.io/zone": "z", "other": "o"}}});
        let plugin = build(&Cluster::default().with("", "nodes", "", node).host());
        let mut bind = request(Operation::Create, "", "pods", "d", "p");
        bind.subresource = "binding".into();
        let binding = admitted(&plugin, &bind, json!({"metadata": {}, "target": {"kind": "Node", "name": "n"}})).await.unwrap();
        assert_eq!(binding["metadata"]["labels"], json!({"topology.kubernetes.io/zone": "z"}));
    }
}

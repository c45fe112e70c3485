//! TaintNodesByCondition: a new node takes no pods until it is ready.
//!
//! Upstream: plugin/pkg/admission/nodetaint

use std::sync::Arc;

use api::status::Status;
use async_trait::async_trait;
use serde_json::{Value, json};

use crate::attributes::{Attributes, Operation};
use crate::chain::Plugin;
use crate::host::Host;
use crate::pod::{items, text};

const NOT_READY: &str = "node.kubernetes.io/not-ready";

pub(super) fn build(_host: &Host) -> Arc<dyn Plugin> {
    Arc::new(TaintNodesByCondition)
}

struct TaintNodesByCondition;

#[async_trait]
impl Plugin for TaintNodesByCondition {
    async fn admit(
        &self,
        request: &Attributes,
        object: &mut Value,
        _old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        if !request.is("", "nodes") || request.operation != Operation::Create {
            return Ok(());
        }
        let there = items(&object["spec"], "taints")
            .iter()
            .any(|taint| text(taint, "key") == NOT_READY && text(taint, "effect") == "NoSchedule");
        if !there {
            let taint = json!({"key": NOT_READY, "effect": "NoSchedule"});
            match object["spec"]["taints"].as_array_mut() {
                Some(list) => list.push(taint),
                None => object["spec"]["taints"] = json!([taint]),
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
    async fn a_new_node_is_tainted_once() {
        let plugin = build(&Cluster::default().host());
        let create = request(Operation::Create, "", "nodes", "", "n");
        let node = admitted(&plugin, &create, json!({"metadata": {}})).await.unwrap();
        assert_eq!(node["spec"]["taints"], json!([{"key": NOT_READY, "effect": "NoSchedule"}]));
        assert_eq!(admitted(&plugin, &create, node.clone()).await.unwrap(), node);
    }
}

//! DefaultTolerationSeconds: pods stay for five minutes on a node that is not ready or not reachable.
//!
//! Upstream: plugin/pkg/admission/defaulttolerationseconds

use std::sync::Arc;

use api::status::Status;
use async_trait::async_trait;
use serde_json::{Value, json};

use crate::attributes::{Attributes, Operation};
use crate::chain::Plugin;
use crate::host::Host;
use crate::pod::{items, text};

/// Seconds. Upstream: --default-not-ready-toleration-seconds, --default-unreachable-toleration-seconds
const SECONDS: i64 = 300;

pub(super) fn build(_host: &Host) -> Arc<dyn Plugin> {
    Arc::new(DefaultTolerationSeconds)
}

struct DefaultTolerationSeconds;

#[async_trait]
impl Plugin for DefaultTolerationSeconds {
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
        for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
            let tolerated = items(&object["spec"], "tolerations").iter().any(|toleration| {
                matches!(text(toleration, "key"), "") && matches!(text(toleration, "effect"), "" | "NoExecute")
                    || text(toleration, "key") == key && matches!(text(toleration, "effect"), "" | "NoExecute")
            });
            if !tolerated {
                let toleration = json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS});
                match object["spec"]["tolerations"].as_array_mut() {
                    Some(list) => list.push(toleration),
                    None => object["spec"]["tolerations"] = json!([toleration]),
                }
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
    async fn tolerations_that_cover_the_taints_are_left_alone() {
        let plugin = build(&Cluster::default().host());
        let create = request(Operation::Create, "", "pods", "d", "p");
        let pod = admitted(&plugin, &create, json!({"spec": {}})).await.unwrap();
        assert_eq!(items(&pod["spec"], "tolerations").len(), 2);
        let pod = admitted(&plugin, &create, json!({"spec": {"tolerations": [{"operator": "Exists"}]}})).await.unwrap();
        assert_eq!(items(&pod["spec"], "tolerations").len(), 1);
        let own = json!({"spec": {"tolerations": [{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]}});
        assert_eq!(items(&admitted(&plugin, &create, own).await.unwrap()["spec"], "tolerations").len(), 3);
    }
}

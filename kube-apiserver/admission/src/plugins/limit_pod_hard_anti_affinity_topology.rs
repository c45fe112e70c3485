//! LimitPodHardAntiAffinityTopology: pods may keep others away from their node, not from whole zones.
//!
//! Upstream: plugin/pkg/admission/antiaffinity

use std::sync::Arc;

use api::status::Status;
use async_trait::async_trait;
use serde_json::Value;

use crate::attributes::{Attributes, Operation};
use crate::chain::Plugin;
use crate::host::Host;
use crate::pod::{items, text};

const HOSTNAME: &str = "kubernetes.io/hostname";

pub(super) fn build(_host: &Host) -> Arc<dyn Plugin> {
    Arc::new(LimitPodHardAntiAffinityTopology)
}

struct LimitPodHardAntiAffinityTopology;

#[async_trait]
impl Plugin for LimitPodHardAntiAffinityTopology {
    async fn validate(
        &self,
        request: &Attributes,
        object: &Value,
        _old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        if !request.is("", "pods") || !matches!(request.operation, Operation::Create | Operation::Update) {
            return Ok(());
        }
        let terms = &object["spec"]["affinity"]["podAntiAffinity"];
        let other = items(terms, "requiredDuringSchedulingIgnoredDuringExecution")
            .iter()
            .map(|term| text(term, "topologyKey"))
            .find(|key| *key != HOSTNAME);
        match other {
            None => Ok(()),
            Some(key) => Err(request.forbidden(
                object,
                format!(
                    "affinity.PodAntiAffinity.RequiredDuringScheduling has TopologyKey {key} but only key {HOSTNAME} is allowed"
                ),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{Cluster, request};
    use super::*;

    #[tokio::test]
    async fn only_the_node_is_a_fit_topology() {
        let plugin = build(&Cluster::default().host());
        let create = request(Operation::Create, "", "pods", "d", "p");
        for (key, fine) in [(HOSTNAME, true), ("topology.kubernetes.io/zone", false)] {
            let terms = json!({"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": key}]});
            let pod = json!({"spec": {"affinity": {"podAntiAffinity": terms}}});
            assert_eq!(plugin.validate(&create, &pod, None, &mut Vec::new()).await.is_ok(), fine);
        }
    }
}

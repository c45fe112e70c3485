//! PodNodeSelector: pods of a namespace go to the nodes that the namespace's annotation selects.
//!
//! The lists in upstream's configuration file (`clusterDefaultNodeSelector`, whitelists) are not read.
//!
//! Upstream: plugin/pkg/admission/podnodeselector

use std::sync::Arc;

use api::lister::Lister;
use api::status::Status;
use async_trait::async_trait;
use serde_json::{Map, Value, json};

use crate::attributes::{Attributes, Operation};
use crate::chain::Plugin;
use crate::host::Host;
use crate::pod::text;

const ANNOTATION: &str = "scheduler.alpha.kubernetes.io/node-selector";

pub(super) fn build(host: &Host) -> Arc<dyn Plugin> {
    Arc::new(PodNodeSelector { lister: host.lister.clone() })
}

struct PodNodeSelector {
    lister: Arc<dyn Lister>,
}

/// `a=b,c=d` as a map; anything else selects nothing.
fn labels(text: &str) -> Map<String, Value> {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (key.trim().to_owned(), value.trim().into())).collect()
}

#[async_trait]
impl Plugin for PodNodeSelector {
    async fn admit(
        &self,
        request: &Attributes,
        object: &mut Value,
        _old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        if !request.is("", "pods") || request.operation != Operation::Create {
            return Ok(());
        }
        let Some(namespace) = self.lister.get("", "namespaces", "", &request.namespace) else { return Ok(()) };
        let wanted = labels(text(&namespace["metadata"]["annotations"], ANNOTATION));
        let own = &object["spec"]["nodeSelector"];
        if wanted.iter().any(|(key, value)| own.get(key).is_some_and(|own| own != value)) {
            let why = "pod node label selector conflicts with its namespace node label selector";
            return Err(request.forbidden(object, why));
        }
        if wanted.is_empty() {
            return Ok(());
        }
        if !object["spec"]["nodeSelector"].is_object() {
            object["spec"]["nodeSelector"] = json!({});
        }
        for (key, value) in wanted {
            object["spec"]["nodeSelector"][key] = value;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Cluster, admitted, request};
    use super::*;

    #[tokio::test]
    async fn the_namespaces_selector_joins_the_pods() {
        let namespace = json!({"metadata": {"name": "d", "annotations": {ANNOTATION: "disk=ssd, zone=a"}}});
        let plugin = build(&Cluster::default().with("", "namespaces", "", namespace).host());
        let create = request(Operation::Create, "", "pods", "d", "p");
        let pod = admitted(&plugin, &create, json!({"spec": {"nodeSelector": {"x": "y"}}})).await.unwrap();
        assert_eq!(pod["spec"]["nodeSelector"], json!({"x": "y", "disk": "ssd", "zone": "a"}));
        assert!(admitted(&plugin, &create, json!({"spec": {"nodeSelector": {"disk": "hdd"}}})).await.is_err());
    }
}

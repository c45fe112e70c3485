//! NamespaceLifecycle: nothing is made in a namespace that does not exist or that is going, and some namespaces never go.
//!
//! Upstream: apiserver/pkg/admission/plugin/namespace/lifecycle

use std::sync::Arc;

use api::lister::Lister;
use api::status::Status;
use async_trait::async_trait;
use serde_json::{Value, json};

use crate::attributes::{Attributes, Operation};
use crate::chain::Plugin;
use crate::host::Host;

const IMMORTAL: &[&str] = &["default", "kube-system", "kube-public"];

pub(super) fn build(host: &Host) -> Arc<dyn Plugin> {
    Arc::new(NamespaceLifecycle { lister: host.lister.clone() })
}

struct NamespaceLifecycle {
    lister: Arc<dyn Lister>,
}

#[async_trait]
impl Plugin for NamespaceLifecycle {
    async fn admit(
        &self,
        request: &Attributes,
        object: &mut Value,
        _old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        if request.is("", "namespaces") && request.operation == Operation::Delete && IMMORTAL.contains(&request.name.as_str()) {
            return Err(Status::forbidden("", "namespaces", &request.name, "this namespace may not be deleted"));
        }
        if request.namespace.is_empty() || (request.group.is_empty() && request.resource == "namespaces") {
            return Ok(());
        }
        if request.operation == Operation::Delete
            || (request.group == "authorization.k8s.io" && request.resource == "localsubjectaccessreviews")
        {
            return Ok(());
        }
        let Some(namespace) = self.lister.get("", "namespaces", "", &request.namespace) else {
            return Err(Status::not_found("", "namespaces", &request.namespace));
        };
        if request.operation != Operation::Create || namespace["status"]["phase"] != "Terminating" {
            return Ok(());
        }
        let name = &request.namespace;
        let mut status =
            request.forbidden(object, format!("unable to create new content in namespace {name} because it is being terminated"));
        if let Some(details) = &mut status.details {
            details["causes"] = json!([{
                "reason": "NamespaceTerminating", "message": format!("namespace {name} is being terminated"), "field": "metadata.namespace",
            }]);
        }
        Err(status)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Cluster, admitted, request};
    use super::*;

    #[tokio::test]
    async fn nothing_is_made_in_namespaces_that_are_missing_or_going() {
        let cluster = Cluster::default().namespace("here").with(
            "",
            "namespaces",
            "",
            json!({"metadata": {"name": "going"}, "status": {"phase": "Terminating"}}),
        );
        let plugin = build(&cluster.host());
        let make = |namespace: &str| request(Operation::Create, "", "configmaps", namespace, "c");
        assert!(admitted(&plugin, &make("here"), json!({})).await.is_ok());
        let missing = admitted(&plugin, &make("nowhere"), json!({})).await.unwrap_err();
        assert_eq!((missing.code, missing.message.as_str()), (404, "namespaces \"nowhere\" not found"));
        let going = admitted(&plugin, &make("going"), json!({})).await.unwrap_err();
        assert_eq!(going.code, 403);
        assert!(going.message.ends_with("because it is being terminated"));
        assert!(admitted(&plugin, &request(Operation::Update, "", "configmaps", "going", "c"), json!({})).await.is_ok());
        assert!(admitted(&plugin, &request(Operation::Delete, "", "namespaces", "", "kube-system"), json!(null)).await.is_err());
        assert!(admitted(&plugin, &request(Operation::Delete, "", "namespaces", "", "mine"), json!(null)).await.is_ok());
    }
}

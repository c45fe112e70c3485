//! OwnerReferencesPermissionEnforcement: who changes owners must be allowed to delete the object, and to touch the finalizers of owners
//! whose deletion it blocks.
//!
//! Upstream: plugin/pkg/admission/gc

use std::sync::Arc;

use api::status::Status;
use async_trait::async_trait;
use serde_json::Value;

use crate::attributes::{Attributes, Operation};
use crate::chain::Plugin;
use crate::host::{Authorizer, Host, Question};
use crate::pod::{items, text};

pub(super) fn build(host: &Host) -> Arc<dyn Plugin> {
    Arc::new(OwnerReferences { authorizer: host.authorizer.clone() })
}

struct OwnerReferences {
    authorizer: Arc<dyn Authorizer>,
}

#[async_trait]
impl Plugin for OwnerReferences {
    async fn validate(
        &self,
        request: &Attributes,
        object: &Value,
        old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        if !matches!(request.operation, Operation::Create | Operation::Update)
            || (request.group.is_empty() && request.resource == "pods" && request.subresource == "status")
        {
            return Ok(());
        }
        let owners = |object: &Value| items(&object["metadata"], "ownerReferences").to_vec();
        let (after, before) = (owners(object), old.map(owners).unwrap_or_default());
        if after == before {
            return Ok(());
        }
        if request.operation == Operation::Update {
            let question = Question {
                verb: "delete".to_owned(),
                group: request.group.clone(),
                version: request.version.clone(),
                resource: request.resource.clone(),
                namespace: request.namespace.clone(),
                name: request.name.clone(),
                ..Question::default()
            };
            if !self.authorizer.allowed(&request.user, &question).await {
                return Err(request.forbidden(object, "cannot set an ownerRef on a resource you can't delete: , <nil>"));
            }
        }
        let blocks = |owner: &&Value| owner["blockOwnerDeletion"] == true;
        let newly = after
            .iter()
            .filter(blocks)
            .filter(|owner| !before.iter().any(|old| old["uid"] == owner["uid"] && old["blockOwnerDeletion"] == true));
        for owner in newly {
            let (group, version) = text(owner, "apiVersion").split_once('/').unwrap_or(("", text(owner, "apiVersion")));
            let Some((resource, namespaced)) = self.authorizer.resource_of(group, text(owner, "kind")).await else { continue };
            let question = Question {
                verb: "update".to_owned(),
                group: group.to_owned(),
                version: version.to_owned(),
                resource,
                subresource: "finalizers".to_owned(),
                namespace: if namespaced { request.namespace.clone() } else { String::new() },
                name: text(owner, "name").to_owned(),
            };
            if !self.authorizer.allowed(&request.user, &question).await {
                let why = "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: , <nil>";
                return Err(request.forbidden(object, why));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{Cluster, request};
    use super::*;

    #[tokio::test]
    async fn who_may_not_delete_may_not_change_owners() {
        let plugin = build(&Cluster::default().host());
        let update = request(Operation::Update, "", "configmaps", "d", "c");
        let owned = json!({"metadata": {"ownerReferences": [{"uid": "u"}]}});
        assert!(plugin.validate(&update, &owned, Some(&json!({})), &mut Vec::new()).await.is_err());
        assert!(plugin.validate(&update, &owned, Some(&owned), &mut Vec::new()).await.is_ok());
    }
}

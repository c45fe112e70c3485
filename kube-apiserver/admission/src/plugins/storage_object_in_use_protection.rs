//! StorageObjectInUseProtection: volumes and claims stay until nobody uses them.
//!
//! Upstream: plugin/pkg/admission/storage/storageobjectinuseprotection

use std::sync::Arc;

use api::status::Status;
use async_trait::async_trait;
use serde_json::{Value, json};

use crate::attributes::{Attributes, Operation};
use crate::chain::Plugin;
use crate::host::Host;

pub(super) fn build(_host: &Host) -> Arc<dyn Plugin> {
    Arc::new(StorageObjectInUseProtection)
}

struct StorageObjectInUseProtection;

#[async_trait]
impl Plugin for StorageObjectInUseProtection {
    async fn admit(
        &self,
        request: &Attributes,
        object: &mut Value,
        _old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        if request.operation != Operation::Create {
            return Ok(());
        }
        let finalizer = if request.is("", "persistentvolumes") {
            "kubernetes.io/pv-protection"
        } else if request.is("", "persistentvolumeclaims") {
            "kubernetes.io/pvc-protection"
        } else {
            return Ok(());
        };
        match object["metadata"]["finalizers"].as_array_mut() {
            Some(list) if list.iter().any(|have| have == finalizer) => {}
            Some(list) => list.push(finalizer.into()),
            None => object["metadata"]["finalizers"] = json!([finalizer]),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Cluster, admitted, request};
    use super::*;

    #[tokio::test]
    async fn the_finalizer_is_added_once() {
        let plugin = build(&Cluster::default().host());
        let create = request(Operation::Create, "", "persistentvolumeclaims", "d", "c");
        let claim = admitted(&plugin, &create, json!({"metadata": {}})).await.unwrap();
        assert_eq!(claim["metadata"]["finalizers"], json!(["kubernetes.io/pvc-protection"]));
        assert_eq!(admitted(&plugin, &create, claim.clone()).await.unwrap(), claim);
    }
}

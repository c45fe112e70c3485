//! PersistentVolumeClaimResize: a claim grows only where its class allows it.
//!
//! Upstream: plugin/pkg/admission/storage/persistentvolume/resize

use std::sync::Arc;

use api::lister::Lister;
use api::quantity::Quantity;
use api::status::Status;
use async_trait::async_trait;
use serde_json::Value;

use crate::attributes::{Attributes, Operation};
use crate::chain::Plugin;
use crate::host::Host;
use crate::pod::text;

pub(super) fn build(host: &Host) -> Arc<dyn Plugin> {
    Arc::new(Resize { lister: host.lister.clone() })
}

struct Resize {
    lister: Arc<dyn Lister>,
}

#[async_trait]
impl Plugin for Resize {
    async fn validate(
        &self,
        request: &Attributes,
        object: &Value,
        old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        if !request.is("", "persistentvolumeclaims") || request.operation != Operation::Update {
            return Ok(());
        }
        let Some(old) = old else { return Ok(()) };
        let size = |claim: &Value| Quantity::parse(text(&claim["spec"]["resources"]["requests"], "storage")).ok();
        let (Some(after), Some(before)) = (size(object), size(old)) else { return Ok(()) };
        if after <= before {
            return Ok(());
        }
        if old["status"]["phase"] != "Bound" {
            return Err(request.forbidden(object, "Only bound persistent volume claims can be expanded"));
        }
        let class = text(&object["spec"], "storageClassName");
        let expandable = !class.is_empty()
            && self
                .lister
                .get("storage.k8s.io", "storageclasses", "", class)
                .is_some_and(|class| class["allowVolumeExpansion"] == true);
        if expandable {
            return Ok(());
        }
        let why =
            "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize";
        Err(request.forbidden(object, why))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{Cluster, request};
    use super::*;

    #[tokio::test]
    async fn only_claims_of_expandable_classes_grow() {
        let cluster = Cluster::default()
            .with("storage.k8s.io", "storageclasses", "", json!({"metadata": {"name": "yes"}, "allowVolumeExpansion": true}))
            .with("storage.k8s.io", "storageclasses", "", json!({"metadata": {"name": "no"}}));
        let plugin = build(&cluster.host());
        let update = request(Operation::Update, "", "persistentvolumeclaims", "d", "c");
        let claim = |class: &str, size: &str| json!({"spec": {"storageClassName": class, "resources": {"requests": {"storage": size}}}, "status": {"phase": "Bound"}});
        for (class, fine) in [("yes", true), ("no", false)] {
            let outcome = plugin.validate(&update, &claim(class, "2Gi"), Some(&claim(class, "1Gi")), &mut Vec::new()).await;
            assert_eq!(outcome.is_ok(), fine);
        }
        assert!(plugin.validate(&update, &claim("no", "1Gi"), Some(&claim("no", "1Gi")), &mut Vec::new()).await.is_ok());
    }
}

//! DefaultStorageClass: a claim that names no class gets the default one.
//!
//! Upstream: plugin/pkg/admission/storage/storageclass/setdefault

use std::sync::Arc;

use api::lister::Lister;
use api::status::Status;
use async_trait::async_trait;
use serde_json::Value;

use crate::attributes::{Attributes, Operation};
use crate::chain::Plugin;
use crate::host::Host;
use crate::pod::text;

const DEFAULT: &[&str] = &["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
const OLD_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

pub(super) fn build(host: &Host) -> Arc<dyn Plugin> {
    Arc::new(DefaultStorageClass { lister: host.lister.clone() })
}

struct DefaultStorageClass {
    lister: Arc<dyn Lister>,
}

#[async_trait]
impl Plugin for DefaultStorageClass {
    async fn admit(
        &self,
        request: &Attributes,
        object: &mut Value,
        _old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        if !request.is("", "persistentvolumeclaims") || request.operation != Operation::Create {
            return Ok(());
        }
        let named = !object["spec"]["storageClassName"].is_null() || !object["metadata"]["annotations"][OLD_ANNOTATION].is_null();
        if named {
            return Ok(());
        }
        let mut classes: Vec<Arc<Value>> = self
            .lister
            .list("storage.k8s.io", "storageclasses", None)
            .into_iter()
            .filter(|class| DEFAULT.iter().any(|key| class["metadata"]["annotations"][key] == "true"))
            .collect();
        // The newest wins, then the first by name.
        classes.sort_by(|a, b| {
            let key = |class: &Value| text(&class["metadata"], "creationTimestamp").to_owned();
            key(b).cmp(&key(a)).then_with(|| text(&a["metadata"], "name").cmp(text(&b["metadata"], "name")))
        });
        if let Some(class) = classes.first() {
            object["spec"]["storageClassName"] = class["metadata"]["name"].clone();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{Cluster, admitted, request};
    use super::*;

    #[tokio::test]
    async fn the_newest_default_class_is_taken() {
        let class = |name: &str, made: &str| json!({"metadata": {"name": name, "creationTimestamp": made, "annotations": {DEFAULT[0]: "true"}}});
        let cluster = Cluster::default()
            .with("storage.k8s.io", "storageclasses", "", class("old", "2026-01-01T00:00:00Z"))
            .with("storage.k8s.io", "storageclasses", "", class("new", "2026-01-02T00:00:00Z"))
            .with(
                "storage.k8s.io",
                "storageclasses",
                "",
                json!({"metadata": {"name": "other", "creationTimestamp": "2026-01-03T00:00:00Z"}}),
            );
        let plugin = build(&cluster.host());
        let create = request(Operation::Create, "", "persistentvolumeclaims", "d", "c");
        assert_eq!(admitted(&plugin, &create, json!({"spec": {}})).await.unwrap()["spec"]["storageClassName"], "new");
        let none = json!({"spec": {"storageClassName": ""}});
        assert_eq!(admitted(&plugin, &create, none.clone()).await.unwrap(), none);
    }
}

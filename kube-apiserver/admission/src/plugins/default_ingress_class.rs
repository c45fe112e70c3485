//! DefaultIngressClass: an Ingress that names no class gets the default one.
//!
//! Upstream: plugin/pkg/admission/network/defaultingressclass

use std::sync::Arc;

use api::lister::Lister;
use api::status::Status;
use async_trait::async_trait;
use serde_json::Value;

use crate::attributes::{Attributes, Operation};
use crate::chain::Plugin;
use crate::host::Host;
use crate::pod::text;

const DEFAULT: &str = "ingressclass.kubernetes.io/is-default-class";
const OLD_ANNOTATION: &str = "kubernetes.io/ingress.class";

pub(super) fn build(host: &Host) -> Arc<dyn Plugin> {
    Arc::new(DefaultIngressClass { lister: host.lister.clone() })
}

struct DefaultIngressClass {
    lister: Arc<dyn Lister>,
}

#[async_trait]
impl Plugin for DefaultIngressClass {
    async fn admit(
        &self,
        request: &Attributes,
        object: &mut Value,
        _old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        if !request.is("networking.k8s.io", "ingresses") || request.operation != Operation::Create {
            return Ok(());
        }
        if !object["spec"]["ingressClassName"].is_null() || !object["metadata"]["annotations"][OLD_ANNOTATION].is_null() {
            return Ok(());
        }
        let mut classes: Vec<Arc<Value>> = self
            .lister
            .list("networking.k8s.io", "ingressclasses", None)
            .into_iter()
            .filter(|class| class["metadata"]["annotations"][DEFAULT] == "true")
            .collect();
        classes.sort_by(|a, b| {
            let key = |class: &Value| text(&class["metadata"], "creationTimestamp").to_owned();
            key(b).cmp(&key(a)).then_with(|| text(&a["metadata"], "name").cmp(text(&b["metadata"], "name")))
        });
        if let Some(class) = classes.first() {
            object["spec"]["ingressClassName"] = class["metadata"]["name"].clone();
        }
        Ok(())
    }
}

//! NamespaceExists: requests for namespaces that are not there are refused, reads of subresources included.
//!
//! Upstream: plugin/pkg/admission/namespace/exists

use std::sync::Arc;

use api::lister::Lister;
use api::status::Status;
use async_trait::async_trait;
use serde_json::Value;

use crate::attributes::Attributes;
use crate::chain::Plugin;
use crate::host::Host;

pub(super) fn build(host: &Host) -> Arc<dyn Plugin> {
    Arc::new(NamespaceExists { lister: host.lister.clone() })
}

struct NamespaceExists {
    lister: Arc<dyn Lister>,
}

#[async_trait]
impl Plugin for NamespaceExists {
    async fn validate(
        &self,
        request: &Attributes,
        _object: &Value,
        _old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        let about_namespaces = request.group.is_empty() && request.resource == "namespaces";
        if request.namespace.is_empty() || about_namespaces {
            return Ok(());
        }
        match self.lister.get("", "namespaces", "", &request.namespace) {
            Some(_) => Ok(()),
            None => Err(Status::not_found("", "namespaces", &request.namespace)),
        }
    }
}

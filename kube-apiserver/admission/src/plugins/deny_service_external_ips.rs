//! DenyServiceExternalIPs: Services may not claim addresses that nobody gave them; those that have some keep them.
//!
//! Upstream: plugin/pkg/admission/network/denyserviceexternalips

use std::sync::Arc;

use api::status::Status;
use async_trait::async_trait;
use serde_json::Value;

use crate::attributes::{Attributes, Operation};
use crate::chain::Plugin;
use crate::host::Host;
use crate::pod::items;

pub(super) fn build(_host: &Host) -> Arc<dyn Plugin> {
    Arc::new(DenyServiceExternalIps)
}

struct DenyServiceExternalIps;

#[async_trait]
impl Plugin for DenyServiceExternalIps {
    async fn validate(
        &self,
        request: &Attributes,
        object: &Value,
        old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        if !request.is("", "services") || !matches!(request.operation, Operation::Create | Operation::Update) {
            return Ok(());
        }
        let before = old.map(|old| items(&old["spec"], "externalIPs")).unwrap_or_default();
        if items(&object["spec"], "externalIPs").iter().all(|address| before.contains(address)) {
            return Ok(());
        }
        Err(request.forbidden(object, "Use of external IPs is denied by admission control"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{Cluster, request};
    use super::*;

    #[tokio::test]
    async fn addresses_may_go_but_not_come() {
        let plugin = build(&Cluster::default().host());
        let service = |addresses: &[&str]| json!({"spec": {"externalIPs": addresses}});
        let create = request(Operation::Create, "", "services", "d", "s");
        assert!(plugin.validate(&create, &service(&["1.2.3.4"]), None, &mut Vec::new()).await.is_err());
        assert!(plugin.validate(&create, &service(&[]), None, &mut Vec::new()).await.is_ok());
        let update = request(Operation::Update, "", "services", "d", "s");
        let old = service(&["1.2.3.4", "5.6.7.8"]);
        assert!(plugin.validate(&update, &service(&["5.6.7.8"]), Some(&old), &mut Vec::new()).await.is_ok());
        assert!(plugin.validate(&update, &service(&["9.9.9.9"]), Some(&old), &mut Vec::new()).await.is_err());
    }
}

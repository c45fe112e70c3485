//! AlwaysAdmit and AlwaysDeny.
//!
//! Upstream: apiserver/plugin/pkg/admission/{admit,deny}

use std::sync::Arc;

use api::status::Status;
use async_trait::async_trait;
use serde_json::Value;

use crate::attributes::Attributes;
use crate::chain::Plugin;
use crate::host::Host;

pub(super) fn build_admit(_host: &Host) -> Arc<dyn Plugin> {
    Arc::new(AlwaysAdmit)
}

pub(super) fn build_deny(_host: &Host) -> Arc<dyn Plugin> {
    Arc::new(AlwaysDeny)
}

struct AlwaysAdmit;

impl Plugin for AlwaysAdmit {}

struct AlwaysDeny;

#[async_trait]
impl Plugin for AlwaysDeny {
    async fn validate(
        &self,
        request: &Attributes,
        object: &Value,
        _old: Option<&Value>,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        Err(request.forbidden(object, "admission control is denying all modifications"))
    }
}

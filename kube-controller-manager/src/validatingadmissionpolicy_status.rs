//! Says of every ValidatingAdmissionPolicy that its present generation was looked at. Type errors that can be known without a
//! request are refused by the API server when the policy is written; none are left to be told as warnings here.
//!
//! Upstream: pkg/controller/validatingadmissionpolicystatus

use k8s_openapi::api::admissionregistration::v1::{TypeChecking, ValidatingAdmissionPolicy};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::api_error;
use crate::config::workers;
use crate::context::{Context, Requeue};

/// Owner of the status fields. Upstream: ControllerName.
const MANAGER: &str = "validatingadmissionpolicy-status";

pub async fn start(ctx: Context) -> anyhow::Result<()> {
    let (policies, queue) = (ctx.store::<ValidatingAdmissionPolicy>(), ctx.queue());
    policies.feed(&queue);
    policies.synced().await;
    let this = ctx.clone();
    let count = workers(ctx.config.options.concurrent_validating_admission_policy_status_syncs);
    ctx.run(&queue, count, move |key| {
        let (ctx, policies) = (this.clone(), policies.clone());
        async move {
            let Some(status) = policies.get(&key).and_then(|policy| plan(&policy)) else { return Ok(Requeue::No) };
            let params = PatchParams::apply(MANAGER).force();
            let patch = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
                "metadata": {"name": key.name}, "status": status});
            let api = ctx.cluster::<ValidatingAdmissionPolicy>();
            api_error::ignore_not_found(api.patch_status(&key.name, &params, &Patch::Apply(&patch)).await)?;
            Ok(Requeue::No)
        }
    });
    Ok(())
}

/// The status to apply, where it is not the one already there.
fn plan(policy: &ValidatingAdmissionPolicy) -> Option<Value> {
    let status = policy.status.clone().unwrap_or_default();
    if policy.metadata.generation.is_some()
        && status.observed_generation == policy.metadata.generation
        && status.type_checking.is_some()
    {
        return None;
    }
    Some(json!({"observedGeneration": policy.metadata.generation, "typeChecking": TypeChecking::default()}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_generation_is_looked_at_once() {
        let policy = |status: Value| -> ValidatingAdmissionPolicy {
            serde_json::from_value(json!({"metadata": {"name": "p", "generation": 2}, "status": status})).unwrap()
        };
        let expected = json!({"observedGeneration": 2, "typeChecking": {}});
        assert_eq!(plan(&policy(json!({}))), Some(expected.clone()));
        assert_eq!(plan(&policy(json!({"observedGeneration": 1, "typeChecking": {}}))), Some(expected));
        assert_eq!(plan(&policy(json!({"observedGeneration": 2, "typeChecking": {}}))), None);
    }
}

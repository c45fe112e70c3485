//! Resource claims before binding: what was decided is written to them, and the pod is entered among their users.
//!
//! Upstream: pkg/scheduler/framework/plugins/dynamicresources (bindClaim, Unreserve)

use std::time::Duration;

use http::{Request, header};
use serde_json::{Value, json};

use super::{Effects, MERGE, text};
use crate::object::Named;
use crate::object::device::DeviceClaim;
use crate::object::pod::Pod;
use crate::plugin::dynamic_resources::Plan;

/// Keeps a claim from going while devices are allocated to it.
const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
/// How often a lost race, or another pod's allocation under way, is looked at again, and how long between.
const ATTEMPTS: usize = 50;
const PAUSE: Duration = Duration::from_millis(100);

impl Effects {
    /// Writes what was decided to the pod's claims, and enters the pod among their users.
    pub(super) async fn bind_devices(&self, pod: &Pod, plan: &Plan) -> Result<(), String> {
        for (claim, planned) in &plan.claims {
            let failed = |why: String| format!("running PreBind plugin \"DynamicResources\": {why}");
            self.bind_claim(pod, claim, planned.as_ref()).await.map_err(failed)?;
        }
        Ok(())
    }

    async fn bind_claim(&self, pod: &Pod, claim: &DeviceClaim, planned: Option<&Value>) -> Result<(), String> {
        let path = path_of(claim);
        for _ in 0..ATTEMPTS {
            let mut now = self.get(&path).await?;
            if now["metadata"]["uid"].as_str() != Some(claim.uid()) {
                return Err(format!("claim {} was deleted and made again meanwhile", claim.key()));
            }
            let given = !now["status"]["allocation"].is_null();
            let mut users = now["status"]["reservedFor"].as_array().cloned().unwrap_or_default();
            let entered = users.iter().any(|user| user["uid"].as_str() == Some(pod.uid()));
            match (given, planned) {
                (true, Some(planned)) if now["status"]["allocation"]["devices"]["results"] != planned["devices"]["results"] => {
                    return Err(format!("claim {} got other devices meanwhile", claim.key()));
                }
                (true, _) if entered => return Ok(()),
                // Another pod shares the claim, and its allocation is still being written.
                (false, None) => {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                _ => {}
            }
            let finalizers = now["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
            if !given && !finalizers.iter().any(|one| one == FINALIZER) {
                let all: Vec<Value> = finalizers.into_iter().chain([FINALIZER.into()]).collect();
                let patch = json!({"metadata": {"resourceVersion": now["metadata"]["resourceVersion"], "finalizers": all}});
                now = match self.patched(&path, &patch).await {
                    Ok(now) => now,
                    Err(error) if client::is_conflict(&error) => continue,
                    Err(error) => return Err(text(&error)),
                };
            }
            if !entered {
                users.push(json!({"resource": "pods", "name": pod.name(), "uid": pod.uid()}));
            }
            let mut status = json!({"reservedFor": users});
            if let Some(planned) = planned.filter(|_| !given) {
                status["allocation"] = planned.clone();
            }
            let patch = json!({"metadata": {"resourceVersion": now["metadata"]["resourceVersion"]}, "status": status});
            match self.patched(&format!("{path}/status"), &patch).await {
                Ok(_) => return Ok(()),
                Err(error) if client::is_conflict(&error) => {}
                Err(error) => return Err(text(&error)),
            }
        }
        Err(format!("claim {} could not be reserved", claim.key()))
    }

    /// Takes the pod out again where binding failed. What was allocated stays: the controller frees it if nobody comes.
    pub(super) async fn release_devices(&self, pod: &Pod, plan: &Plan) {
        for (claim, _) in &plan.claims {
            let path = path_of(claim);
            for _ in 0..ATTEMPTS {
                let Ok(now) = self.get(&path).await else { break };
                let users = now["status"]["reservedFor"].as_array().cloned().unwrap_or_default();
                let others: Vec<&Value> = users.iter().filter(|user| user["uid"].as_str() != Some(pod.uid())).collect();
                if others.len() == users.len() {
                    break;
                }
                let version = &now["metadata"]["resourceVersion"];
                let patch = json!({"metadata": {"resourceVersion": version}, "status": {"reservedFor": others}});
                match self.patched(&format!("{path}/status"), &patch).await {
                    Err(error) if client::is_conflict(&error) => {}
                    Err(error) => {
                        tracing::warn!(claim = claim.key(), err = text(&error), "Failed to release resource claim");
                        break;
                    }
                    Ok(_) => break,
                }
            }
        }
    }

    async fn patched(&self, path: &str, patch: &Value) -> Result<Value, kube::Error> {
        let request = Request::patch(path)
            .header(header::CONTENT_TYPE, MERGE)
            .body(patch.to_string().into_bytes())
            .map_err(kube::Error::HttpError)?;
        self.client.request(request).await
    }
}

fn path_of(claim: &DeviceClaim) -> String {
    format!("/apis/resource.k8s.io/v1/namespaces/{}/resourceclaims/{}", claim.namespace(), claim.name())
}

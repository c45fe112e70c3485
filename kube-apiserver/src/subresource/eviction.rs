//! `pods/eviction`: a delete that asks the pod's disruption budget first.
//!
//! Upstream: pkg/registry/core/pod/storage/eviction.go

use api::schema::Schema;
use api::selector::LabelSelector;
use api::status::Status;
use serde_json::{Value, json};

use crate::cache::filter::Scope;
use crate::call::{Call, Response, timestamp};
use crate::codec;
use crate::metadata;
use crate::negotiate::{self, Accept, Offers, Shape};
use crate::reply;
use crate::verb::delete::{self, DeleteOptions};
use crate::verb::options::WriteOptions;
use crate::verb::write::{self, Change};

/// Pods that a budget remembers as disrupted, at most. Upstream: MaxDisruptedPodSize.
const MOST_DISRUPTED: usize = 2000;
const REFUSED: &str = "Cannot evict pod as it would violate the pod's disruption budget.";

/// Evicts the pod named in the path.
///
/// # Errors
/// 429 where the budget says no; those of a delete.
pub(super) async fn create(call: &mut Call) -> Result<Response, Status> {
    let encoding = negotiate::content_type(&call.headers)?;
    let body = call.read_body().await?;
    let options = WriteOptions::of(call, "CreateOptions", false)?;
    // policy/v1 and the older policy/v1beta1 say the same.
    let version = if body.windows(14).any(|window| window == b"policy/v1beta1") { "v1beta1" } else { "v1" };
    let schema = Schema::builtin("policy", "v1", "Eviction").ok_or_else(|| Status::internal("no schema of Eviction"))?;
    let eviction = codec::decode(&body, encoding, &schema, ("policy", version, "Eviction"), options.validation)?.object;
    let (namespace, name) = (call.info.namespace.clone(), call.info.name.clone());
    if metadata::name(&eviction) != name {
        return Err(Status::bad_request("name in URL does not match name in Eviction object"));
    }
    let mut wanted = DeleteOptions::check(eviction.get("deleteOptions").cloned().unwrap_or_else(|| json!({})))?;
    wanted.dry_run |= options.dry_run;
    let pods = call.served.clone();
    call.served.caches.fresh().await?;
    let pod = match write::cached(&pods, &namespace, &name) {
        Some(current) => current.object(&pods)?,
        None => return Err(Status::not_found("", "pods", &name)),
    };
    if !passes_by(&pod) {
        ask_budget(call, &namespace, &pod, wanted.dry_run).await?;
    }
    delete::one(call, &pods, &namespace, &name, &wanted).await?;
    let accept = call.accept(Offers::Objects).unwrap_or(Accept::JSON);
    Ok(reply::tree(201, &reply::success(201, None), Accept { shape: Shape::Object, ..accept }))
}

/// Whether the pod does not count for its budget any more, or does not yet.
fn passes_by(pod: &Value) -> bool {
    let phase = pod.pointer("/status/phase").and_then(Value::as_str).unwrap_or("");
    matches!(phase, "Succeeded" | "Failed" | "Pending") || metadata::is_deleting(pod)
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    conditions.is_some_and(|list| list.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True"))
}

async fn ask_budget(call: &mut Call, namespace: &str, pod: &Value, dry_run: bool) -> Result<(), Status> {
    let table = call.server.table.load_full();
    let Some(served) = table.get("policy", "v1", "poddisruptionbudgets").cloned() else { return Ok(()) };
    let Some(cache) = served.cache.clone() else { return Ok(()) };
    let snapshot = served.caches.snapshot(&cache);
    let budgets: Vec<Value> = snapshot
        .from(&Scope::Namespace(namespace.to_owned()), None)
        .map(|entry| entry.parse())
        .filter(|budget| {
            LabelSelector::from_object(&budget["spec"]["selector"]).is_ok_and(|selector| selector.matches_object(pod))
        })
        .collect();
    let budget = match budgets.as_slice() {
        [] => return Ok(()),
        [one] => one,
        _ => {
            return Err(Status::new(
                500,
                "InternalError",
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
            ));
        }
    };
    let number = |budget: &Value, field: &str| budget.pointer(&format!("/status/{field}")).and_then(Value::as_i64).unwrap_or(0);
    if !is_ready(pod) {
        let policy = budget.pointer("/spec/unhealthyPodEvictionPolicy").and_then(Value::as_str).unwrap_or("IfHealthyBudget");
        let (healthy, desired) = (number(budget, "currentHealthy"), number(budget, "desiredHealthy"));
        if policy == "AlwaysAllow" || (healthy >= desired && desired > 0) {
            return Ok(());
        }
    }
    let name = metadata::name(budget).to_owned();
    let pod_name = metadata::name(pod).to_owned();
    let options = WriteOptions { dry_run, ..super::binding::no_options() };
    let change =
        Change { served: &served, namespace, name: &name, subresource: "status", options: &options, create: false, bare: true };
    let now = timestamp(call.now);
    write::change(call, &change, |_, old| {
        let Some(old) = old else { return Err(Status::not_found("policy", "poddisruptionbudgets", &name)) };
        let refuse = |message: String, retry: u32| {
            let mut details = json!({"causes": [{"reason": "DisruptionBudget", "message": message}]});
            if retry > 0 {
                details["retryAfterSeconds"] = retry.into();
            }
            Err(Status::new(429, "TooManyRequests", REFUSED).with_details(details))
        };
        let generation = old.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0);
        if number(old, "observedGeneration") < generation {
            return refuse(format!("The disruption budget {name} is still being processed by the server."), 10);
        }
        let allowed = number(old, "disruptionsAllowed");
        if allowed < 0 {
            return Err(Status::forbidden("policy", "poddisruptionbudgets", &name, "pdb disruptions allowed is negative"));
        }
        let disrupted = old.pointer("/status/disruptedPods").and_then(Value::as_object).map_or(0, |map| map.len());
        if disrupted > MOST_DISRUPTED {
            let why = "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
            return Err(Status::forbidden("policy", "poddisruptionbudgets", &name, why));
        }
        if allowed == 0 {
            return refuse(
                format!(
                    "The disruption budget {name} needs {} healthy pods and has {} currently",
                    number(old, "desiredHealthy"),
                    number(old, "currentHealthy")
                ),
                0,
            );
        }
        let mut budget = old.clone();
        budget["status"]["disruptionsAllowed"] = (allowed - 1).into();
        if !budget["status"]["disruptedPods"].is_object() {
            budget["status"]["disruptedPods"] = json!({});
        }
        budget["status"]["disruptedPods"][&pod_name] = now.as_str().into();
        Ok(budget)
    })
    .await?;
    Ok(())
}

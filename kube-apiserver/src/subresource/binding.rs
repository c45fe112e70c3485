//! `pods/binding` (and the older `bindings`): puts a pod onto a node.
//!
//! Upstream: pkg/registry/core/pod/storage/storage.go (BindingREST)

use api::field::{Errors, Path};
use api::schema::Schema;
use api::status::Status;
use serde_json::{Value, json};

use crate::call::{Call, Response, timestamp};
use crate::codec;
use crate::metadata;
use crate::negotiate::{self, Accept, Offers, Shape};
use crate::reply;
use crate::verb::options::WriteOptions;
use crate::verb::write::{self, Change};

/// Binds the pod named in the path (or, for `bindings`, in the body).
///
/// # Errors
/// 400, 404, 409, 422 as upstream.
pub(super) async fn create(call: &mut Call) -> Result<Response, Status> {
    let encoding = negotiate::content_type(&call.headers)?;
    let body = call.read_body().await?;
    let options = WriteOptions::of(call, "CreateOptions", false)?;
    let schema = Schema::builtin("", "v1", "Binding").ok_or_else(|| Status::internal("no schema of Binding"))?;
    let decoded = codec::decode(&body, encoding, &schema, ("", "v1", "Binding"), options.validation)?;
    let mut binding = decoded.object;
    bind(call, &mut binding, &options).await
}

/// Binds by a decoded Binding.
///
/// # Errors
/// As [`create`].
pub(super) async fn bind(call: &mut Call, binding: &mut Value, options: &WriteOptions) -> Result<Response, Status> {
    let namespace = call.info.namespace.clone();
    let name = if call.info.name.is_empty() { metadata::name(binding).to_owned() } else { call.info.name.clone() };
    if metadata::name(binding) != name && !metadata::name(binding).is_empty() {
        return Err(Status::bad_request("name in URL does not match name in Binding object"));
    }
    let target = binding.pointer("/target/name").and_then(Value::as_str).unwrap_or("").to_owned();
    let kind = binding.pointer("/target/kind").and_then(Value::as_str).unwrap_or("");
    let mut errors = Errors::new();
    if !matches!(kind, "" | "Node") {
        errors.not_supported(&Path::new("target").child("kind"), kind, &["Node", "<empty>"]);
    }
    if target.is_empty() {
        errors.required(&Path::new("target").child("name"), "");
    }
    if !errors.is_empty() {
        return Err(Status::invalid("", "Binding", &name, &errors));
    }
    let table = call.server.table.load_full();
    let pods = table.get("", "v1", "pods").cloned().ok_or_else(|| Status::internal("pods are not served"))?;
    let change =
        Change { served: &pods, namespace: &namespace, name: &name, subresource: "binding", options, create: false, bare: true };
    let now = timestamp(call.now);
    let (uid, version) = (metadata::text(binding, "uid").to_owned(), metadata::text(binding, "resourceVersion").to_owned());
    let annotations = binding.pointer("/metadata/annotations").and_then(Value::as_object).cloned().unwrap_or_default();
    let labels = binding.pointer("/metadata/labels").and_then(Value::as_object).cloned().unwrap_or_default();
    write::change(call, &change, |_, old| {
        let Some(old) = old else { return Err(Status::not_found("", "pods", &name)) };
        let conflict = |why: String| Err(Status::conflict("", "pods/binding", &name, why));
        if !uid.is_empty() && uid != metadata::text(old, "uid") {
            return conflict(format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                metadata::text(old, "uid")
            ));
        }
        if !version.is_empty() && version != metadata::text(old, "resourceVersion") {
            return conflict(metadata::MODIFIED.to_owned());
        }
        if metadata::is_deleting(old) {
            return conflict(format!("pod {name} is being deleted, cannot be assigned to a host"));
        }
        if let Some(node) = old.pointer("/spec/nodeName").and_then(Value::as_str).filter(|node| !node.is_empty()) {
            return conflict(format!("pod {name} is already assigned to node {node:?}"));
        }
        if old.pointer("/spec/schedulingGates").and_then(Value::as_array).is_some_and(|gates| !gates.is_empty()) {
            return conflict(format!("pod {name} has non-empty .spec.schedulingGates"));
        }
        let mut pod = old.clone();
        pod["spec"]["nodeName"] = target.as_str().into();
        for (key, extra) in [("annotations", &annotations), ("labels", &labels)] {
            if !extra.is_empty() {
                let map = metadata::map(&mut pod).entry(key).or_insert_with(|| json!({}));
                if let Some(map) = map.as_object_mut() {
                    map.extend(extra.clone());
                }
            }
        }
        scheduled(&mut pod, &now);
        Ok(pod)
    })
    .await?;
    let accept = call.accept(Offers::Objects).unwrap_or(Accept::JSON);
    Ok(reply::tree(201, &reply::success(201, None), Accept { shape: Shape::Object, ..accept }))
}

/// Sets the condition PodScheduled; the nomination has served its purpose.
fn scheduled(pod: &mut Value, now: &str) {
    let condition = json!({
        "type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now,
        "observedGeneration": pod.pointer("/metadata/generation").cloned().unwrap_or(Value::Null),
    });
    let mut condition = condition;
    if condition["observedGeneration"].is_null()
        && let Some(map) = condition.as_object_mut()
    {
        map.remove("observedGeneration");
    }
    if !pod.get("status").is_some_and(Value::is_object) {
        pod["status"] = json!({});
    }
    let Some(status) = pod["status"].as_object_mut() else { return };
    // What was expected has come true.
    status.remove("nominatedNodeName");
    let conditions = status.entry("conditions").or_insert_with(|| json!([]));
    if let Some(list) = conditions.as_array_mut() {
        list.retain(|have| have["type"] != "PodScheduled");
        list.push(condition);
    }
}

/// A helper for callers that need default options.
pub(super) fn no_options() -> WriteOptions {
    crate::bootstrap::own_options()
}

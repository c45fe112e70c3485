//! `scale`: the replicas of a workload as an `autoscaling/v1` Scale.
//!
//! Upstream: pkg/registry/apps/deployment/storage/storage.go (ScaleREST)

use api::field::{Errors, Path};
use api::patch::{Patch, PatchType};
use api::schema::Schema;
use api::status::Status;
use serde_json::{Value, json};

use crate::call::{Call, Response};
use crate::codec;
use crate::metadata;
use crate::negotiate::{self, Offers};
use crate::reply;
use crate::verb::options::WriteOptions;
use crate::verb::update::check_name;
use crate::verb::write::{self, Change};

fn schema() -> Result<Schema, Status> {
    Schema::builtin("autoscaling", "v1", "Scale").ok_or_else(|| Status::internal("no schema of Scale"))
}

/// The Scale of a workload.
fn scale_of(object: &Value) -> Value {
    let replicas = |pointer: &str| object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    let mut metadata = json!({});
    for key in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object["metadata"].get(key) {
            metadata[key] = value.clone();
        }
    }
    let mut status = json!({"replicas": replicas("/status/replicas")});
    let selector = selector_text(&object["spec"]["selector"]);
    if !selector.is_empty() {
        status["selector"] = selector.into();
    }
    let mut spec = json!({});
    if replicas("/spec/replicas") != 0 {
        spec["replicas"] = replicas("/spec/replicas").into();
    }
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": spec, "status": status})
}

/// A selector as the text of a query: `a=b,c in (d,e)`.
fn selector_text(selector: &Value) -> String {
    // ReplicationControllers select by a plain map.
    let plain = selector.get("matchLabels").is_none() && selector.get("matchExpressions").is_none();
    let labels = if plain { Some(selector) } else { selector.get("matchLabels") };
    let mut parts: Vec<(String, String)> = Vec::new();
    for (key, value) in labels.and_then(Value::as_object).into_iter().flatten() {
        parts.push((key.clone(), format!("{key}={}", value.as_str().unwrap_or(""))));
    }
    for expression in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
        let key = expression["key"].as_str().unwrap_or("").to_owned();
        let mut values: Vec<&str> =
            expression["values"].as_array().map(|list| list.iter().filter_map(Value::as_str).collect()).unwrap_or_default();
        values.sort_unstable();
        let text = match expression["operator"].as_str().unwrap_or("") {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "DoesNotExist" => format!("!{key}"),
            _ => key.clone(),
        };
        parts.push((key, text));
    }
    parts.sort();
    parts.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join(",")
}

fn answer(call: &Call, object: &Value) -> Result<Response, Status> {
    let accept = call.accept(Offers::Objects)?;
    Ok(reply::tree(200, &scale_of(object), accept))
}

/// Shows the Scale.
///
/// # Errors
/// 404.
pub(super) async fn get(call: &mut Call) -> Result<Response, Status> {
    call.served.caches.ready().await?;
    call.served.caches.fresh().await?;
    let current = write::cached(&call.served, &call.info.namespace, &call.info.name).ok_or_else(|| call.not_found())?;
    let object = current.object(&call.served)?;
    answer(call, &object)
}

/// Replaces the Scale.
///
/// # Errors
/// 400, 404, 409, 422.
pub(super) async fn update(call: &mut Call) -> Result<Response, Status> {
    let encoding = negotiate::content_type(&call.headers)?;
    let body = call.read_body().await?;
    let options = WriteOptions::of(call, "UpdateOptions", false)?;
    let scale = codec::decode(&body, encoding, &schema()?, ("autoscaling", "v1", "Scale"), options.validation)?.object;
    check_name(&call.info.name, metadata::name(&scale))?;
    set(call, &options, |_| Ok(scale.clone())).await
}

/// Patches the Scale.
///
/// # Errors
/// 400, 404, 409, 415, 422.
pub(super) async fn patch(call: &mut Call) -> Result<Response, Status> {
    let kind = crate::verb::patch::patch_type(call)?;
    let body = call.read_body().await?;
    let options = WriteOptions::of(call, "PatchOptions", kind == PatchType::Apply)?;
    let schema = schema()?;
    if kind == PatchType::Apply {
        let scale =
            codec::decode(&body, negotiate::Encoding::Yaml, &schema, ("autoscaling", "v1", "Scale"), options.validation)?.object;
        return set(call, &options, |_| Ok(scale.clone())).await;
    }
    let patch = Patch::parse(kind, &body, options.validation).map_err(|error| error.status())?;
    let validation = options.validation;
    set(call, &options, |old| {
        patch.apply(&schema, scale_of(old), validation).map(|decoded| decoded.object).map_err(|error| error.status())
    })
    .await
}

async fn set(
    call: &mut Call,
    options: &WriteOptions,
    make: impl Fn(&Value) -> Result<Value, Status>,
) -> Result<Response, Status> {
    let served = call.served.clone();
    let (namespace, name) = (call.info.namespace.clone(), call.info.name.clone());
    let change =
        Change { served: &served, namespace: &namespace, name: &name, subresource: "", options, create: false, bare: false };
    let written = write::change(call, &change, |_, old| {
        let Some(old) = old else { return Err(Status::not_found(served.group(), served.plural(), &name)) };
        let scale = make(old)?;
        let replicas = scale.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(0);
        if replicas < 0 {
            let mut errors = Errors::new();
            errors.invalid(&Path::new("spec").child("replicas"), replicas, "must be greater than or equal to 0");
            return Err(Status::invalid("autoscaling", "Scale", &name, &errors));
        }
        let mut object = old.clone();
        object["spec"]["replicas"] = replicas.into();
        let version = metadata::text(&scale, "resourceVersion").to_owned();
        if version.is_empty() {
            metadata::map(&mut object).remove("resourceVersion");
        } else {
            metadata::map(&mut object).insert("resourceVersion".into(), version.into());
        }
        Ok(object)
    })
    .await?;
    answer(call, &written.object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_are_written_as_queries() {
        let selector = json!({"matchLabels": {"b": "c"}, "matchExpressions": [
            {"key": "a", "operator": "In", "values": ["y", "x"]}, {"key": "d", "operator": "DoesNotExist"}]});
        assert_eq!(selector_text(&selector), "a in (x,y),b=c,!d");
        assert_eq!(selector_text(&json!({"app": "x"})), "app=x");
    }
}

//! The rules of `metadata` that hold for every kind: what the server fills in, what cannot change, when an object is finished.
//!
//! Upstream: apiserver/pkg/registry/rest/{create,update,meta}.go

use api::status::Status;
use registry::resource::Context;
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::table::Served;

/// Why a compare-and-swap failed, in the words that clients retry on.
pub const MODIFIED: &str = "the object has been modified; please apply your changes to the latest version and try again";

/// A text field of metadata, empty where absent.
pub fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    object.get("metadata").and_then(|metadata| metadata.get(key)).and_then(Value::as_str).unwrap_or("")
}

/// `metadata.name`.
pub fn name(object: &Value) -> &str {
    text(object, "name")
}

/// `metadata.namespace`.
pub fn namespace(object: &Value) -> &str {
    text(object, "namespace")
}

/// The metadata map, made where there is none.
pub fn map(object: &mut Value) -> &mut Map<String, Value> {
    if !object.get("metadata").is_some_and(Value::is_object) {
        object["metadata"] = Value::Object(Map::new());
    }
    object["metadata"].as_object_mut().expect("metadata was just made an object")
}

/// Finalizers.
pub fn finalizers(object: &Value) -> Vec<&str> {
    let list = object.pointer("/metadata/finalizers").and_then(Value::as_array);
    list.map(|list| list.iter().filter_map(Value::as_str).collect()).unwrap_or_default()
}

/// Whether the object is marked for deletion.
pub fn is_deleting(object: &Value) -> bool {
    !text(object, "deletionTimestamp").is_empty()
}

/// Whether a marked object has nothing left to wait for, so that the write of this state removes it.
pub fn is_finished(served: &Served, object: &Value) -> bool {
    let grace = object.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0);
    let waits = !finalizers(object).is_empty() || grace != 0;
    let holds_namespace = served.plural() == "namespaces"
        && served.group().is_empty()
        && object.pointer("/spec/finalizers").and_then(Value::as_array).is_some_and(|list| !list.is_empty());
    is_deleting(object) && !waits && !holds_namespace
}

/// What the request's path says of a body's namespace and name.
///
/// # Errors
/// 400 where the body says otherwise.
pub fn match_namespace(served: &Served, path_namespace: &str, object: &mut Value) -> Result<(), Status> {
    let told = namespace(object).to_owned();
    if !served.resource.names.namespaced {
        if !told.is_empty() {
            // Upstream drops it for cluster-scoped kinds.
            map(object).remove("namespace");
        }
        return Ok(());
    }
    if told.is_empty() {
        map(object).insert("namespace".into(), path_namespace.into());
    } else if told != path_namespace {
        return Err(Status::bad_request("the namespace of the provided object does not match the namespace sent on the request"));
    }
    Ok(())
}

/// Fills in what the server knows of a new object and drops what a creator may not say.
pub fn fill_create(_served: &Served, context: &Context, object: &mut Value) {
    let metadata = map(object);
    for key in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation"] {
        metadata.remove(key);
    }
    metadata.insert("creationTimestamp".into(), context.now.clone().into());
    metadata.insert("uid".into(), Uuid::new_v4().to_string().into());
    dedup_owner_references(metadata);
}

/// Makes a name of `generateName` where there is no name; the name if it was made.
pub fn generate(object: &mut Value) -> Option<String> {
    let base = text(object, "generateName").to_owned();
    if base.is_empty() || !name(object).is_empty() {
        return None;
    }
    let made = registry::metadata::generate_name(&base);
    map(object).insert("name".into(), made.clone().into());
    Some(made)
}

/// Carries over what a change cannot change, and checks what it must not contradict.
///
/// # Errors
/// 409 where the object is another one of the same name.
pub fn carry_over(served: &Served, namespace: &str, name: &str, new: &mut Value, old: &Value) -> Result<(), Status> {
    let old_uid = text(old, "uid").to_owned();
    let uid = text(new, "uid").to_owned();
    if !uid.is_empty() && uid != old_uid {
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {old_uid}");
        return Err(Status::conflict(served.group(), served.plural(), name, why));
    }
    let metadata = map(new);
    for key in ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        match old["metadata"].get(key) {
            Some(value) => metadata.insert(key.into(), value.clone()),
            None => metadata.remove(key),
        };
    }
    // Absent means unchanged for the generation; strategies raise it.
    match old["metadata"].get("generation") {
        Some(value) => metadata.insert("generation".into(), value.clone()),
        None => metadata.remove("generation"),
    };
    if metadata.get("name").and_then(Value::as_str).unwrap_or("").is_empty() {
        metadata.insert("name".into(), name.into());
    }
    if served.resource.names.namespaced {
        metadata.entry("namespace").or_insert_with(|| namespace.into());
    }
    metadata.remove("selfLink");
    dedup_owner_references(metadata);
    Ok(())
}

fn dedup_owner_references(metadata: &mut Map<String, Value>) {
    if let Some(Value::Array(references)) = metadata.get_mut("ownerReferences") {
        let mut seen: Vec<Value> = Vec::new();
        references.retain(|reference| {
            let new = !seen.contains(reference);
            if new {
                seen.push(reference.clone());
            }
            new
        });
    }
}

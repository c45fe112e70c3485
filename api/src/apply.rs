//! Managed fields: who set what, on every write, and server-side apply.
//!
//! - [`track_update`] after decoding and defaulting of a create, update or patch, before mutating admission.
//! - [`apply`] for `application/apply-patch+yaml`: the merged object, still to be defaulted.
//!
//! Objects of several versions of a group are taken to have the same fields (upstream converts between them).
//!
//! Upstream: apimachinery/pkg/util/managedfields, sigs.k8s.io/structured-merge-diff

mod compare;
mod fields;
mod managers;
mod merge;
mod reset;
#[cfg(test)]
mod tests;
mod typed;

use serde_json::{Map, Value, json};

use self::fields::Set;
use self::managers::{Entry, Managers};
use self::typed::At;
use crate::schema::{FieldValidation, Schema};
use crate::status::Status;

/// Who writes, when, and which part of the object.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    /// The `fieldManager` parameter, or what [`manager_from_user_agent`] makes of the client's.
    pub manager: &'a str,
    /// `status`, `scale`, …; empty for the object itself.
    pub subresource: &'a str,
    /// RFC 3339, whole seconds.
    pub now: &'a str,
}

/// A field that somebody else owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The owner as messages show it: `"kubectl" using apps/v1`.
    pub manager: String,
    /// `.spec.replicas`.
    pub field: String,
}

/// Why an apply fails.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// 409: others own fields with other values.
    #[error("{}", conflict_message(.0))]
    Conflicts(Vec<Conflict>),
    /// 400.
    #[error("{0}")]
    Bad(String),
    /// 500, as upstream answers where the applied object does not fit the schema.
    #[error("{0}")]
    Other(String),
}

impl ApplyError {
    /// The answer to the client.
    pub fn status(&self) -> Status {
        match self {
            Self::Conflicts(conflicts) => {
                let cause = |conflict: &Conflict| json!({"reason": "FieldManagerConflict", "message": format!("conflict with {}", conflict.manager), "field": conflict.field});
                Status::new(409, "Conflict", self.to_string())
                    .with_details(json!({"causes": conflicts.iter().map(cause).collect::<Vec<_>>()}))
            }
            Self::Bad(message) => Status::bad_request(message.clone()),
            Self::Other(message) => Status::new(500, "", message.clone()),
        }
    }
}

fn conflict_message(conflicts: &[Conflict]) -> String {
    if let [conflict] = conflicts {
        return format!("Apply failed with 1 conflict: conflict with {}: {}", conflict.manager, conflict.field);
    }
    let mut out = format!("Apply failed with {} conflicts: ", conflicts.len());
    let mut last = None;
    for (index, conflict) in conflicts.iter().enumerate() {
        if index > 0 {
            out.push('\n');
        }
        if last != Some(&conflict.manager) {
            out.push_str(&format!("conflicts with {}:\n", conflict.manager));
            last = Some(&conflict.manager);
        }
        out.push_str(&format!("- {}", conflict.field));
    }
    out
}

/// The annotation in which client-side apply keeps what it applied last.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The manager of a request without `fieldManager`: the user agent up to its first slash, printable, at most 128 bytes.
pub fn manager_from_user_agent(user_agent: &str) -> String {
    let name = user_agent.split('/').next().unwrap_or_default();
    let mut out = String::new();
    for c in name.chars() {
        if out.len() + c.len_utf8() > 128 {
            break;
        }
        if !c.is_control() {
            out.push(c);
        }
    }
    out
}

/// Brings `metadata.managedFields` of `new` up to date for a create (`live` is `None`), update or patch by `writer`.
///
/// Both objects are canonical by `schema` and have `apiVersion`. Empty lists that Go prints become null in `new`, as in upstream's storage. What the request itself says of managedFields is honoured as upstream
/// does: a list of one empty entry resets, an absent or broken list means the live one, and subresources cannot change it.
pub fn track_update(schema: &Schema, live: Option<&Value>, new: &mut Value, writer: Writer<'_>) {
    let given = take_managed_fields(new);
    let live_fields = || live.and_then(|live| live.get("metadata")?.get("managedFields"));
    let mut managers = if !writer.subresource.is_empty() {
        live_fields().and_then(Managers::parse).unwrap_or_default()
    } else if is_reset(given.as_ref()) {
        Managers::default()
    } else {
        match given.as_ref().and_then(Managers::parse).filter(|managers| !managers.entries.is_empty()) {
            Some(managers) => managers,
            None => live_fields().and_then(Managers::parse).unwrap_or_default(),
        }
    };
    // An object that was never tracked stays so, until somebody applies.
    let is_create = live.is_none_or(|live| live["metadata"]["uid"].as_str().unwrap_or_default().is_empty());
    if !managers.entries.is_empty() || is_create {
        let zero;
        let live = match live {
            Some(live) => live,
            None => {
                zero = zero_object(schema);
                &zero
            }
        };
        managers.update(schema, live, new, writer);
        managers.cap();
    }
    schema.settle(new);
    put_managed_fields(new, managers);
}

/// The object that a server-side apply of `applied` by `writer` leads to, decoded by `schema`, with `metadata.managedFields`.
///
/// `live` is `None` where the object does not exist. What a strategy keeps from being written (status, …) is not looked after here.
///
/// # Errors
/// Conflicts without `force`; an applied object that does not fit the schema.
pub fn apply(
    schema: &Schema,
    live: Option<&Value>,
    applied: &Value,
    writer: Writer<'_>,
    force: bool,
) -> Result<Value, ApplyError> {
    if applied["metadata"].get("managedFields").is_some_and(|fields| !fields.is_null()) {
        return Err(ApplyError::Bad("metadata.managedFields must be nil".to_owned()));
    }
    let zero;
    let live = match live {
        Some(live) => live,
        None => {
            zero = zero_object(schema);
            &zero
        }
    };
    let mut managers = live["metadata"].get("managedFields").and_then(Managers::parse).unwrap_or_default();
    let mut bare = live.clone();
    take_managed_fields(&mut bare);
    if managers.entries.is_empty() {
        let before = Writer { manager: "before-first-apply", subresource: "", now: writer.now };
        managers.update(schema, &zero_object(schema), &bare, before);
    }
    let result = match apply_once(schema, &bare, applied, managers.clone(), writer, force) {
        Err(Failure::Conflicts(paths)) if writer.manager == "kubectl" => {
            // kubectl takes over what its own client-side apply set and nobody has changed since.
            let allowed = allowed_by_last_applied(schema, &bare).unwrap_or_default();
            let left: Vec<_> = paths.into_iter().filter(|conflict| !conflict.is_in(&allowed)).collect();
            if left.is_empty() {
                apply_once(schema, &bare, applied, managers, writer, true)
            } else {
                Err(Failure::Conflicts(left))
            }
        }
        result => result,
    };
    let (object, managers) = result.map_err(|failure| match failure {
        Failure::Conflicts(paths) => ApplyError::Conflicts(paths.into_iter().map(managers::Clash::into_conflict).collect()),
        Failure::Error(error) => error,
    })?;
    let mut object = object.unwrap_or(bare);
    if writer.manager == "kubectl" {
        refresh_last_applied(&mut object, applied);
    }
    schema.settle(&mut object);
    put_managed_fields(&mut object, managers);
    Ok(object)
}

enum Failure {
    Conflicts(Vec<managers::Clash>),
    Error(ApplyError),
}

/// One try: the changed object (`None` where nothing changes) and the managers.
fn apply_once(
    schema: &Schema,
    live: &Value,
    applied: &Value,
    mut managers: Managers,
    writer: Writer<'_>,
    force: bool,
) -> Result<(Option<Value>, Managers), Failure> {
    let at = At::root(schema);
    let other = |message: String| Failure::Error(ApplyError::Other(message));
    let named = name_of(applied);
    typed::validate(at, applied).map_err(|errors| other(format!("failed to create typed patch object ({named}): {errors}")))?;
    let mut merged = merge::merge(at, Some(live), Some(applied)).unwrap_or(Value::Null);
    let api_version = applied["apiVersion"].as_str().unwrap_or_default();
    let ignored = reset::ignored(applied, writer.subresource);
    let mut set = typed::field_set(at, applied);
    fields::recursive_difference(&mut set, &ignored);
    let last = managers.applied(writer).map(|entry| entry.fields.clone());
    managers.set_applied(writer, api_version, set);
    if let Some(last) = last.filter(|last| !last.is_empty()) {
        merged = prune(at, merged, &managers, &last);
    }
    let comparison = compare::compare(at, live, &merged).without(&ignored);
    let clashes = managers.clashes(writer, &comparison);
    if !force && !clashes.is_empty() {
        return Err(Failure::Conflicts(clashes));
    }
    managers.yield_to(&comparison, Some(writer));
    managers.strip(writer);
    if typed::same(live, &merged) {
        return Ok((None, managers));
    }
    let decoded = schema.decode_value(merged, FieldValidation::Ignore).map_err(|error| {
        let kind = kind_of(applied);
        let error = error.to_string();
        let prefix = if error.starts_with("illegal base64") { "error decoding from json: " } else { "" };
        other(format!(
            "failed to convert new object ({named}) to proper version: unable to convert unstructured object to {kind}: {prefix}{error}"
        ))
    })?;
    managers.touch_applied(writer);
    Ok((Some(decoded.object), managers))
}

/// Removes what the manager applied last time and not this time, unless somebody else owns it.
fn prune(at: At<'_>, merged: Value, managers: &Managers, last: &Set) -> Value {
    let mut gone = last.clone();
    typed::name_members(at, &mut gone);
    let pruned = merge::remove(at, &merged, &gone).unwrap_or(Value::Null);
    // Add back what any manager owns now.
    let mut merged_set = typed::field_set(at, &merged);
    typed::name_members(at, &mut merged_set);
    let mut kept = typed::field_set(at, &pruned);
    typed::name_members(at, &mut kept);
    for entry in &managers.entries {
        let mut owned = entry.fields.clone();
        typed::name_members(at, &mut owned);
        fields::union(&mut kept, &owned);
    }
    let mut drop = merged_set.clone();
    fields::difference(&mut drop, &kept);
    let pruned = merge::remove(at, &merged, &drop).unwrap_or(Value::Null);
    // Add back what was dropped without having been in the last set.
    let mut pruned_set = typed::field_set(at, &pruned);
    typed::name_members(at, &mut pruned_set);
    fields::difference(&mut merged_set, &pruned_set);
    let drop = fields::intersection(&merged_set, &gone);
    merge::remove(at, &merged, &drop).unwrap_or(Value::Null)
}

/// Fields of the last client-side apply that still have the values it set.
fn allowed_by_last_applied(schema: &Schema, live: &Value) -> Option<Set> {
    let text = live["metadata"]["annotations"][LAST_APPLIED].as_str()?;
    let last: Value = serde_json::from_str(text).ok()?;
    if last["apiVersion"] != live["apiVersion"] {
        return None;
    }
    let at = At::root(schema);
    typed::validate(at, &last).ok()?;
    let mut set = typed::field_set(at, &last);
    let comparison = compare::compare(at, &last, live);
    for changed in [&comparison.modified, &comparison.added, &comparison.removed] {
        fields::difference(&mut set, changed);
    }
    Some(set)
}

/// Where the object has the annotation of client-side apply, it says what was applied now.
fn refresh_last_applied(object: &mut Value, applied: &Value) {
    let Some(annotation) = object.pointer_mut("/metadata/annotations").and_then(|annotations| annotations.get_mut(LAST_APPLIED))
    else {
        return;
    };
    let mut applied = applied.clone();
    if let Some(Value::Object(annotations)) = applied.pointer_mut("/metadata/annotations") {
        annotations.remove(LAST_APPLIED);
    }
    *annotation = Value::String(format!("{applied}\n"));
}

/// What Go's zero value of the kind prints: what a create is compared with.
fn zero_object(schema: &Schema) -> Value {
    let mut zero = Value::Object(Map::new());
    schema.normalize(&mut zero);
    zero
}

fn take_managed_fields(object: &mut Value) -> Option<Value> {
    object.get_mut("metadata")?.as_object_mut()?.remove("managedFields")
}

fn put_managed_fields(object: &mut Value, managers: Managers) {
    let encoded = managers.encode();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut)
        && !encoded.is_empty()
    {
        metadata.insert("managedFields".to_owned(), Value::Array(encoded));
    }
}

/// `[{}]`: the client asks to forget all managers.
fn is_reset(given: Option<&Value>) -> bool {
    given.and_then(Value::as_array).is_some_and(|list| matches!(&list[..], [Value::Object(entry)] if entry.is_empty()))
}

/// `namespace/name; group/version, Kind=kind`, as upstream's errors name an object.
fn name_of(object: &Value) -> String {
    let text = |name: &str| object["metadata"][name].as_str().unwrap_or_default();
    format!("{}/{}; {}", text("namespace"), text("name"), kind_of(object))
}

fn kind_of(object: &Value) -> String {
    let (group, version) = crate::kind::split_api_version(object["apiVersion"].as_str().unwrap_or_default());
    format!("{group}/{version}, Kind={}", object["kind"].as_str().unwrap_or_default())
}

/// The entries of an object's managedFields as they would be printed, for tests and tools.
pub fn owners(object: &Value) -> Vec<(String, String, String)> {
    let managers = object["metadata"].get("managedFields").and_then(Managers::parse).unwrap_or_default();
    let one = |entry: Entry| (entry.manager, if entry.applied { "Apply" } else { "Update" }.to_owned(), entry.subresource);
    managers.entries.into_iter().map(one).collect()
}

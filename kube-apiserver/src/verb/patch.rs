//! PATCH: JSON, merge, strategic merge and apply patches.

use api::apply::Writer;
use api::patch::{Patch, PatchType};
use api::schema::FieldValidation;
use api::status::Status;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use serde_json::Value;

use crate::call::{Call, Response, timestamp};
use crate::codec;
use crate::metadata;
use crate::negotiate::{self, Offers};
use crate::reply;
use crate::table::Served;
use crate::verb::options::WriteOptions;
use crate::verb::update::check_name;
use crate::verb::write::{self, Change};

/// What kind of patch a body is, by its content type.
///
/// # Errors
/// 415, naming those there are.
pub fn patch_type(call: &Call) -> Result<PatchType, Status> {
    let value = call.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    PatchType::from_content_type(value.split(';').next().unwrap_or("").trim()).ok_or_else(|| {
        negotiate::unsupported(&[
            "application/json-patch+json",
            "application/merge-patch+json",
            "application/strategic-merge-patch+json",
            "application/apply-patch+yaml",
        ])
    })
}

/// Patches the object named in the path.
///
/// # Errors
/// 400, 403, 404, 406, 409, 413, 415, 422 as upstream.
pub async fn patch(call: &mut Call) -> Result<Response, Status> {
    call.accept(Offers::All)?;
    let kind = patch_type(call)?;
    let body = call.read_body().await?;
    let options = WriteOptions::of(call, "PatchOptions", kind == PatchType::Apply)?;
    let served = call.served.clone();
    let (namespace, name, subresource) = (call.info.namespace.clone(), call.info.name.clone(), call.info.subresource.clone());
    let change = Change {
        served: &served,
        namespace: &namespace,
        name: &name,
        subresource: &subresource,
        options: &options,
        create: kind == PatchType::Apply && subresource.is_empty(),
        bare: false,
    };
    let written = match kind {
        PatchType::Apply => {
            let body = applied(call, &served, &body, &options)?;
            let now = timestamp(call.now);
            write::change(call, &change, |_, old| {
                let writer = Writer { manager: &options.manager, subresource: &subresource, now: &now };
                let force = options.force.unwrap_or(false);
                let mut object = api::apply::apply(&served.schema, old, &body, writer, force).map_err(|error| error.status())?;
                metadata::match_namespace(&served, &namespace, &mut object)?;
                Ok(object)
            })
            .await?
        }
        _ => {
            let patch = Patch::parse(kind, &body, options.validation).map_err(|error| error.status())?;
            write::change(call, &change, |call, old| {
                let Some(old) = old else { return Err(Status::not_found(served.group(), served.plural(), &name)) };
                let decoded = patch.apply(&served.schema, old.clone(), options.validation).map_err(|error| error.status())?;
                call.warnings.extend(decoded.problems.iter().map(|problem| problem.warning()));
                call.empties = decoded.empties;
                let mut object = decoded.object;
                codec::set_type(&mut object, served.gvk());
                check_name(&name, metadata::name(&object))?;
                metadata::match_namespace(&served, &namespace, &mut object)?;
                Ok(object)
            })
            .await?
        }
    };
    reply::object(call, if written.created { 201 } else { 200 }, written.object)
}

/// The body of an apply patch: an object of the kind, without managedFields.
fn applied(call: &mut Call, served: &Served, body: &Bytes, options: &WriteOptions) -> Result<Value, Status> {
    // Not decoded by the schema: what is applied is owned as it was written, empty maps and all.
    let document = api::yaml::decode(body).map_err(|error| Status::bad_request(format!("error decoding YAML: {error}")))?;
    if !document.duplicates.is_empty() {
        match options.validation {
            FieldValidation::Ignore => {}
            FieldValidation::Warn => call.warnings.extend(document.duplicates),
            FieldValidation::Strict => {
                let all = document.duplicates.join("\n  ");
                return Err(Status::bad_request(format!(
                    "error strict decoding YAML: error converting YAML to JSON: yaml: unmarshal errors:\n  {all}"
                )));
            }
        }
    }
    let mut object = document.value;
    if !object.is_object() {
        return Err(Status::bad_request("error decoding YAML: the patch is no object"));
    }
    let told = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or("").to_owned();
    let (version, kind) = (told("apiVersion"), told("kind"));
    let (wanted_version, wanted_kind) = (served.resource.api_version(), &served.resource.names.kind);
    if (!version.is_empty() && version != wanted_version) || (!kind.is_empty() && kind != *wanted_kind) {
        let (group, version) = api::kind::split_api_version(&version);
        return Err(Status::bad_request(format!("invalid object type: {group}/{version}, Kind={kind}")));
    }
    codec::set_type(&mut object, served.gvk());
    if object.pointer("/metadata/managedFields").is_some_and(|fields| fields.as_array().is_some_and(|list| !list.is_empty())) {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    if metadata::name(&object).is_empty() {
        metadata::map(&mut object).insert("name".into(), call.info.name.clone().into());
    }
    check_name(&call.info.name, metadata::name(&object))?;
    // Checked, not filled in: only what was written is owned.
    let mut checked = object.clone();
    metadata::match_namespace(served, &call.info.namespace, &mut checked)?;
    Ok(object)
}

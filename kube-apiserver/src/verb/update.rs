//! PUT of an object or of a part of it.

use api::status::Status;

use crate::call::{Call, Response};
use crate::codec;
use crate::metadata;
use crate::negotiate::{self, Offers};
use crate::reply;
use crate::verb::options::WriteOptions;
use crate::verb::write::{self, Change};

/// Replaces the object with the one in the body.
///
/// # Errors
/// 400, 403, 404, 406, 409, 413, 415, 422 as upstream.
pub async fn update(call: &mut Call) -> Result<Response, Status> {
    call.accept(Offers::All)?;
    let encoding = negotiate::content_type(&call.headers)?;
    let body = call.read_body().await?;
    let options = WriteOptions::of(call, "UpdateOptions", false)?;
    let served = call.served.clone();
    let decoded = codec::decode(&body, encoding, &served.schema, served.gvk(), options.validation)?;
    call.warnings.extend(decoded.warnings);
    call.empties = decoded.empties;
    let mut object = decoded.object;
    let name = call.info.name.clone();
    check_name(&name, metadata::name(&object))?;
    metadata::match_namespace(&served, &call.info.namespace, &mut object)?;
    let namespace = call.info.namespace.clone();
    let subresource = call.info.subresource.clone();
    let change = Change {
        served: &served,
        namespace: &namespace,
        name: &name,
        subresource: &subresource,
        options: &options,
        create: subresource.is_empty() && served.resource.strategy.allow_create_on_update(),
        bare: false,
    };
    let written = write::change(call, &change, |_, _| Ok(object.clone())).await?;
    reply::object(call, if written.created { 201 } else { 200 }, written.object)
}

/// Whether the body's name is the path's.
///
/// # Errors
/// 400 where not.
pub fn check_name(path: &str, body: &str) -> Result<(), Status> {
    if body.is_empty() {
        return Err(Status::bad_request(format!(
            "the name of the object ({path} based on URL) was undeterminable: name must be provided"
        )));
    }
    if body != path {
        return Err(Status::bad_request(format!("the name of the object ({body}) does not match the name on the URL ({path})")));
    }
    Ok(())
}

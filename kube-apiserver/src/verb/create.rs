//! POST of a new object.

use api::status::Status;

use crate::call::{Call, Response};
use crate::codec;
use crate::metadata;
use crate::negotiate::{self, Offers};
use crate::reply;
use crate::verb::options::WriteOptions;
use crate::verb::write;

/// Creates the object in the body.
///
/// # Errors
/// 400, 403, 406, 409, 413, 415, 422 as upstream.
pub async fn create(call: &mut Call) -> Result<Response, Status> {
    call.accept(Offers::All)?;
    let encoding = negotiate::content_type(&call.headers)?;
    let body = call.read_body().await?;
    let options = WriteOptions::of(call, "CreateOptions", false)?;
    let served = call.served.clone();
    let decoded = codec::decode(&body, encoding, &served.schema, served.gvk(), options.validation)?;
    call.warnings.extend(decoded.warnings);
    call.empties = decoded.empties;
    let mut object = decoded.object;
    metadata::match_namespace(&served, &call.info.namespace, &mut object)?;
    let written = write::create(call, &served, object, &options).await?;
    reply::object(call, 201, written.object)
}

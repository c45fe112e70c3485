//! `serviceaccounts/token`: a token for a service account, bound to a pod, node or secret where asked.

use api::schema::Schema;
use api::status::Status;
use serde_json::Value;
use uuid::Uuid;

use crate::call::{Call, Response};
use crate::codec;
use crate::metadata;
use crate::negotiate::{self, Offers};
use crate::reply;
use crate::verb::options::WriteOptions;
use crate::verb::write;

/// Issues a token.
///
/// # Errors
/// 400, 404, 409, 422 as upstream.
pub(super) async fn create(call: &mut Call) -> Result<Response, Status> {
    let accept = call.accept(Offers::Objects)?;
    let encoding = negotiate::content_type(&call.headers)?;
    let body = call.read_body().await?;
    let options = WriteOptions::of(call, "CreateOptions", false)?;
    let gvk = ("authentication.k8s.io", "v1", "TokenRequest");
    let schema = Schema::builtin(gvk.0, gvk.1, gvk.2).ok_or_else(|| Status::internal("no schema of TokenRequest"))?;
    let mut request = codec::decode(&body, encoding, &schema, gvk, options.validation)?.object;
    let (namespace, name) = (call.info.namespace.clone(), call.info.name.clone());
    for (key, wanted) in [("name", &name), ("namespace", &namespace)] {
        let given = metadata::text(&request, key).to_owned();
        if given.is_empty() {
            metadata::map(&mut request).insert(key.into(), wanted.as_str().into());
        } else if given != *wanted {
            let what = if key == "name" { "name" } else { "namespace" };
            return Err(Status::bad_request(format!(
                "the {what} of the provided object does not match the {what} sent on the request"
            )));
        }
    }
    if !request.get("spec").is_some_and(Value::is_object) {
        request["spec"] = serde_json::json!({});
    }
    if request.pointer("/spec/expirationSeconds").is_none() {
        request["spec"]["expirationSeconds"] = 3600.into();
    }
    let server = call.server.clone();
    server.caches.fresh().await?;
    let account = write::cached(&call.served, &namespace, &name).ok_or_else(|| call.not_found())?.object(&call.served)?;
    let served = call.served.clone();
    server.admit(call, &served, admission::Operation::Create, &mut request, None, &options).await?;
    server.validate(call, &served, admission::Operation::Create, &request, None, &options).await?;
    let Some(issuer) = &server.issuer else {
        return Err(Status::new(404, "NotFound", "the server could not find the requested resource"));
    };
    let issued = issuer.issue(&request, &account, server.caches.as_ref(), &Uuid::new_v4().to_string(), call.now)?;
    call.warnings.extend(issued.warning);
    Ok(reply::tree(201, &issued.object, accept))
}

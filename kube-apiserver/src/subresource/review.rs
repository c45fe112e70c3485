//! Kinds that are only created and never stored: the reviews, and Bindings.

use api::status::Status;

use crate::call::{Call, Response, not_allowed};
use crate::codec;
use crate::metadata;
use crate::negotiate::{self, Offers};
use crate::reply;
use crate::verb::options::WriteOptions;

/// Answers a review.
///
/// # Errors
/// 400, 405, 422 as upstream.
pub async fn create(call: &mut Call) -> Result<Response, Status> {
    let accept = call.accept(Offers::Objects)?;
    let encoding = negotiate::content_type(&call.headers)?;
    let body = call.read_body().await?;
    let options = WriteOptions::of(call, "CreateOptions", false)?;
    let served = call.served.clone();
    let decoded = codec::decode(&body, encoding, &served.schema, served.gvk(), options.validation)?;
    call.warnings.extend(decoded.warnings);
    let mut object = decoded.object;
    if served.resource.names.namespaced {
        metadata::match_namespace(&served, &call.info.namespace, &mut object)?;
    }
    let server = call.server.clone();
    let user = call.user.clone();
    if !matches!(served.plural(), "bindings" | "selfsubjectrulesreviews" | "selfsubjectreviews") {
        // These come back as they were sent, owners noted as for any object.
        let now = crate::call::timestamp(call.now);
        let writer = api::apply::Writer { manager: &options.manager, subresource: "", now: &now };
        api::apply::track_update(&served.schema, None, &mut object, writer);
    }
    let made = match served.plural() {
        "bindings" => return super::binding::bind(call, &mut object, &options).await,
        "subjectaccessreviews" => auth::review::subject_access_review(&server.authorizers, &object)?,
        "localsubjectaccessreviews" => {
            auth::review::local_subject_access_review(&server.authorizers, &object, &call.info.namespace)?
        }
        "selfsubjectaccessreviews" => auth::review::self_subject_access_review(&server.authorizers, &object, &user)?,
        "selfsubjectrulesreviews" => auth::review::self_subject_rules_review(&server.authorizers, &object, &user)?,
        "tokenreviews" => auth::review::token_review(&server.authenticator, &object, call.now)?,
        "selfsubjectreviews" => auth::review::self_subject_review(&object, &user, call.now),
        _ => return Err(not_allowed()),
    };
    Ok(reply::tree(201, &made, accept))
}

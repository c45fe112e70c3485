//! Subresources: a table from (resource, subresource) to its handler. `status` and other parts of an object share the generic verbs.

mod binding;
mod connect;
mod eviction;
pub(crate) mod location;
mod log;
pub mod proxy;
pub mod review;
mod scale;
mod token;

use api::status::Status;
use http::Method;

use crate::call::{Call, Response, no_such_resource, not_allowed};
use crate::verb;

/// Finds the handler of a request to a subresource.
///
/// # Errors
/// 404, 405, and whatever the handler says.
pub async fn dispatch(call: &mut Call) -> Result<Response, Status> {
    let (plural, sub) = (call.served.plural().to_owned(), call.info.subresource.clone());
    let Some(row) = call.served.resource.names.subresources.iter().find(|row| row.name == sub) else {
        return Err(no_such_resource());
    };
    let verb = call.info.verb.clone();
    if call.method == Method::HEAD && sub != "proxy" {
        return Err(not_allowed());
    }
    // Connections take any verb that discovery lists; other subresources have no further path.
    if sub != "proxy" {
        if !call.info.rest.is_empty() {
            return Err(no_such_resource());
        }
        if !row.verbs.contains(&verb) {
            return Err(not_allowed());
        }
    }
    match (plural.as_str(), sub.as_str(), verb.as_str()) {
        ("pods", "binding", _) => binding::create(call).await,
        ("pods", "eviction", _) => eviction::create(call).await,
        ("pods", "log", _) => log::get(call).await,
        ("pods", "exec" | "attach" | "portforward", _) => connect::connect(call).await,
        ("pods" | "services" | "nodes", "proxy", _) => proxy::proxy(call).await,
        ("serviceaccounts", "token", _) => token::create(call).await,
        (_, "scale", "get") => scale::get(call).await,
        (_, "scale", "update") => scale::update(call).await,
        (_, "scale", "patch") => scale::patch(call).await,
        (_, _, "get") => verb::get::get(call).await,
        (_, _, "update") => verb::update::update(call).await,
        (_, _, "patch") => verb::patch::patch(call).await,
        _ => Err(not_allowed()),
    }
}

//! DELETE of a collection: the list that a GET would give, each object by itself.

use api::status::Status;
use serde_json::{Value, json};

use crate::call::{Call, Response};
use crate::negotiate::{Offers, Shape};
use crate::reply;
use crate::verb::delete::{self, DeleteOptions};
use crate::verb::list;
use crate::verb::options::ListOptions;

/// Deletes what the selectors choose and answers with the list.
///
/// # Errors
/// The first that is not "already gone".
pub async fn delete_collection(call: &mut Call) -> Result<Response, Status> {
    let accept = call.accept(Offers::Lists)?;
    let list_options = ListOptions::of(&call.query, false)?;
    let options = DeleteOptions::of(call).await?;
    let cache = call.cache()?;
    let (scope, filter) = list::select(call, &cache, &list_options)?;
    call.served.caches.fresh().await?;
    let snapshot = call.served.caches.snapshot(&cache);
    let served = call.served.clone();
    let wanted: Vec<_> = snapshot.matching(&scope, &filter, None).cloned().collect();
    let mut items = Vec::with_capacity(wanted.len());
    for entry in wanted {
        match delete::one(call, &served, entry.namespace(), entry.name(), &options).await {
            Ok(deleted) => items.push(deleted.object),
            Err(status) if status.code == 404 => {}
            Err(status) => return Err(status),
        }
    }
    let names = &served.resource.names;
    let metadata: Value = json!({"resourceVersion": call.served.caches.revision().max(snapshot.revision).to_string()});
    let out = json!({"kind": names.list_kind, "apiVersion": names.api_version(), "metadata": metadata, "items": items});
    let mut accept = accept;
    accept.shape = Shape::Object;
    Ok(reply::tree(200, &out, accept))
}

//! GET of one object.

use api::status::Status;

use crate::cache::unavailable;
use crate::call::{Call, Response};
use crate::negotiate::Offers;
use crate::reply;
use crate::verb::options::revision;

/// Answers from memory: at any version (`resourceVersion=0`), not older than one, or (no version) as of now.
///
/// # Errors
/// 404; 504 where the version asked for is not reached in time.
pub async fn get(call: &Call) -> Result<Response, Status> {
    if call.query.has("export") {
        return Err(Status::bad_request("the export parameter, deprecated since v1.14, is no longer supported"));
    }
    let accept = call.accept(Offers::All)?;
    let cache = call.cache()?;
    let caches = &call.served.caches;
    let wanted = revision(call.query.get("resourceVersion"))
        .map_err(|why| Status::bad_request(format!("invalid resource version: {why}")))?;
    caches.ready().await?;
    if !call.query.get("resourceVersion").is_empty() {
        caches.reach(wanted).await?;
    } else if let Err(error) = caches.fresh().await {
        // The stream is late: one key can be had from etcd itself.
        let path = caches.storage.key(&call.served.path(&call.info.namespace, &call.info.name));
        let Ok((found, _)) = caches.storage.get(&path).await else { return Err(error) };
        let stored = found.ok_or_else(|| call.not_found())?;
        let document = crate::codec::stored_json(&stored.value).map_err(Status::internal)?;
        return reply::written(call, 200, &document, stored.revision)
            .map_err(|_| unavailable(crate::storage::Error::Unavailable(error.message)));
    }
    let key = call.served.key(&call.info.namespace, &call.info.name);
    cache.unreadable.check(Some(&key))?;
    let entry = cache.get(&key).ok_or_else(|| call.not_found())?;
    reply::entry(call, accept, &entry)
}

//! OpenAPI v2 and v3, by `api::openapi` over the served resources.

use std::sync::Arc;

use api::status::Status;
use http::HeaderMap;

use super::serve;
use crate::call::{Response, no_such_resource};
use crate::request_info::Query;
use crate::server::Server;
use crate::table::Table;

pub(super) fn v2(_server: &Arc<Server>, _table: &Table, _headers: &HeaderMap) -> Result<Response, Status> {
    Err(no_such_resource())
}

pub(super) fn v3_index(_server: &Arc<Server>, _table: &Table, _headers: &HeaderMap) -> Result<Response, Status> {
    Err(no_such_resource())
}

pub(super) fn v3(server: &Arc<Server>, _table: &Table, headers: &HeaderMap, path: &str, _query: &Query) -> Result<Response, Status> {
    let document = server.documents.get(&format!("openapi/v3/{path}"), || Err(no_such_resource()))?;
    Ok(serve(headers, &document))
}

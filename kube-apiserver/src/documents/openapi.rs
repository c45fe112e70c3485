//! OpenAPI v2 and v3, by `api::openapi` over the served resources.

use std::sync::Arc;

use api::openapi;
use api::status::Status;
use bytes::Bytes;
use http::HeaderMap;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, LOCATION};

use super::{Document, groups, serve};
use crate::call::{Response, no_such_resource};
use crate::reply;
use crate::request_info::Query;
use crate::server::Server;
use crate::table::Table;

const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// `/openapi/v2`: JSON, or the protobuf that kubectl before 1.27 asks for.
pub(super) fn v2(server: &Arc<Server>, table: &Table, headers: &HeaderMap) -> Result<Response, Status> {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect::<Vec<_>>().join(",");
    let wanted = if accepted.trim().is_empty() { vec!["*/*"] } else { accepted.split(',').collect() };
    let form = wanted.iter().find_map(|clause| match clause.split(';').next().unwrap_or("").trim() {
        "application/json" | "*/*" | "application/*" => Some(false),
        V2_PROTOBUF | "application/com.github.proto-openapi.spec.v2@v1.0+protobuf" => Some(true),
        _ => None,
    });
    let document = match form {
        // As upstream: no body.
        None => {
            let mut response = reply::raw(406, "text/plain", Bytes::new());
            response.headers_mut().remove(CONTENT_TYPE);
            return Ok(response);
        }
        Some(false) => server
            .documents
            .get("openapi/v2", || Ok(Document::new("application/json", openapi::v2(&groups(table, false)).to_string())))?,
        Some(true) => server.documents.get("openapi/v2 protobuf", || {
            Ok(Document::new(V2_PROTOBUF, openapi::v2_protobuf(&openapi::v2(&groups(table, false)))))
        })?,
    };
    Ok(serve(headers, &document))
}

/// `/openapi/v3`: where the documents of each group and version are.
pub(super) fn v3_index(server: &Arc<Server>, table: &Table, headers: &HeaderMap) -> Result<Response, Status> {
    let document = server.documents.get("openapi/v3", || {
        Ok(Document::new("text/plain; charset=utf-8", openapi::v3_root(&groups(table, false)).to_string()))
    })?;
    Ok(serve(headers, &document))
}

/// `/openapi/v3/<path>`: one group and version. With the right `hash` it may be kept forever; another hash leads to the right one.
pub(super) fn v3(
    server: &Arc<Server>,
    table: &Table,
    headers: &HeaderMap,
    path: &str,
    query: &Query,
) -> Result<Response, Status> {
    let groups = groups(table, false);
    let index = openapi::v3_index(&groups);
    let Some((_, hash)) = index.iter().find(|(known, _)| known == path) else {
        return if path.contains('/') { Err(no_such_resource()) } else { Ok(reply::text(404, "404 page not found\n")) };
    };
    let given = query.get("hash");
    if !given.is_empty() && given != hash {
        let mut response = reply::raw(301, "text/html; charset=utf-8", Bytes::new());
        if let Ok(location) = HeaderValue::from_str(&format!("/openapi/v3/{path}?hash={hash}")) {
            response.headers_mut().insert(LOCATION, location);
        }
        return Ok(response);
    }
    let document = server.documents.get(&format!("openapi/v3/{path}"), || {
        let made = openapi::v3(&groups, path).ok_or_else(no_such_resource)?;
        Ok(Document::new("application/json", made.to_string()))
    })?;
    let mut response = serve(headers, &document);
    if !given.is_empty() {
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
    }
    Ok(response)
}

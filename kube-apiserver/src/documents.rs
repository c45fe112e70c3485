//! Documents about the API itself: discovery (old and aggregated), OpenAPI, OpenID. Made from the table on first demand.

mod openapi;

use std::sync::Arc;

use api::discovery::{self, Group};
use api::status::Status;
use bytes::Bytes;
use http::header::{ACCEPT, ETAG, HeaderValue, IF_NONE_MATCH, VARY};
use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;
use serde_json::json;

use crate::call::{Response, no_such_resource};
use crate::negotiate::{self, Offers};
use crate::reply;
use crate::request_info::Query;
use crate::server::Server;
use crate::table::Table;

/// The version that is served beside the table.
const METRICS: (&str, &str) = (crate::resource_metrics::GROUP, crate::resource_metrics::VERSION);

/// Documents made so far, by name; emptied when the table changes.
#[derive(Default)]
pub struct Documents {
    made: Mutex<std::collections::HashMap<String, Arc<Document>>>,
}

/// One document, encoded.
pub(crate) struct Document {
    content_type: &'static str,
    bytes: Bytes,
    /// SHA-256 in upper-case hexadecimal, as upstream's ETags are.
    hash: String,
}

impl Document {
    fn new(content_type: &'static str, bytes: impl Into<Bytes>) -> Self {
        use sha2::{Digest, Sha512};
        let bytes = bytes.into();
        let hash = hex::encode_upper(Sha512::digest(&bytes));
        Self { content_type, bytes, hash }
    }
}

impl Documents {
    fn get(&self, name: &str, make: impl FnOnce() -> Result<Document, Status>) -> Result<Arc<Document>, Status> {
        if let Some(document) = self.made.lock().get(name) {
            return Ok(document.clone());
        }
        let document = Arc::new(make()?);
        self.made.lock().insert(name.to_owned(), document.clone());
        Ok(document)
    }

    /// Forgets everything: the table changed.
    pub fn clear(&self) {
        self.made.lock().clear();
    }
}

/// Serves a document with its ETag.
fn serve(headers: &HeaderMap, document: &Document) -> Response {
    let tag = format!("\"{}\"", document.hash);
    let same =
        headers.get(IF_NONE_MATCH).and_then(|value| value.to_str().ok()).is_some_and(|value| value.contains(&document.hash));
    let mut response = if same {
        let mut response = reply::raw(304, document.content_type, Bytes::new());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        reply::raw(200, document.content_type, document.bytes.clone())
    };
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(ETAG, tag);
    }
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    response
}

/// The groups, versions and resources that are served; `metrics`: those of `metrics.k8s.io` too.
fn groups(table: &Table, metrics: bool) -> Vec<Group> {
    let mut groups = discovery::builtin(|group, version| table.has_version(group, version));
    if metrics {
        groups.push(crate::resource_metrics::group());
    }
    groups
}

/// The version of aggregated discovery that the client asks for.
fn aggregated_version(headers: &HeaderMap) -> Option<&'static str> {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect::<Vec<_>>().join(",");
    accepted.split(',').find_map(|clause| {
        let has = |wanted: &str| clause.split(';').any(|part| part.trim() == wanted);
        if !has("as=APIGroupDiscoveryList") || !has("g=apidiscovery.k8s.io") {
            return None;
        }
        if has("v=v2") { Some("v2") } else { has("v=v2beta1").then_some("v2beta1") }
    })
}

/// `/`.
fn paths(table: &Table, metrics: bool) -> Vec<String> {
    let mut out: Vec<String> = [
        "/.well-known/openid-configuration",
        "/api",
        "/api/v1",
        "/apis",
        "/apis/",
        "/healthz",
        "/healthz/etcd",
        "/healthz/log",
        "/healthz/ping",
        "/livez",
        "/livez/etcd",
        "/livez/log",
        "/livez/ping",
        "/metrics",
        "/metrics/slis",
        "/openapi/v2",
        "/openapi/v3",
        "/openapi/v3/",
        "/openid/v1/jwks",
        "/readyz",
        "/readyz/etcd",
        "/readyz/etcd-readiness",
        "/readyz/informer-sync",
        "/readyz/log",
        "/readyz/ping",
        "/readyz/shutdown",
        "/version",
    ]
    .map(str::to_owned)
    .to_vec();
    for group in groups(table, metrics).iter().filter(|group| !group.name.is_empty()) {
        out.push(format!("/apis/{}", group.name));
        out.extend(group.versions.iter().map(|version| format!("/apis/{}/{}", group.name, version.name)));
    }
    out.sort();
    out
}

/// Answers paths below `/`, `/api`, `/apis`, `/openapi`.
///
/// # Errors
/// 404, 406.
pub fn answer(server: &Arc<Server>, headers: &HeaderMap, path: &str, query: &Query) -> Result<Response, Status> {
    let table = server.table.load_full();
    let metrics = crate::resource_metrics::is_on(server);
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    match parts.as_slice() {
        [""] => Ok(reply::raw(200, "application/json", json!({"paths": paths(&table, metrics)}).to_string())),
        ["api"] | ["apis"] => {
            if let Some(version) = aggregated_version(headers) {
                let name = format!("{path} {version} {metrics}");
                let document = server.documents.get(&name, || {
                    let content_type = if version == "v2" {
                        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
                    } else {
                        "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList"
                    };
                    Ok(Document::new(
                        content_type,
                        discovery::aggregated(&groups(&table, metrics), path == "/api", version).to_string(),
                    ))
                })?;
                return Ok(serve(headers, &document));
            }
            let accept = negotiate::accept(headers, Offers::Groups)?;
            let address = server.config.external_address();
            let object =
                if path == "/api" { discovery::api_versions(&address) } else { discovery::group_list(&groups(&table, metrics)) };
            Ok(vary(reply::tree(200, &object, accept)))
        }
        ["api", version] if table.has_version("", version) => resources(headers, &table, metrics, "", version),
        ["apis", name] if !name.is_empty() && groups(&table, metrics).iter().any(|group| group.name == *name) => {
            let accept = negotiate::accept(headers, Offers::Objects)?;
            let found = groups(&table, metrics).into_iter().find(|group| group.name == *name).ok_or_else(no_such_resource)?;
            Ok(reply::tree(200, &discovery::group(&found), accept))
        }
        ["apis", group, version]
            if !group.is_empty() && (table.has_version(group, version) || (metrics && (*group, *version) == METRICS)) =>
        {
            resources(headers, &table, metrics, group, version)
        }
        ["openapi", "v2"] => openapi::v2(server, &table, headers),
        ["openapi", "v3"] => openapi::v3_index(server, &table, headers),
        ["openapi", "v3", rest @ ..] => openapi::v3(server, &table, headers, &rest.join("/"), query),
        ["api", _] => Err(no_such_resource()),
        ["apis", group, _] if table.all().iter().any(|served| served.group() == *group) => Err(no_such_resource()),
        _ => Ok(reply::text(404, "404 page not found\n")),
    }
}

fn resources(headers: &HeaderMap, table: &Table, metrics: bool, group: &str, version: &str) -> Result<Response, Status> {
    let accept = negotiate::accept(headers, Offers::Objects)?;
    let groups = groups(table, metrics);
    let found = groups.iter().find(|row| row.name == group).and_then(|row| row.versions.iter().find(|row| row.name == version));
    let found = found.ok_or_else(no_such_resource)?;
    Ok(reply::tree(200, &discovery::resource_list(group, found), accept))
}

fn vary(mut response: Response) -> Response {
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    response
}

/// `/.well-known/openid-configuration`: where the keys of service account tokens are.
///
/// # Errors
/// 404 without keys.
pub fn openid_configuration(server: &Server, headers: &HeaderMap) -> Result<Response, Status> {
    let (Some(accounts), Some(issuer)) = (&server.authenticator.service_accounts, server.config.service_account_issuers.first())
    else {
        return Err(no_such_resource());
    };
    only(headers, "application/json")?;
    let uri = server
        .config
        .service_account_jwks_uri
        .clone()
        .unwrap_or_else(|| format!("https://{}/openid/v1/jwks", server.config.external_address()));
    let mut response = reply::raw(200, "application/json", accounts.keys.openid_configuration(issuer, &uri).to_string());
    response.headers_mut().insert("cache-control", HeaderValue::from_static("public, max-age=3600"));
    Ok(response)
}

/// `/openid/v1/jwks`: the keys of service account tokens.
///
/// # Errors
/// 404 without keys.
pub fn jwks(server: &Server, headers: &HeaderMap) -> Result<Response, Status> {
    let Some(accounts) = &server.authenticator.service_accounts else { return Err(no_such_resource()) };
    only(headers, "application/jwk-set+json")?;
    let mut response = reply::raw(200, "application/jwk-set+json", accounts.keys.jwks().to_string());
    response.headers_mut().insert("cache-control", HeaderValue::from_static("public, max-age=3600"));
    Ok(response)
}

/// Whether the client takes the one media type there is.
fn only(headers: &HeaderMap, media_type: &str) -> Result<(), Status> {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect::<Vec<_>>().join(",");
    let fits = accepted.trim().is_empty()
        || accepted.split(',').any(|clause| {
            let media = clause.split(';').next().unwrap_or("").trim();
            media == media_type || media == "*/*" || media == "application/*"
        });
    if fits {
        return Ok(());
    }
    let message = format!("406: Not Acceptable\n\nAvailable representations: {media_type}");
    Err(Status::new(406, "NotAcceptable", message))
}

//! From a request's meaning to its handler: resources by the table, the few other paths by name.

use std::net::SocketAddr;
use std::sync::Arc;

use api::status::Status;
use auth::user::User;
use http::{Method, Request};
use hyper::body::Incoming;
use jiff::Timestamp;

use crate::audit::Record;
use crate::call::{Call, Response, no_such_resource, not_allowed};
use crate::chain;
use crate::component_status;
use crate::documents;
use crate::metrics;
use crate::reply;
use crate::request_info::{Query, RequestInfo};
use crate::resource_metrics;
use crate::server::Server;
use crate::subresource;
use crate::table::Served;
use crate::verb;

/// Finds the handler and runs it.
///
/// # Errors
/// 404, 405, and whatever the handler says.
pub async fn route(
    server: &Arc<Server>,
    mut request: Request<Incoming>,
    info: RequestInfo,
    query: Query,
    user: Arc<User>,
    address: SocketAddr,
    now: Timestamp,
) -> Result<Response, Status> {
    if !info.is_resource {
        return elsewhere(server, &request, &info, &query);
    }
    let table = server.table.load_full();
    if info.group == resource_metrics::GROUP && info.version == resource_metrics::VERSION && resource_metrics::is_on(server) {
        return resource_metrics::answer(server, request.headers(), &info, &query).await;
    }
    let Some(served) = table.get(&info.group, &info.version, &info.resource).cloned() else {
        if info.prefix == "apis" && !table.all().iter().any(|served| served.group() == info.group) {
            return Ok(reply::text(404, "404 page not found\n"));
        }
        return Err(no_such_resource());
    };
    check_scope(&served, &info)?;
    let upgrade = request.headers().contains_key(http::header::UPGRADE).then(|| hyper::upgrade::on(&mut request));
    let (parts, body) = request.into_parts();
    // Told on every answer, errors included.
    if served.resource.deprecation.is_some() {
        metrics::deprecated(served.group(), &served.resource.names.version, served.plural(), &info.subresource);
    }
    let warnings = served.resource.deprecation.map(str::to_owned).into_iter().collect();
    let mut call = Call {
        server: server.clone(),
        served,
        method: parts.method,
        headers: parts.headers,
        info,
        query,
        user,
        body: Some(body),
        upgrade,
        audit: parts.extensions.get::<Arc<Record>>().cloned(),
        warnings,
        empties: Vec::new(),
        now,
    };
    let _ = address;
    let result =
        if call.info.subresource.is_empty() { resource(&mut call).await } else { subresource::dispatch(&mut call).await };
    let mut response = match result {
        Ok(response) => response,
        Err(status) => {
            let accept = crate::negotiate::accept(&call.headers, crate::negotiate::Offers::Lists)
                .unwrap_or(crate::negotiate::Accept::JSON);
            reply::status(&status, accept)
        }
    };
    chain::warn(&mut response, &call.warnings);
    Ok(response)
}

/// Whether the path fits the resource's scope, and its name can be one.
fn check_scope(served: &Served, info: &RequestInfo) -> Result<(), Status> {
    let namespaced = served.resource.names.namespaced;
    if !namespaced && !info.namespace.is_empty() && served.plural() != "namespaces" {
        return Err(no_such_resource());
    }
    // Objects of namespaced resources have a namespace in their path.
    let by_name = !info.name.is_empty() && !matches!(info.verb.as_str(), "list" | "watch" | "deletecollection");
    if namespaced && info.namespace.is_empty() && (by_name || info.verb == "create") {
        return Err(if info.verb == "create" && info.name.is_empty() { not_allowed() } else { no_such_resource() });
    }
    if by_name {
        if info.name.contains('/') {
            return Err(no_such_resource());
        }
        let invalid = |why: &str| Err(Status::bad_request(format!("Name parameter invalid: {:?}: {why}", info.name)));
        match info.name.as_str() {
            "." => return invalid("may not be '.'"),
            ".." => return invalid("may not be '..'"),
            name if name.contains('%') => return invalid("may not contain '%'"),
            _ => {}
        }
    }
    Ok(())
}

async fn resource(call: &mut Call) -> Result<Response, Status> {
    if call.method == Method::HEAD || !call.info.rest.is_empty() {
        return Err(not_allowed());
    }
    if call.served.plural() == "componentstatuses" {
        return component_status::read(call).await;
    }
    if call.served.cache.is_none() && call.info.verb == "create" {
        return subresource::review::create(call).await;
    }
    let verb = call.info.verb.clone();
    if !call.served.has_verb(&verb) {
        return Err(not_allowed());
    }
    match verb.as_str() {
        "get" if call.query.flag("watch") && call.query.has("watch") => verb::get::get(call).await,
        "get" => verb::get::get(call).await,
        "list" => verb::list::list(call).await,
        "watch" => verb::watch::watch(call).await,
        "create" if call.info.name.is_empty() => verb::create::create(call).await,
        "update" if !call.info.name.is_empty() => verb::update::update(call).await,
        "patch" if !call.info.name.is_empty() => verb::patch::patch(call).await,
        "delete" => verb::delete::delete(call).await,
        "deletecollection" => verb::delete_collection::delete_collection(call).await,
        _ => Err(not_allowed()),
    }
}

/// Paths outside of the resources.
fn elsewhere(server: &Arc<Server>, request: &Request<Incoming>, info: &RequestInfo, query: &Query) -> Result<Response, Status> {
    let path = info.path.trim_end_matches('/');
    let first = path.trim_start_matches('/').split('/').next().unwrap_or("");
    match first {
        "healthz" | "livez" | "readyz" => {
            let only = path.trim_start_matches('/').split_once('/').map_or("", |(_, rest)| rest);
            return Ok(server.health.answer(server, first, only, query));
        }
        _ => {}
    }
    let known = matches!(first, "" | "api" | "apis" | "version" | "openapi" | "metrics" | ".well-known" | "openid");
    if known && request.method() != Method::GET {
        return Err(not_allowed());
    }
    match path {
        "/version" => Ok(reply::raw(200, "application/json", component::version::info().to_string())),
        "/metrics" => {
            let caches = server.caches.all().into_iter().map(|cache| (cache.path.clone(), cache.objects(), cache.watchers()));
            let body = metrics::render(caches, server.caches.revision());
            let body = format!("{body}{}", slis(server));
            Ok(reply::raw(200, "text/plain; version=0.0.4; charset=utf-8", body))
        }
        "/metrics/slis" => Ok(reply::raw(200, "text/plain; version=0.0.4; charset=utf-8", slis(server))),
        "/.well-known/openid-configuration" => documents::openid_configuration(server, request.headers()),
        "/openid/v1/jwks" => documents::jwks(server, request.headers()),
        _ => documents::answer(server, request.headers(), path, query),
    }
}

fn slis(server: &Server) -> String {
    let mut out = String::from(
        "# HELP kubernetes_healthcheck [STABLE] This metric records the result of a single healthcheck.\n# TYPE kubernetes_healthcheck gauge\n",
    );
    for endpoint in ["healthz", "livez", "readyz"] {
        for (name, ok) in server.health.results(server, endpoint) {
            out.push_str(&format!("kubernetes_healthcheck{{name=\"{name}\",type=\"{endpoint}\"}} {}\n", u8::from(ok)));
        }
    }
    out
}

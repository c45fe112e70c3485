//! The handler chain: what every request goes through, in order.
//!
//! 1. panic guard  2. audit id  3. request info  4. authentication, audit begins  5. timeouts  6. impersonation
//! 7. priority and fairness  8. authorization  9. routing  10. audit ends, gzip, headers, metrics, log

mod cors;

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use api::status::Status;
use auth::authn::x509::Peer;
use auth::authz::{Attributes, Authorizers};
use auth::user::User;
use futures::FutureExt;
use http::header::{HeaderName, HeaderValue, STRICT_TRANSPORT_SECURITY, WARNING};
use http::{Method, Request};
use hyper::body::Incoming;
use jiff::Timestamp;
use tokio::sync::SemaphorePermit;
use uuid::Uuid;

use crate::audit::{Record, Seen, Stage};
use crate::call::{Response, not_allowed};
use crate::compress;
use crate::flow::{Schema, Seat};
use crate::metrics::{self, Labels};
use crate::negotiate::{self, Accept, Offers, Shape};
use crate::reply;
use crate::request_info::{Query, RequestInfo};
use crate::route;
use crate::server::Server;

const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");
const FLOW_SCHEMA: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const PRIORITY_LEVEL: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");
const CACHE_CONTROL: HeaderName = HeaderName::from_static("cache-control");
/// Longest wait for a slot before a request is turned away. Upstream queues about as long.
const SLOT_WAIT: Duration = Duration::from_secs(15);

/// Answers one request. Never fails: whatever goes wrong becomes a Status.
pub async fn handle(server: Arc<Server>, peer: Arc<Peer>, address: SocketAddr, request: Request<Incoming>) -> Response {
    let started = Instant::now();
    let query = Query::parse(request.uri().query().unwrap_or(""));
    let info = RequestInfo::of(request.method(), request.uri().path(), &query);
    let method = request.method().clone();
    let accept = error_form(&request);
    let audit_id = request
        .headers()
        .get(&AUDIT_ID)
        .cloned()
        .unwrap_or_else(|| HeaderValue::from_str(&Uuid::new_v4().to_string()).unwrap_or(HeaderValue::from_static("")));
    let dry_run = if query.has("dryRun") { "All" } else { "" };
    let gzip = method == Method::GET && info.verb != "watch" && compress::accepted(request.headers());
    let origin = cors::allowed(&server.config.cors_origins, request.headers());
    if let Some(origin) = &origin
        && method == Method::OPTIONS
    {
        return cors::preflight(origin);
    }
    let notes = Notes { id: Some(audit_id.clone()), ..Notes::default() };
    let known = is_known(&server, &info);
    let labels = labels_of(&info, &method, dry_run, known);
    let verb_label = labels.verb;
    let long = info.is_long_running();
    let gauge = long.then(|| metrics::LongRunning::begin(&labels));

    let guarded = AssertUnwindSafe(admitted(server.clone(), peer, address, request, &info, query, &notes)).catch_unwind().await;
    let mut response = match guarded {
        Ok(Ok(response)) => response,
        Ok(Err(status)) => reply::status(&status, accept),
        Err(_) => {
            metrics::panicked(verb_label);
            tracing::error!(path = info.path, "A request panicked");
            if let Some(audit) = notes.audit.get() {
                audit.emit(Stage::Panic);
            }
            reply::status(&Status::internal("the server panicked while answering this request"), accept)
        }
    };
    if let Some(audit) = notes.audit.get() {
        response = audit.answered(response, long).await;
    }
    if gzip && !long {
        response = compress::compress(response).await;
    }
    if !long && let Some(size) = http_body::Body::size_hint(response.body()).exact() {
        metrics::response_size(&labels_of(&info, &method, dry_run, known), size);
    }
    let headers = response.headers_mut();
    headers.insert(AUDIT_ID, audit_id);
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache, private"));
    if let Some(schema) = notes.schema.get() {
        headers.insert(FLOW_SCHEMA, schema.uid.clone());
        headers.insert(PRIORITY_LEVEL, schema.level.uid.clone());
    }
    if let Some(value) = server.config.strict_transport_security.as_deref().and_then(|text| HeaderValue::from_str(text).ok()) {
        headers.insert(STRICT_TRANSPORT_SECURITY, value);
    }
    if let Some(origin) = &origin {
        cors::mark(headers, origin);
    }
    let took = started.elapsed();
    let labels = labels_of(&info, &method, dry_run, known);
    metrics::request(&labels, response.status().as_u16(), took, long);
    tracing::debug!(verb = info.verb, uri = info.path, code = response.status().as_u16(), latency = ?took, "HTTP");
    match gauge {
        // A watch lasts as long as its body.
        Some(gauge) => response.map(|body| body.hold(gauge)),
        None => response,
    }
}

/// What the steps leave for the answer's way back.
#[derive(Default)]
struct Notes {
    /// `Audit-ID`.
    id: Option<HeaderValue>,
    audit: OnceLock<Arc<Record>>,
    schema: OnceLock<Arc<Schema>>,
}

/// Errors go out in the encoding the client accepts, as JSON where it accepts none.
fn error_form(request: &Request<Incoming>) -> Accept {
    negotiate::accept(request.headers(), Offers::Lists).map_or(Accept::JSON, |accept| Accept { shape: Shape::Object, ..accept })
}

/// Steps 4 to 9.
async fn admitted(
    server: Arc<Server>,
    peer: Arc<Peer>,
    address: SocketAddr,
    mut request: Request<Incoming>,
    info: &RequestInfo,
    query: Query,
    notes: &Notes,
) -> Result<Response, Status> {
    let now = Timestamp::now();
    let authenticated = authenticate(&server, &peer, &mut request, info, now);
    if let Some(audit) = &server.audit {
        let uri = request.uri().path_and_query().map_or_else(String::new, ToString::to_string);
        let seen = Seen {
            info,
            headers: request.headers(),
            uri,
            address,
            id: notes.id.as_ref().and_then(|id| id.to_str().ok()).unwrap_or("").to_owned(),
            at: now,
        };
        if let Some(record) = audit.begin(&seen, authenticated.as_deref().ok()) {
            request.extensions_mut().insert(record.clone());
            let _ = notes.audit.set(record);
        }
    }
    let own = authenticated?;
    let timeout = timeout(&server, info, &query)?;
    let user = impersonate(&server, own.clone(), &mut request)?;
    let audit = notes.audit.get();
    if let Some(audit) = audit.filter(|_| !Arc::ptr_eq(&own, &user)) {
        audit.impersonated(&user);
    }
    let work = async {
        let _slot = slot(&server, info, &user, notes).await?;
        authorize(&server, info, &query, &user, audit)?;
        route::route(&server, request, info.clone(), query.clone(), user.clone(), address, now).await
    };
    match timeout {
        None => work.await,
        Some(limit) => match tokio::time::timeout(limit, work).await {
            Ok(result) => result,
            Err(_) => Err(Status::new(504, "Timeout", "Timeout: request did not complete within the allotted timeout")),
        },
    }
}

fn authenticate(
    server: &Server,
    peer: &Peer,
    request: &mut Request<Incoming>,
    info: &RequestInfo,
    now: Timestamp,
) -> Result<Arc<User>, Status> {
    let identity = server.authenticator.authenticate(request.headers(), peer, &info.path, now).map_err(|why| {
        tracing::debug!(path = info.path, err = why, "Unable to authenticate the request");
        Status::unauthorized()
    })?;
    auth::authn::strip_credentials(request.headers_mut());
    if let Some(proxy) = &server.authenticator.request_header {
        proxy.strip(request.headers_mut());
    }
    Ok(identity.user)
}

/// How long the request may take: the client's `timeout`, at most `--request-timeout`; none for those that last.
fn timeout(server: &Server, info: &RequestInfo, query: &Query) -> Result<Option<Duration>, Status> {
    if info.is_long_running() {
        return Ok(None);
    }
    let most = server.config.request_timeout;
    let text = query.get("timeout");
    if text.is_empty() {
        return Ok(Some(most));
    }
    match component::duration::parse(text) {
        Ok(wanted) if wanted > most => Ok(Some(most)),
        Ok(wanted) if wanted.is_zero() => Ok(Some(most)),
        Ok(wanted) => Ok(Some(wanted)),
        Err(why) => Err(Status::bad_request(format!("invalid timeout specified in the request URL - {why}"))),
    }
}

fn impersonate(server: &Server, user: Arc<User>, request: &mut Request<Incoming>) -> Result<Arc<User>, Status> {
    let wanted = auth::impersonation::impersonate(&server.authorizers, &user, request.headers())?;
    auth::impersonation::strip(request.headers_mut());
    Ok(wanted.map_or(user, Arc::new))
}

/// Counts a request while it is served.
struct Slot<'a> {
    _permit: Option<SemaphorePermit<'a>>,
    _seat: Option<Seat>,
    _executing: Option<metrics::Executing>,
    kind: &'static str,
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        metrics::in_flight(self.kind, -1);
    }
}

async fn slot<'a>(server: &'a Server, info: &RequestInfo, user: &User, notes: &Notes) -> Result<Option<Slot<'a>>, Status> {
    // Watches are counted while they begin; what else lasts has no end that could be waited for.
    if info.is_long_running() && info.verb != "watch" {
        return Ok(None);
    }
    let reads = matches!(info.verb.as_str(), "get" | "list" | "watch");
    let kind = if reads { "readOnly" } else { "mutating" };
    let (mut permit, mut seat, mut executing) = (None, None, None);
    if server.config.priority_and_fairness {
        if let Some(schema) = server.flow.classify(&server.caches, info, user) {
            let entered = server.flow.enter(&schema, info, user).await;
            seat = match entered {
                Ok(seat) => seat,
                Err(refused) => {
                    let _ = notes.schema.set(schema);
                    return Err(refused);
                }
            };
            executing = Some(metrics::Executing::begin(&schema.level.name, &schema.name));
            let _ = notes.schema.set(schema);
        }
    } else if info.is_resource && info.verb != "watch" {
        let limit = if reads { &server.limits.reading } else { &server.limits.writing };
        // Masters are never turned away: they must be able to repair an overloaded cluster.
        if let Some(limit) = limit.as_ref().filter(|_| !user.in_group(auth::user::MASTERS)) {
            permit = match tokio::time::timeout(SLOT_WAIT, limit.acquire()).await {
                Ok(Ok(permit)) => Some(permit),
                _ => return Err(Status::too_many_requests("Too many requests, please try again later.", 1)),
            };
        }
    }
    metrics::in_flight(kind, 1);
    Ok(Some(Slot { _permit: permit, _seat: seat, _executing: executing, kind }))
}

fn authorize(server: &Server, info: &RequestInfo, query: &Query, user: &User, audit: Option<&Arc<Record>>) -> Result<(), Status> {
    let attributes = attributes(info, query, user);
    let decision = server.authorizers.authorize(&attributes);
    if let Some(audit) = audit {
        audit.annotate("authorization.k8s.io/decision", if decision.allowed() { "allow" } else { "forbid" });
        audit.annotate("authorization.k8s.io/reason", decision.reason());
    }
    if decision.allowed() { Ok(()) } else { Err(Authorizers::forbidden(&attributes, &decision)) }
}

/// What a request asks for, in the words of authorization.
pub fn attributes<'a>(info: &'a RequestInfo, query: &'a Query, user: &'a User) -> Attributes<'a> {
    let mut attributes = Attributes::path(user, &info.verb, &info.path);
    if info.is_resource {
        attributes.resource_request = true;
        attributes.group = &info.group;
        attributes.version = &info.version;
        attributes.resource = &info.resource;
        attributes.subresource = &info.subresource;
        attributes.namespace = &info.namespace;
        attributes.name = &info.name;
        if matches!(info.verb.as_str(), "list" | "watch" | "deletecollection") {
            attributes.field_selector = query.get("fieldSelector");
            attributes.label_selector = query.get("labelSelector");
        }
    }
    attributes
}

/// Adds Warning headers (RFC 7234), each text once, as many as fit in upstream's budget.
pub fn warn(response: &mut Response, warnings: &[String]) {
    /// Upstream: 4 KiB in all, longer texts are cut to 256 bytes when it gets tight.
    const BUDGET: usize = 4096;
    let (mut seen, mut used) = (Vec::new(), 0);
    for text in warnings {
        if seen.contains(&text) {
            continue;
        }
        seen.push(text);
        let quoted: String = text
            .chars()
            .filter(|c| !c.is_control())
            .flat_map(|c| if c == '"' || c == '\\' { vec!['\\', c] } else { vec![c] })
            .collect();
        let value = format!("299 - \"{quoted}\"");
        used += value.len();
        if used > BUDGET {
            return;
        }
        if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
            response.headers_mut().append(WARNING, value);
        }
    }
}

/// 405 with the methods there are.
pub fn method_not_allowed() -> Status {
    not_allowed()
}

/// Whether the path names a resource and subresource that are served: strangers' paths make no metrics labels.
fn is_known(server: &Server, info: &RequestInfo) -> bool {
    let table = server.table.load();
    let served = table.get(&info.group, &info.version, &info.resource);
    served.is_some_and(|served| info.subresource.is_empty() || served.resource.has_subresource(&info.subresource))
}

fn labels_of<'a>(info: &'a RequestInfo, method: &Method, dry_run: &'a str, known: bool) -> Labels<'a> {
    let named = |text: &'a str| if known { text } else { "" };
    let verb = match (info.verb.as_str(), info.is_resource) {
        ("list", true) => "LIST",
        ("watch", true) => "WATCH",
        ("create", true) => "POST",
        ("update", true) => "PUT",
        ("patch", true) => "PATCH",
        ("delete", true) => "DELETE",
        ("deletecollection", true) => "DELETECOLLECTION",
        ("get", true)
            if info.subresource == "proxy"
                || info.subresource == "exec"
                || info.subresource == "attach"
                || info.subresource == "portforward" =>
        {
            "CONNECT"
        }
        ("get", true) => "GET",
        _ => match *method {
            Method::GET => "GET",
            Method::POST => "POST",
            Method::PUT => "PUT",
            Method::DELETE => "DELETE",
            Method::PATCH => "PATCH",
            Method::HEAD => "HEAD",
            Method::OPTIONS => "OPTIONS",
            // Strangers choose methods freely; labels must stay few.
            _ => "OTHER",
        },
    };
    Labels {
        verb,
        dry_run,
        group: named(&info.group),
        version: named(&info.version),
        resource: named(&info.resource),
        subresource: named(&info.subresource),
        scope: info.scope(),
    }
}

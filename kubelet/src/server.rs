//! The kubelet's own HTTP server: :10250 with authentication, :10248 for health. Upstream: pkg/kubelet/server
//!
//! A path is one line in [`ROUTES`], with the subresource that authorization asks for.

pub mod auth;
pub mod logs;
pub mod metrics;
pub mod pods;
pub mod spdy;
pub mod stats;
pub mod stream;
pub mod tls;

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use component::health::Checks;
use component::serve;
use futures::future::BoxFuture;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tokio::net::TcpListener;

use crate::kubelet::Shared;

/// What handlers answer with.
pub type Body = BoxBody<Bytes, Infallible>;

type Handler = fn(Call) -> BoxFuture<'static, Response<Body>>;

/// A request, taken apart.
pub struct Call {
    /// The kubelet.
    pub kubelet: Shared,
    /// As it came.
    pub request: Request<Incoming>,
    /// What follows the route's prefix, split at slashes.
    pub rest: Vec<String>,
    /// Query parameters, decoded, in order.
    pub query: Vec<(String, String)>,
}

impl Call {
    /// The first value of a query parameter.
    pub fn param(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Whether a switch is on: `1` or `true`.
    pub fn flag(&self, names: &[&str]) -> bool {
        names.iter().any(|name| matches!(self.param(name), Some("1" | "true" | "True")))
    }
}

/// One path.
struct Route {
    prefix: &'static str,
    /// Only this very path, not what is below.
    exact: bool,
    /// What `nodes/<this>` must be allowed; see [`auth::Gate`] for where `proxy` does as well.
    subresource: &'static str,
    /// Gone when `enableDebuggingHandlers` is off.
    debugging: bool,
    handler: Handler,
}

const fn route(prefix: &'static str, exact: bool, subresource: &'static str, debugging: bool, handler: Handler) -> Route {
    Route { prefix, exact, subresource, debugging, handler }
}

const ROUTES: &[Route] = &[
    route("/healthz", false, "healthz", false, health),
    route("/metrics", true, "metrics", false, metrics::own),
    route("/metrics/resource", true, "metrics", false, metrics::resource),
    route("/metrics/probes", true, "metrics", false, metrics::probes),
    route("/metrics/cadvisor", true, "metrics", false, metrics::cadvisor),
    route("/stats/summary", true, "stats", false, stats::summary),
    route("/pods", true, "pods", false, pods::desired),
    route("/pods/", true, "pods", false, pods::desired),
    route("/runningpods", true, "pods", true, pods::running),
    route("/runningpods/", true, "pods", true, pods::running),
    route("/configz", true, "configz", false, pods::configz),
    route("/containerLogs/", false, "proxy", true, logs::container),
    route("/exec/", false, "proxy", true, stream::exec),
    route("/attach/", false, "proxy", true, stream::attach),
    route("/portForward/", false, "proxy", true, stream::port_forward),
    route("/run/", false, "proxy", true, stream::run),
    route("/logs", false, "log", true, logs::host),
    route("/checkpoint/", false, "checkpoint", false, pods::checkpoint),
];

/// Binds and serves both ports.
///
/// # Errors
/// A port is taken, or the serving certificate cannot be used.
pub async fn start(kubelet: &Shared) -> anyhow::Result<()> {
    let config = &kubelet.config.kubelet;
    if config.healthz_port > 0 {
        let ip: IpAddr = config.healthz_bind_address.parse().context("healthzBindAddress")?;
        let listener = bind(SocketAddr::new(ip, config.healthz_port)).await?;
        let kubelet = kubelet.clone();
        serve::serve(&kubelet.tasks.clone(), listener, None, move |request: Request<Incoming>| {
            let kubelet = kubelet.clone();
            async move {
                match request.uri().path() {
                    path if path == "/healthz" || path.starts_with("/healthz/") => {
                        respond(serve::standard(&request, &checks(&kubelet)))
                    }
                    _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
                }
            }
        })?;
    }
    if !config.enable_server {
        return Ok(());
    }
    let ip: IpAddr = config.address.parse().context("address")?;
    let listener = bind(SocketAddr::new(ip, config.port)).await?;
    let tls = tls::config(kubelet)?;
    let gate = Arc::new(auth::Gate::new(kubelet));
    let this = kubelet.clone();
    serve::serve(&kubelet.tasks, listener, Some(tls), move |request: Request<Incoming>| {
        let (kubelet, gate) = (this.clone(), gate.clone());
        async move { handle(kubelet, &gate, request).await }
    })?;
    if config.read_only_port > 0 {
        let listener = bind(SocketAddr::new(ip, config.read_only_port)).await?;
        let this = kubelet.clone();
        serve::serve(&kubelet.tasks, listener, None, move |request: Request<Incoming>| {
            let kubelet = this.clone();
            async move { counted(metrics_labels(&request, "readonly"), dispatch(kubelet, request, true)).await }
        })?;
    }
    tracing::info!(address = config.address, port = config.port, "Started to listen");
    Ok(())
}

/// Binds, waiting a while for a former process to let go.
async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    const TRIES: u32 = 25;
    let mut tries = 0;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return Ok(listener),
            Err(_) if tries < TRIES => {
                tries += 1;
                tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            }
            Err(error) => return Err(error).with_context(|| format!("failed to listen on {address}")),
        }
    }
}

fn find(path: &str) -> Option<&'static Route> {
    ROUTES
        .iter()
        .filter(|route| {
            if route.exact {
                path == route.prefix
            } else {
                path == route.prefix || path.starts_with(&format!("{}/", route.prefix.trim_end_matches('/')))
            }
        })
        .max_by_key(|route| route.prefix.len())
}

async fn handle(kubelet: Shared, gate: &auth::Gate, request: Request<Incoming>) -> Response<Body> {
    let subresource = find(request.uri().path()).map_or("proxy", |route| route.subresource);
    if let Err((code, message)) = gate.check(&kubelet, &request, subresource).await {
        return text(code, message);
    }
    let labels = metrics_labels(&request, "readwrite");
    counted(labels, dispatch(kubelet, request, false)).await
}

/// `long_running`, `method`, `path`, `server_type`. Strangers' paths and methods make no labels of their own.
fn metrics_labels<B>(request: &Request<B>, server: &'static str) -> [String; 4] {
    const LONG: [&str; 4] = ["exec", "attach", "portForward", "debug"];
    let path = request.uri().path();
    let mut parts = path.trim_start_matches('/').splitn(3, '/');
    let first = parts.next().unwrap_or("");
    let shown = match (find(path), first, parts.next()) {
        (None, ..) => "other".to_owned(),
        (Some(_), "metrics", Some(second)) => format!("metrics/{second}"),
        (Some(_), first, _) => first.to_owned(),
    };
    let method = match *request.method() {
        Method::GET | Method::POST | Method::PUT | Method::PATCH | Method::DELETE | Method::HEAD | Method::OPTIONS => {
            request.method().as_str()
        }
        _ => "other",
    };
    [LONG.contains(&first).to_string(), method.to_owned(), shown, server.to_owned()]
}

async fn counted(labels: [String; 4], answer: impl Future<Output = Response<Body>>) -> Response<Body> {
    let metrics = crate::metrics::metrics();
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    let in_flight = metrics.http_in_flight.with_label_values(&labels);
    in_flight.inc();
    let began = tokio::time::Instant::now();
    let answer = answer.await;
    in_flight.dec();
    metrics.http_requests.with_label_values(&labels).inc();
    metrics.http_seconds.with_label_values(&labels).observe(began.elapsed().as_secs_f64());
    answer
}

async fn dispatch(kubelet: Shared, request: Request<Incoming>, read_only: bool) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let Some(route) = find(&path) else { return text(StatusCode::NOT_FOUND, "404 page not found\n") };
    let debugging = kubelet.config.kubelet.enable_debugging_handlers;
    if route.debugging && !debugging {
        return text(StatusCode::METHOD_NOT_ALLOWED, "Debug endpoints are disabled.");
    }
    if read_only && (route.debugging || request.method() != Method::GET) {
        return text(StatusCode::NOT_FOUND, "404 page not found\n");
    }
    let rest = path[route.prefix.len().min(path.len())..].split('/').filter(|part| !part.is_empty()).map(decode).collect();
    let query = request.uri().query().unwrap_or("").split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(key), decode(value))
    });
    let query = query.collect();
    (route.handler)(Call { kubelet, request, rest, query }).await
}

/// Decodes `%41` and `+`.
pub fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = (bytes[at] == b'%')
            .then(|| text.get(at + 1..at + 3))
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (hex, bytes[at]) {
            (Some(byte), _) => {
                out.push(byte);
                at += 3;
            }
            (None, b'+') => {
                out.push(b' ');
                at += 1;
            }
            (None, byte) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn checks(kubelet: &Shared) -> Checks {
    let checks = Checks::new();
    let healthy = kubelet.node.pleg_healthy.load(std::sync::atomic::Ordering::Relaxed);
    checks.add("log", || Ok(()));
    checks.add("syncloop", move || if healthy { Ok(()) } else { Err("the runtime could not be looked at for long".into()) });
    checks
}

fn health(call: Call) -> BoxFuture<'static, Response<Body>> {
    Box::pin(async move { respond(serve::standard(&call.request, &checks(&call.kubelet))) })
}

/// A whole answer.
pub fn respond(response: Option<Response<Full<Bytes>>>) -> Response<Body> {
    match response {
        Some(response) => response.map(|body| body.boxed()),
        None => text(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}

/// An answer of text.
pub fn text(code: StatusCode, body: impl Into<String>) -> Response<Body> {
    respond(Some(serve::text(code, "text/plain; charset=utf-8", body.into())))
}

/// An answer of JSON.
pub fn json(value: &impl serde::Serialize) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(body) => respond(Some(serve::text(StatusCode::OK, "application/json", body))),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_find_their_route_and_subresource() {
        for (path, subresource) in [
            ("/healthz", Some("healthz")),
            ("/healthz/ping", Some("healthz")),
            ("/metrics/resource", Some("metrics")),
            ("/metrics", Some("metrics")),
            ("/containerLogs/ns/p/c", Some("proxy")),
            ("/pods", Some("pods")),
            ("/podsx", None),
            ("/exec/a/b/c", Some("proxy")),
            ("/logs/x", Some("log")),
            ("/", None),
        ] {
            assert_eq!(find(path).map(|route| route.subresource), subresource, "{path}");
        }
        for (path, label) in
            [("/pods", "pods"), ("/metrics/cadvisor", "metrics/cadvisor"), ("/exec/a/b/c", "exec"), ("/nonsense/1", "other")]
        {
            let request = Request::get(path).body(()).unwrap();
            assert_eq!(metrics_labels(&request, "readwrite")[2], label);
        }
        assert_eq!(decode("a%20b+c%2Fd%"), "a b c/d%");
    }
}

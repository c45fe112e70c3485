//! From a request to a backend's answer: headers, retries before anything was sent, upgrades.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use component::metrics::prometheus::{self, HistogramVec, IntCounterVec};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, StatusCode, Uri, Version};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};

use crate::table::{Backend, Route, Rule, Table};

/// A backend that does not take a connection by then is passed by.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A backend whose answer has not begun by then is given up. ingress-nginx: proxy-read-timeout, 60 s.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Idle connections kept to one backend.
const IDLE: usize = 32;
/// Backends tried for one request.
const TRIES: usize = 3;
/// Both halves of an upgraded connection idle so long: it is cut.
const UPGRADE_BUFFER: usize = 16 * 1024;

/// Headers that concern one connection only.
const HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// What is answered with.
pub type Body = BoxBody<Bytes, hyper::Error>;

static REQUESTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let made = prometheus::register_int_counter_vec!(
        "rk_ingress_requests_total",
        "Requests answered, by Ingress and status code.",
        &["ingress", "code"]
    );
    made.expect("the name is registered once")
});
static DURATION: LazyLock<HistogramVec> = LazyLock::new(|| {
    let made = prometheus::register_histogram_vec!(
        "rk_ingress_request_duration_seconds",
        "Time until the answer's head, by Ingress.",
        &["ingress"]
    );
    made.expect("the name is registered once")
});

/// The proxy; cheap to clone.
#[derive(Clone)]
pub struct Proxy {
    table: Arc<ArcSwap<Table>>,
    http1: Client<HttpConnector, Body>,
    http2: Client<HttpConnector, Body>,
    https_port: u16,
}

/// How a request came.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// The client.
    pub peer: SocketAddr,
    /// Whether by TLS.
    pub tls: bool,
}

impl Proxy {
    /// Routes by `table`; `https_port` is where HTTP is redirected to.
    pub fn new(table: Arc<ArcSwap<Table>>, https_port: u16) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_nodelay(true);
        let mut builder = Client::builder(TokioExecutor::new());
        builder.pool_timer(TokioTimer::new()).pool_idle_timeout(Duration::from_secs(60)).pool_max_idle_per_host(IDLE);
        let http1 = builder.build(connector.clone());
        let http2 = builder.http2_only(true).build(connector);
        Self { table, http1, http2, https_port }
    }

    /// Answers a request.
    pub async fn handle(&self, request: Request<Incoming>, arrival: Arrival) -> Response<Body> {
        let started = Instant::now();
        let table = self.table.load_full();
        let host = host_of(&request);
        let name = host.as_deref().map(without_port).unwrap_or_default().to_owned();
        let (ingress, response) = match table.route(&name, request.uri().path()) {
            Route::None => (String::new(), told(StatusCode::NOT_FOUND, "404 page not found\n")),
            Route::To(rule, rewritten) => {
                let answer = match self.redirect(&table, rule, &name, &request, arrival) {
                    Some(redirect) => redirect,
                    None => self.forward(rule, rewritten, host, request, arrival).await,
                };
                (rule.ingress.to_string(), answer)
            }
        };
        REQUESTS.with_label_values(&[ingress.as_str(), response.status().as_str()]).inc();
        DURATION.with_label_values(&[ingress.as_str()]).observe(started.elapsed().as_secs_f64());
        response
    }

    /// An answer that the Ingress wants without asking the backend.
    fn redirect(
        &self,
        table: &Table,
        rule: &Rule,
        host: &str,
        request: &Request<Incoming>,
        arrival: Arrival,
    ) -> Option<Response<Body>> {
        let settings = &rule.settings;
        let to = |code: u16, location: String| {
            let mut response = told(StatusCode::from_u16(code).unwrap_or(StatusCode::FOUND), "");
            response.headers_mut().insert(header::LOCATION, HeaderValue::from_str(&location).ok()?);
            Some(response)
        };
        let secure = settings.force_ssl_redirect || (settings.ssl_redirect && table.has_certificate(host));
        if !arrival.tls && secure && !host.is_empty() {
            let port = if self.https_port == 443 { String::new() } else { format!(":{}", self.https_port) };
            let path = request.uri().path_and_query().map_or("/", PathAndQuery::as_str);
            return to(308, format!("https://{host}{port}{path}"));
        }
        if let Some((code, location)) = &settings.redirect {
            return to(*code, location.clone());
        }
        match &settings.app_root {
            Some(root) if request.uri().path() == "/" => to(302, root.clone()),
            _ => None,
        }
    }

    async fn forward(
        &self,
        rule: &Rule,
        rewritten: Option<String>,
        host: Option<String>,
        mut request: Request<Incoming>,
        arrival: Arrival,
    ) -> Response<Body> {
        let upgrade = request.headers().get(header::UPGRADE).cloned().filter(|_| request.version() == Version::HTTP_11);
        let client_side = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
        let path = match target(&request, rewritten) {
            Ok(path) => path,
            Err(error) => return told(StatusCode::BAD_REQUEST, format!("400 bad request: {error}\n")),
        };
        let (mut head, body) = request.into_parts();
        headers(&mut head.headers, host.as_deref(), arrival, upgrade.as_ref(), rule.settings.http2);
        head.version = if rule.settings.http2 { Version::HTTP_2 } else { Version::HTTP_11 };
        // A request is sent anew only where nothing of it can have been used up.
        let empty = http_body::Body::is_end_stream(&body);
        let mut body = Some(body.boxed());
        let targets = authorities(&rule.backend);
        if targets.is_empty() {
            return told(StatusCode::SERVICE_UNAVAILABLE, "503 service temporarily unavailable: it has no ready endpoints\n");
        }
        let client = if rule.settings.http2 { &self.http2 } else { &self.http1 };
        let mut failure = String::new();
        for authority in targets.iter().take(TRIES) {
            let Some(body) = body.take().or_else(|| empty.then(nothing)) else { break };
            let mut attempt = Request::new(body);
            *attempt.method_mut() = head.method.clone();
            *attempt.version_mut() = head.version;
            *attempt.headers_mut() = head.headers.clone();
            let uri = Uri::builder().scheme(Scheme::HTTP).authority(authority.clone()).path_and_query(path.clone()).build();
            let Ok(uri) = uri else { return told(StatusCode::BAD_REQUEST, "400 bad request\n") };
            *attempt.uri_mut() = uri;
            match tokio::time::timeout(ANSWER_TIMEOUT, client.request(attempt)).await {
                Ok(Ok(answer)) => return finish(answer, client_side),
                Ok(Err(error)) => {
                    failure = component::chain(&error);
                    tracing::debug!(backend = %rule.backend.name, endpoint = %authority, err = failure, "A backend failed");
                    if !error.is_connect() && !empty {
                        break;
                    }
                }
                Err(_) => return told(StatusCode::GATEWAY_TIMEOUT, "504 gateway timeout: the service did not answer in 60 s\n"),
            }
        }
        tracing::warn!(backend = %rule.backend.name, err = failure, "No endpoint answered");
        told(StatusCode::BAD_GATEWAY, "502 bad gateway: no endpoint of the service answered\n")
    }
}

/// The endpoints in the order to try, the next in turn first.
fn authorities(backend: &Backend) -> Vec<Authority> {
    if let Some(external) = &backend.external {
        return external.parse().into_iter().collect();
    }
    let count = backend.endpoints.len();
    if count == 0 {
        return Vec::new();
    }
    let first = backend.next.fetch_add(1, Ordering::Relaxed);
    (0..count).filter_map(|index| backend.endpoints[(first.wrapping_add(index)) % count].to_string().parse().ok()).collect()
}

/// `host[:port]` as the client said it.
fn host_of(request: &Request<Incoming>) -> Option<String> {
    let said = request.uri().authority().map(|authority| authority.as_str().to_owned());
    said.or_else(|| request.headers().get(header::HOST)?.to_str().ok().map(str::to_owned))
}

fn without_port(host: &str) -> &str {
    match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    }
}

fn target(request: &Request<Incoming>, rewritten: Option<String>) -> Result<PathAndQuery, http::uri::InvalidUri> {
    let given = request.uri().path_and_query();
    match rewritten {
        None => Ok(given.cloned().unwrap_or_else(|| PathAndQuery::from_static("/"))),
        Some(path) => match given.and_then(PathAndQuery::query) {
            Some(query) if !path.contains('?') => format!("{path}?{query}").parse(),
            _ => path.parse(),
        },
    }
}

/// Headers for the backend: those of one connection go, those that tell of the client come.
fn headers(headers: &mut HeaderMap, host: Option<&str>, arrival: Arrival, upgrade: Option<&HeaderValue>, http2: bool) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    // gRPC asks for trailers with `te`, which HTTP/2 allows.
    let trailers = http2 && headers.get(header::TE).is_some_and(|te| te == "trailers");
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    if let Some(upgrade) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, upgrade.clone());
    }
    let mut set = |name: &'static str, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    let peer = match arrival.peer.ip().to_canonical() {
        ip if ip.is_unspecified() => String::new(),
        ip => ip.to_string(),
    };
    // As ingress-nginx: what clients claim is not believed.
    set("x-real-ip", &peer);
    set("x-forwarded-for", &peer);
    set("x-forwarded-proto", if arrival.tls { "https" } else { "http" });
    set("x-forwarded-scheme", if arrival.tls { "https" } else { "http" });
    set("x-scheme", if arrival.tls { "https" } else { "http" });
    if let Some(host) = host {
        set("x-forwarded-host", host);
        if !http2 {
            set("host", host);
        }
    }
}

/// The backend's answer on its way back; an upgrade joins the two connections.
fn finish(mut answer: Response<Incoming>, client_side: Option<hyper::upgrade::OnUpgrade>) -> Response<Body> {
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        let Some(client_side) = client_side else {
            return told(StatusCode::BAD_GATEWAY, "502 bad gateway: the service switched protocols unasked\n");
        };
        let server_side = hyper::upgrade::on(&mut answer);
        tokio::spawn(async move {
            let (Ok(client), Ok(server)) = tokio::join!(client_side, server_side) else { return };
            let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
            let _ = tokio::io::copy_bidirectional_with_sizes(&mut client, &mut server, UPGRADE_BUFFER, UPGRADE_BUFFER).await;
        });
    } else {
        for name in &HOP_BY_HOP {
            if *name != header::TRAILER {
                answer.headers_mut().remove(name);
            }
        }
    }
    answer.map(BodyExt::boxed)
}

fn nothing() -> Body {
    Full::new(Bytes::new()).map_err(|never| match never {}).boxed()
}

/// An answer of our own.
pub fn told(code: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(text.into()).map_err(|never| match never {}).boxed());
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

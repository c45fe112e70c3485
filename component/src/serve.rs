//! The HTTP server of components other than kube-apiserver: health, metrics, and (kubelet) more.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use crate::health::Checks;
use crate::tasks::Tasks;
use crate::tls::Serving;

/// Connections served at once; more wait in the listen queue. Each costs a few tens of KB.
const MAX_CONNECTIONS: usize = 2_000;
/// A client that has not finished its TLS handshake or sent its request head by then is cut.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Who is at the other end; found in the request's extensions.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// Its certificate chain, leaf first, not verified (see [`tls_config`]); empty without one.
    pub certificates: Arc<Vec<CertificateDer<'static>>>,
}

/// A TLS configuration with `serving`'s certificate and HTTP/2 and 1.1. Client certificates are asked for and accepted
/// unverified where `ask_client` is set: whoever authenticates must verify the chain in [`Peer`].
pub fn tls_config(
    serving: Arc<Serving>,
    verifier: Option<Arc<dyn rustls::server::danger::ClientCertVerifier>>,
) -> Arc<ServerConfig> {
    let builder = ServerConfig::builder();
    let mut config = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    }
    .with_cert_resolver(serving);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}

/// Serves `handler` on `listener` (TLS where `tls` is given) until `tasks` stop. Upgrades (WebSocket, SPDY) work on HTTP/1.1.
///
/// The returned address is the bound one.
///
/// # Errors
/// The listener has no address.
pub fn serve<H, F, B>(
    tasks: &Tasks,
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    handler: H,
) -> std::io::Result<SocketAddr>
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let address = listener.local_addr()?;
    let acceptor = tls.map(TlsAcceptor::from);
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let (stop, inner) = (tasks.token(), tasks.clone());
    tasks.spawn("server", async move {
        loop {
            let Ok(slot) = slots.clone().acquire_owned().await else { return };
            let stream = tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    // Out of descriptors, or the client went away: either passes.
                    Err(error) => {
                        tracing::debug!(err = %error, "Failed to accept a connection");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                },
            };
            let (acceptor, handler, stop) = (acceptor.clone(), handler.clone(), stop.clone());
            inner.spawn("connection", async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = connection(stream, acceptor, handler) => {}
                }
                drop(slot);
            });
        }
    });
    Ok(address)
}

async fn connection<H, F, B>(stream: TcpStream, acceptor: Option<TlsAcceptor>, handler: H)
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let Ok(address) = stream.peer_addr() else { return };
    let _ = stream.set_nodelay(true);
    match acceptor {
        None => drive(stream, Peer { address, certificates: Arc::default() }, handler).await,
        Some(acceptor) => {
            let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await else { return };
            let certificates: Vec<_> =
                stream.get_ref().1.peer_certificates().unwrap_or_default().iter().map(|cert| cert.clone().into_owned()).collect();
            drive(stream, Peer { address, certificates: Arc::new(certificates) }, handler).await;
        }
    }
}

async fn drive<S, H, F, B>(stream: S, peer: Peer, handler: H)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer.clone());
        let response = handler(request);
        async move { Ok::<_, Infallible>(response.await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HANDSHAKE_TIMEOUT);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(Some(Duration::from_secs(30)));
    let _ = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
}

/// Answers `/healthz`, `/livez`, `/readyz` (with sub-paths, `verbose`, `exclude`), `/metrics` and `/version`; `None` for other paths.
pub fn standard<T>(request: &Request<T>, checks: &Checks) -> Option<Response<Full<Bytes>>> {
    let path = request.uri().path();
    let query = request.uri().query().unwrap_or("");
    let first = path.trim_start_matches('/').split('/').next().unwrap_or("");
    let (code, kind, body) = match first {
        "healthz" | "livez" | "readyz" => {
            let only = path.trim_start_matches('/').trim_end_matches('/').split_once('/').map(|(_, rest)| rest);
            let exclude: Vec<String> =
                query.split('&').filter_map(|pair| pair.strip_prefix("exclude=").map(str::to_owned)).collect();
            let verbose = query.split('&').any(|pair| pair == "verbose" || pair.starts_with("verbose="));
            let (code, body) = checks.answer(first, only, &exclude, verbose);
            (code, "text/plain; charset=utf-8", body)
        }
        "metrics" if path == "/metrics" => (200, "text/plain; version=0.0.4; charset=utf-8", crate::metrics::render()),
        "version" => (200, "application/json", crate::version::info().to_string()),
        _ => return None,
    };
    Some(text(StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), kind, body))
}

/// A whole response of text.
pub fn text(code: StatusCode, content_type: &str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = code;
    if let Ok(value) = content_type.parse() {
        response.headers_mut().insert(http::header::CONTENT_TYPE, value);
    }
    response.headers_mut().insert("x-content-type-options", http::HeaderValue::from_static("nosniff"));
    response
}

//! TCP and TLS to the API server, with a client certificate that follows its files.
//!
//! When the certificate is replaced, connections made with the old one are cut, so that the new one is used at once.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::ServerName;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tower::Service;

/// TCP and TLS must be through by then.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How often the certificate files are looked at.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// A client certificate read from files.
#[derive(Debug)]
pub struct Identity {
    cert: PathBuf,
    key: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    pair: Arc<CertifiedKey>,
    stamp: Option<SystemTime>,
    checked: Instant,
    /// Cancelled when `pair` is replaced: ends the connections that were made with it.
    generation: CancellationToken,
}

impl Identity {
    /// Reads the files now, and again when they change.
    ///
    /// # Errors
    /// The files cannot be used.
    pub fn follow(cert: &Path, key: &Path) -> Result<Arc<Self>, component::tls::TlsError> {
        let pair = Arc::new(component::tls::key_pair(cert, key)?);
        let state = State { pair, stamp: modified(cert), checked: Instant::now(), generation: CancellationToken::new() };
        let this = Arc::new(Self { cert: cert.to_owned(), key: key.to_owned(), state: Mutex::new(state) });
        let weak = Arc::downgrade(&this);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(CHECK_INTERVAL).await;
                let Some(this) = weak.upgrade() else { return };
                this.current();
            }
        });
        Ok(this)
    }

    /// The certificate to use, and the token of its generation.
    fn current(&self) -> (Arc<CertifiedKey>, CancellationToken) {
        let mut state = self.state.lock();
        if state.checked.elapsed() >= CHECK_INTERVAL {
            state.checked = Instant::now();
            let stamp = modified(&self.cert);
            if stamp != state.stamp {
                match component::tls::key_pair(&self.cert, &self.key) {
                    Ok(pair) => {
                        state.pair = Arc::new(pair);
                        state.stamp = stamp;
                        std::mem::take(&mut state.generation).cancel();
                        tracing::info!(file = %self.cert.display(), "Reloaded client certificate");
                    }
                    Err(error) => tracing::warn!(err = %error, "Kept the old client certificate"),
                }
            }
        }
        (state.pair.clone(), state.generation.clone())
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|meta| meta.modified()).ok()
}

impl ResolvesClientCert for Identity {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current().0)
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Makes connections for hyper's pool.
#[derive(Clone)]
pub struct Connector {
    tls: TlsConnector,
    identity: Option<Arc<Identity>>,
    server_name: Option<String>,
}

impl Connector {
    /// A connector with this TLS configuration; `server_name` overrides the host for verification.
    pub fn new(tls: Arc<ClientConfig>, identity: Option<Arc<Identity>>, server_name: Option<String>) -> Self {
        Self { tls: TlsConnector::from(tls), identity, server_name }
    }

    async fn connect(self, uri: Uri) -> io::Result<Stream> {
        let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("{what} in {uri}"));
        let host = uri.host().ok_or_else(|| invalid("no host"))?.trim_start_matches('[').trim_end_matches(']').to_owned();
        let secure = uri.scheme_str() != Some("http");
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let generation = self.identity.as_ref().map(|identity| identity.current().1).unwrap_or_default();
        let tcp = TcpStream::connect((host.as_str(), port)).await?;
        tcp.set_nodelay(true)?;
        let inner = if secure {
            let name = self.server_name.unwrap_or(host);
            let name = ServerName::try_from(name).map_err(|_| invalid("bad server name"))?;
            Inner::Tls(Box::new(TokioIo::new(self.tls.connect(name, tcp).await?)))
        } else {
            Inner::Plain(TokioIo::new(tcp))
        };
        Ok(Stream { inner, revoked: Box::pin(generation.cancelled_owned()) })
    }
}

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = self.clone().connect(uri);
        Box::pin(async move {
            tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
        })
    }
}

enum Inner {
    Plain(TokioIo<TcpStream>),
    Tls(Box<TokioIo<TlsStream<TcpStream>>>),
}

/// A connection that ends when the certificate it was made with is replaced.
pub struct Stream {
    inner: Inner,
    revoked: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        let h2 = matches!(&self.inner, Inner::Tls(tls) if tls.inner().get_ref().1.alpn_protocol() == Some(b"h2"));
        if h2 { Connected::new().negotiated_h2() } else { Connected::new() }
    }
}

impl Read for Stream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        if self.revoked.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, "client certificate was replaced")));
        }
        match &mut self.inner {
            Inner::Plain(io) => Pin::new(io).poll_read(context, buffer),
            Inner::Tls(io) => Pin::new(io.as_mut()).poll_read(context, buffer),
        }
    }
}

impl Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.inner {
            Inner::Plain(io) => Pin::new(io).poll_write(context, bytes),
            Inner::Tls(io) => Pin::new(io.as_mut()).poll_write(context, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.inner {
            Inner::Plain(io) => Pin::new(io).poll_flush(context),
            Inner::Tls(io) => Pin::new(io.as_mut()).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.inner {
            Inner::Plain(io) => Pin::new(io).poll_shutdown(context),
            Inner::Tls(io) => Pin::new(io.as_mut()).poll_shutdown(context),
        }
    }
}

//! HTTP to kubelets (with the server's client certificate) and, for `proxy`, to pods.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use auth::authn::x509::any_server_cert;
use bytes::Bytes;
use component::tls;
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::config::Config;

/// A request's body on the way to a backend.
pub type Outgoing = BoxBody<Bytes, hyper::Error>;

/// Connects to backends.
pub struct KubeletClient {
    kubelet: Arc<ClientConfig>,
    workload: Arc<ClientConfig>,
    timeout: Duration,
}

impl KubeletClient {
    /// Of the `--kubelet-*` flags.
    ///
    /// # Errors
    /// Unusable files.
    pub fn new(config: &Config) -> anyhow::Result<Self> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = || {
            ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().context("no TLS versions")
        };
        let trusting = || -> anyhow::Result<_> { Ok(builder()?.dangerous().with_custom_certificate_verifier(any_server_cert())) };
        let kubelet = match &config.kubelet_ca {
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for certificate in tls::certificates(path)? {
                    roots.add(certificate).with_context(|| format!("unusable certificate in {}", path.display()))?;
                }
                builder()?.with_root_certificates(roots)
            }
            // As upstream: kubelets' certificates are self-signed unless an authority is named.
            None => trusting()?,
        };
        let kubelet = match &config.kubelet_client {
            Some((cert, key)) => {
                let pair = tls::key_pair(cert, key)?;
                kubelet.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(pair)))
            }
            None => kubelet.with_no_client_auth(),
        };
        Ok(Self {
            kubelet: Arc::new(kubelet),
            workload: Arc::new(trusting()?.with_no_client_auth()),
            timeout: config.kubelet_timeout,
        })
    }

    /// Sends a request to a kubelet over a connection of its own (log streams and upgrades keep theirs).
    ///
    /// # Errors
    /// What went wrong, for the client to read.
    pub async fn send(&self, host: &str, port: u16, request: Request<Outgoing>) -> Result<Response<Incoming>, String> {
        self.over(Some(self.kubelet.clone()), host, port, request).await
    }

    /// Sends a request to a pod or Service endpoint.
    ///
    /// # Errors
    /// As [`KubeletClient::send`].
    pub async fn send_to_workload(
        &self,
        host: &str,
        port: u16,
        tls: bool,
        request: Request<Outgoing>,
    ) -> Result<Response<Incoming>, String> {
        self.over(tls.then(|| self.workload.clone()), host, port, request).await
    }

    async fn over(
        &self,
        tls: Option<Arc<ClientConfig>>,
        host: &str,
        port: u16,
        request: Request<Outgoing>,
    ) -> Result<Response<Incoming>, String> {
        let dial = async {
            let stream = TcpStream::connect((host, port)).await.map_err(|error| format!("dial tcp {host}:{port}: {error}"))?;
            let _ = stream.set_nodelay(true);
            let Some(tls) = tls else { return Ok((Some(stream), None)) };
            let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
            let stream = TlsConnector::from(tls).connect(name, stream).await.map_err(|error| error.to_string())?;
            Ok::<_, String>((None, Some(stream)))
        };
        let dialled = tokio::time::timeout(self.timeout.max(Duration::from_secs(1)) * 2, dial).await;
        match dialled.map_err(|_| format!("dial tcp {host}:{port}: i/o timeout"))?? {
            (_, Some(stream)) => exchange(TokioIo::new(stream), request).await,
            (Some(stream), None) => exchange(TokioIo::new(stream), request).await,
            (None, None) => Err("no connection".to_owned()),
        }
    }
}

async fn exchange<S>(stream: S, request: Request<Outgoing>) -> Result<Response<Incoming>, String>
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.map_err(|error| error.to_string())?;
    // Ends with the exchange: the response's body or the upgraded stream holds the connection.
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(err = %error, "A connection to a backend ended");
        }
    });
    sender.send_request(request).await.map_err(|error| error.to_string())
}

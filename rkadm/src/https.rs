//! One HTTPS GET at a time, with as much trust as the caller decides: for health checks and discovery, where there is no kubeconfig yet.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use http::{Method, Request};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;

/// Whom to believe.
#[derive(Clone, Debug)]
pub enum Trust {
    /// Anybody: only for health of this host's own daemons, and for discovery before its signature is checked.
    Anybody,
    /// Servers with a certificate of these authorities (PEM).
    Authorities(Vec<u8>),
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

/// Largest answer that is read: a ConfigMap is at most 1 MiB, its JSON form may be twice that.
const MAX_BODY: usize = 3 << 20;

/// GET `path` from `host:port`. `http` addresses (`plain`) skip TLS.
pub async fn get(endpoint: &str, path: &str, trust: &Trust, bearer: Option<&str>, timeout: Duration) -> anyhow::Result<Answer> {
    tokio::time::timeout(timeout, async {
        let parsed = crate::endpoint::parse(endpoint).with_context(|| format!("{endpoint:?} is not HOST:PORT"))?;
        let port = parsed.port.unwrap_or(6443);
        let stream =
            TcpStream::connect((parsed.host.as_str(), port)).await.with_context(|| format!("cannot connect to {endpoint}"))?;
        let name = ServerName::try_from(parsed.host.clone()).context("not a server name")?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(client_config(trust)?));
        let stream =
            connector.connect(name, stream).await.with_context(|| format!("the TLS handshake with {endpoint} failed"))?;
        exchange(TokioIo::new(stream), endpoint, path, bearer).await
    })
    .await
    .with_context(|| format!("{endpoint} did not answer within {timeout:?}"))?
}

/// GET over plain HTTP, for health endpoints on loopback.
pub async fn get_plain(endpoint: &str, path: &str, timeout: Duration) -> anyhow::Result<Answer> {
    tokio::time::timeout(timeout, async {
        let stream = TcpStream::connect(endpoint).await.with_context(|| format!("cannot connect to {endpoint}"))?;
        exchange(TokioIo::new(stream), endpoint, path, None).await
    })
    .await
    .with_context(|| format!("{endpoint} did not answer within {timeout:?}"))?
}

async fn exchange<S>(stream: S, host: &str, path: &str, bearer: Option<&str>) -> anyhow::Result<Answer>
where
    S: hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
    // The connection is driven here and dropped with the answer, so nothing outlives this call.
    let mut request = Request::builder().method(Method::GET).uri(path).header("host", host).header("user-agent", agent());
    if let Some(token) = bearer {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let request = request.body(Empty::<bytes::Bytes>::new())?;
    let answer = async move {
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let body = match Limited::new(response.into_body(), MAX_BODY).collect().await {
            Ok(body) => body.to_bytes().to_vec(),
            Err(e) => bail!("reading the answer: {e}"),
        };
        Ok(Answer { status, body })
    };
    tokio::select! {
        biased;
        answer = answer => answer,
        closed = connection => {
            closed?;
            bail!("the connection closed without an answer")
        }
    }
}

fn agent() -> String {
    component::version::user_agent("rkadm")
}

fn client_config(trust: &Trust) -> anyhow::Result<rustls::ClientConfig> {
    let builder = rustls::ClientConfig::builder();
    Ok(match trust {
        Trust::Anybody => builder.dangerous().with_custom_certificate_verifier(Arc::new(Believer::new())).with_no_client_auth(),
        Trust::Authorities(pem) => {
            let mut roots = rustls::RootCertStore::empty();
            for certificate in pki::Certificate::chain_from_pem(pem)? {
                roots.add(CertificateDer::from(certificate.der().to_vec()))?;
            }
            builder.with_root_certificates(roots).with_no_client_auth()
        }
    })
}

/// Believes every certificate. What it fetches is public or proven by other means (a signature, a pin).
#[derive(Debug)]
struct Believer(rustls::crypto::WebPkiSupportedAlgorithms);

impl Believer {
    fn new() -> Believer {
        Believer(rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms)
    }
}

impl ServerCertVerifier for Believer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.supported_schemes()
    }
}

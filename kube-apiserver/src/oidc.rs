//! Fetches the keys of OpenID issuers, for [`auth::authn::oidc`].

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use auth::authn::oidc::Oidc;
use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Between tries while the issuer is away, and the shortest time between two fetches. Upstream: 10 s.
const PAUSE: Duration = Duration::from_secs(10);
/// After so long the keys are fetched again though nobody asked.
const REFRESH: Duration = Duration::from_secs(600);
/// Of one exchange.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Largest document.
const MOST: usize = 1 << 20;
/// Where Linux distributions keep the authorities that the system trusts.
const SYSTEM: &[&str] = &["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// Keeps the keys of one issuer until dropped.
pub async fn run(oidc: Arc<Oidc>) {
    loop {
        match fetch(&oidc).await {
            Ok(()) => {
                tokio::time::sleep(PAUSE / 10).await;
                let _ = tokio::time::timeout(REFRESH, oidc.wanted.notified()).await;
            }
            Err(error) => {
                tracing::error!(issuer = oidc.issuer.url, err = %component::chain(error.as_ref()), "oidc authenticator: initializing plugin");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn fetch(oidc: &Oidc) -> anyhow::Result<()> {
    let issuer = &oidc.issuer;
    let tls = client(issuer.ca.as_deref())?;
    let base = issuer
        .discovery_url
        .clone()
        .unwrap_or_else(|| format!("{}/.well-known/openid-configuration", issuer.url.trim_end_matches('/')));
    let document: Value = serde_json::from_slice(&get(&tls, &base).await?).context("the issuer's configuration is no JSON")?;
    let named = document["issuer"].as_str().unwrap_or("");
    ensure!(
        named == issuer.url,
        "oidc: issuer did not match the issuer returned by provider, expected {:?} got {named:?}",
        issuer.url
    );
    let uri = document["jwks_uri"].as_str().context("the issuer's configuration names no jwks_uri")?;
    oidc.set_keys(&get(&tls, uri).await?).map_err(anyhow::Error::msg)
}

fn client(ca: Option<&[u8]>) -> anyhow::Result<TlsConnector> {
    let system = || SYSTEM.iter().find_map(|path| std::fs::read(Path::new(path)).ok());
    let pem = match ca {
        Some(ca) => ca.to_vec(),
        None => system().context("no certificate authorities on this system")?,
    };
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok));
    ensure!(added > 0, "no usable certificate authority");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("no TLS versions")?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

async fn get(tls: &TlsConnector, url: &str) -> anyhow::Result<Bytes> {
    let uri: Uri = url.parse().with_context(|| format!("malformed URL {url:?}"))?;
    ensure!(uri.scheme_str() == Some("https"), "{url:?} is no https URL");
    let host = uri.host().context("a URL without a host")?.trim_matches(['[', ']']).to_owned();
    let exchange = async {
        let stream = TcpStream::connect((host.as_str(), uri.port_u16().unwrap_or(443))).await?;
        let stream = tls.connect(ServerName::try_from(host.clone())?, stream).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // Ends with the exchange.
        tokio::spawn(connection);
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let request = Request::get(path).header("host", authority).header("accept", "application/json, */*");
        let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
        ensure!(response.status().is_success(), "{url} answered {}", response.status());
        let body = Limited::new(response.into_body(), MOST).collect().await.map_err(|error| anyhow::anyhow!("{error}"))?;
        Ok(body.to_bytes())
    };
    tokio::time::timeout(TIMEOUT, exchange)
        .await
        .with_context(|| format!("{url} did not answer in time"))?
        .with_context(|| format!("failed to get {url}"))
}

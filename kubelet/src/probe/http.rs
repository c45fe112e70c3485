//! One HTTP GET as probes and hooks make it: no proxy, no reuse, any certificate. Upstream: pkg/probe/http

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};

/// What to get.
pub struct Target {
    /// TLS.
    pub https: bool,
    /// Address or name.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Path and query.
    pub path: String,
    /// Headers; `Host` replaces the default.
    pub headers: Vec<(String, String)>,
    /// `User-Agent`, unless the headers name one.
    pub user_agent: &'static str,
}

/// Bytes of an answer that are looked at. Upstream: maxRespBodyLength.
const MAX_BODY: usize = 10 * 1024;
/// Redirects followed on the same host. Upstream: 10.
const MAX_REDIRECTS: u32 = 10;

/// Status and the beginning of the body.
///
/// # Errors
/// No answer; in Go's words, as users know them.
pub async fn get(target: &Target, timeout: Duration) -> Result<(u16, String), String> {
    let url = url(target, &target.path);
    match tokio::time::timeout(timeout, follow(target)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(why)) => Err(format!("Get \"{url}\": {why}")),
        Err(_) => Err(format!("Get \"{url}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)")),
    }
}

fn url(target: &Target, path: &str) -> String {
    let slash = if path.starts_with('/') { "" } else { "/" };
    format!("{}://{}{slash}{path}", if target.https { "https" } else { "http" }, authority(&target.host, target.port))
}

async fn follow(target: &Target) -> Result<(u16, String), String> {
    let mut path = target.path.clone();
    for _ in 0..MAX_REDIRECTS {
        let (status, location, body) = once(target, &path).await?;
        match location.filter(|_| matches!(status, 301 | 302 | 303 | 307 | 308)) {
            Some(location) if location.starts_with('/') => path = location,
            // To another host: upstream takes that for a success with a warning.
            _ => return Ok((status, body)),
        }
    }
    Err("stopped after 10 redirects".into())
}

async fn once(target: &Target, path: &str) -> Result<(u16, Option<String>, String), String> {
    let address = authority(&target.host, target.port);
    let stream = tokio::net::TcpStream::connect(&address)
        .await
        .map_err(|error| format!("dial tcp {address}: connect: {}", words(&error)))?;
    if target.https {
        let name = ServerName::try_from(target.host.clone()).map_err(|error| error.to_string())?;
        let stream =
            tokio_rustls::TlsConnector::from(CLIENT.clone()).connect(name, stream).await.map_err(|error| error.to_string())?;
        send(target, path, stream).await
    } else {
        send(target, path, stream).await
    }
}

async fn send(
    target: &Target,
    path: &str,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<(u16, Option<String>, String), String> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let mut request = http::Request::get(path);
    let has = |name: &str| target.headers.iter().any(|(key, _)| key.eq_ignore_ascii_case(name));
    if !has("host") {
        request = request.header("Host", authority(&target.host, target.port));
    }
    if !has("user-agent") {
        request = request.header("User-Agent", target.user_agent);
    }
    if !has("accept") {
        request = request.header("Accept", "*/*");
    }
    for (key, value) in &target.headers {
        request = request.header(key, value);
    }
    let request = request.header("Connection", "close").body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|error| component::chain(&error))?;
        let status = response.status().as_u16();
        let location = response.headers().get("location").and_then(|value| value.to_str().ok()).map(str::to_owned);
        let body = Limited::new(response.into_body(), MAX_BODY).collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        Ok((status, location, String::from_utf8_lossy(&body).into_owned()))
    };
    let mut exchange = std::pin::pin!(exchange);
    let mut connection = std::pin::pin!(connection);
    // The connection is driven by hand: it ends with the exchange.
    tokio::select! {
        answer = &mut exchange => answer,
        ended = &mut connection => match ended {
            Ok(()) => exchange.await,
            Err(error) => Err(component::chain(&error)),
        },
    }
}

/// `host:port`, with brackets where needed.
pub fn authority(host: &str, port: u16) -> String {
    if host.contains(':') && !host.starts_with('[') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Go's words for an error of connecting.
pub fn words(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused".into(),
        std::io::ErrorKind::TimedOut => "connection timed out".into(),
        _ => match error.raw_os_error() {
            Some(libc::EHOSTUNREACH) => "no route to host".into(),
            Some(libc::ENETUNREACH) => "network is unreachable".into(),
            _ => error.to_string(),
        },
    }
}

static CLIENT: LazyLock<Arc<rustls::ClientConfig>> = LazyLock::new(|| {
    component::install_crypto();
    let mut config =
        rustls::ClientConfig::builder().dangerous().with_custom_certificate_verifier(Arc::new(Anything)).with_no_client_auth();
    config.enable_sni = false;
    Arc::new(config)
});

/// A probe asks whether something answers, not who.
#[derive(Debug)]
struct Anything;

impl ServerCertVerifier for Anything {
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
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn serve(answer: &'static str) -> (u16, tokio::task::JoinHandle<String>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = [0; 4096];
            let n = stream.read(&mut buffer).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&buffer[..n]).into_owned()
        });
        (port, task)
    }

    fn target(port: u16) -> Target {
        Target {
            https: false,
            host: "127.0.0.1".into(),
            port,
            path: "/x?y".into(),
            headers: vec![("Host".into(), "h".into())],
            user_agent: "kube-probe/1.36",
        }
    }

    #[tokio::test]
    async fn answers_and_refusals_are_told() {
        let (port, task) = serve("HTTP/1.1 503 No\r\ncontent-length: 2\r\n\r\nhi").await;
        assert_eq!(get(&target(port), Duration::from_secs(5)).await, Ok((503, "hi".into())));
        let request = task.await.unwrap();
        assert!(request.starts_with("GET /x?y HTTP/1.1\r\n") && request.to_lowercase().contains("host: h\r\n"), "{request}");
        let error = get(&target(port), Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(error, format!("Get \"http://127.0.0.1:{port}/x?y\": dial tcp 127.0.0.1:{port}: connect: connection refused"));
    }
}

//! An image registry: one image, whatever it is called, for those who know the password. The image holds this program.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use base64::Engine as _;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use serde_json::json;
use sha2::{Digest, Sha256};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Where to listen. Runtimes speak plain HTTP to 127.0.0.1 only.
    #[arg(long, default_value = "127.0.0.1:5000")]
    listen: SocketAddr,
    /// Who may pull; empty: everybody.
    #[arg(long, default_value = "")]
    user: String,
    /// With which password.
    #[arg(long, default_value = "")]
    password: String,
}

struct Registry {
    wanted: Option<String>,
    layer: Bytes,
    config: Bytes,
    manifest: Bytes,
}

fn digest(data: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(data)))
}

/// A tar archive with one program.
fn tar(name: &str, data: &[u8]) -> Vec<u8> {
    let mut header = [0_u8; 512];
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000755\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{:011o}\0", data.len()));
    put(136, "00000000000\0");
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\0");
    put(263, "00");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut out = header.to_vec();
    out.extend_from_slice(data);
    out.resize(out.len().div_ceil(512) * 512 + 1024, 0);
    out
}

pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let layer = Bytes::from(tar("app", &std::fs::read(std::env::current_exe()?)?));
    let config = json!({
        "architecture": "amd64", "os": "linux",
        "config": {"Entrypoint": ["/app", "health"]},
        "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
    });
    let config = Bytes::from(config.to_string());
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(&config), "size": config.len()},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest(&layer), "size": layer.len()}],
    });
    let pair = format!("{}:{}", arguments.user, arguments.password);
    let wanted =
        (!arguments.user.is_empty()).then(|| format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair)));
    let registry = Arc::new(Registry { wanted, layer, config, manifest: Bytes::from(manifest.to_string()) });
    let listener = tokio::net::TcpListener::bind(arguments.listen).await?;
    println!("serving images on {}", arguments.listen);
    loop {
        let (stream, _) = listener.accept().await?;
        let registry = registry.clone();
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request| {
                let registry = registry.clone();
                async move { Ok::<_, Infallible>(registry.answer(&request)) }
            });
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

impl Registry {
    fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        let given = request.headers().get(http::header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        println!("{} {path} {}", request.method(), if given.is_some() { "with credentials" } else { "without credentials" });
        if self.wanted.is_some() && given != self.wanted.as_deref() {
            return respond(StatusCode::UNAUTHORIZED, "text/plain", Bytes::from("who are you?"), false);
        }
        let head = request.method() == Method::HEAD;
        let last = path.rsplit('/').next().unwrap_or("");
        if path.contains("/manifests/") {
            return respond(StatusCode::OK, "application/vnd.oci.image.manifest.v1+json", self.manifest.clone(), head);
        }
        for blob in [&self.layer, &self.config] {
            if path.contains("/blobs/") && digest(blob) == last {
                return respond(StatusCode::OK, "application/octet-stream", blob.clone(), head);
            }
        }
        let status = if path == "/v2/" || path == "/v2" { StatusCode::OK } else { StatusCode::NOT_FOUND };
        respond(status, "application/json", Bytes::from("{}"), head)
    }
}

fn respond(status: StatusCode, kind: &str, body: Bytes, head: bool) -> Response<Full<Bytes>> {
    let builder = Response::builder()
        .status(status)
        .header("Content-Type", kind)
        .header("Content-Length", body.len())
        .header("Docker-Content-Digest", digest(&body))
        .header("Docker-Distribution-Api-Version", "registry/2.0");
    let builder = match status {
        StatusCode::UNAUTHORIZED => builder.header("WWW-Authenticate", "Basic realm=\"rk-test\""),
        _ => builder,
    };
    let body = if head { Bytes::new() } else { body };
    builder.body(Full::new(body)).unwrap_or_default()
}

//! `https://…:10257`: health for everybody, metrics for those whom the API server lets read them.
//!
//! Upstream: staging/src/k8s.io/apiserver/pkg/server/options (delegated authentication and authorization).

use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use component::health::Checks;
use component::serve::{self, Peer};
use component::tasks::Tasks;
use component::tls::{self, Serving};
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{NonResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};
use rustls::server::WebPkiClientVerifier;
use rustls::{CipherSuite, ServerConfig};
use tokio::net::TcpListener;

use crate::config::Config;
use crate::manager::path;
use crate::options::Options;

/// Binds and serves; `None` when `--secure-port=0`.
///
/// # Errors
/// The port is taken, or certificates cannot be used.
pub async fn start(config: &Config, tasks: &Tasks, checks: Checks) -> anyhow::Result<Option<std::net::SocketAddr>> {
    if config.port == 0 {
        return Ok(None);
    }
    let options = &config.options;
    let serving = if options.tls_cert_file.is_empty() {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        Serving::new(tls::self_signed(vec!["localhost".to_owned(), host.trim().to_lowercase()])?)
    } else {
        Serving::follow(tasks, path(&options.tls_cert_file), path(&options.tls_private_key_file))?
    };
    let verifier = match Config::file(&options.client_ca_file) {
        Some(file) => {
            let mut roots = rustls::RootCertStore::empty();
            for certificate in tls::certificates(&file)? {
                roots
                    .add(certificate)
                    .with_context(|| format!("--client-ca-file: unusable certificate in {}", file.display()))?;
            }
            Some(WebPkiClientVerifier::builder(Arc::new(roots)).allow_unauthenticated().build().context("--client-ca-file")?)
        }
        None => None,
    };
    let reviewer = match Config::file(&options.authentication_kubeconfig) {
        Some(file) => Some(client::connect::from_kubeconfig(&file, "kube-controller-manager").await?),
        None => None,
    };
    let gate = Arc::new(Gate { reviewer, open: options.authorization_always_allow_paths.clone() });
    let address = std::net::SocketAddr::new(config.bind_address, config.port);
    let listener = TcpListener::bind(address).await.with_context(|| format!("failed to listen on {address}"))?;
    let bound = serve::serve(tasks, listener, Some(tls_config(options, serving, verifier)?), move |request| {
        let (gate, checks) = (Arc::clone(&gate), checks.clone());
        async move { gate.answer(request, &checks).await }
    })?;
    Ok(Some(bound))
}

/// TLS as `--tls-min-version`, `--tls-cipher-suites` and `--disable-http2-serving` want it.
fn tls_config(
    options: &Options,
    serving: Arc<Serving>,
    verifier: Option<Arc<dyn rustls::server::danger::ClientCertVerifier>>,
) -> anyhow::Result<Arc<ServerConfig>> {
    let chosen = cipher_suites(&options.tls_cipher_suites).map_err(anyhow::Error::msg)?;
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    // As in Go, the suites of TLS 1.3 cannot be chosen.
    let is_13 = |suite: &rustls::SupportedCipherSuite| suite.tls13().is_some();
    provider.cipher_suites.retain(|suite| chosen.is_empty() || is_13(suite) || chosen.contains(&suite.suite()));
    let versions: &[&rustls::SupportedProtocolVersion] = match options.tls_min_version.as_str() {
        "VersionTLS13" => &[&rustls::version::TLS13],
        _ => &[&rustls::version::TLS13, &rustls::version::TLS12],
    };
    let builder = ServerConfig::builder_with_provider(Arc::new(provider)).with_protocol_versions(versions);
    let builder = builder.context("--tls-cipher-suites, --tls-min-version")?;
    let mut config = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    }
    .with_cert_resolver(serving);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    if options.disable_http2_serving {
        config.alpn_protocols.remove(0);
    }
    Ok(Arc::new(config))
}

/// The suites of these names (Go's and IANA's). Suites that are known and too weak to be offered are left out.
///
/// # Errors
/// A name is no suite's.
pub fn cipher_suites(names: &[String]) -> Result<Vec<CipherSuite>, String> {
    let mut suites = Vec::new();
    for name in names.iter().map(|name| name.trim()).filter(|name| !name.is_empty()) {
        let plain = name.strip_suffix("_SHA256").filter(|_| name.contains("CHACHA20_POLY1305")).unwrap_or(name);
        match SUITES.iter().find(|(known, _)| *known == plain) {
            Some((_, suite)) => suites.extend(*suite),
            None => return Err(format!("--tls-cipher-suites: Cipher suite {name} not supported or doesn't exist")),
        }
    }
    if !names.is_empty() && suites.is_empty() {
        return Err("--tls-cipher-suites: none of the given suites is offered".to_owned());
    }
    Ok(suites)
}

/// What Go knows; without a suite where rustls, for good reasons, does not offer it.
const SUITES: &[(&str, Option<CipherSuite>)] = &[
    ("TLS_AES_128_GCM_SHA256", Some(CipherSuite::TLS13_AES_128_GCM_SHA256)),
    ("TLS_AES_256_GCM_SHA384", Some(CipherSuite::TLS13_AES_256_GCM_SHA384)),
    ("TLS_CHACHA20_POLY1305", Some(CipherSuite::TLS13_CHACHA20_POLY1305_SHA256)),
    ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", Some(CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256)),
    ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", Some(CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384)),
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305", Some(CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256)),
    ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", Some(CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256)),
    ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", Some(CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384)),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305", Some(CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256)),
    ("TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA", None),
    ("TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256", None),
    ("TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA", None),
    ("TLS_ECDHE_ECDSA_WITH_RC4_128_SHA", None),
    ("TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA", None),
    ("TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA", None),
    ("TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256", None),
    ("TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA", None),
    ("TLS_ECDHE_RSA_WITH_RC4_128_SHA", None),
    ("TLS_RSA_WITH_3DES_EDE_CBC_SHA", None),
    ("TLS_RSA_WITH_AES_128_CBC_SHA", None),
    ("TLS_RSA_WITH_AES_128_CBC_SHA256", None),
    ("TLS_RSA_WITH_AES_128_GCM_SHA256", None),
    ("TLS_RSA_WITH_AES_256_CBC_SHA", None),
    ("TLS_RSA_WITH_AES_256_GCM_SHA384", None),
    ("TLS_RSA_WITH_RC4_128_SHA", None),
];

struct Gate {
    reviewer: Option<Client>,
    /// `--authorization-always-allow-paths`.
    open: Vec<String>,
}

struct User {
    name: String,
    groups: Vec<String>,
}

impl Gate {
    async fn answer(&self, request: Request<Incoming>, checks: &Checks) -> Response<Full<Bytes>> {
        let path = request.uri().path().to_owned();
        if !is_open(&self.open, &path) {
            let user = match self.authenticate(&request).await {
                Ok(user) => user,
                Err(()) => return serve::text(StatusCode::UNAUTHORIZED, "text/plain; charset=utf-8", "Unauthorized"),
            };
            if !self.authorized(&user, request.method().as_str(), &path).await {
                let message = format!(
                    "Forbidden: User \"{}\" cannot {} path \"{path}\"",
                    user.name,
                    request.method().as_str().to_lowercase()
                );
                return serve::text(StatusCode::FORBIDDEN, "text/plain; charset=utf-8", message);
            }
        }
        serve::standard(&request, checks)
            .unwrap_or_else(|| serve::text(StatusCode::NOT_FOUND, "text/plain; charset=utf-8", "404 page not found\n"))
    }

    /// Certificate first (the handshake has verified it), then token, else anonymous.
    async fn authenticate(&self, request: &Request<Incoming>) -> Result<User, ()> {
        let certificate = request.extensions().get::<Peer>().and_then(|peer| peer.certificates.first());
        if let Some((_, parsed)) = certificate.and_then(|der| x509_parser::parse_x509_certificate(der).ok()) {
            let strings = |list: Vec<&str>| list.into_iter().map(str::to_owned).collect::<Vec<_>>();
            let names = strings(parsed.subject().iter_common_name().filter_map(|name| name.as_str().ok()).collect());
            let mut groups = strings(parsed.subject().iter_organization().filter_map(|name| name.as_str().ok()).collect());
            groups.push("system:authenticated".to_owned());
            return names.into_iter().next().map(|name| User { name, groups }).ok_or(());
        }
        let token = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        match (token, &self.reviewer) {
            (None, _) => Ok(User { name: "system:anonymous".to_owned(), groups: vec!["system:unauthenticated".to_owned()] }),
            (Some(_), None) => Err(()),
            (Some(token), Some(client)) => {
                let spec = TokenReviewSpec { token: token.to_owned(), ..TokenReviewSpec::default() };
                let review = TokenReview { spec, ..TokenReview::default() };
                let answer =
                    Api::<TokenReview>::all(client.clone()).create(&PostParams::default(), &review).await.map_err(|_| ())?;
                let status = answer.status.filter(|status| status.authenticated == Some(true)).ok_or(())?;
                let user = status.user.unwrap_or_default();
                Ok(User { name: user.username.unwrap_or_default(), groups: user.groups.unwrap_or_default() })
            }
        }
    }

    async fn authorized(&self, user: &User, verb: &str, path: &str) -> bool {
        let Some(client) = &self.reviewer else { return user.groups.iter().any(|group| group == "system:masters") };
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(user.name.clone()),
                groups: Some(user.groups.clone()),
                non_resource_attributes: Some(NonResourceAttributes {
                    path: Some(path.to_owned()),
                    verb: Some(verb.to_lowercase()),
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let answer = Api::<SubjectAccessReview>::all(client.clone()).create(&PostParams::default(), &review).await;
        answer.is_ok_and(|review| review.status.is_some_and(|status| status.allowed))
    }
}

/// Whether a path is allowed without asking; `/foo/*` covers what is below.
fn is_open(open: &[String], path: &str) -> bool {
    open.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => path == pattern,
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn cipher_suites_are_chosen_by_name() {
        let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let strong = "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256";
        let chosen = super::cipher_suites(&names(&[strong, "TLS_RSA_WITH_AES_128_CBC_SHA"])).unwrap();
        assert_eq!(chosen, [rustls::CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]);
        assert_eq!(super::cipher_suites(&names(&["TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"])).unwrap().len(), 1);
        assert!(super::cipher_suites(&names(&["TLS_RSA_WITH_AES_128_CBC_SHA"])).is_err(), "nothing would be left");
        assert!(super::cipher_suites(&names(&["nope"])).is_err());
        assert!(super::cipher_suites(&[]).unwrap().is_empty());
    }

    #[test]
    fn only_the_listed_paths_are_open() {
        let open = ["/healthz".to_owned(), "/debug/*".to_owned()];
        assert!(super::is_open(&open, "/healthz") && super::is_open(&open, "/debug/x"));
        assert!(!super::is_open(&open, "/metrics") && !super::is_open(&open, "/healthz/ping"));
    }
}

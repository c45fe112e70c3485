//! `https://…:10259`: health for everybody, metrics for those whom the API server lets read them.
//!
//! Upstream: apiserver/pkg/server/options (delegated authentication and authorization)

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use component::health::Checks;
use component::serve::{self, Peer};
use component::tasks::Tasks;
use component::tls::{self, Serving};
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{NonResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};
use rustls::server::WebPkiClientVerifier;
use tokio::net::TcpListener;

use crate::options::Options;

/// Binds and serves; the address bound. `ready` is what `/readyz` asks; `/livez` and `/healthz` only say that the process answers,
/// so that an API server that is away does not get the scheduler restarted.
///
/// # Errors
/// The port is taken, or certificates cannot be used.
pub async fn start(options: &Options, address: SocketAddr, tasks: &Tasks, ready: Checks) -> anyhow::Result<SocketAddr> {
    let serving = match (&options.tls_cert_file, &options.tls_private_key_file) {
        (Some(cert), Some(key)) => Serving::follow(tasks, cert, key)?,
        _ => {
            let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
            Serving::new(tls::self_signed(vec!["localhost".to_owned(), host.trim().to_lowercase()])?)
        }
    };
    let verifier = match &options.client_ca_file {
        Some(file) => {
            let mut roots = rustls::RootCertStore::empty();
            for certificate in tls::certificates(file)? {
                roots
                    .add(certificate)
                    .with_context(|| format!("--client-ca-file: unusable certificate in {}", file.display()))?;
            }
            Some(WebPkiClientVerifier::builder(Arc::new(roots)).allow_unauthenticated().build().context("--client-ca-file")?)
        }
        None => None,
    };
    let reviewer = match &options.authentication_kubeconfig {
        Some(file) => Some(client::connect::from_kubeconfig(file, "kube-scheduler").await?),
        None => None,
    };
    let gate = Arc::new(Gate { reviewer, open: options.authorization_always_allow_paths.clone() });
    let listener = TcpListener::bind(address).await.with_context(|| format!("failed to listen on {address}"))?;
    let live = Checks::new();
    let bound = serve::serve(tasks, listener, Some(serve::tls_config(serving, verifier)), move |request| {
        let checks = if request.uri().path().starts_with("/readyz") { ready.clone() } else { live.clone() };
        let gate = gate.clone();
        async move { gate.answer(request, &checks).await }
    })?;
    Ok(bound)
}

struct Gate {
    reviewer: Option<Client>,
    /// `--authorization-always-allow-paths`.
    open: Vec<String>,
}

/// A user's name and groups.
type User = (String, Vec<String>);

impl Gate {
    async fn answer<T>(&self, request: Request<T>, checks: &Checks) -> Response<Full<Bytes>> {
        let path = request.uri().path().to_owned();
        let plain = |code, text: String| serve::text(code, "text/plain; charset=utf-8", text);
        if !is_open(&self.open, &path) {
            let token =
                request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
            let certificate = request.extensions().get::<Peer>().and_then(|peer| peer.certificates.first());
            let user = match certificate.and_then(|der| user_of(der)) {
                Some(user) => Some(user),
                None => self.authenticate(token).await,
            };
            let Some(user) = user else {
                return plain(StatusCode::UNAUTHORIZED, "Unauthorized".to_owned());
            };
            let verb = request.method().as_str().to_lowercase();
            if !self.authorized(&user, &verb, &path).await {
                return plain(StatusCode::FORBIDDEN, format!("Forbidden: User {:?} cannot {verb} path {path:?}", user.0));
            }
        }
        serve::standard(&request, checks).unwrap_or_else(|| plain(StatusCode::NOT_FOUND, "404 page not found\n".to_owned()))
    }

    /// The token's user; the anonymous one without a token; `None` for a bad token.
    async fn authenticate(&self, token: Option<&str>) -> Option<User> {
        let Some(token) = token else {
            return Some(("system:anonymous".to_owned(), vec!["system:unauthenticated".to_owned()]));
        };
        let spec = TokenReviewSpec { token: token.to_owned(), ..TokenReviewSpec::default() };
        let review = TokenReview { spec, ..TokenReview::default() };
        let answer = Api::<TokenReview>::all(self.reviewer.clone()?).create(&PostParams::default(), &review).await.ok()?;
        let user = answer.status.filter(|status| status.authenticated == Some(true))?.user?;
        Some((user.username?, user.groups.unwrap_or_default()))
    }

    async fn authorized(&self, (user, groups): &User, verb: &str, path: &str) -> bool {
        let Some(client) = &self.reviewer else { return false };
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(user.clone()),
                groups: Some(groups.clone()),
                non_resource_attributes: Some(NonResourceAttributes { path: Some(path.to_owned()), verb: Some(verb.to_owned()) }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let answer = Api::<SubjectAccessReview>::all(client.clone()).create(&PostParams::default(), &review).await;
        answer.is_ok_and(|review| review.status.is_some_and(|status| status.allowed))
    }
}

/// Common name and organizations of a certificate that the handshake has verified.
fn user_of(der: &[u8]) -> Option<User> {
    let (_, parsed) = x509_parser::parse_x509_certificate(der).ok()?;
    let name = parsed.subject().iter_common_name().next()?.as_str().ok()?.to_owned();
    let organizations = parsed.subject().iter_organization().filter_map(|name| name.as_str().ok()).map(str::to_owned);
    Some((name, organizations.chain(["system:authenticated".to_owned()]).collect()))
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
    fn only_the_listed_paths_are_open() {
        let open = ["/healthz".to_owned(), "/debug/*".to_owned()];
        assert!(super::is_open(&open, "/healthz") && super::is_open(&open, "/debug/x"));
        assert!(!super::is_open(&open, "/metrics") && !super::is_open(&open, "/healthz/ping"));
    }
}

//! Who may call: certificates, tokens and permissions, asked of the API server and remembered for a while.
//!
//! Upstream: pkg/kubelet/server/auth.go, cmd/kubelet/app/auth.go

use std::collections::HashMap;
use std::time::Duration;

use component::serve::Peer;
use http::{Method, Request, StatusCode};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::Api;
use kube::api::PostParams;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use crate::kubelet::Shared;

/// Answers remembered before old ones are swept.
const SWEEP_AT: usize = 4096;

/// Somebody.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct User {
    name: String,
    uid: String,
    groups: Vec<String>,
}

type Denial = (StatusCode, String);

/// Who a token's digest stands for, and until when that is believed.
type Users = HashMap<[u8; 32], (Instant, Option<User>)>;
/// Whether a user may use a verb on a subresource, and until when that is believed.
type Decisions = HashMap<(User, &'static str, String), (Instant, bool)>;

/// The gate before the routes.
pub struct Gate {
    anonymous: bool,
    tokens: bool,
    webhook: bool,
    token_ttl: Duration,
    allowed_ttl: Duration,
    denied_ttl: Duration,
    users: Mutex<Users>,
    decisions: Mutex<Decisions>,
}

impl Gate {
    /// By the configuration.
    pub fn new(kubelet: &Shared) -> Self {
        let config = &kubelet.config.kubelet;
        let span = |span: Option<crate::config::Span>, seconds| span.map_or(Duration::from_secs(seconds), |span| span.0);
        Self {
            anonymous: config.authentication.anonymous.enabled.unwrap_or(false),
            tokens: config.authentication.webhook.enabled.unwrap_or(false),
            webhook: config.authorization.mode == "Webhook",
            token_ttl: span(config.authentication.webhook.cache_ttl, 120),
            allowed_ttl: span(config.authorization.webhook.cache_authorized_ttl, 300),
            denied_ttl: span(config.authorization.webhook.cache_unauthorized_ttl, 30),
            users: Mutex::default(),
            decisions: Mutex::default(),
        }
    }

    /// Whether the request may go on.
    ///
    /// # Errors
    /// 401, 403, or 500 where the API server does not answer.
    pub async fn check<B>(&self, kubelet: &Shared, request: &Request<B>, subresource: &'static str) -> Result<(), Denial> {
        let user = self.authenticate(kubelet, request).await?.ok_or((StatusCode::UNAUTHORIZED, "Unauthorized".to_owned()))?;
        if !self.webhook {
            return Ok(());
        }
        let verb = verb(request.method());
        // The narrow permission first, then the one for everything.
        for asked in [subresource, "proxy"] {
            if self.allowed(kubelet, &user, verb, asked).await? {
                return Ok(());
            }
            if asked == "proxy" || !matches!(asked, "pods" | "healthz" | "configz") {
                break;
            }
        }
        Err((
            StatusCode::FORBIDDEN,
            format!("Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{subresource}])\n", user.name),
        ))
    }

    async fn authenticate<B>(&self, kubelet: &Shared, request: &Request<B>) -> Result<Option<User>, Denial> {
        if let Some(certificate) = request.extensions().get::<Peer>().and_then(|peer| peer.certificates.first()) {
            // The handshake verified the chain.
            return Ok(of_certificate(certificate));
        }
        let header = request.headers().get(http::header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        match header.and_then(|header| header.strip_prefix("Bearer ")).map(str::trim) {
            Some(token) if self.tokens => self.review(kubelet, token).await,
            Some(_) => Ok(None),
            None if self.anonymous => Ok(Some(User {
                name: "system:anonymous".into(),
                uid: String::new(),
                groups: vec!["system:unauthenticated".into()],
            })),
            None => Ok(None),
        }
    }

    async fn review(&self, kubelet: &Shared, token: &str) -> Result<Option<User>, Denial> {
        let key: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        if let Some((until, user)) = self.users.lock().get(&key).cloned()
            && until > Instant::now()
        {
            return Ok(user);
        }
        let api = kubelet.api.clone().ok_or((StatusCode::UNAUTHORIZED, "Unauthorized".to_owned()))?;
        let review = TokenReview { spec: TokenReviewSpec { token: token.to_owned(), audiences: None }, ..Default::default() };
        let answer = Api::<TokenReview>::all(api).create(&PostParams::default(), &review).await.map_err(unavailable)?;
        let status = answer.status.unwrap_or_default();
        let user = status.user.filter(|_| status.authenticated == Some(true)).map(|user| User {
            name: user.username.unwrap_or_default(),
            uid: user.uid.unwrap_or_default(),
            groups: user.groups.unwrap_or_default(),
        });
        let mut users = self.users.lock();
        let now = Instant::now();
        if users.len() > SWEEP_AT {
            users.retain(|_, (until, _)| *until > now);
        }
        users.insert(key, (now + self.token_ttl, user.clone()));
        Ok(user)
    }

    async fn allowed(&self, kubelet: &Shared, user: &User, verb: &'static str, subresource: &str) -> Result<bool, Denial> {
        let key = (user.clone(), verb, subresource.to_owned());
        if let Some((until, allowed)) = self.decisions.lock().get(&key).copied()
            && until > Instant::now()
        {
            return Ok(allowed);
        }
        let api = kubelet.api.clone().ok_or((StatusCode::FORBIDDEN, "Forbidden".to_owned()))?;
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(user.name.clone()),
                uid: Some(user.uid.clone()).filter(|uid| !uid.is_empty()),
                groups: Some(user.groups.clone()),
                resource_attributes: Some(ResourceAttributes {
                    verb: Some(verb.to_owned()),
                    group: Some(String::new()),
                    version: Some("v1".into()),
                    resource: Some("nodes".into()),
                    subresource: Some(subresource.to_owned()),
                    name: Some(kubelet.config.node_name.clone()),
                    ..Default::default()
                }),
                ..Default::default()
            },
            ..Default::default()
        };
        let answer = Api::<SubjectAccessReview>::all(api).create(&PostParams::default(), &review).await.map_err(unavailable)?;
        let allowed = answer.status.is_some_and(|status| status.allowed);
        let ttl = if allowed { self.allowed_ttl } else { self.denied_ttl };
        let mut decisions = self.decisions.lock();
        let now = Instant::now();
        if decisions.len() > SWEEP_AT {
            decisions.retain(|_, (until, _)| *until > now);
        }
        decisions.insert(key, (now + ttl, allowed));
        Ok(allowed)
    }
}

fn unavailable(error: kube::Error) -> Denial {
    (StatusCode::INTERNAL_SERVER_ERROR, format!("Authorization error: {}\n", crate::objects::message(&error)))
}

fn verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    }
}

fn of_certificate(der: &[u8]) -> Option<User> {
    use x509_parser::prelude::FromDer;
    let (_, certificate) = x509_parser::certificate::X509Certificate::from_der(der).ok()?;
    let name = certificate.subject().iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups = certificate
        .subject()
        .iter_organization()
        .filter_map(|value| value.as_str().ok().map(str::to_owned))
        .chain(["system:authenticated".to_owned()]);
    Some(User { name, uid: String::new(), groups: groups.collect() })
}

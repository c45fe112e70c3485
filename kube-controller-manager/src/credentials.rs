//! One client per controller. With `--use-service-account-credentials` each controller speaks as its own service account of
//! kube-system, so that it can do no more than its role says, and audit logs tell who did what.
//!
//! Upstream: staging/src/k8s.io/controller-manager/pkg/clientbuilder/client_builder_dynamic.go

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Context as _;
use http::{HeaderValue, Request, Response, StatusCode, header};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::client::Body;
use kube::{Api, Client};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tower::{BoxError, Service};

use crate::api_error;

/// Where the controllers' service accounts live.
const NAMESPACE: &str = "kube-system";

/// Asked of the server; it may give less. Upstream: defaultExpirationSeconds, one hour.
const TOKEN_SECONDS: i64 = 3600;

/// Makes clients for controllers.
#[derive(Clone)]
pub enum Clients {
    /// All share the process's own identity.
    Own(Client),
    /// Each has its service account. `anonymous` is a connection without credentials, shared by all; tokens go on top.
    ServiceAccounts { own: Client, anonymous: Client },
}

impl Clients {
    /// A client that speaks as `account`.
    pub fn of(&self, account: &'static str) -> Client {
        match self {
            Clients::Own(client) => client.clone(),
            Clients::ServiceAccounts { own, .. } if account.is_empty() => own.clone(),
            Clients::ServiceAccounts { own, anonymous } => {
                let source = Arc::new(TokenSource { client: own.clone(), account, token: Mutex::default() });
                Client::new(Authenticated { inner: anonymous.clone(), source }, "default")
            }
        }
    }
}

struct TokenSource {
    client: Client,
    account: &'static str,
    token: Mutex<Option<Token>>,
}

#[derive(Clone)]
struct Token {
    header: HeaderValue,
    refresh_at: Instant,
}

impl TokenSource {
    /// A valid token; asks for one, and creates the service account, where needed. Callers wait for one request together.
    async fn header(&self) -> anyhow::Result<HeaderValue> {
        let mut current = self.token.lock().await;
        if let Some(token) = current.as_ref().filter(|token| token.refresh_at > Instant::now()) {
            return Ok(token.header.clone());
        }
        let token = self
            .request()
            .await
            .with_context(|| format!("failed to get a token for service account {NAMESPACE}/{}", self.account))?;
        Ok(current.insert(token).header.clone())
    }

    async fn forget(&self) {
        *self.token.lock().await = None;
    }

    async fn request(&self) -> anyhow::Result<Token> {
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), NAMESPACE);
        let request = TokenRequest {
            spec: Some(TokenRequestSpec { expiration_seconds: Some(TOKEN_SECONDS), ..TokenRequestSpec::default() }),
            ..TokenRequest::default()
        };
        let granted =
            match api.create_subresource::<_, TokenRequest>("token", self.account, &PostParams::default(), &request).await {
                Err(error) if api_error::is_not_found(&error) => {
                    let account = ServiceAccount {
                        metadata: ObjectMeta {
                            name: Some(self.account.to_owned()),
                            namespace: Some(NAMESPACE.to_owned()),
                            ..ObjectMeta::default()
                        },
                        ..ServiceAccount::default()
                    };
                    match api.create(&PostParams::default(), &account).await {
                        Ok(_) => {}
                        Err(error) if api_error::is_already_exists(&error) => {}
                        Err(error) if api_error::is_not_found(&error) => {
                            self.create_namespace().await?;
                            api.create(&PostParams::default(), &account).await?;
                        }
                        Err(error) => return Err(error.into()),
                    }
                    api.create_subresource::<_, TokenRequest>("token", self.account, &PostParams::default(), &request).await?
                }
                other => other?,
            };
        let status = granted.status.context("the server answered without a token")?;
        let token = status.token.context("the server answered without a token")?;
        let mut header = HeaderValue::from_str(&format!("Bearer {token}")).context("the token has unprintable characters")?;
        header.set_sensitive(true);
        let left = status.expiration_timestamp.map_or(TOKEN_SECONDS, |at| at.0.duration_since(jiff::Timestamp::now()).as_secs());
        let lifetime = left.max(0).unsigned_abs();
        // Renew after four fifths of the lifetime, as client-go does.
        Ok(Token { header, refresh_at: Instant::now() + Duration::from_secs(lifetime * 4 / 5) })
    }

    /// A server that has just started may not have made its namespaces yet.
    async fn create_namespace(&self) -> anyhow::Result<()> {
        let api: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(self.client.clone());
        let namespace = k8s_openapi::api::core::v1::Namespace {
            metadata: ObjectMeta { name: Some(NAMESPACE.to_owned()), ..ObjectMeta::default() },
            ..Default::default()
        };
        match api.create(&PostParams::default(), &namespace).await {
            Err(error) if !api_error::is_already_exists(&error) => Err(error.into()),
            _ => Ok(()),
        }
    }
}

/// Puts the token on each request.
#[derive(Clone)]
struct Authenticated {
    inner: Client,
    source: Arc<TokenSource>,
}

impl Service<Request<Body>> for Authenticated {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            request.headers_mut().insert(header::AUTHORIZATION, this.source.header().await?);
            let response = this.inner.send(request).await?;
            if response.status() == StatusCode::UNAUTHORIZED {
                // The account was made anew, or the signing key replaced: the next request asks for another token.
                this.source.forget().await;
            }
            Ok(response)
        })
    }
}

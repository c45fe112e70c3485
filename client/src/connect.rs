//! From a kubeconfig (or the pod's service account) to a [`kube::Client`] over one HTTP/2 connection.

mod metrics;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Request, header};
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::{Body, ConfigExt};
use kube::config::{KubeConfigOptions, Kubeconfig};
use tower::{BoxError, ServiceBuilder};

use crate::connector::{Connector, Identity};

/// A server that answers no ping for this long is given up, and requests move to a new connection.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The kubeconfig cannot be read or is incomplete.
    #[error("failed to load kubeconfig {path}")]
    Kubeconfig {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: kube::config::KubeconfigError,
    },
    /// Not in a pod, or its service account is not mounted.
    #[error("no kubeconfig given and no service account mounted")]
    InCluster(#[source] kube::config::InClusterError),
    /// Certificates, keys or tokens in it cannot be used.
    #[error("unusable credentials")]
    Credentials(#[source] Box<kube::Error>),
    /// The certificate files named in it cannot be used.
    #[error("unusable client certificate")]
    Certificate(#[source] component::tls::TlsError),
    /// The address is not a URL.
    #[error("invalid API server address {0:?}")]
    Address(String),
}

/// How to connect; see [`from_kubeconfig`] for the common case.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `--kubeconfig`; none means the pod's service account.
    pub kubeconfig: Option<PathBuf>,
    /// The context to use, instead of `current-context`.
    pub context: Option<String>,
    /// `--master`: overrides the address in the kubeconfig.
    pub server: Option<String>,
    /// A bearer token instead of the credentials in the kubeconfig.
    pub token: Option<String>,
    /// The name for the user agent: `kube-scheduler`.
    pub component: String,
}

/// A client for the kubeconfig at `path`; its certificate and token files are followed when they change.
///
/// # Errors
/// The file or the credentials in it are unusable. Nothing is sent yet: an unreachable server shows on the first request.
pub async fn from_kubeconfig(path: &Path, component: &str) -> Result<kube::Client, ConnectError> {
    connect(&Options { kubeconfig: Some(path.to_owned()), component: component.to_owned(), ..Options::default() }).await
}

/// A client for these options.
///
/// # Errors
/// As [`from_kubeconfig`].
pub async fn connect(options: &Options) -> Result<kube::Client, ConnectError> {
    let mut config = match &options.kubeconfig {
        None => kube::Config::incluster().map_err(ConnectError::InCluster)?,
        Some(path) => {
            let failed = |source| ConnectError::Kubeconfig { path: path.clone(), source };
            let kubeconfig = Kubeconfig::read_from(path).map_err(failed)?;
            let choice = KubeConfigOptions { context: options.context.clone(), ..KubeConfigOptions::default() };
            kube::Config::from_custom_kubeconfig(kubeconfig, &choice).await.map_err(failed)?
        }
    };
    if let Some(server) = &options.server {
        config.cluster_url = server.parse().map_err(|_| ConnectError::Address(server.clone()))?;
    }
    if let Some(token) = &options.token {
        config.auth_info = kube::config::AuthInfo { token: Some(token.clone().into()), ..Default::default() };
    }
    build(config, &options.component)
}

/// A client for a [`kube::Config`] made by hand.
///
/// # Errors
/// The credentials are unusable.
pub fn build(config: kube::Config, component: &str) -> Result<kube::Client, ConnectError> {
    component::install_crypto();
    let credentials = |error| ConnectError::Credentials(Box::new(error));
    let mut tls = config.rustls_client_config().map_err(credentials)?;
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let auth = &config.auth_info;
    let identity = match (&auth.client_certificate, &auth.client_key) {
        (Some(cert), Some(key)) => {
            let identity = Identity::follow(Path::new(cert), Path::new(key)).map_err(ConnectError::Certificate)?;
            tls.client_auth_cert_resolver = identity.clone();
            // A resumed session stands for the certificate it was begun with, which may have expired by then.
            tls.resumption = rustls::client::Resumption::disabled();
            Some(identity)
        }
        _ => None,
    };
    let connector = Connector::new(Arc::new(tls), identity, config.tls_server_name.clone());
    let inner = HyperClient::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(Duration::from_secs(90))
        .http2_adaptive_window(true)
        .http2_keep_alive_interval(PING_INTERVAL)
        .http2_keep_alive_timeout(PING_TIMEOUT)
        .http2_keep_alive_while_idle(true)
        .build::<_, Body>(connector);
    let agent = HeaderValue::from_str(&component::version::user_agent(component)).unwrap_or(HeaderValue::from_static("rk"));
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer().map_err(credentials)?)
        .map_request(move |mut request: Request<Body>| {
            request.headers_mut().entry(header::USER_AGENT).or_insert_with(|| agent.clone());
            request
        })
        .map_err(BoxError::from)
        .service(metrics::Counted(inner));
    Ok(kube::Client::new(service, config.default_namespace))
}

//! Flags: those of ingress-nginx where the two do the same.

use std::net::SocketAddr;
use std::path::PathBuf;

/// Routes HTTP and HTTPS from outside the cluster to Services, as Ingress objects say.
#[derive(clap::Parser, Debug, Clone)]
#[command(name = "rk-ingress", disable_version_flag = true)]
pub struct Options {
    /// Kubeconfig to reach the API server with; the pod's service account when absent.
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
    /// Name that the annotation kubernetes.io/ingress.class of our Ingresses has.
    #[arg(long, default_value = "rk")]
    pub ingress_class: String,
    /// Value of spec.controller of the IngressClasses that are served.
    #[arg(long, default_value = crate::CONTROLLER)]
    pub controller_class: String,
    /// Serve Ingresses without any class too.
    #[arg(long)]
    pub watch_ingress_without_class: bool,
    /// Only this namespace; all when empty.
    #[arg(long, default_value = "")]
    pub watch_namespace: String,
    /// Address for HTTP.
    #[arg(long, default_value = "[::]:80")]
    pub http: SocketAddr,
    /// Address for HTTPS.
    #[arg(long, default_value = "[::]:443")]
    pub https: SocketAddr,
    /// Port that clients reach HTTPS by, for redirects; that of --https when absent.
    #[arg(long)]
    pub redirect_port: Option<u16>,
    /// Address for /healthz, /readyz and /metrics.
    #[arg(long, default_value = "[::]:10254")]
    pub health: SocketAddr,
    /// Service (namespace/name) whose addresses are shown in the status of Ingresses.
    #[arg(long)]
    pub publish_service: Option<String>,
    /// Addresses shown in the status of Ingresses, instead of a Service's.
    #[arg(long, value_delimiter = ',')]
    pub publish_status_address: Vec<String>,
    /// Secret (namespace/name) with the certificate for hosts that have none.
    #[arg(long)]
    pub default_ssl_certificate: Option<String>,
    /// Service (namespace/name:port) for requests that no rule matches.
    #[arg(long)]
    pub default_backend_service: Option<String>,
    /// Log verbosity.
    #[arg(short, long, default_value_t = 0)]
    pub v: u8,
    /// Show version.
    #[arg(long)]
    pub version: bool,
}

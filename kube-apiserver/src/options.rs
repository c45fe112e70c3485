//! The flags, with upstream's names and defaults. What is known upstream and not done here yet is refused by name.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use component::duration::parse as duration;

/// kube-apiserver validates and stores the objects of a Kubernetes cluster and serves its API.
#[derive(Parser, Debug)]
#[command(name = "kube-apiserver", disable_version_flag = true, args_override_self = true)]
pub struct Options {
    /// Print the version and quit.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub version: Option<String>,
    /// The number for the log level verbosity.
    #[arg(short = 'v', long = "v", default_value_t = 0)]
    pub verbosity: u8,
    /// `text` or `json`.
    #[arg(long, default_value = "text")]
    pub logging_format: String,
    /// Accepted, without effect: lines are written at once.
    #[arg(long)]
    pub log_flush_frequency: Option<String>,
    /// Accepted for symmetry with upstream: per-file levels are not kept.
    #[arg(long)]
    pub vmodule: Option<String>,

    /// Address to advertise to members of the cluster.
    #[arg(long)]
    pub advertise_address: Option<IpAddr>,
    /// Address to listen on.
    #[arg(long, default_value = "0.0.0.0")]
    pub bind_address: IpAddr,
    /// Port to serve HTTPS on; 0 chooses one.
    #[arg(long, default_value_t = 6443)]
    pub secure_port: u16,
    /// Where a self-signed certificate is kept when none is given.
    #[arg(long, default_value = "/var/run/kubernetes")]
    pub cert_dir: PathBuf,
    /// Serving certificate.
    #[arg(long)]
    pub tls_cert_file: Option<PathBuf>,
    /// Its key.
    #[arg(long)]
    pub tls_private_key_file: Option<PathBuf>,
    /// Cipher suites (of TLS 1.2; those of 1.3 cannot be chosen).
    #[arg(long, value_delimiter = ',')]
    pub tls_cipher_suites: Vec<String>,
    /// `VersionTLS12` or `VersionTLS13`.
    #[arg(long)]
    pub tls_min_version: Option<String>,
    /// Key exchanges by their TLS numbers (23, 24, 29, 4588), in order.
    #[arg(long, value_delimiter = ',')]
    pub tls_curve_preferences: Vec<u16>,
    /// `cert,key[:name,…]`: another certificate for clients that ask for one of the names (its own names where none are given).
    #[arg(long)]
    pub tls_sni_cert_key: Vec<String>,
    /// Whether HTTP/1.1 only is spoken.
    #[arg(long, default_value_t = false, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub disable_http2_serving: bool,
    /// Requests at once on one HTTP/2 connection; 0 for the default.
    #[arg(long, default_value_t = 0)]
    pub http2_max_streams_per_connection: u32,
    /// Whether other sockets may listen on the address before this one is gone; always so.
    #[arg(long, default_value_t = false, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub permit_address_sharing: bool,
    /// Whether other processes may listen on the same port.
    #[arg(long, default_value_t = false, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub permit_port_sharing: bool,
    /// Host name for external URLs.
    #[arg(long)]
    pub external_hostname: Option<String>,
    /// Directives of the Strict-Transport-Security header.
    #[arg(long, value_delimiter = ',')]
    pub strict_transport_security_directives: Vec<String>,
    /// Regular expressions of origins that browsers may call from.
    #[arg(long, value_delimiter = ',')]
    pub cors_allowed_origins: Vec<String>,

    /// etcd's addresses.
    #[arg(long, value_delimiter = ',')]
    pub etcd_servers: Vec<String>,
    /// `group/resource#server;server`: resources that are kept in another etcd.
    #[arg(long, value_delimiter = ',')]
    pub etcd_servers_overrides: Vec<String>,
    /// Path below which everything lies.
    #[arg(long, default_value = "/registry")]
    pub etcd_prefix: String,
    /// Authorities of etcd's certificate.
    #[arg(long)]
    pub etcd_cafile: Option<PathBuf>,
    /// Client certificate.
    #[arg(long)]
    pub etcd_certfile: Option<PathBuf>,
    /// Its key.
    #[arg(long)]
    pub etcd_keyfile: Option<PathBuf>,
    /// Between compactions; 0 for none.
    #[arg(long, default_value = "5m", value_parser = duration)]
    pub etcd_compaction_interval: Duration,
    /// Timeout of the health check.
    #[arg(long, default_value = "2s", value_parser = duration)]
    pub etcd_healthcheck_timeout: Duration,
    /// Timeout of the readiness check.
    #[arg(long, default_value = "2s", value_parser = duration)]
    pub etcd_readycheck_timeout: Duration,
    /// Accepted: object counts are always current.
    #[arg(long, default_value = "1m", value_parser = duration)]
    pub etcd_count_metric_poll_period: Duration,
    /// Accepted: the size of etcd's database is not polled.
    #[arg(long, default_value = "30s", value_parser = duration)]
    pub etcd_db_metric_poll_interval: Duration,
    /// Only `etcd3`.
    #[arg(long, default_value = "")]
    pub storage_backend: String,
    /// How objects are written: always JSON, which upstream reads.
    #[arg(long, default_value = "application/json")]
    pub storage_media_type: String,
    /// Only true: the cache cannot be turned off.
    #[arg(long, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub watch_cache: bool,
    /// Accepted: sizes are by bytes.
    #[arg(long, value_delimiter = ',')]
    pub watch_cache_sizes: Vec<String>,
    /// Accepted: leases are reused for a minute.
    #[arg(long, default_value_t = 60)]
    pub lease_reuse_duration_seconds: i64,
    /// Accepted.
    #[arg(long, default_value_t = 1)]
    pub delete_collection_workers: u32,
    /// Accepted: finalizers for the garbage collector are always kept.
    #[arg(long, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub enable_garbage_collector: bool,
    /// How long events are kept.
    #[arg(long, default_value = "1h", value_parser = duration)]
    pub event_ttl: Duration,

    /// Providers and keys for encryption at rest.
    #[arg(long)]
    pub encryption_provider_config: Option<PathBuf>,
    /// Whether that file is followed.
    #[arg(long, default_value_t = false, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub encryption_provider_config_automatic_reload: bool,

    /// What is audited, and how much of it.
    #[arg(long)]
    pub audit_policy_file: Option<PathBuf>,
    /// Where audit events go; `-` for standard output.
    #[arg(long)]
    pub audit_log_path: Option<PathBuf>,
    /// `json` or `legacy`.
    #[arg(long, default_value = "json")]
    pub audit_log_format: String,
    /// Only `audit.k8s.io/v1`.
    #[arg(long, default_value = "audit.k8s.io/v1")]
    pub audit_log_version: String,
    /// `blocking`, `blocking-strict` or `batch`.
    #[arg(long, default_value = "blocking")]
    pub audit_log_mode: String,
    /// Days that old files are kept; 0 for ever.
    #[arg(long, default_value_t = 366)]
    pub audit_log_maxage: u64,
    /// Old files that are kept; 0 for all.
    #[arg(long, default_value_t = 100)]
    pub audit_log_maxbackup: usize,
    /// Megabytes after which a file becomes an old one.
    #[arg(long, default_value_t = 100)]
    pub audit_log_maxsize: u64,
    /// Whether old files are compressed.
    #[arg(long, default_value_t = false, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub audit_log_compress: bool,
    /// Events that wait in batch mode; more are dropped.
    #[arg(long, default_value_t = 10_000)]
    pub audit_log_batch_buffer_size: usize,
    /// Whether large events are cut.
    #[arg(long, default_value_t = false, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub audit_log_truncate_enabled: bool,
    /// Bytes above which an event is cut.
    #[arg(long, default_value_t = 102_400)]
    pub audit_log_truncate_max_event_size: usize,
    /// Accepted: the log gets one event at a time.
    #[arg(long, default_value_t = 10_485_760)]
    pub audit_log_truncate_max_batch_size: usize,

    /// Authorities of client certificates.
    #[arg(long)]
    pub client_ca_file: Option<PathBuf>,
    /// Static tokens.
    #[arg(long)]
    pub token_auth_file: Option<PathBuf>,
    /// Bootstrap tokens in kube-system.
    #[arg(long, default_value_t = false, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub enable_bootstrap_token_auth: bool,
    /// Whether requests without credentials are served as `system:anonymous`.
    #[arg(long, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub anonymous_auth: bool,
    /// Issuers of JWTs and anonymous requests, as an AuthenticationConfiguration.
    #[arg(long)]
    pub authentication_config: Option<PathBuf>,
    /// Authorities of the OpenID issuer's certificate.
    #[arg(long)]
    pub oidc_ca_file: Option<PathBuf>,
    /// For whom its tokens must be.
    #[arg(long)]
    pub oidc_client_id: Option<String>,
    /// The claim with groups.
    #[arg(long)]
    pub oidc_groups_claim: Option<String>,
    /// What is put before groups.
    #[arg(long, default_value = "")]
    pub oidc_groups_prefix: String,
    /// The OpenID issuer.
    #[arg(long)]
    pub oidc_issuer_url: Option<String>,
    /// `key=value` that tokens must have.
    #[arg(long, value_delimiter = ',')]
    pub oidc_required_claim: Vec<String>,
    /// How tokens may be signed.
    #[arg(long, value_delimiter = ',', default_value = "RS256")]
    pub oidc_signing_algs: Vec<String>,
    /// The claim with the user's name.
    #[arg(long, default_value = "sub")]
    pub oidc_username_claim: String,
    /// What is put before it; `-` for nothing.
    #[arg(long, default_value = "")]
    pub oidc_username_prefix: String,
    /// Audiences of the API.
    #[arg(long, value_delimiter = ',')]
    pub api_audiences: Vec<String>,
    /// Authorities of front proxies.
    #[arg(long)]
    pub requestheader_client_ca_file: Option<PathBuf>,
    /// Their names.
    #[arg(long, value_delimiter = ',')]
    pub requestheader_allowed_names: Vec<String>,
    /// Headers with the user's name.
    #[arg(long, value_delimiter = ',')]
    pub requestheader_username_headers: Vec<String>,
    /// Headers with the user's uid.
    #[arg(long, value_delimiter = ',')]
    pub requestheader_uid_headers: Vec<String>,
    /// Headers with groups.
    #[arg(long, value_delimiter = ',')]
    pub requestheader_group_headers: Vec<String>,
    /// Prefixes of headers with extra.
    #[arg(long, value_delimiter = ',')]
    pub requestheader_extra_headers_prefix: Vec<String>,
    /// Keys that verify service account tokens.
    #[arg(long)]
    pub service_account_key_file: Vec<PathBuf>,
    /// The key that signs them.
    #[arg(long)]
    pub service_account_signing_key_file: Option<PathBuf>,
    /// Issuers; the first one signs.
    #[arg(long)]
    pub service_account_issuer: Vec<String>,
    /// Where the keys are published.
    #[arg(long)]
    pub service_account_jwks_uri: Option<String>,
    /// Whether a token's service account must exist.
    #[arg(long, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub service_account_lookup: bool,
    /// Whether tokens of kubelets live a year, with a warning after an hour.
    #[arg(long, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub service_account_extend_token_expiration: bool,
    /// Longest life of a token.
    #[arg(long, default_value = "0s", value_parser = duration)]
    pub service_account_max_token_expiration: Duration,

    /// Authorizers in order, as an AuthorizationConfiguration.
    #[arg(long)]
    pub authorization_config: Option<PathBuf>,
    /// Authorizers in order.
    #[arg(long, value_delimiter = ',')]
    pub authorization_mode: Vec<String>,
    /// Admission plugins beyond the defaults.
    #[arg(long, value_delimiter = ',')]
    pub enable_admission_plugins: Vec<String>,
    /// Admission plugins that are left out.
    #[arg(long, value_delimiter = ',')]
    pub disable_admission_plugins: Vec<String>,
    /// `DefaultTolerationSeconds`: not-ready.
    #[arg(long, default_value_t = 300)]
    pub default_not_ready_toleration_seconds: i64,
    /// `DefaultTolerationSeconds`: unreachable.
    #[arg(long, default_value_t = 300)]
    pub default_unreachable_toleration_seconds: i64,
    /// Versions to serve beside the defaults: `group/version=true|false`, `api/all=…`.
    #[arg(long, default_value = "")]
    pub runtime_config: String,
    /// Feature gates; unknown ones are refused.
    #[arg(long, default_value = "")]
    pub feature_gates: String,
    /// Whether privileged containers may be asked for.
    #[arg(long, default_value_t = false, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub allow_privileged: bool,

    /// Requests in flight that read.
    #[arg(long, default_value_t = 400)]
    pub max_requests_inflight: usize,
    /// Requests in flight that write.
    #[arg(long, default_value_t = 200)]
    pub max_mutating_requests_inflight: usize,
    /// Whether requests are sorted into priority levels; else only the two limits above count.
    #[arg(long, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub enable_priority_and_fairness: bool,
    /// Longest request that is no watch.
    #[arg(long, default_value = "1m", value_parser = duration)]
    pub request_timeout: Duration,
    /// Shortest watch, seconds.
    #[arg(long, default_value_t = 1800)]
    pub min_request_timeout: u64,
    /// Between the signal to stop and the end of listening.
    #[arg(long, default_value = "0s", value_parser = duration)]
    pub shutdown_delay_duration: Duration,
    /// The share of requests after which an HTTP/2 client is told to connect anew, 0 to 0.02.
    #[arg(long, default_value_t = 0.0)]
    pub goaway_chance: f64,
    /// Accepted: liveness has no grace here, it is there at once.
    #[arg(long, default_value = "0s", value_parser = duration)]
    pub livez_grace_period: Duration,
    /// Whether profiles are served: they are not.
    #[arg(long, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub profiling: bool,

    /// Authorities of kubelets' certificates; not verified without.
    #[arg(long)]
    pub kubelet_certificate_authority: Option<PathBuf>,
    /// Client certificate for kubelets.
    #[arg(long)]
    pub kubelet_client_certificate: Option<PathBuf>,
    /// Its key.
    #[arg(long)]
    pub kubelet_client_key: Option<PathBuf>,
    /// Which address of a node is tried first.
    #[arg(long, value_delimiter = ',', default_value = "Hostname,InternalDNS,InternalIP,ExternalDNS,ExternalIP")]
    pub kubelet_preferred_address_types: Vec<String>,
    /// Timeout of a connection to a kubelet.
    #[arg(long, default_value = "5s", value_parser = duration)]
    pub kubelet_timeout: Duration,
    /// Client certificate for extension servers.
    #[arg(long)]
    pub proxy_client_cert_file: Option<PathBuf>,
    /// Its key.
    #[arg(long)]
    pub proxy_client_key_file: Option<PathBuf>,

    /// Addresses of Services.
    #[arg(long, default_value = "10.0.0.0/24", value_delimiter = ',')]
    pub service_cluster_ip_range: Vec<ipnet::IpNet>,
    /// Node ports of Services.
    #[arg(long, default_value = "30000-32767")]
    pub service_node_port_range: String,
    /// `lease` or `none`.
    #[arg(long, default_value = "lease")]
    pub endpoint_reconciler_type: String,
    /// A node port for the `kubernetes` Service.
    #[arg(long, default_value_t = 0)]
    pub kubernetes_service_node_port: u16,
}

/// Flags of upstream that are not done yet. Naming one is an error, unless its value says "off".
pub const NOT_YET: &[&str] = &[
    "admission-control",
    "admission-control-config-file",
    "aggregator-reject-forwarding-redirect",
    "allow-metric-labels",
    "allow-metric-labels-manifest",
    "audit-log-batch-max-size",
    "audit-log-batch-max-wait",
    "audit-log-batch-throttle-burst",
    "audit-log-batch-throttle-enable",
    "audit-log-batch-throttle-qps",
    "audit-webhook-batch-buffer-size",
    "audit-webhook-batch-max-size",
    "audit-webhook-batch-max-wait",
    "audit-webhook-batch-throttle-burst",
    "audit-webhook-batch-throttle-enable",
    "audit-webhook-batch-throttle-qps",
    "audit-webhook-config-file",
    "audit-webhook-initial-backoff",
    "audit-webhook-mode",
    "audit-webhook-truncate-enabled",
    "audit-webhook-truncate-max-batch-size",
    "audit-webhook-truncate-max-event-size",
    "audit-webhook-version",
    "authentication-token-webhook-cache-ttl",
    "authentication-token-webhook-config-file",
    "authentication-token-webhook-version",
    "authorization-policy-file",
    "authorization-webhook-cache-authorized-ttl",
    "authorization-webhook-cache-unauthorized-ttl",
    "authorization-webhook-config-file",
    "authorization-webhook-version",
    "contention-profiling",
    "coordinated-leadership-lease-duration",
    "coordinated-leadership-renew-deadline",
    "coordinated-leadership-retry-period",
    "debug-socket-path",
    "disabled-metrics",
    "egress-selector-config-file",
    "emulated-version",
    "emulation-forward-compatible",
    "enable-aggregator-routing",
    "enable-logs-handler",
    "log-json-info-buffer-size",
    "log-json-split-stream",
    "log-text-info-buffer-size",
    "log-text-split-stream",
    "max-connection-bytes-per-sec",
    "min-compatibility-version",
    "peer-advertise-ip",
    "peer-advertise-port",
    "peer-ca-file",
    "runtime-config-emulation-forward-compatible",
    "send-retry-after-while-not-ready-once",
    "service-account-signing-endpoint",
    "show-hidden-metrics-for-version",
    "shutdown-send-retry-after",
    "shutdown-watch-termination-grace-period",
    "storage-initialization-timeout",
    "tracing-config-file",
];

/// Values of those flags that ask for nothing beyond what is done anyway: upstream's defaults.
const AS_IT_IS: &[(&str, &str)] = &[
    ("aggregator-reject-forwarding-redirect", "true"),
    ("audit-log-batch-max-size", "1"),
    ("audit-webhook-batch-buffer-size", "10000"),
    ("audit-webhook-mode", "batch"),
    ("audit-webhook-version", "audit.k8s.io/v1"),
    ("authentication-token-webhook-version", "v1beta1"),
    ("authorization-webhook-version", "v1beta1"),
    ("storage-initialization-timeout", "1m0s"),
];

/// Flags that are taken, because existing command lines have them, and change nothing here.
const WITHOUT_EFFECT: &[&str] = &[
    "audit-log-truncate-max-batch-size",
    "cert-dir",
    "delete-collection-workers",
    "etcd-count-metric-poll-period",
    "etcd-db-metric-poll-interval",
    "etcd-readycheck-timeout",
    "lease-reuse-duration-seconds",
    "livez-grace-period",
    "log-flush-frequency",
    "permit-address-sharing",
    "profiling",
    "vmodule",
    "watch-cache-sizes",
];

/// Which of the flags on the command line change nothing, to be told in the log. `--profiling=false` asks for what is so anyway.
pub fn without_effect(args: impl IntoIterator<Item = std::ffi::OsString>) -> Vec<String> {
    let named = |arg: &std::ffi::OsString| {
        let rest = arg.to_str()?.strip_prefix("--")?;
        let (name, value) = rest.split_once('=').unwrap_or((rest, "true"));
        (WITHOUT_EFFECT.contains(&name) && value != "false").then(|| format!("--{name}"))
    };
    component::flags::normalize(args).iter().filter_map(named).collect()
}

/// Parses the command line.
///
/// # Errors
/// clap's error (help among them), or the name of a flag that is not yet supported.
pub fn parse(args: impl IntoIterator<Item = std::ffi::OsString>) -> Result<Options, Refused> {
    let args = component::flags::normalize(args);
    for arg in &args {
        let Some(rest) = arg.to_str().and_then(|text| text.strip_prefix("--")) else { continue };
        let (name, value) = rest.split_once('=').unwrap_or((rest, "true"));
        if NOT_YET.contains(&name) && !matches!(value, "false" | "") && !AS_IT_IS.contains(&(name, value)) {
            return Err(Refused::NotYet(name.to_owned()));
        }
    }
    let args = args.into_iter().filter(|arg| {
        let name = arg.to_str().and_then(|text| text.strip_prefix("--")).and_then(|rest| rest.split('=').next());
        !name.is_some_and(|name| NOT_YET.contains(&name))
    });
    Options::try_parse_from(args).map_err(Refused::Clap)
}

/// Why a command line was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// A flag of upstream that is not done yet.
    #[error("--{0} is not yet supported by rk")]
    NotYet(String),
    /// Anything else.
    #[error(transparent)]
    Clap(clap::Error),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn run(args: &[&str]) -> Result<Options, Refused> {
        parse(std::iter::once("kube-apiserver").chain(args.iter().copied()).map(Into::into))
    }

    #[test]
    fn flags_that_change_nothing_are_named() {
        let args = ["kube-apiserver", "--watch-cache-sizes=pods#100", "--profiling=false", "--v=2", "--livez-grace-period", "5s"];
        assert_eq!(without_effect(args.map(Into::into)), ["--watch-cache-sizes", "--livez-grace-period"]);
        // Each is a flag that parses: a typo here would hide it.
        for name in WITHOUT_EFFECT {
            assert!(Options::command().get_arguments().any(|arg| arg.get_long() == Some(name)), "--{name}");
        }
    }

    #[test]
    fn the_flags_of_kubeadms_manifest_parse() {
        let args = [
            "--advertise-address=172.30.0.1",
            "--allow-privileged=true",
            "--authorization-mode=Node,RBAC",
            "--client-ca-file=/a",
            "--enable-admission-plugins=NodeRestriction",
            "--enable-bootstrap-token-auth=true",
            "--etcd-cafile=/a",
            "--etcd-certfile=/a",
            "--etcd-keyfile=/a",
            "--etcd-servers=https://127.0.0.1:2379",
            "--kubelet-client-certificate=/a",
            "--kubelet-client-key=/a",
            "--kubelet-preferred-address-types=InternalIP,ExternalIP,Hostname",
            "--proxy-client-cert-file=/a",
            "--proxy-client-key-file=/a",
            "--requestheader-allowed-names=front-proxy-client",
            "--requestheader-client-ca-file=/a",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-username-headers=X-Remote-User",
            "--secure-port=6443",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            "--service-account-key-file=/a",
            "--service-account-signing-key-file=/a",
            "--service-cluster-ip-range=10.96.0.0/12",
            "--tls-cert-file=/a",
            "--tls-private-key-file=/a",
        ];
        let options = run(&args).unwrap();
        assert_eq!(options.authorization_mode, ["Node", "RBAC"]);
        assert!(options.allow_privileged);
    }

    #[test]
    fn what_is_not_done_is_refused_by_name() {
        for flag in ["--audit-webhook-config-file=/x", "--authorization-policy-file", "--egress_selector_config_file=/x"] {
            assert!(matches!(run(&[flag]), Err(Refused::NotYet(_))), "{flag}");
        }
        assert!(run(&["--contention-profiling=false", "--aggregator-reject-forwarding-redirect=true"]).is_ok());
        assert!(matches!(run(&["--no-such-flag"]), Err(Refused::Clap(_))));
    }

    #[test]
    fn every_flag_of_upstream_is_known() {
        use clap::CommandFactory as _;
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/reference/kubeadm/component-flags.txt");
        let Ok(text) = std::fs::read_to_string(path) else {
            eprintln!("skipped: {path} is not there");
            return;
        };
        let section = text.split("\n## ").find(|part| part.trim_start_matches("## ").starts_with("kube-apiserver\n")).unwrap();
        let command = Options::command();
        let have: Vec<&str> = command.get_arguments().filter_map(|arg| arg.get_long()).collect();
        let mut seen = 0;
        for name in section.lines().filter_map(|line| line.strip_prefix("--")?.split(' ').next()) {
            seen += 1;
            assert!(have.contains(&name) || NOT_YET.contains(&name) || name == "help", "--{name} is neither done nor refused");
        }
        assert!(seen > 100);
        for name in NOT_YET {
            assert!(!have.contains(name), "--{name} is done, yet refused");
        }
    }
}

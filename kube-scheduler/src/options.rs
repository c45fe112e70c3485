//! The flags, in upstream's spelling; and those of old notes, which still work with a warning.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Parser};

/// The Kubernetes scheduler is a control plane process which assigns Pods to Nodes.
#[derive(Parser, Debug, Clone)]
#[command(name = "kube-scheduler", version = component::version::current(), disable_version_flag = true, args_override_self = true)]
pub struct Options {
    /// The path to the configuration file (KubeSchedulerConfiguration).
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// The address of the Kubernetes API server (overrides any value in kubeconfig).
    #[arg(long)]
    pub master: Option<String>,
    /// Path to a kubeconfig with authorization and API server location.
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
    /// If set, write the configuration values to this file and exit.
    #[arg(long)]
    pub write_config_to: Option<PathBuf>,
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    pub unsupported_kube_api_over_localhost: Option<bool>,

    /// The IP address on which to listen for the --secure-port.
    #[arg(long, default_value = "0.0.0.0")]
    pub bind_address: IpAddr,
    /// The port on which to serve HTTPS with authentication and authorization. If 0, don't serve HTTPS at all.
    #[arg(long)]
    pub secure_port: Option<u16>,
    #[arg(long)]
    pub tls_cert_file: Option<PathBuf>,
    #[arg(long)]
    pub tls_private_key_file: Option<PathBuf>,
    #[arg(long)]
    pub cert_dir: Option<PathBuf>,
    #[arg(long, value_delimiter = ',')]
    pub tls_cipher_suites: Vec<String>,
    #[arg(long, value_delimiter = ',')]
    pub tls_curve_preferences: Vec<i32>,
    #[arg(long)]
    pub tls_min_version: Option<String>,
    #[arg(long)]
    pub tls_sni_cert_key: Vec<String>,
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    pub disable_http2_serving: Option<bool>,
    #[arg(long)]
    pub http2_max_streams_per_connection: Option<i32>,
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    pub permit_address_sharing: Option<bool>,
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    pub permit_port_sharing: Option<bool>,

    /// kubeconfig with the right to create tokenreviews; those who read metrics are checked through it.
    #[arg(long)]
    pub authentication_kubeconfig: Option<PathBuf>,
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    pub authentication_skip_lookup: Option<bool>,
    #[arg(long, default_value = "10s", value_parser = component::duration::parse)]
    pub authentication_token_webhook_cache_ttl: Duration,
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    pub authentication_tolerate_lookup_failure: Option<bool>,
    #[arg(long)]
    pub client_ca_file: Option<PathBuf>,
    #[arg(long, value_delimiter = ',')]
    pub requestheader_allowed_names: Vec<String>,
    #[arg(long)]
    pub requestheader_client_ca_file: Option<PathBuf>,
    #[arg(long, value_delimiter = ',')]
    pub requestheader_extra_headers_prefix: Vec<String>,
    #[arg(long, value_delimiter = ',')]
    pub requestheader_group_headers: Vec<String>,
    #[arg(long, value_delimiter = ',')]
    pub requestheader_uid_headers: Vec<String>,
    #[arg(long, value_delimiter = ',')]
    pub requestheader_username_headers: Vec<String>,
    /// Paths that anybody may read.
    #[arg(long, value_delimiter = ',', default_value = "/healthz,/readyz,/livez")]
    pub authorization_always_allow_paths: Vec<String>,
    /// kubeconfig with the right to create subjectaccessreviews.
    #[arg(long)]
    pub authorization_kubeconfig: Option<PathBuf>,
    #[arg(long, default_value = "10s", value_parser = component::duration::parse)]
    pub authorization_webhook_cache_authorized_ttl: Duration,
    #[arg(long, default_value = "10s", value_parser = component::duration::parse)]
    pub authorization_webhook_cache_unauthorized_ttl: Duration,

    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    pub profiling: Option<bool>,
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    pub contention_profiling: Option<bool>,
    #[arg(long)]
    pub kube_api_burst: Option<i32>,
    #[arg(long)]
    pub kube_api_content_type: Option<String>,
    #[arg(long)]
    pub kube_api_qps: Option<f32>,
    /// How long a pod may wait without any event before it is tried again.
    #[arg(long, default_value = "5m0s", value_parser = component::duration::parse)]
    pub pod_max_in_unschedulable_pods_duration: Duration,

    /// Start a leader election client and gain leadership before executing the main loop.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    pub leader_elect: Option<bool>,
    #[arg(long, value_parser = component::duration::parse)]
    pub leader_elect_lease_duration: Option<Duration>,
    #[arg(long, value_parser = component::duration::parse)]
    pub leader_elect_renew_deadline: Option<Duration>,
    #[arg(long, value_parser = component::duration::parse)]
    pub leader_elect_retry_period: Option<Duration>,
    #[arg(long)]
    pub leader_elect_resource_lock: Option<String>,
    #[arg(long)]
    pub leader_elect_resource_name: Option<String>,
    #[arg(long)]
    pub leader_elect_resource_namespace: Option<String>,

    #[arg(long, value_delimiter = ',')]
    pub emulated_version: Vec<String>,
    #[arg(long, value_delimiter = ',')]
    pub feature_gates: Vec<String>,
    #[arg(long, value_delimiter = ',')]
    pub min_compatibility_version: Vec<String>,
    #[arg(long, value_delimiter = ',')]
    pub allow_metric_labels: Vec<String>,
    #[arg(long)]
    pub allow_metric_labels_manifest: Option<PathBuf>,
    #[arg(long, value_delimiter = ',')]
    pub disabled_metrics: Vec<String>,
    #[arg(long)]
    pub show_hidden_metrics_for_version: Option<String>,
    #[arg(long, default_value = "5s", value_parser = component::duration::parse)]
    pub log_flush_frequency: Duration,
    #[arg(long)]
    pub log_json_info_buffer_size: Option<String>,
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    pub log_json_split_stream: Option<bool>,
    #[arg(long)]
    pub log_text_info_buffer_size: Option<String>,
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    pub log_text_split_stream: Option<bool>,
    #[arg(long, default_value = "text")]
    pub logging_format: String,
    /// Number for the log level verbosity.
    #[arg(short = 'v', long = "v", default_value_t = 0)]
    pub v: u8,
    #[arg(long)]
    pub vmodule: Option<String>,
    /// Print version information and quit.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub version: Option<String>,

    /// Old: the name of the only profile.
    #[arg(long, hide = true)]
    pub scheduler_name: Option<String>,
    /// Old: --leader-elect-resource-name.
    #[arg(long, hide = true)]
    pub lock_object_name: Option<String>,
    /// Old: --leader-elect-resource-namespace.
    #[arg(long, hide = true)]
    pub lock_object_namespace: Option<String>,
    /// Old: a port for plain HTTP, which is no longer served.
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "")]
    pub port: Option<String>,
    /// Old: the address for plain HTTP.
    #[arg(long, hide = true)]
    pub address: Option<String>,
}

impl Options {
    /// Flags that were given but have no effect here: said aloud, since silence would promise more.
    pub fn without_effect(&self) -> Vec<&'static str> {
        let given = [
            ("--cert-dir", self.cert_dir.is_some()),
            ("--tls-cipher-suites", !self.tls_cipher_suites.is_empty()),
            ("--tls-curve-preferences", !self.tls_curve_preferences.is_empty()),
            ("--tls-min-version", self.tls_min_version.is_some()),
            ("--tls-sni-cert-key", !self.tls_sni_cert_key.is_empty()),
            ("--disable-http2-serving", self.disable_http2_serving == Some(true)),
            ("--http2-max-streams-per-connection", self.http2_max_streams_per_connection.is_some()),
            ("--permit-address-sharing", self.permit_address_sharing == Some(true)),
            ("--permit-port-sharing", self.permit_port_sharing == Some(true)),
            ("--requestheader-client-ca-file", self.requestheader_client_ca_file.is_some()),
            ("--contention-profiling", self.contention_profiling == Some(true)),
            ("--kube-api-qps", self.kube_api_qps.is_some()),
            ("--kube-api-burst", self.kube_api_burst.is_some()),
            ("--kube-api-content-type", self.kube_api_content_type.is_some()),
            ("--emulated-version", !self.emulated_version.is_empty()),
            ("--feature-gates", !self.feature_gates.is_empty()),
            ("--allow-metric-labels", !self.allow_metric_labels.is_empty()),
            ("--disabled-metrics", !self.disabled_metrics.is_empty()),
            ("--vmodule", self.vmodule.is_some()),
        ];
        given.into_iter().filter(|(_, given)| *given).map(|(name, _)| name).collect()
    }

    /// What the old flags that were given mean now.
    pub fn old_flags(&self) -> Vec<String> {
        let mut out = Vec::new();
        let mut note = |given: bool, text: &str| {
            if given {
                out.push(text.to_owned());
            }
        };
        note(self.scheduler_name.is_some(), "--scheduler-name is old: use profiles[].schedulerName in --config");
        note(self.lock_object_name.is_some(), "--lock-object-name is old: use --leader-elect-resource-name");
        note(self.lock_object_namespace.is_some(), "--lock-object-namespace is old: use --leader-elect-resource-namespace");
        note(self.port.is_some(), "--port is old and has no effect: plain HTTP is not served, use --secure-port");
        note(self.address.is_some(), "--address is old and has no effect: use --bind-address");
        out
    }
}

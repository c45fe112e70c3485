//! The flags, in upstream's spelling and order.

use std::time::Duration;

use clap::{ArgAction, Parser};

/// The Kubernetes controller manager is a daemon that embeds the core control loops shipped with Kubernetes.
#[derive(Parser, Debug, Clone)]
#[command(name = "kube-controller-manager", version = component::version::current(), disable_version_flag = true, args_override_self = true)]
pub struct Options {
    #[arg(long, default_value_t = false, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    pub contention_profiling: bool,
    #[arg(long, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    pub profiling: bool,
    #[arg(long, default_value_t = false, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    pub enable_leader_migration: bool,
    #[arg(long, default_value = "")]
    pub leader_migration_config: String,
    #[arg(long, default_value_t = false, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    pub allocate_node_cidrs: bool,
    #[arg(long, default_value = "RangeAllocator")]
    pub cidr_allocator_type: String,
    #[arg(long, default_value = "")]
    pub cloud_config: String,
    #[arg(long, default_value = "")]
    pub cloud_provider: String,
    #[arg(long, default_value = "")]
    pub cluster_cidr: String,
    #[arg(long, default_value = "kubernetes")]
    pub cluster_name: String,
    #[arg(long, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    pub configure_cloud_routes: bool,
    #[arg(long, default_value = "10s", value_parser = component::duration::parse)]
    pub controller_shutdown_timeout: Duration,
    #[arg(long, default_value = "0s", value_parser = component::duration::parse)]
    pub controller_start_interval: Duration,
    #[arg(long, value_delimiter = ',')]
    pub controllers: Vec<String>,
    #[arg(long, value_delimiter = ',')]
    pub emulated_version: Vec<String>,
    #[arg(long, default_value = "")]
    pub external_cloud_volume_plugin: String,
    #[arg(long, value_delimiter = ',')]
    pub feature_gates: Vec<String>,
    #[arg(long, default_value_t = 30, allow_hyphen_values = true)]
    pub kube_api_burst: i32,
    #[arg(long, default_value = "application/vnd.kubernetes.protobuf")]
    pub kube_api_content_type: String,
    #[arg(long, default_value_t = 20.0)]
    pub kube_api_qps: f64,
    #[arg(long, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    pub leader_elect: bool,
    #[arg(long, default_value = "15s", value_parser = component::duration::parse)]
    pub leader_elect_lease_duration: Duration,
    #[arg(long, default_value = "10s", value_parser = component::duration::parse)]
    pub leader_elect_renew_deadline: Duration,
    #[arg(long, default_value = "leases")]
    pub leader_elect_resource_lock: String,
    #[arg(long, default_value = "kube-controller-manager")]
    pub leader_elect_resource_name: String,
    #[arg(long, default_value = "kube-system")]
    pub leader_elect_resource_namespace: String,
    #[arg(long, default_value = "2s", value_parser = component::duration::parse)]
    pub leader_elect_retry_period: Duration,
    #[arg(long, value_delimiter = ',')]
    pub min_compatibility_version: Vec<String>,
    #[arg(long, default_value = "12h0m0s", value_parser = component::duration::parse)]
    pub min_resync_period: Duration,
    #[arg(long, default_value = "5s", value_parser = component::duration::parse)]
    pub node_monitor_period: Duration,
    #[arg(long, default_value = "10s", value_parser = component::duration::parse)]
    pub route_reconciliation_period: Duration,
    #[arg(long, default_value_t = false, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    pub use_service_account_credentials: bool,
    #[arg(long, default_value_t = 1, allow_hyphen_values = true)]
    pub concurrent_service_syncs: i32,
    #[arg(long, default_value = "0.0.0.0")]
    pub bind_address: String,
    #[arg(long, default_value = "")]
    pub cert_dir: String,
    #[arg(long, default_value_t = false, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    pub disable_http2_serving: bool,
    #[arg(long, default_value_t = 0, allow_hyphen_values = true)]
    pub http2_max_streams_per_connection: i32,
    #[arg(long, default_value_t = false, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    pub permit_address_sharing: bool,
    #[arg(long, default_value_t = false, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    pub permit_port_sharing: bool,
    #[arg(long, default_value_t = 10257, allow_hyphen_values = true)]
    pub secure_port: i32,
    #[arg(long, default_value = "")]
    pub tls_cert_file: String,
    #[arg(long, value_delimiter = ',')]
    pub tls_cipher_suites: Vec<String>,
    #[arg(long, value_delimiter = ',')]
    pub tls_curve_preferences: Vec<String>,
    #[arg(long, default_value = "")]
    pub tls_min_version: String,
    #[arg(long, default_value = "")]
    pub tls_private_key_file: String,
    #[arg(long, value_delimiter = ',')]
    pub tls_sni_cert_key: Vec<String>,
    #[arg(long, default_value = "")]
    pub authentication_kubeconfig: String,
    #[arg(long, default_value_t = false, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    pub authentication_skip_lookup: bool,
    #[arg(long, default_value = "10s", value_parser = component::duration::parse)]
    pub authentication_token_webhook_cache_ttl: Duration,
    #[arg(long, default_value_t = false, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    pub authentication_tolerate_lookup_failure: bool,
    #[arg(long, default_value = "")]
    pub client_ca_file: String,
    #[arg(long, value_delimiter = ',')]
    pub requestheader_allowed_names: Vec<String>,
    #[arg(long, default_value = "")]
    pub requestheader_client_ca_file: String,
    #[arg(long, value_delimiter = ',', default_value = "x-remote-extra-")]
    pub requestheader_extra_headers_prefix: Vec<String>,
    #[arg(long, value_delimiter = ',', default_value = "x-remote-group")]
    pub requestheader_group_headers: Vec<String>,
    #[arg(long, value_delimiter = ',')]
    pub requestheader_uid_headers: Vec<String>,
    #[arg(long, value_delimiter = ',', default_value = "x-remote-user")]
    pub requestheader_username_headers: Vec<String>,
    #[arg(long, value_delimiter = ',', default_value = "/healthz,/readyz,/livez")]
    pub authorization_always_allow_paths: Vec<String>,
    #[arg(long, default_value = "")]
    pub authorization_kubeconfig: String,
    #[arg(long, default_value = "10s", value_parser = component::duration::parse)]
    pub authorization_webhook_cache_authorized_ttl: Duration,
    #[arg(long, default_value = "10s", value_parser = component::duration::parse)]
    pub authorization_webhook_cache_unauthorized_ttl: Duration,
    #[arg(long, default_value = "1m0s", value_parser = component::duration::parse)]
    pub attach_detach_reconcile_sync_period: Duration,
    #[arg(long, default_value_t = false, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    pub disable_attach_detach_reconcile_sync: bool,
    #[arg(long, default_value_t = false, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    pub disable_force_detach_on_timeout: bool,
    #[arg(long, default_value = "")]
    pub cluster_signing_cert_file: String,
    #[arg(long, default_value = "8760h0m0s", value_parser = component::duration::parse)]
    pub cluster_signing_duration: Duration,
    #[arg(long, default_value = "")]
    pub cluster_signing_key_file: String,
    #[arg(long, default_value = "")]
    pub cluster_signing_kube_apiserver_client_cert_file: String,
    #[arg(long, default_value = "")]
    pub cluster_signing_kube_apiserver_client_key_file: String,
    #[arg(long, default_value = "")]
    pub cluster_signing_kubelet_client_cert_file: String,
    #[arg(long, default_value = "")]
    pub cluster_signing_kubelet_client_key_file: String,
    #[arg(long, default_value = "")]
    pub cluster_signing_kubelet_serving_cert_file: String,
    #[arg(long, default_value = "")]
    pub cluster_signing_kubelet_serving_key_file: String,
    #[arg(long, default_value = "")]
    pub cluster_signing_legacy_unknown_cert_file: String,
    #[arg(long, default_value = "")]
    pub cluster_signing_legacy_unknown_key_file: String,
    #[arg(long, default_value_t = 5, allow_hyphen_values = true)]
    pub concurrent_deployment_syncs: i32,
    #[arg(long, default_value_t = 8, allow_hyphen_values = true)]
    pub concurrent_device_taint_eviction_syncs: i32,
    #[arg(long, default_value_t = 50, allow_hyphen_values = true)]
    pub concurrent_resourceclaim_syncs: i32,
    #[arg(long, default_value_t = 5, allow_hyphen_values = true)]
    pub concurrent_statefulset_syncs: i32,
    #[arg(long, default_value_t = 2, allow_hyphen_values = true)]
    pub concurrent_daemonset_syncs: i32,
    #[arg(long, default_value_t = 5, allow_hyphen_values = true)]
    pub concurrent_endpoint_syncs: i32,
    #[arg(long, default_value = "0s", value_parser = component::duration::parse)]
    pub endpoint_updates_batch_period: Duration,
    #[arg(long, default_value_t = 5, allow_hyphen_values = true)]
    pub concurrent_service_endpoint_syncs: i32,
    #[arg(long, default_value = "0s", value_parser = component::duration::parse)]
    pub endpointslice_updates_batch_period: Duration,
    #[arg(long, default_value_t = 100, allow_hyphen_values = true)]
    pub max_endpoints_per_slice: i32,
    #[arg(long, default_value_t = 5, allow_hyphen_values = true)]
    pub mirroring_concurrent_service_endpoint_syncs: i32,
    #[arg(long, default_value = "0s", value_parser = component::duration::parse)]
    pub mirroring_endpointslice_updates_batch_period: Duration,
    #[arg(long, default_value_t = 1000, allow_hyphen_values = true)]
    pub mirroring_max_endpoints_per_subset: i32,
    #[arg(long, default_value_t = 5, allow_hyphen_values = true)]
    pub concurrent_ephemeralvolume_syncs: i32,
    #[arg(long, default_value_t = 20, allow_hyphen_values = true)]
    pub concurrent_gc_syncs: i32,
    #[arg(long, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    pub enable_garbage_collector: bool,
    #[arg(long, default_value_t = 5, allow_hyphen_values = true)]
    pub concurrent_horizontal_pod_autoscaler_syncs: i32,
    #[arg(long, default_value = "5m0s", value_parser = component::duration::parse)]
    pub horizontal_pod_autoscaler_cpu_initialization_period: Duration,
    #[arg(long, default_value = "5m0s", value_parser = component::duration::parse)]
    pub horizontal_pod_autoscaler_downscale_stabilization: Duration,
    #[arg(long, default_value = "30s", value_parser = component::duration::parse)]
    pub horizontal_pod_autoscaler_initial_readiness_delay: Duration,
    #[arg(long, default_value = "15s", value_parser = component::duration::parse)]
    pub horizontal_pod_autoscaler_sync_period: Duration,
    #[arg(long, default_value_t = 0.1)]
    pub horizontal_pod_autoscaler_tolerance: f64,
    #[arg(long, default_value_t = 5, allow_hyphen_values = true)]
    pub concurrent_job_syncs: i32,
    #[arg(long, default_value_t = 5, allow_hyphen_values = true)]
    pub concurrent_cron_job_syncs: i32,
    #[arg(long, default_value = "8760h0m0s", value_parser = component::duration::parse)]
    pub legacy_service_account_token_clean_up_period: Duration,
    #[arg(long, default_value_t = 10, allow_hyphen_values = true)]
    pub concurrent_namespace_syncs: i32,
    #[arg(long, default_value = "5m0s", value_parser = component::duration::parse)]
    pub namespace_sync_period: Duration,
    #[arg(long, default_value_t = 0, allow_hyphen_values = true)]
    pub node_cidr_mask_size: i32,
    #[arg(long, default_value_t = 0, allow_hyphen_values = true)]
    pub node_cidr_mask_size_ipv4: i32,
    #[arg(long, default_value_t = 0, allow_hyphen_values = true)]
    pub node_cidr_mask_size_ipv6: i32,
    #[arg(long, default_value = "")]
    pub service_cluster_ip_range: String,
    #[arg(long, default_value_t = 50, allow_hyphen_values = true)]
    pub large_cluster_size_threshold: i32,
    #[arg(long, default_value_t = 0.1)]
    pub node_eviction_rate: f64,
    #[arg(long, default_value = "50s", value_parser = component::duration::parse)]
    pub node_monitor_grace_period: Duration,
    #[arg(long, default_value = "1m0s", value_parser = component::duration::parse)]
    pub node_startup_grace_period: Duration,
    #[arg(long, default_value_t = 0.01)]
    pub secondary_node_eviction_rate: f64,
    #[arg(long, default_value_t = 0.55)]
    pub unhealthy_zone_threshold: f64,
    #[arg(long, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    pub enable_dynamic_provisioning: bool,
    #[arg(long, default_value_t = false, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    pub enable_hostpath_provisioner: bool,
    #[arg(long, default_value = "/usr/libexec/kubernetes/kubelet-plugins/volume/exec/")]
    pub flex_volume_plugin_dir: String,
    #[arg(long, default_value_t = 30, allow_hyphen_values = true)]
    pub pv_recycler_increment_timeout_nfs: i32,
    #[arg(long, default_value_t = 60, allow_hyphen_values = true)]
    pub pv_recycler_minimum_timeout_hostpath: i32,
    #[arg(long, default_value_t = 300, allow_hyphen_values = true)]
    pub pv_recycler_minimum_timeout_nfs: i32,
    #[arg(long, default_value = "")]
    pub pv_recycler_pod_template_filepath_hostpath: String,
    #[arg(long, default_value = "")]
    pub pv_recycler_pod_template_filepath_nfs: String,
    #[arg(long, default_value_t = 30, allow_hyphen_values = true)]
    pub pv_recycler_timeout_increment_hostpath: i32,
    #[arg(long, default_value = "15s", value_parser = component::duration::parse)]
    pub pvclaimbinder_sync_period: Duration,
    #[arg(long, default_value_t = 12500, allow_hyphen_values = true)]
    pub terminated_pod_gc_threshold: i32,
    #[arg(long, default_value_t = 5, allow_hyphen_values = true)]
    pub concurrent_replicaset_syncs: i32,
    #[arg(long, default_value_t = 5, allow_hyphen_values = true)]
    pub concurrent_rc_syncs: i32,
    #[arg(long, default_value_t = 5, allow_hyphen_values = true)]
    pub concurrent_resource_quota_syncs: i32,
    #[arg(long, default_value = "5m0s", value_parser = component::duration::parse)]
    pub resource_quota_sync_period: Duration,
    #[arg(long, default_value_t = 5, allow_hyphen_values = true)]
    pub concurrent_serviceaccount_token_syncs: i32,
    #[arg(long, default_value = "")]
    pub root_ca_file: String,
    #[arg(long, default_value = "")]
    pub service_account_private_key_file: String,
    #[arg(long, default_value_t = 5, allow_hyphen_values = true)]
    pub concurrent_ttl_after_finished_syncs: i32,
    #[arg(long, default_value_t = 5, allow_hyphen_values = true)]
    pub concurrent_validating_admission_policy_status_syncs: i32,
    #[arg(long, value_delimiter = ',')]
    pub allow_metric_labels: Vec<String>,
    #[arg(long, default_value = "")]
    pub allow_metric_labels_manifest: String,
    #[arg(long, value_delimiter = ',')]
    pub disabled_metrics: Vec<String>,
    #[arg(long, default_value = "")]
    pub show_hidden_metrics_for_version: String,
    #[arg(long, default_value = "5s", value_parser = component::duration::parse)]
    pub log_flush_frequency: Duration,
    #[arg(long, default_value = "")]
    pub log_json_info_buffer_size: String,
    #[arg(long, default_value_t = false, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    pub log_json_split_stream: bool,
    #[arg(long, default_value = "")]
    pub log_text_info_buffer_size: String,
    #[arg(long, default_value_t = false, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    pub log_text_split_stream: bool,
    #[arg(long, default_value = "text")]
    pub logging_format: String,
    #[arg(long, default_value = "")]
    pub vmodule: String,
    #[arg(long, default_value = "")]
    pub kubeconfig: String,
    #[arg(long, default_value = "")]
    pub master: String,
    #[arg(long, default_value_t = false, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    pub unsupported_kube_api_over_localhost: bool,
    /// Print version information and quit
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub version: Option<String>,
    /// Number for the log level verbosity
    #[arg(short = 'v', long = "v", default_value_t = 0, allow_hyphen_values = true)]
    pub v: i32,
}

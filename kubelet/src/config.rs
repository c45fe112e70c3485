//! What this kubelet is told: `KubeletConfiguration` v1beta1 (file, drop-ins, flags over both) and the flags of the process.
//!
//! Upstream: pkg/kubelet/apis/config/v1beta1, cmd/kubelet/app/options

pub mod effect;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::Taint;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::flags::Flags;

/// A configuration that cannot be used; the message says what to change.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file is unreadable.
    #[error("failed to read kubelet config file {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("failed to load kubelet config file {path}: {why}")]
    Parse {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A value is out of range.
    #[error("invalid configuration: {0}")]
    Invalid(String),
}

/// A duration that is written as Go does and where zero stands for "the default".
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Span(#[serde(with = "component::duration::serde_go")] pub Duration);

/// `authentication`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Authentication {
    /// x509 client certificates.
    pub x509: X509,
    /// Bearer tokens by TokenReview.
    pub webhook: AuthenticationWebhook,
    /// Requests without credentials.
    pub anonymous: Anonymous,
}

/// `authentication.x509`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct X509 {
    /// PEM bundle.
    #[serde(rename = "clientCAFile")]
    pub client_ca_file: String,
}

/// `authentication.webhook`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AuthenticationWebhook {
    /// Default true.
    pub enabled: Option<bool>,
    /// Default 2m.
    #[serde(rename = "cacheTTL", skip_serializing_if = "Option::is_none")]
    pub cache_ttl: Option<Span>,
}

/// `authentication.anonymous`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Anonymous {
    /// Default false.
    pub enabled: Option<bool>,
}

/// `authorization`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Authorization {
    /// `AlwaysAllow` or `Webhook` (the default of files).
    pub mode: String,
    /// Cache times.
    pub webhook: AuthorizationWebhook,
}

/// `authorization.webhook`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AuthorizationWebhook {
    /// Default 5m.
    #[serde(rename = "cacheAuthorizedTTL", skip_serializing_if = "Option::is_none")]
    pub cache_authorized_ttl: Option<Span>,
    /// Default 30s.
    #[serde(rename = "cacheUnauthorizedTTL", skip_serializing_if = "Option::is_none")]
    pub cache_unauthorized_ttl: Option<Span>,
}

/// `crashLoopBackOff`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CrashLoopBackOff {
    /// Default 5m.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_container_restart_period: Option<Span>,
}

/// `logging`, as far as it is used.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Logging {
    /// `text` or `json`.
    pub format: String,
    /// klog's `-v`.
    pub verbosity: u8,
    /// `flushFrequency`, `options`, …: kept for `/configz`.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

macro_rules! configuration {
    ($($(#[$doc:meta])* $name:ident $wire:literal : $type:ty = $default:expr,)*) => {
        /// `KubeletConfiguration`, complete: every field has its default.
        #[derive(Clone, Debug, Serialize, Deserialize)]
        #[serde(default)]
        #[allow(missing_docs)]
        pub struct KubeletConfiguration {
            $( #[serde(rename = $wire)] pub $name: $type, )*
            /// What this version does not know or does not use.
            #[serde(flatten)]
            pub other: Map<String, Value>,
        }
        impl Default for KubeletConfiguration {
            fn default() -> Self {
                Self { $( $name: $default, )* other: Map::new() }
            }
        }
    };
}

fn seconds(value: u64) -> Span {
    Span(Duration::from_secs(value))
}

fn strings<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

configuration! {
    enable_server "enableServer": bool = true,
    static_pod_path "staticPodPath": String = String::new(),
    static_pod_url "staticPodURL": String = String::new(),
    static_pod_url_header "staticPodURLHeader": BTreeMap<String, Vec<String>> = BTreeMap::new(),
    sync_frequency "syncFrequency": Span = seconds(60),
    file_check_frequency "fileCheckFrequency": Span = seconds(20),
    http_check_frequency "httpCheckFrequency": Span = seconds(20),
    address "address": String = "0.0.0.0".to_owned(),
    port "port": u16 = 10250,
    read_only_port "readOnlyPort": u16 = 0,
    tls_cert_file "tlsCertFile": String = String::new(),
    tls_private_key_file "tlsPrivateKeyFile": String = String::new(),
    tls_cipher_suites "tlsCipherSuites": Vec<String> = Vec::new(),
    tls_min_version "tlsMinVersion": String = String::new(),
    rotate_certificates "rotateCertificates": bool = false,
    server_tls_bootstrap "serverTLSBootstrap": bool = false,
    authentication "authentication": Authentication = Authentication::default(),
    authorization "authorization": Authorization = Authorization::default(),
    registry_pull_qps "registryPullQPS": i32 = 5,
    registry_burst "registryBurst": i32 = 10,
    event_record_qps "eventRecordQPS": i32 = 50,
    event_burst "eventBurst": i32 = 100,
    enable_debugging_handlers "enableDebuggingHandlers": bool = true,
    healthz_port "healthzPort": u16 = 10248,
    healthz_bind_address "healthzBindAddress": String = "127.0.0.1".to_owned(),
    oom_score_adj "oomScoreAdj": i32 = -999,
    cluster_domain "clusterDomain": String = String::new(),
    cluster_dns "clusterDNS": Vec<String> = Vec::new(),
    streaming_connection_idle_timeout "streamingConnectionIdleTimeout": Span = seconds(4 * 3600),
    node_status_update_frequency "nodeStatusUpdateFrequency": Span = seconds(10),
    node_status_report_frequency "nodeStatusReportFrequency": Span = seconds(300),
    node_lease_duration_seconds "nodeLeaseDurationSeconds": i32 = 40,
    image_minimum_gc_age "imageMinimumGCAge": Span = seconds(120),
    image_maximum_gc_age "imageMaximumGCAge": Span = seconds(0),
    image_gc_high "imageGCHighThresholdPercent": i32 = 85,
    image_gc_low "imageGCLowThresholdPercent": i32 = 80,
    volume_stats_agg_period "volumeStatsAggPeriod": Span = seconds(60),
    kubelet_cgroups "kubeletCgroups": String = String::new(),
    system_cgroups "systemCgroups": String = String::new(),
    cgroup_root "cgroupRoot": String = String::new(),
    cgroups_per_qos "cgroupsPerQOS": bool = true,
    cgroup_driver "cgroupDriver": String = "cgroupfs".to_owned(),
    cpu_manager_policy "cpuManagerPolicy": String = "none".to_owned(),
    memory_manager_policy "memoryManagerPolicy": String = "None".to_owned(),
    topology_manager_policy "topologyManagerPolicy": String = "none".to_owned(),
    topology_manager_scope "topologyManagerScope": String = "container".to_owned(),
    runtime_request_timeout "runtimeRequestTimeout": Span = seconds(120),
    hairpin_mode "hairpinMode": String = "promiscuous-bridge".to_owned(),
    max_pods "maxPods": i32 = 110,
    pod_cidr "podCIDR": String = String::new(),
    pod_pids_limit "podPidsLimit": i64 = -1,
    resolv_conf "resolvConf": String = "/etc/resolv.conf".to_owned(),
    cpu_cfs_quota "cpuCFSQuota": bool = true,
    cpu_cfs_quota_period "cpuCFSQuotaPeriod": Span = Span(Duration::from_millis(100)),
    node_status_max_images "nodeStatusMaxImages": i32 = 50,
    max_open_files "maxOpenFiles": i64 = 1_000_000,
    content_type "contentType": String = "application/vnd.kubernetes.protobuf".to_owned(),
    kube_api_qps "kubeAPIQPS": i32 = 50,
    kube_api_burst "kubeAPIBurst": i32 = 100,
    serialize_image_pulls "serializeImagePulls": Option<bool> = None,
    max_parallel_image_pulls "maxParallelImagePulls": Option<i32> = None,
    eviction_hard "evictionHard": BTreeMap<String, String> = strings([
        ("memory.available", "100Mi"), ("nodefs.available", "10%"), ("nodefs.inodesFree", "5%"), ("imagefs.available", "15%"), ("imagefs.inodesFree", "5%"),
    ]),
    eviction_soft "evictionSoft": BTreeMap<String, String> = BTreeMap::new(),
    eviction_soft_grace_period "evictionSoftGracePeriod": BTreeMap<String, String> = BTreeMap::new(),
    eviction_pressure_transition_period "evictionPressureTransitionPeriod": Span = seconds(300),
    eviction_max_pod_grace_period "evictionMaxPodGracePeriod": i64 = 0,
    eviction_minimum_reclaim "evictionMinimumReclaim": BTreeMap<String, String> = BTreeMap::new(),
    pods_per_core "podsPerCore": i32 = 0,
    enable_controller_attach_detach "enableControllerAttachDetach": bool = true,
    protect_kernel_defaults "protectKernelDefaults": bool = false,
    make_iptables_util_chains "makeIPTablesUtilChains": bool = true,
    feature_gates "featureGates": BTreeMap<String, bool> = BTreeMap::new(),
    fail_swap_on "failSwapOn": bool = true,
    memory_swap "memorySwap": Map<String, Value> = Map::new(),
    container_log_max_size "containerLogMaxSize": String = "10Mi".to_owned(),
    container_log_max_files "containerLogMaxFiles": i32 = 5,
    container_log_monitor_interval "containerLogMonitorInterval": Span = seconds(10),
    system_reserved "systemReserved": BTreeMap<String, String> = BTreeMap::new(),
    kube_reserved "kubeReserved": BTreeMap<String, String> = BTreeMap::new(),
    system_reserved_cgroup "systemReservedCgroup": String = String::new(),
    kube_reserved_cgroup "kubeReservedCgroup": String = String::new(),
    reserved_system_cpus "reservedSystemCPUs": String = String::new(),
    enforce_node_allocatable "enforceNodeAllocatable": Vec<String> = vec!["pods".to_owned()],
    allowed_unsafe_sysctls "allowedUnsafeSysctls": Vec<String> = Vec::new(),
    volume_plugin_dir "volumePluginDir": String = "/usr/libexec/kubernetes/kubelet-plugins/volume/exec/".to_owned(),
    provider_id "providerID": String = String::new(),
    logging "logging": Logging = Logging::default(),
    enable_system_log_handler "enableSystemLogHandler": bool = true,
    shutdown_grace_period "shutdownGracePeriod": Span = seconds(0),
    shutdown_grace_period_critical_pods "shutdownGracePeriodCriticalPods": Span = seconds(0),
    crash_loop_back_off "crashLoopBackOff": CrashLoopBackOff = CrashLoopBackOff::default(),
    seccomp_default "seccompDefault": bool = false,
    register_with_taints "registerWithTaints": Vec<Taint> = Vec::new(),
    register_node "registerNode": bool = true,
    local_storage_capacity_isolation "localStorageCapacityIsolation": bool = true,
    container_runtime_endpoint "containerRuntimeEndpoint": String = "unix:///run/containerd/containerd.sock".to_owned(),
    image_service_endpoint "imageServiceEndpoint": String = String::new(),
    fail_cgroup_v1 "failCgroupV1": bool = true,
    change_detection "configMapAndSecretChangeDetectionStrategy": String = "Watch".to_owned(),
    pod_logs_dir "podLogsDir": String = "/var/log/pods".to_owned(),
    single_process_oom_kill "singleProcessOOMKill": Option<bool> = None,
}

/// Fields that are known and kept without effect (yet); no warning for these.
const QUIET: &[&str] = &[
    "apiVersion",
    "kind",
    "cpuManagerReconcilePeriod",
    "cpuManagerPolicyOptions",
    "topologyManagerPolicyOptions",
    "enableProfilingHandler",
    "enableDebugFlagsHandler",
    "enableContentionProfiling",
    "iptablesMasqueradeBit",
    "iptablesDropBit",
    "kernelMemcgNotification",
    "qosReserved",
    "showHiddenMetricsForVersion",
    "memoryThrottlingFactor",
    "tracing",
    "reservedMemory",
    "containerLogMaxWorkers",
    "preloadedImagesVerificationAllowlist",
    "imagePullCredentialsVerificationPolicy",
    "mergeDefaultEvictionSettings",
    "shutdownGracePeriodByPodPriority",
    "enableServiceLinks",
    "userNamespaces",
    "tlsCurvePreferences",
];

/// Everything that was decided before start.
#[derive(Clone, Debug)]
pub struct Config {
    /// The merged configuration.
    pub kubelet: KubeletConfiguration,
    /// Where the API server is; `None` is standalone mode.
    pub kubeconfig: Option<PathBuf>,
    /// First contact, used where `kubeconfig` does not exist yet.
    pub bootstrap_kubeconfig: Option<PathBuf>,
    /// `/var/lib/kubelet`.
    pub root_dir: PathBuf,
    /// `/var/lib/kubelet/pki`.
    pub cert_dir: PathBuf,
    /// Name of the node.
    pub node_name: String,
    /// The host's own name.
    pub hostname: String,
    /// `--node-ip`, at most one of each family.
    pub node_ips: Vec<IpAddr>,
    /// Labels to register with.
    pub node_labels: BTreeMap<String, String>,
    /// External cloud provider: addresses and the uninitialized taint are its affair.
    pub external_cloud_provider: bool,
    /// `--image-credential-provider-config` and `-bin-dir`.
    pub credential_provider: Option<(PathBuf, PathBuf)>,
    /// Dead containers kept per container.
    pub dead_containers_per_container: usize,
    /// Symlinks for log collectors.
    pub container_logs_dir: PathBuf,
    /// Warnings to print once logging runs.
    pub warnings: Vec<String>,
}

impl Config {
    /// Reads files and flags, validates, fills in defaults.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn load(flags: &Flags) -> Result<Self, ConfigError> {
        let mut warnings = Vec::new();
        let mut document = Map::new();
        if let Some(path) = flags.own("config") {
            document = read_file(Path::new(path))?;
        } else if let Some(path) = flags.config.get("staticPodPath") {
            tracing::debug!(%path, "Static pods by flag");
        }
        if let Some(dir) = flags.own("config-dir") {
            for path in drop_ins(Path::new(dir))? {
                merge(&mut document, read_file(&path)?);
            }
        }
        // Flags have other defaults than files, where no file is given: upstream's legacy flag defaults.
        if flags.own("config").is_none() {
            let legacy: Value = serde_json::json!({
                "authentication": {"anonymous": {"enabled": true}, "webhook": {"enabled": false}}, "authorization": {"mode": "AlwaysAllow"},
            });
            if let Value::Object(legacy) = legacy {
                merge(&mut document, legacy);
            }
        }
        merge(&mut document, flags.config.clone());
        warnings.extend(effect::warnings(flags, &document));
        if let Some(text) = flags.own("manifest-url-header") {
            document.insert("staticPodURLHeader".into(), url_headers(text).map_err(ConfigError::Invalid)?);
        }
        let kubelet = parse(document)
            .map_err(|why| ConfigError::Parse { path: PathBuf::from(flags.own("config").unwrap_or("(flags)")), why })?;
        for name in kubelet.other.keys().filter(|name| !QUIET.contains(&name.as_str())) {
            warnings.push(format!("unknown field {name:?} in the kubelet configuration, ignored"));
        }
        let hostname = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default();
        let node_name = flags.own("hostname-override").filter(|name| !name.is_empty()).unwrap_or(&hostname).trim().to_lowercase();
        if node_name.is_empty() {
            return Err(ConfigError::Invalid("empty hostname is invalid; set --hostname-override".into()));
        }
        let mut node_ips = Vec::new();
        for part in flags.own("node-ip").unwrap_or("").split(',').filter(|part| !part.is_empty()) {
            let ip: IpAddr = part.trim().parse().map_err(|_| ConfigError::Invalid(format!("bad --node-ip {part:?}")))?;
            // `0.0.0.0` and `::` mean "the default one of that family".
            if !ip.is_unspecified() {
                node_ips.push(ip);
            }
        }
        let labels = component::flags::parse_map(flags.own("node-labels").unwrap_or("")).map_err(ConfigError::Invalid)?;
        let path = |name: &str| flags.own(name).filter(|text| !text.is_empty()).map(PathBuf::from);
        let root_dir = path("root-dir").unwrap_or_else(|| PathBuf::from("/var/lib/kubelet"));
        let config = Self {
            kubeconfig: path("kubeconfig"),
            bootstrap_kubeconfig: path("bootstrap-kubeconfig"),
            cert_dir: path("cert-dir").unwrap_or_else(|| root_dir.join("pki")),
            root_dir,
            node_name,
            hostname,
            node_ips,
            node_labels: labels,
            external_cloud_provider: flags.own("cloud-provider") == Some("external"),
            credential_provider: path("image-credential-provider-config").zip(path("image-credential-provider-bin-dir")),
            dead_containers_per_container: flags
                .own("maximum-dead-containers-per-container")
                .and_then(|text| text.parse().ok())
                .unwrap_or(1),
            container_logs_dir: std::env::var_os("RK_CONTAINER_LOGS_DIR")
                .map_or_else(|| PathBuf::from("/var/log/containers"), PathBuf::from),
            warnings,
            kubelet,
        };
        config.validate()?;
        Ok(config)
    }

    fn validate(&self) -> Result<(), ConfigError> {
        let kubelet = &self.kubelet;
        let invalid = |text: String| Err(ConfigError::Invalid(text));
        if !(0..=100).contains(&kubelet.image_gc_high) || !(0..=100).contains(&kubelet.image_gc_low) {
            return invalid(
                "imageGCHighThresholdPercent and imageGCLowThresholdPercent must be between 0 and 100, inclusive".into(),
            );
        }
        if kubelet.image_gc_low >= kubelet.image_gc_high {
            return invalid(format!(
                "imageGCLowThresholdPercent (--image-gc-low-threshold) {} must be less than imageGCHighThresholdPercent (--image-gc-high-threshold) {}",
                kubelet.image_gc_low, kubelet.image_gc_high
            ));
        }
        if !["cgroupfs", "systemd"].contains(&kubelet.cgroup_driver.as_str()) {
            return invalid(format!("cgroupDriver {:?} must be one of cgroupfs, systemd", kubelet.cgroup_driver));
        }
        if !["AlwaysAllow", "Webhook"].contains(&kubelet.authorization.mode.as_str()) {
            return invalid(format!("authorization.mode {:?} must be one of AlwaysAllow, Webhook", kubelet.authorization.mode));
        }
        if !["Watch", "Cache", "Get"].contains(&kubelet.change_detection.as_str()) {
            return invalid(format!(
                "configMapAndSecretChangeDetectionStrategy {:?} must be one of Get, Cache, Watch",
                kubelet.change_detection
            ));
        }
        if kubelet.max_pods < 0 {
            return invalid(format!("maxPods (--max-pods) {} must not be a negative number", kubelet.max_pods));
        }
        if kubelet.container_log_max_files <= 1 {
            return invalid(format!(
                "containerLogMaxFiles (--container-log-max-files) {} must be greater than 1",
                kubelet.container_log_max_files
            ));
        }
        if kubelet.address.parse::<IpAddr>().is_err() || kubelet.healthz_bind_address.parse::<IpAddr>().is_err() {
            return invalid("address and healthzBindAddress must be IP addresses".into());
        }
        crate::shutdown::plan::lines(kubelet).map_err(ConfigError::Invalid)?;
        crate::allocation::validate(kubelet).map_err(ConfigError::Invalid)?;
        crate::eviction::signal::validate(kubelet).map_err(ConfigError::Invalid)?;
        for name in &kubelet.enforce_node_allocatable {
            if !["none", "pods", "system-reserved", "kube-reserved", "system-reserved-compressible", "kube-reserved-compressible"]
                .contains(&name.as_str())
            {
                return invalid(format!(
                    "option {name:?} specified for enforceNodeAllocatable (--enforce-node-allocatable) is unknown"
                ));
            }
        }
        Ok(())
    }

    /// `<root>/pods/<uid>`.
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.root_dir.join("pods").join(uid)
    }

    /// Whether pulls wait for each other, and how many may run at once (`None`: any number).
    pub fn parallel_pulls(&self) -> Option<usize> {
        let max = self.kubelet.max_parallel_image_pulls.unwrap_or(0).max(0) as usize;
        match self.kubelet.serialize_image_pulls {
            Some(true) => Some(1),
            Some(false) => (max > 0).then_some(max),
            None if max > 1 => Some(max),
            None => Some(1),
        }
    }
}

/// A typed configuration from a document; zero durations and empty texts become defaults, as upstream's defaulting does.
fn parse(mut document: Map<String, Value>) -> Result<KubeletConfiguration, String> {
    if let Some(kind) = document.get("kind").and_then(Value::as_str)
        && kind != "KubeletConfiguration"
    {
        return Err(format!("no kind {kind:?} is registered for version \"kubelet.config.k8s.io/v1beta1\""));
    }
    if let Some(version) = document.get("apiVersion").and_then(Value::as_str)
        && version != "kubelet.config.k8s.io/v1beta1"
    {
        return Err(format!("no kind \"KubeletConfiguration\" is registered for version {version:?}"));
    }
    document.retain(|_, value| !value.is_null() && value.as_str() != Some("0s") && value.as_str() != Some(""));
    drop_zero(&mut document, "authentication");
    drop_zero(&mut document, "authorization");
    drop_zero(&mut document, "crashLoopBackOff");
    // Numbers for which zero means "the default".
    for name in [
        "port",
        "imageGCHighThresholdPercent",
        "imageGCLowThresholdPercent",
        "maxPods",
        "nodeLeaseDurationSeconds",
        "containerLogMaxFiles",
        "maxOpenFiles",
    ] {
        if document.get(name).and_then(Value::as_i64) == Some(0) {
            document.remove(name);
        }
    }
    let mut kubelet: KubeletConfiguration = serde_json::from_value(Value::Object(document)).map_err(|error| error.to_string())?;
    if kubelet.authorization.mode.is_empty() {
        kubelet.authorization.mode = "Webhook".into();
    }
    kubelet.authentication.webhook.enabled.get_or_insert(true);
    kubelet.authentication.anonymous.enabled.get_or_insert(false);
    kubelet.authentication.webhook.cache_ttl.get_or_insert(seconds(120));
    kubelet.authorization.webhook.cache_authorized_ttl.get_or_insert(seconds(300));
    kubelet.authorization.webhook.cache_unauthorized_ttl.get_or_insert(seconds(30));
    if kubelet.node_status_report_frequency.0 < kubelet.node_status_update_frequency.0 {
        kubelet.node_status_report_frequency = kubelet.node_status_update_frequency;
    }
    kubelet.other.insert("apiVersion".into(), "kubelet.config.k8s.io/v1beta1".into());
    kubelet.other.insert("kind".into(), "KubeletConfiguration".into());
    Ok(kubelet)
}

/// `key:value,key2:value2`, a key as often as it likes.
fn url_headers(text: &str) -> Result<Value, String> {
    let mut out: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (key, value) = part.split_once(':').ok_or_else(|| format!("malformed pair, expect string:string: {part:?}"))?;
        out.entry(key.trim().to_owned()).or_default().push(value.trim().to_owned());
    }
    Ok(serde_json::json!(out))
}

fn drop_zero(document: &mut Map<String, Value>, name: &str) {
    if let Some(Value::Object(inner)) = document.get_mut(name) {
        inner.retain(|_, value| !value.is_null() && value.as_str() != Some("0s"));
        let names: Vec<String> = inner.keys().cloned().collect();
        for name in names {
            drop_zero(inner, &name);
        }
    }
}

fn read_file(path: &Path) -> Result<Map<String, Value>, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    match serde_yaml::from_str::<Value>(&text) {
        Ok(Value::Object(document)) => Ok(document),
        Ok(_) => Err(ConfigError::Parse { path: path.to_owned(), why: "not a document".into() }),
        Err(error) => Err(ConfigError::Parse { path: path.to_owned(), why: error.to_string() }),
    }
}

/// `*.conf` below `dir`, in the order of their names.
fn drop_ins(dir: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let read = |source| ConfigError::Read { path: dir.to_owned(), source };
    let mut out = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(read)? {
        let path = entry.map_err(read)?.path();
        if path.extension().is_some_and(|extension| extension == "conf") {
            out.push(path);
        }
    }
    out.sort();
    Ok(out)
}

/// JSON merge: maps are merged, everything else is replaced.
fn merge(base: &mut Map<String, Value>, over: Map<String, Value>) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Object(old)), Value::Object(new)) => merge(old, new),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(yaml: &str, flags: &[&str]) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.yaml");
        std::fs::write(&path, yaml).unwrap();
        let mut args = vec![format!("--config={}", path.display())];
        args.extend(flags.iter().map(|flag| (*flag).to_owned()));
        Config::load(&Flags::parse(args).unwrap())
    }

    #[test]
    fn kubeadms_file_gets_upstreams_defaults_for_its_zeros() {
        let config = load(
            "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nsyncFrequency: 0s\nstaticPodPath: /etc/kubernetes/manifests\n\
             logging:\n  flushFrequency: 0\n  verbosity: 0\nauthentication:\n  webhook:\n    cacheTTL: 0s\n    enabled: true\nmemorySwap: {}\n\
             containerRuntimeEndpoint: \"\"\nfileCheckFrequency: 0s\ncgroupDriver: systemd\n",
            &["--hostname-override=Node-1", "--node-ip=10.0.0.1", "--cgroup-driver=cgroupfs"],
        )
        .unwrap();
        assert_eq!(config.node_name, "node-1");
        assert_eq!(config.kubelet.sync_frequency, seconds(60));
        assert_eq!(config.kubelet.file_check_frequency, seconds(20));
        assert_eq!(config.kubelet.authentication.webhook.cache_ttl, Some(seconds(120)));
        assert_eq!(config.kubelet.authorization.mode, "Webhook");
        assert_eq!(config.kubelet.cgroup_driver, "cgroupfs", "a flag wins over the file");
        assert_eq!(config.kubelet.container_runtime_endpoint, "unix:///run/containerd/containerd.sock");
        assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    }

    #[test]
    fn wrong_files_and_values_are_refused() {
        assert!(matches!(load("kind: Pod\n", &[]), Err(ConfigError::Parse { .. })));
        assert!(matches!(load("cgroupDriver: other\n", &[]), Err(ConfigError::Invalid(_))));
        assert!(matches!(load("maxPods: x\n", &[]), Err(ConfigError::Parse { .. })));
        let config = load("", &["--manifest-url-header=a:1,a:2,b:3"]);
        assert!(config.is_err(), "an empty file is no document");
        let config = load("kind: KubeletConfiguration\n", &["--manifest-url-header=a:1,a:2,b:3"]).unwrap();
        assert_eq!(config.kubelet.static_pod_url_header["a"], ["1", "2"]);
        assert_eq!(load("fooBar: 1\n", &["--hostname-override=a"]).unwrap().warnings.len(), 1);
    }
}

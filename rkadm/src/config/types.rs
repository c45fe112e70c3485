//! `kubeadm.k8s.io/v1beta4`: the configuration kinds, field by field. Unknown fields are errors.
//! Upstream: cmd/kubeadm/app/apis/kubeadm/v1beta4/types.go.

use std::collections::BTreeMap;
use std::time::Duration;

use component::duration::serde_go;
use serde::{Deserialize, Serialize};

pub const API_VERSION: &str = "kubeadm.k8s.io/v1beta4";

fn yes() -> bool {
    true
}

fn is_false(value: &bool) -> bool {
    !*value
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct InitConfiguration {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bootstrap_tokens: Vec<BootstrapToken>,
    #[serde(skip_serializing_if = "is_false")]
    pub dry_run: bool,
    pub node_registration: NodeRegistration,
    #[serde(rename = "localAPIEndpoint")]
    pub local_api_endpoint: ApiEndpoint,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub certificate_key: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub skip_phases: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patches: Option<Patches>,
    pub timeouts: Timeouts,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ClusterConfiguration {
    pub api_server: ApiServer,
    #[serde(with = "serde_go")]
    pub ca_certificate_validity_period: Duration,
    #[serde(with = "serde_go")]
    pub certificate_validity_period: Duration,
    pub certificates_dir: String,
    pub cluster_name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub control_plane_endpoint: String,
    pub controller_manager: ControlPlaneComponent,
    pub dns: Dns,
    pub encryption_algorithm: String,
    pub etcd: Etcd,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub feature_gates: BTreeMap<String, bool>,
    pub image_repository: String,
    pub kubernetes_version: String,
    pub networking: Networking,
    pub proxy: Proxy,
    pub scheduler: ControlPlaneComponent,
}

impl Default for ClusterConfiguration {
    fn default() -> Self {
        ClusterConfiguration {
            api_server: ApiServer::default(),
            ca_certificate_validity_period: pki::CA_VALIDITY,
            certificate_validity_period: pki::LEAF_VALIDITY,
            certificates_dir: "/etc/kubernetes/pki".into(),
            cluster_name: "kubernetes".into(),
            control_plane_endpoint: String::new(),
            controller_manager: ControlPlaneComponent::default(),
            dns: Dns::default(),
            encryption_algorithm: pki::Algorithm::default().name().into(),
            etcd: Etcd { local: Some(LocalEtcd::default()), external: None },
            feature_gates: BTreeMap::new(),
            image_repository: "registry.k8s.io".into(),
            kubernetes_version: component::version::current().into(),
            networking: Networking::default(),
            proxy: Proxy::default(),
            scheduler: ControlPlaneComponent::default(),
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ControlPlaneComponent {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub extra_args: Vec<Arg>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub extra_volumes: Vec<HostPathMount>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub extra_envs: Vec<serde_json::Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ApiServer {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub extra_args: Vec<Arg>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub extra_volumes: Vec<HostPathMount>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub extra_envs: Vec<serde_json::Value>,
    #[serde(rename = "certSANs", skip_serializing_if = "Vec::is_empty")]
    pub cert_sans: Vec<String>,
}

/// One command line argument: `name` without dashes. A name may repeat.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arg {
    pub name: String,
    #[serde(default)]
    pub value: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HostPathMount {
    pub name: String,
    pub host_path: String,
    pub mount_path: String,
    #[serde(skip_serializing_if = "is_false")]
    pub read_only: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub path_type: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Dns {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub image_repository: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub image_tag: String,
    #[serde(skip_serializing_if = "is_false")]
    pub disabled: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Proxy {
    #[serde(skip_serializing_if = "is_false")]
    pub disabled: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Etcd {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local: Option<LocalEtcd>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external: Option<ExternalEtcd>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LocalEtcd {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub image_repository: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub image_tag: String,
    pub data_dir: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub extra_args: Vec<Arg>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub extra_envs: Vec<serde_json::Value>,
    #[serde(rename = "serverCertSANs", skip_serializing_if = "Vec::is_empty")]
    pub server_cert_sans: Vec<String>,
    #[serde(rename = "peerCertSANs", skip_serializing_if = "Vec::is_empty")]
    pub peer_cert_sans: Vec<String>,
}

impl Default for LocalEtcd {
    fn default() -> Self {
        LocalEtcd {
            image_repository: String::new(),
            image_tag: String::new(),
            data_dir: "/var/lib/etcd".into(),
            extra_args: Vec::new(),
            extra_envs: Vec::new(),
            server_cert_sans: Vec::new(),
            peer_cert_sans: Vec::new(),
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ExternalEtcd {
    pub endpoints: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty", rename = "httpEndpoints")]
    pub http_endpoints: Vec<String>,
    pub ca_file: String,
    pub cert_file: String,
    pub key_file: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Networking {
    pub dns_domain: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub pod_subnet: String,
    pub service_subnet: String,
}

impl Default for Networking {
    fn default() -> Self {
        Networking { dns_domain: "cluster.local".into(), pod_subnet: String::new(), service_subnet: "10.96.0.0/12".into() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct BootstrapToken {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub expires: String,
    pub groups: Vec<String>,
    pub token: String,
    #[serde(with = "serde_go")]
    pub ttl: Duration,
    pub usages: Vec<String>,
}

/// What `init` and `token create` make without other wishes.
impl Default for BootstrapToken {
    fn default() -> Self {
        BootstrapToken {
            description: String::new(),
            expires: String::new(),
            groups: vec!["system:bootstrappers:kubeadm:default-node-token".into()],
            token: String::new(),
            ttl: Duration::from_secs(24 * 3600),
            usages: vec!["signing".into(), "authentication".into()],
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct NodeRegistration {
    pub cri_socket: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ignore_preflight_errors: Vec<String>,
    pub image_pull_policy: String,
    pub image_pull_serial: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kubelet_extra_args: Vec<Arg>,
    pub name: String,
    /// `None`: the control-plane taint on control-plane nodes. An empty list: no taint.
    pub taints: Option<Vec<Taint>>,
}

impl Default for NodeRegistration {
    fn default() -> Self {
        NodeRegistration {
            cri_socket: DEFAULT_CRI_SOCKET.into(),
            ignore_preflight_errors: Vec::new(),
            image_pull_policy: "IfNotPresent".into(),
            image_pull_serial: true,
            kubelet_extra_args: Vec::new(),
            name: String::new(),
            taints: None,
        }
    }
}

/// Where containerd listens. `/var/run` is `/run` on every distribution of this decade.
pub const DEFAULT_CRI_SOCKET: &str = "unix:///var/run/containerd/containerd.sock";

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Taint {
    pub effect: String,
    pub key: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub value: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_added: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ApiEndpoint {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub advertise_address: String,
    pub bind_port: u16,
}

impl Default for ApiEndpoint {
    fn default() -> Self {
        ApiEndpoint { advertise_address: String::new(), bind_port: 6443 }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Patches {
    pub directory: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Timeouts {
    #[serde(with = "serde_go")]
    pub control_plane_component_health_check: Duration,
    #[serde(with = "serde_go")]
    pub discovery: Duration,
    #[serde(rename = "etcdAPICall", with = "serde_go")]
    pub etcd_api_call: Duration,
    #[serde(with = "serde_go")]
    pub kubelet_health_check: Duration,
    #[serde(rename = "kubernetesAPICall", with = "serde_go")]
    pub kubernetes_api_call: Duration,
    #[serde(with = "serde_go")]
    pub tls_bootstrap: Duration,
    #[serde(with = "serde_go")]
    pub upgrade_manifests: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let minutes = |n: u64| Duration::from_secs(n * 60);
        Timeouts {
            control_plane_component_health_check: minutes(4),
            discovery: minutes(5),
            etcd_api_call: minutes(2),
            kubelet_health_check: minutes(4),
            kubernetes_api_call: minutes(1),
            tls_bootstrap: minutes(5),
            upgrade_manifests: minutes(5),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct JoinConfiguration {
    pub ca_cert_path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control_plane: Option<JoinControlPlane>,
    pub discovery: Discovery,
    #[serde(skip_serializing_if = "is_false")]
    pub dry_run: bool,
    pub node_registration: NodeRegistration,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patches: Option<Patches>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub skip_phases: Vec<String>,
    pub timeouts: Timeouts,
}

impl Default for JoinConfiguration {
    fn default() -> Self {
        JoinConfiguration {
            ca_cert_path: "/etc/kubernetes/pki/ca.crt".into(),
            control_plane: None,
            discovery: Discovery::default(),
            dry_run: false,
            node_registration: NodeRegistration::default(),
            patches: None,
            skip_phases: Vec::new(),
            timeouts: Timeouts::default(),
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct JoinControlPlane {
    #[serde(rename = "localAPIEndpoint")]
    pub local_api_endpoint: ApiEndpoint,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub certificate_key: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Discovery {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bootstrap_token: Option<BootstrapTokenDiscovery>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<FileDiscovery>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub tls_bootstrap_token: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct BootstrapTokenDiscovery {
    #[serde(rename = "apiServerEndpoint")]
    pub api_server_endpoint: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ca_cert_hashes: Vec<String>,
    pub token: String,
    #[serde(rename = "unsafeSkipCAVerification", skip_serializing_if = "is_false")]
    pub unsafe_skip_ca_verification: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct FileDiscovery {
    pub kube_config_path: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ResetConfiguration {
    pub certificates_dir: String,
    #[serde(skip_serializing_if = "is_false")]
    pub cleanup_tmp_dir: bool,
    pub cri_socket: String,
    #[serde(skip_serializing_if = "is_false")]
    pub dry_run: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub force: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ignore_preflight_errors: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub skip_phases: Vec<String>,
    pub timeouts: Timeouts,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unmount_flags: Vec<String>,
}

impl Default for ResetConfiguration {
    fn default() -> Self {
        ResetConfiguration {
            certificates_dir: "/etc/kubernetes/pki".into(),
            cleanup_tmp_dir: false,
            cri_socket: DEFAULT_CRI_SOCKET.into(),
            dry_run: false,
            force: false,
            ignore_preflight_errors: Vec::new(),
            skip_phases: Vec::new(),
            timeouts: Timeouts::default(),
            unmount_flags: Vec::new(),
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct UpgradeConfiguration {
    pub apply: UpgradeApply,
    pub diff: UpgradeDiff,
    pub node: UpgradeNode,
    pub plan: UpgradePlan,
    pub timeouts: Timeouts,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct UpgradeApply {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kubernetes_version: String,
    #[serde(skip_serializing_if = "is_false")]
    pub allow_experimental_upgrades: bool,
    #[serde(rename = "allowRCUpgrades", skip_serializing_if = "is_false")]
    pub allow_rc_upgrades: bool,
    #[serde(default = "yes")]
    pub certificate_renewal: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub dry_run: bool,
    #[serde(default = "yes")]
    pub etcd_upgrade: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub force_upgrade: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ignore_preflight_errors: Vec<String>,
    pub image_pull_policy: String,
    pub image_pull_serial: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patches: Option<Patches>,
    #[serde(skip_serializing_if = "is_false")]
    pub print_config: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub skip_phases: Vec<String>,
}

impl Default for UpgradeApply {
    fn default() -> Self {
        UpgradeApply {
            kubernetes_version: String::new(),
            allow_experimental_upgrades: false,
            allow_rc_upgrades: false,
            certificate_renewal: true,
            dry_run: false,
            etcd_upgrade: true,
            force_upgrade: false,
            ignore_preflight_errors: Vec::new(),
            image_pull_policy: "IfNotPresent".into(),
            image_pull_serial: true,
            patches: None,
            print_config: false,
            skip_phases: Vec::new(),
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct UpgradeDiff {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kubernetes_version: String,
    #[serde(rename = "contextLines", skip_serializing_if = "Option::is_none")]
    pub context_lines: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct UpgradeNode {
    pub certificate_renewal: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub dry_run: bool,
    pub etcd_upgrade: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ignore_preflight_errors: Vec<String>,
    pub image_pull_policy: String,
    pub image_pull_serial: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patches: Option<Patches>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub skip_phases: Vec<String>,
}

impl Default for UpgradeNode {
    fn default() -> Self {
        UpgradeNode {
            certificate_renewal: true,
            dry_run: false,
            etcd_upgrade: true,
            ignore_preflight_errors: Vec::new(),
            image_pull_policy: "IfNotPresent".into(),
            image_pull_serial: true,
            patches: None,
            skip_phases: Vec::new(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct UpgradePlan {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kubernetes_version: String,
    #[serde(skip_serializing_if = "is_false")]
    pub allow_experimental_upgrades: bool,
    #[serde(rename = "allowRCUpgrades", skip_serializing_if = "is_false")]
    pub allow_rc_upgrades: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub dry_run: bool,
    pub etcd_upgrade: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ignore_preflight_errors: Vec<String>,
    #[serde(skip_serializing_if = "is_false")]
    pub print_config: bool,
}

impl Default for UpgradePlan {
    fn default() -> Self {
        UpgradePlan {
            kubernetes_version: String::new(),
            allow_experimental_upgrades: false,
            allow_rc_upgrades: false,
            dry_run: false,
            etcd_upgrade: true,
            ignore_preflight_errors: Vec::new(),
            print_config: false,
        }
    }
}

//! The flags, validated: what cannot work is refused before anything is bound or asked.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;

use crate::controllers;
use crate::options::Options;
use crate::serving;

/// Validated configuration. Plain values are read from `options`; what needed parsing has its own field.
#[derive(Debug)]
pub struct Config {
    pub options: Options,
    pub bind_address: IpAddr,
    pub port: u16,
    /// `--cluster-cidr`, at most one of each family.
    pub cluster_cidrs: Vec<IpNet>,
    /// `--service-cluster-ip-range`, at most one of each family.
    pub service_cidrs: Vec<IpNet>,
    /// Names of the controllers to run, in the table's order.
    pub controllers: Vec<&'static str>,
}

/// Why the flags are refused; the message names the flag.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

type Unsupported = (&'static str, fn(&Options) -> bool);

/// Flags that are known and refused when given: nothing here would act on them.
const UNSUPPORTED: &[Unsupported] = &[
    ("--enable-leader-migration", |o| o.enable_leader_migration),
    ("--leader-migration-config", |o| !o.leader_migration_config.is_empty()),
    ("--cloud-config", |o| !o.cloud_config.is_empty()),
    ("--cloud-provider (other than \"external\")", |o| !matches!(o.cloud_provider.as_str(), "" | "external")),
    ("--external-cloud-volume-plugin", |o| !o.external_cloud_volume_plugin.is_empty()),
    ("--contention-profiling", |o| o.contention_profiling),
    ("--cidr-allocator-type (other than \"RangeAllocator\")", |o| o.cidr_allocator_type != "RangeAllocator"),
    ("--leader-elect-resource-lock (other than \"leases\")", |o| o.leader_elect_resource_lock != "leases"),
    ("--tls-sni-cert-key", |o| !o.tls_sni_cert_key.is_empty()),
    ("--tls-curve-preferences", |o| !o.tls_curve_preferences.is_empty()),
    ("--emulated-version", |o| !o.emulated_version.is_empty()),
    ("--min-compatibility-version", |o| !o.min_compatibility_version.is_empty()),
];

/// Flags that upstream acts on and that change nothing here, with the value that they have when not given.
macro_rules! without_effect {
    ($($field:ident)*) => {
        /// The flags among those that were given.
        fn without_effect(options: &Options, default: &Options) -> Vec<String> {
            let mut names = Vec::new();
            $(if options.$field != default.$field {
                names.push(format!("--{}", stringify!($field).replace('_', "-")));
            })*
            names
        }
    };
}

without_effect! {
    allow_metric_labels allow_metric_labels_manifest authentication_skip_lookup authentication_token_webhook_cache_ttl
    authentication_tolerate_lookup_failure authorization_webhook_cache_authorized_ttl authorization_webhook_cache_unauthorized_ttl
    cert_dir concurrent_service_syncs configure_cloud_routes disabled_metrics enable_hostpath_provisioner feature_gates
    flex_volume_plugin_dir http2_max_streams_per_connection kube_api_burst kube_api_content_type kube_api_qps log_flush_frequency
    log_json_info_buffer_size log_json_split_stream log_text_info_buffer_size log_text_split_stream min_resync_period
    namespace_sync_period permit_address_sharing permit_port_sharing requestheader_allowed_names requestheader_extra_headers_prefix
    requestheader_group_headers requestheader_uid_headers requestheader_username_headers route_reconciliation_period
    show_hidden_metrics_for_version unsupported_kube_api_over_localhost vmodule
}

impl Config {
    /// The flags that were given and change nothing here: clients are not throttled, nothing is resynced without a cause, there is no
    /// profiler to switch off, and what belongs to clouds is absent.
    pub fn without_effect(&self) -> Vec<String> {
        without_effect(&self.options, &<Options as clap::Parser>::parse_from(["kube-controller-manager"]))
    }

    /// # Errors
    /// A value is malformed, contradicts another, or belongs to what rk does not do; the message says which.
    pub fn new(options: Options) -> Result<Config, ConfigError> {
        let refuse = |text: String| Err(ConfigError(text));
        if let Some((flag, _)) = UNSUPPORTED.iter().find(|(_, given)| given(&options)) {
            return refuse(format!("flag {flag} is not supported"));
        }
        let bind_address = match options.bind_address.parse() {
            Ok(address) => address,
            Err(_) => return refuse(format!("--bind-address: {:?} is not an IP address", options.bind_address)),
        };
        let Ok(port) = u16::try_from(options.secure_port) else {
            return refuse(format!(
                "--secure-port: {} must be between 0 and 65535, inclusive. 0 for turning off secure port",
                options.secure_port
            ));
        };
        let cluster_cidrs = cidrs("--cluster-cidr", &options.cluster_cidr)?;
        let service_cidrs = cidrs("--service-cluster-ip-range", &options.service_cluster_ip_range)?;
        if options.allocate_node_cidrs && cluster_cidrs.is_empty() {
            return refuse("--cluster-cidr: must be set when --allocate-node-cidrs is true".to_owned());
        }
        if options.kubeconfig.is_empty() && options.master.is_empty() && std::env::var_os("KUBERNETES_SERVICE_HOST").is_none() {
            return refuse("--kubeconfig: must be set outside of a pod".to_owned());
        }
        if options.tls_cert_file.is_empty() != options.tls_private_key_file.is_empty() {
            return refuse("--tls-cert-file and --tls-private-key-file must be given together".to_owned());
        }
        for (name, cert, key) in [
            ("cluster-signing", &options.cluster_signing_cert_file, &options.cluster_signing_key_file),
            (
                "cluster-signing-kubelet-serving",
                &options.cluster_signing_kubelet_serving_cert_file,
                &options.cluster_signing_kubelet_serving_key_file,
            ),
            (
                "cluster-signing-kubelet-client",
                &options.cluster_signing_kubelet_client_cert_file,
                &options.cluster_signing_kubelet_client_key_file,
            ),
            (
                "cluster-signing-kube-apiserver-client",
                &options.cluster_signing_kube_apiserver_client_cert_file,
                &options.cluster_signing_kube_apiserver_client_key_file,
            ),
            (
                "cluster-signing-legacy-unknown",
                &options.cluster_signing_legacy_unknown_cert_file,
                &options.cluster_signing_legacy_unknown_key_file,
            ),
        ] {
            if cert.is_empty() != key.is_empty() {
                return refuse(format!("--{name}-cert-file and --{name}-key-file must be given together"));
            }
        }
        if !matches!(options.tls_min_version.as_str(), "" | "VersionTLS10" | "VersionTLS11" | "VersionTLS12" | "VersionTLS13") {
            return refuse(format!("--tls-min-version: unknown tls version {:?}", options.tls_min_version));
        }
        serving::cipher_suites(&options.tls_cipher_suites).map_err(ConfigError)?;
        let controllers = controllers::select(&options.controllers).map_err(ConfigError)?;
        Ok(Config { bind_address, port, cluster_cidrs, service_cidrs, controllers, options })
    }

    /// The file of a flag, if it was given.
    pub fn file(flag: &str) -> Option<PathBuf> {
        (!flag.is_empty()).then(|| PathBuf::from(flag))
    }
}

/// A number of workers: at least one.
pub fn workers(flag: i32) -> usize {
    usize::try_from(flag).unwrap_or(1).max(1)
}

fn cidrs(flag: &str, text: &str) -> Result<Vec<IpNet>, ConfigError> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    let parsed: Result<Vec<IpNet>, ConfigError> =
        parts.map(|part| part.parse().map_err(|_| ConfigError(format!("{flag}: {part:?} is not a CIDR")))).collect();
    let parsed = parsed?;
    match parsed.as_slice() {
        [] | [_] => Ok(parsed),
        [a, b] if matches!((a, b), (IpNet::V4(_), IpNet::V6(_)) | (IpNet::V6(_), IpNet::V4(_))) => Ok(parsed),
        [_, _] => Err(ConfigError(format!("{flag}: two CIDRs must be of different families"))),
        _ => Err(ConfigError(format!("{flag}: at most two CIDRs"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn config(flags: &[&str]) -> Result<Config, ConfigError> {
        let base = ["kube-controller-manager", "--kubeconfig=/etc/kubernetes/controller-manager.conf"];
        Config::new(Options::try_parse_from(base.iter().chain(flags)).unwrap())
    }

    #[test]
    fn the_flags_of_a_kubeadm_manifest_are_accepted() {
        let config = config(&[
            "--allocate-node-cidrs=true",
            "--authentication-kubeconfig=/etc/kubernetes/controller-manager.conf",
            "--authorization-kubeconfig=/etc/kubernetes/controller-manager.conf",
            "--bind-address=127.0.0.1",
            "--client-ca-file=/etc/kubernetes/pki/ca.crt",
            "--cluster-cidr=10.244.0.0/16",
            "--cluster-name=kubernetes",
            "--cluster-signing-cert-file=/etc/kubernetes/pki/ca.crt",
            "--cluster-signing-key-file=/etc/kubernetes/pki/ca.key",
            "--controllers=*,bootstrapsigner,tokencleaner",
            "--leader-elect=true",
            "--requestheader-client-ca-file=/etc/kubernetes/pki/front-proxy-ca.crt",
            "--root-ca-file=/etc/kubernetes/pki/ca.crt",
            "--service-account-private-key-file=/etc/kubernetes/pki/sa.key",
            "--service-cluster-ip-range=10.96.0.0/12",
            "--use-service-account-credentials=true",
        ])
        .unwrap();
        assert!(config.controllers.contains(&"bootstrap-signer-controller"));
        assert_eq!(config.cluster_cidrs.len(), 1);
        assert_eq!(config.options.leader_elect_lease_duration.as_secs(), 15);
    }

    #[test]
    fn what_has_no_effect_is_named_when_given() {
        assert!(config(&[]).unwrap().without_effect().is_empty());
        let given = config(&["--kube-api-qps=50", "--feature-gates=A=true", "--profiling=false", "--vmodule=x=1"]).unwrap();
        assert_eq!(given.without_effect(), ["--feature-gates", "--kube-api-qps", "--vmodule"]);
    }

    #[test]
    fn what_cannot_work_is_refused_by_the_name_of_its_flag() {
        for (flags, expected) in [
            (&["--allocate-node-cidrs"][..], "--cluster-cidr"),
            (&["--cluster-cidr=nope"], "--cluster-cidr"),
            (&["--cluster-cidr=10.0.0.0/8,11.0.0.0/8"], "different families"),
            (&["--enable-leader-migration"], "--enable-leader-migration"),
            (&["--cloud-provider=aws"], "--cloud-provider"),
            (&["--controllers=nope"], "nope"),
            (&["--tls-cert-file=/a"], "--tls-private-key-file"),
            (&["--tls-min-version=VersionTLS14"], "--tls-min-version"),
            (&["--tls-cipher-suites=TLS_NULL"], "--tls-cipher-suites"),
        ] {
            let error = config(flags).unwrap_err().to_string();
            assert!(error.contains(expected), "{flags:?}: {error}");
        }
    }
}

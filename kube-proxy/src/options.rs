//! Command-line flags, with upstream's names. With `--config`, most flags are ignored, as upstream does.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;

use crate::config::{Config, KubeProxyConfiguration};

/// The Kubernetes network proxy runs on each node: it makes Services reachable by rules in the node's kernel.
#[derive(clap::Parser, Debug, Clone)]
#[command(name = "kube-proxy", disable_version_flag = true)]
pub struct Options {
    /// The path to the configuration file.
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// If true cleanup iptables rules and exit.
    #[arg(long, default_value_t = false, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub cleanup: bool,
    /// If true, perform any initialization steps that must be done with full root privileges, and then exit.
    #[arg(long, default_value_t = false, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub init_only: bool,
    /// If non-empty, will be used as the name of the Node that kube-proxy is running on.
    #[arg(long, default_value = "")]
    pub hostname_override: String,
    /// Path to kubeconfig file with authorization information.
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
    /// The address of the Kubernetes API server (overrides any value in kubeconfig).
    #[arg(long)]
    pub master: Option<String>,
    /// Which proxy mode to use: on Linux this can be 'iptables' (default) or 'nftables'.
    #[arg(long, default_value = "")]
    pub proxy_mode: String,
    /// The CIDR range of the pods in the cluster; a pair when dual-stack.
    #[arg(long, default_value = "")]
    pub cluster_cidr: String,
    /// Overrides kube-proxy's idea of what its node's primary IP is.
    #[arg(long, default_value = "0.0.0.0")]
    pub bind_address: String,
    /// If true kube-proxy will treat failure to bind to a port as fatal and exit.
    #[arg(long, default_value_t = false, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub bind_address_hard_fail: bool,
    /// The IP address and port for the health check server to serve on.
    #[arg(long, default_value = "0.0.0.0:10256")]
    pub healthz_bind_address: String,
    /// The IP address and port for the metrics server to serve on.
    #[arg(long, default_value = "127.0.0.1:10249")]
    pub metrics_bind_address: String,
    /// Mode to use to detect local traffic.
    #[arg(long, default_value = "")]
    pub detect_local_mode: String,
    /// A bridge interface name; traffic from it is local when the mode is BridgeInterface.
    #[arg(long, default_value = "")]
    pub pod_bridge_interface: String,
    /// An interface name prefix; traffic from such interfaces is local when the mode is InterfaceNamePrefix.
    #[arg(long, default_value = "")]
    pub pod_interface_name_prefix: String,
    /// SNAT all traffic sent via Service cluster IPs.
    #[arg(long, default_value_t = false, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub masquerade_all: bool,
    /// Which bit of the fwmark space to use to mark packets requiring SNAT.
    #[arg(long, default_value_t = 14)]
    pub iptables_masquerade_bit: u8,
    /// If false, do not accept connections to NodePorts on localhost.
    #[arg(long, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub iptables_localhost_nodeports: bool,
    /// The minimum period between rule resyncs.
    #[arg(long, default_value = "1s", value_parser = component::duration::parse)]
    pub iptables_min_sync_period: Duration,
    /// How often rules are looked at although nothing changed.
    #[arg(long, default_value = "30s", value_parser = component::duration::parse)]
    pub iptables_sync_period: Duration,
    /// A list of CIDR ranges that contain valid node IPs, or 'primary'.
    #[arg(long, value_delimiter = ',')]
    pub nodeport_addresses: Vec<String>,
    /// Maximum number of NAT connections to track per CPU core (0 to leave the limit as-is).
    #[arg(long, default_value_t = 32_768)]
    pub conntrack_max_per_core: u32,
    /// Minimum number of conntrack entries to allocate, regardless of conntrack-max-per-core.
    #[arg(long, default_value_t = 131_072)]
    pub conntrack_min: u32,
    /// Enable liberal mode for tracking TCP packets.
    #[arg(long, default_value_t = false, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub conntrack_tcp_be_liberal: bool,
    /// NAT timeout for TCP connections in the CLOSE_WAIT state.
    #[arg(long, default_value = "1h0m0s", value_parser = component::duration::parse)]
    pub conntrack_tcp_timeout_close_wait: Duration,
    /// Idle timeout for established TCP connections (0 to leave as-is).
    #[arg(long, default_value = "24h0m0s", value_parser = component::duration::parse)]
    pub conntrack_tcp_timeout_established: Duration,
    /// Idle timeout for UNREPLIED UDP connections (0 to leave as-is).
    #[arg(long, default_value = "0s", value_parser = component::duration::parse)]
    pub conntrack_udp_timeout: Duration,
    /// Idle timeout for ASSURED UDP connections (0 to leave as-is).
    #[arg(long, default_value = "0s", value_parser = component::duration::parse)]
    pub conntrack_udp_timeout_stream: Duration,
    /// The oom-score-adj value for the kube-proxy process.
    #[arg(long, default_value_t = -999, allow_hyphen_values = true)]
    pub oom_score_adj: i32,
    /// Number for the log level verbosity.
    #[arg(short, long, default_value_t = 0)]
    pub v: u8,
    /// Sets the log format: text or json.
    #[arg(long, default_value = "text")]
    pub logging_format: String,
    /// If set, write the configuration values to this file and exit.
    #[arg(long)]
    pub write_config_to: Option<PathBuf>,
    /// Print version information and quit.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub version: Option<String>,
    #[command(flatten)]
    pub accepted: Accepted,
}

/// Flags of upstream that change nothing here; they are accepted so that existing command lines work.
#[derive(clap::Args, Debug, Clone)]
pub struct Accepted {
    #[arg(long, hide = true)]
    pub boot_id_file: Option<String>,
    #[arg(long, hide = true)]
    pub config_sync_period: Option<String>,
    #[arg(long, hide = true)]
    pub feature_gates: Vec<String>,
    #[arg(long, hide = true)]
    pub ipvs_exclude_cidrs: Vec<String>,
    #[arg(long, hide = true)]
    pub ipvs_min_sync_period: Option<String>,
    #[arg(long, hide = true)]
    pub ipvs_scheduler: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub ipvs_strict_arp: Option<String>,
    #[arg(long, hide = true)]
    pub ipvs_sync_period: Option<String>,
    #[arg(long, hide = true)]
    pub ipvs_tcp_timeout: Option<String>,
    #[arg(long, hide = true)]
    pub ipvs_tcpfin_timeout: Option<String>,
    #[arg(long, hide = true)]
    pub ipvs_udp_timeout: Option<String>,
    #[arg(long, hide = true)]
    pub kube_api_burst: Option<String>,
    #[arg(long, hide = true)]
    pub kube_api_content_type: Option<String>,
    #[arg(long, hide = true)]
    pub kube_api_qps: Option<String>,
    #[arg(long, hide = true)]
    pub log_flush_frequency: Option<String>,
    #[arg(long, hide = true)]
    pub log_json_info_buffer_size: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub log_json_split_stream: Option<String>,
    #[arg(long, hide = true)]
    pub log_text_info_buffer_size: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub log_text_split_stream: Option<String>,
    #[arg(long, hide = true)]
    pub machine_id_file: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub profiling: Option<String>,
    #[arg(long, hide = true)]
    pub show_hidden_metrics_for_version: Option<String>,
    #[arg(long, hide = true)]
    pub vmodule: Option<String>,
}

impl Options {
    /// The file that `--config` names, or the same things from flags.
    fn file(&self) -> anyhow::Result<KubeProxyConfiguration> {
        if let Some(path) = &self.config {
            let text = std::fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))?;
            return serde_yaml::from_str(&text).with_context(|| format!("failed to decode {}", path.display()));
        }
        let mut file = KubeProxyConfiguration::default();
        file.client_connection.kubeconfig = self.kubeconfig.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
        file.mode.clone_from(&self.proxy_mode);
        file.cluster_cidr.clone_from(&self.cluster_cidr);
        file.bind_address.clone_from(&self.bind_address);
        file.bind_address_hard_fail = self.bind_address_hard_fail;
        file.healthz_bind_address.clone_from(&self.healthz_bind_address);
        file.metrics_bind_address.clone_from(&self.metrics_bind_address);
        file.detect_local_mode.clone_from(&self.detect_local_mode);
        file.detect_local.bridge_interface.clone_from(&self.pod_bridge_interface);
        file.detect_local.interface_name_prefix.clone_from(&self.pod_interface_name_prefix);
        file.node_port_addresses.clone_from(&self.nodeport_addresses);
        file.oom_score_adj = Some(self.oom_score_adj);
        file.conntrack.max_per_core = Some(self.conntrack_max_per_core);
        file.conntrack.min = Some(self.conntrack_min);
        file.conntrack.tcp_be_liberal = self.conntrack_tcp_be_liberal;
        file.conntrack.tcp_close_wait_timeout = Some(self.conntrack_tcp_timeout_close_wait);
        file.conntrack.tcp_established_timeout = Some(self.conntrack_tcp_timeout_established);
        file.conntrack.udp_timeout = Some(self.conntrack_udp_timeout);
        file.conntrack.udp_stream_timeout = Some(self.conntrack_udp_timeout_stream);
        for settings in [&mut file.iptables, &mut file.nftables] {
            settings.masquerade_all = self.masquerade_all;
            settings.masquerade_bit = Some(self.iptables_masquerade_bit);
            settings.localhost_node_ports = Some(self.iptables_localhost_nodeports);
            settings.min_sync_period = Some(self.iptables_min_sync_period);
            settings.sync_period = Some(self.iptables_sync_period);
        }
        Ok(file)
    }

    /// Reads, completes and checks the configuration.
    pub fn resolve(&self) -> anyhow::Result<(Config, u8)> {
        let mut file = self.file()?;
        if !self.hostname_override.is_empty() {
            file.hostname_override.clone_from(&self.hostname_override);
        }
        let verbosity = self.v.max(file.logging.verbosity);
        let hostname = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default();
        let config = Config::resolve(file, &hostname, self.master.clone()).context("invalid configuration")?;
        Ok((config, verbosity))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn flags_alone_make_a_configuration() {
        let options = Options::try_parse_from([
            "kube-proxy",
            "--hostname-override=n1",
            "--cluster-cidr=10.0.0.0/16",
            "--masquerade-all",
            "--iptables-localhost-nodeports=false",
            "--oom-score-adj=-998",
        ])
        .unwrap();
        let (config, _) = options.resolve().unwrap();
        assert!(config.masquerade_all && !config.localhost_node_ports);
        assert_eq!((config.node_name.as_str(), config.oom_score_adj), ("n1", -998));
    }

    #[test]
    fn every_flag_of_upstream_is_known() {
        let Ok(text) = std::fs::read_to_string("/work/shared/reference/kubeadm/component-flags.txt") else { return };
        let section = text.split("## ").find(|section| section.starts_with("kube-proxy\n")).unwrap();
        let command = <Options as clap::CommandFactory>::command();
        let known: Vec<String> = command.get_arguments().filter_map(|arg| arg.get_long().map(str::to_owned)).collect();
        for line in section.lines().filter_map(|line| line.strip_prefix("--")) {
            let flag = line.split([' ', '[', '=']).next().unwrap();
            assert!(flag == "help" || known.iter().any(|name| name == flag), "--{flag}");
        }
    }
}

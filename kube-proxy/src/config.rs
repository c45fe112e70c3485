//! `KubeProxyConfiguration` (kubeproxy.config.k8s.io/v1alpha1) as files hold it, and the resolved configuration made of it.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer};

/// What a duration field holds: Go's text, or nothing.
fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text: Option<String> = Option::deserialize(deserializer)?;
    text.map(|text| component::duration::parse(&text).map_err(serde::de::Error::custom)).transpose()
}

/// `null` means the default, as Go's decoder has it.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientConnection {
    #[serde(deserialize_with = "or_default")]
    pub kubeconfig: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Conntrack {
    pub max_per_core: Option<u32>,
    pub min: Option<u32>,
    #[serde(deserialize_with = "or_default")]
    pub tcp_be_liberal: bool,
    #[serde(deserialize_with = "duration")]
    pub tcp_close_wait_timeout: Option<Duration>,
    #[serde(deserialize_with = "duration")]
    pub tcp_established_timeout: Option<Duration>,
    #[serde(deserialize_with = "duration")]
    pub udp_stream_timeout: Option<Duration>,
    #[serde(deserialize_with = "duration")]
    pub udp_timeout: Option<Duration>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DetectLocal {
    #[serde(deserialize_with = "or_default")]
    pub bridge_interface: String,
    #[serde(deserialize_with = "or_default")]
    pub interface_name_prefix: String,
}

/// `iptables` and `nftables`: the same fields.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ModeSettings {
    pub localhost_node_ports: Option<bool>,
    #[serde(deserialize_with = "or_default")]
    pub masquerade_all: bool,
    pub masquerade_bit: Option<u8>,
    #[serde(deserialize_with = "duration")]
    pub min_sync_period: Option<Duration>,
    #[serde(deserialize_with = "duration")]
    pub sync_period: Option<Duration>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Logging {
    #[serde(deserialize_with = "or_default")]
    pub verbosity: u8,
    #[serde(deserialize_with = "or_default")]
    pub format: String,
}

/// The file. Unknown fields are ignored, as upstream's fallback decoder does with a warning.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KubeProxyConfiguration {
    pub api_version: String,
    pub kind: String,
    #[serde(deserialize_with = "or_default")]
    pub bind_address: String,
    #[serde(deserialize_with = "or_default")]
    pub bind_address_hard_fail: bool,
    pub client_connection: ClientConnection,
    #[serde(rename = "clusterCIDR", deserialize_with = "or_default")]
    pub cluster_cidr: String,
    pub conntrack: Conntrack,
    pub detect_local: DetectLocal,
    #[serde(deserialize_with = "or_default")]
    pub detect_local_mode: String,
    #[serde(deserialize_with = "or_default")]
    pub healthz_bind_address: String,
    #[serde(deserialize_with = "or_default")]
    pub hostname_override: String,
    pub iptables: ModeSettings,
    pub nftables: ModeSettings,
    pub logging: Logging,
    #[serde(deserialize_with = "or_default")]
    pub metrics_bind_address: String,
    #[serde(deserialize_with = "or_default")]
    pub mode: String,
    #[serde(deserialize_with = "or_default")]
    pub node_port_addresses: Vec<String>,
    pub oom_score_adj: Option<i32>,
}

/// How pods' traffic is told from other traffic. Upstream: LocalMode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DetectLocalMode {
    ClusterCidr,
    NodeCidr,
    BridgeInterface,
    InterfaceNamePrefix,
}

/// Connection tracking settings; `None` leaves the kernel's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConntrackSettings {
    pub max_per_core: u32,
    pub min: u32,
    pub tcp_be_liberal: bool,
    pub tcp_close_wait_timeout: Option<Duration>,
    pub tcp_established_timeout: Option<Duration>,
    pub udp_stream_timeout: Option<Duration>,
    pub udp_timeout: Option<Duration>,
}

/// The configuration with every default filled in and every text parsed.
#[derive(Debug, Clone)]
pub struct Config {
    pub kubeconfig: Option<PathBuf>,
    pub master: Option<String>,
    pub node_name: String,
    pub bind_address: IpAddr,
    pub bind_address_hard_fail: bool,
    pub healthz_bind_address: Option<SocketAddr>,
    pub metrics_bind_address: Option<SocketAddr>,
    pub mode: String,
    pub cluster_cidrs: Vec<IpNet>,
    pub detect_local_mode: DetectLocalMode,
    pub bridge_interface: String,
    pub interface_name_prefix: String,
    pub conntrack: ConntrackSettings,
    pub localhost_node_ports: bool,
    pub masquerade_all: bool,
    pub masquerade_bit: u8,
    pub min_sync_period: Duration,
    pub sync_period: Duration,
    pub node_port_addresses: Vec<IpNet>,
    /// NodePorts answer on the node's primary addresses only.
    pub node_ports_primary: bool,
    pub oom_score_adj: i32,
}

/// Why a configuration cannot be used; the text names the field.
#[derive(Debug, thiserror::Error)]
#[error("{field}: {message}")]
pub struct Invalid {
    pub field: &'static str,
    pub message: String,
}

fn invalid(field: &'static str, message: impl Into<String>) -> Invalid {
    Invalid { field, message: message.into() }
}

/// `host:port`; a bare address takes `port`, an empty one the default. Port 0 of a given address turns the server off.
fn bind_address(field: &'static str, text: &str, default: SocketAddr) -> Result<Option<SocketAddr>, Invalid> {
    if text.is_empty() {
        return Ok(Some(default));
    }
    let address = match text.parse::<SocketAddr>() {
        Ok(address) => address,
        Err(_) => {
            SocketAddr::new(text.parse().map_err(|_| invalid(field, format!("must be IP:port, got {text:?}")))?, default.port())
        }
    };
    Ok(Some(address).filter(|address| address.port() != 0))
}

fn zero_is_none(duration: Option<Duration>) -> Option<Duration> {
    duration.filter(|duration| !duration.is_zero())
}

impl Config {
    /// Fills in defaults and checks everything; nothing is bound yet.
    pub fn resolve(file: KubeProxyConfiguration, hostname: &str, master: Option<String>) -> Result<Self, Invalid> {
        if !file.kind.is_empty() && file.kind != "KubeProxyConfiguration" {
            return Err(invalid("kind", format!("must be KubeProxyConfiguration, got {:?}", file.kind)));
        }
        let Some(backend) = crate::backend::find(&file.mode) else {
            let known: Vec<&str> = crate::backend::BACKENDS.iter().map(|kind| kind.name).collect();
            let mut message = format!("must be {} or blank, got {:?} (blank means {})", known.join(","), file.mode, known[0]);
            if file.mode == "ipvs" {
                message.push_str("; the ipvs mode is deprecated upstream and not built in, nftables replaces it");
            }
            return Err(invalid("mode", message));
        };
        let mode_settings = if backend.name == "nftables" { &file.nftables } else { &file.iptables };
        let bind_address_text = if file.bind_address.is_empty() { "0.0.0.0" } else { &file.bind_address };
        let address: IpAddr =
            bind_address_text.parse().map_err(|_| invalid("bindAddress", format!("not an IP address: {bind_address_text:?}")))?;
        let any: IpAddr = if address.is_ipv6() { IpAddr::from([0; 16]) } else { IpAddr::from([0; 4]) };
        let loopback: IpAddr =
            if address.is_ipv6() { IpAddr::from(std::net::Ipv6Addr::LOCALHOST) } else { [127, 0, 0, 1].into() };
        let cidrs = |field, text: &str| -> Result<Vec<IpNet>, Invalid> {
            let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
            parts.map(|part| part.parse().map_err(|_| invalid(field, format!("not a CIDR: {part:?}")))).collect()
        };
        let node_ports_primary = file.node_port_addresses.iter().any(|text| text == "primary")
            || (file.node_port_addresses.is_empty() && !backend.node_ports_everywhere);
        if node_ports_primary && file.node_port_addresses.len() > 1 {
            return Err(invalid("nodePortAddresses", "may only contain \"primary\" if it is the only value"));
        }
        let node_port_addresses =
            if node_ports_primary { Vec::new() } else { cidrs("nodePortAddresses", &file.node_port_addresses.join(","))? };
        let detect_local_mode = match file.detect_local_mode.as_str() {
            "" | "ClusterCIDR" => DetectLocalMode::ClusterCidr,
            "NodeCIDR" => DetectLocalMode::NodeCidr,
            "BridgeInterface" if file.detect_local.bridge_interface.is_empty() => {
                return Err(invalid("detectLocal.bridgeInterface", "must be set for mode BridgeInterface"));
            }
            "BridgeInterface" => DetectLocalMode::BridgeInterface,
            "InterfaceNamePrefix" if file.detect_local.interface_name_prefix.is_empty() => {
                return Err(invalid("detectLocal.interfaceNamePrefix", "must be set for mode InterfaceNamePrefix"));
            }
            "InterfaceNamePrefix" => DetectLocalMode::InterfaceNamePrefix,
            other => {
                let message = format!("must be ClusterCIDR,NodeCIDR,BridgeInterface,InterfaceNamePrefix or blank, got {other:?}");
                return Err(invalid("detectLocalMode", message));
            }
        };
        let masquerade_bit = mode_settings.masquerade_bit.unwrap_or(14);
        if masquerade_bit > 31 {
            return Err(invalid("masqueradeBit", "must be within the range [0, 31]"));
        }
        let sync_period = zero_is_none(mode_settings.sync_period).unwrap_or(Duration::from_secs(30));
        let min_sync_period = mode_settings.min_sync_period.unwrap_or(Duration::ZERO);
        if min_sync_period > sync_period {
            return Err(invalid("syncPeriod", "must be greater than or equal to minSyncPeriod"));
        }
        let hostname = if file.hostname_override.is_empty() { hostname } else { &file.hostname_override };
        let node_name = hostname.trim().to_ascii_lowercase();
        if node_name.is_empty() {
            return Err(invalid("hostnameOverride", "the host has no name, set one"));
        }
        let day = Duration::from_secs(24 * 3600);
        let hour = Duration::from_secs(3600);
        Ok(Self {
            kubeconfig: Some(file.client_connection.kubeconfig).filter(|path| !path.is_empty()).map(PathBuf::from),
            master,
            node_name,
            bind_address: address,
            bind_address_hard_fail: file.bind_address_hard_fail,
            healthz_bind_address: bind_address("healthzBindAddress", &file.healthz_bind_address, SocketAddr::new(any, 10256))?,
            metrics_bind_address: bind_address(
                "metricsBindAddress",
                &file.metrics_bind_address,
                SocketAddr::new(loopback, 10249),
            )?,
            mode: backend.name.to_owned(),
            cluster_cidrs: cidrs("clusterCIDR", &file.cluster_cidr)?,
            detect_local_mode,
            bridge_interface: file.detect_local.bridge_interface,
            interface_name_prefix: file.detect_local.interface_name_prefix,
            conntrack: ConntrackSettings {
                max_per_core: file.conntrack.max_per_core.unwrap_or(32 * 1024),
                min: file.conntrack.min.unwrap_or(128 * 1024),
                tcp_be_liberal: file.conntrack.tcp_be_liberal,
                tcp_close_wait_timeout: zero_is_none(file.conntrack.tcp_close_wait_timeout.or(Some(hour))),
                tcp_established_timeout: zero_is_none(file.conntrack.tcp_established_timeout.or(Some(day))),
                udp_stream_timeout: zero_is_none(file.conntrack.udp_stream_timeout),
                udp_timeout: zero_is_none(file.conntrack.udp_timeout),
            },
            localhost_node_ports: mode_settings.localhost_node_ports.unwrap_or(true),
            masquerade_all: mode_settings.masquerade_all,
            masquerade_bit,
            min_sync_period,
            sync_period,
            node_port_addresses,
            node_ports_primary,
            oom_score_adj: file.oom_score_adj.unwrap_or(-999),
        })
    }
}

/// A duration as the configuration writes it.
fn written(duration: Duration) -> String {
    let (seconds, millis) = (duration.as_secs(), duration.subsec_millis());
    let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let fraction = if millis > 0 { format!(".{millis:03}").trim_end_matches('0').to_owned() } else { String::new() };
    match (hours, minutes) {
        (0, 0) if rest == 0 && millis > 0 => format!("{millis}ms"),
        (0, 0) => format!("{rest}{fraction}s"),
        (0, _) => format!("{minutes}m{rest}{fraction}s"),
        _ => format!("{hours}h{minutes}m{rest}{fraction}s"),
    }
}

impl Config {
    /// The configuration as a `KubeProxyConfiguration` with everything filled in, for `/configz` and `--write-config-to`.
    pub fn document(&self) -> serde_json::Value {
        let time = |duration: Option<Duration>| written(duration.unwrap_or_default());
        let address = |address: Option<SocketAddr>| address.map(|address| address.to_string()).unwrap_or_default();
        let join = |nets: &[IpNet]| nets.iter().map(ToString::to_string).collect::<Vec<_>>();
        let node_port_addresses =
            if self.node_ports_primary { vec!["primary".to_owned()] } else { join(&self.node_port_addresses) };
        let mode = serde_json::json!({
            "masqueradeBit": self.masquerade_bit, "masqueradeAll": self.masquerade_all,
            "syncPeriod": written(self.sync_period), "minSyncPeriod": written(self.min_sync_period),
        });
        let mut iptables = mode.clone();
        iptables["localhostNodePorts"] = self.localhost_node_ports.into();
        serde_json::json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "bindAddress": self.bind_address.to_string(),
            "bindAddressHardFail": self.bind_address_hard_fail,
            "clientConnection": {
                "acceptContentTypes": "", "burst": 10, "contentType": "application/json", "qps": 5,
                "kubeconfig": self.kubeconfig.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
            },
            "clusterCIDR": join(&self.cluster_cidrs).join(","),
            "configSyncPeriod": "15m0s",
            "conntrack": {
                "maxPerCore": self.conntrack.max_per_core, "min": self.conntrack.min, "tcpBeLiberal": self.conntrack.tcp_be_liberal,
                "tcpCloseWaitTimeout": time(self.conntrack.tcp_close_wait_timeout),
                "tcpEstablishedTimeout": time(self.conntrack.tcp_established_timeout),
                "udpStreamTimeout": time(self.conntrack.udp_stream_timeout), "udpTimeout": time(self.conntrack.udp_timeout),
            },
            "detectLocal": {"bridgeInterface": self.bridge_interface, "interfaceNamePrefix": self.interface_name_prefix},
            "detectLocalMode": match self.detect_local_mode {
                DetectLocalMode::ClusterCidr => "ClusterCIDR",
                DetectLocalMode::NodeCidr => "NodeCIDR",
                DetectLocalMode::BridgeInterface => "BridgeInterface",
                DetectLocalMode::InterfaceNamePrefix => "InterfaceNamePrefix",
            },
            "enableProfiling": false,
            "healthzBindAddress": address(self.healthz_bind_address),
            "hostnameOverride": self.node_name,
            "iptables": iptables,
            "metricsBindAddress": address(self.metrics_bind_address),
            "mode": self.mode,
            "nftables": mode,
            "nodePortAddresses": node_port_addresses,
            "oomScoreAdj": self.oom_score_adj,
            "showHiddenMetricsForVersion": "",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> KubeProxyConfiguration {
        serde_yaml::from_str(text).unwrap()
    }

    #[test]
    fn kubeadms_configuration_resolves_to_the_defaults() {
        let manifest = include_str!("../../manifests/addons/kube-proxy.yaml");
        let start = manifest.find("config.conf: |-\n").unwrap() + "config.conf: |-\n".len();
        let text: String = manifest[start..]
            .lines()
            .take_while(|line| line.starts_with("    "))
            .map(|line| format!("{}\n", &line[4..]))
            .collect::<String>()
            .replace("@POD_CIDR@", "10.244.0.0/16");
        let config = Config::resolve(parse(&text), "Node-1", None).unwrap();
        assert_eq!(config.node_name, "node-1");
        assert_eq!(config.mode, "iptables");
        assert_eq!(config.kubeconfig.as_deref(), Some("/var/lib/kube-proxy/kubeconfig.conf".as_ref()));
        assert_eq!(config.cluster_cidrs, ["10.244.0.0/16".parse::<IpNet>().unwrap()]);
        assert_eq!(config.healthz_bind_address.unwrap().to_string(), "0.0.0.0:10256");
        assert_eq!(config.metrics_bind_address.unwrap().to_string(), "127.0.0.1:10249");
        assert_eq!((config.masquerade_bit, config.localhost_node_ports), (14, true));
        assert_eq!(config.sync_period, Duration::from_secs(30));
        assert_eq!((config.conntrack.min, config.conntrack.max_per_core), (131_072, 32_768));
    }

    #[test]
    fn what_is_written_is_read_back() {
        let text = "mode: nftables\nnftables: {masqueradeAll: true, syncPeriod: 1m30s, minSyncPeriod: 250ms}\nconntrack: {min: 7}\n\
            nodePortAddresses: [10.0.0.0/8]\nclusterCIDR: 10.244.0.0/16,fd00::/48";
        let config = Config::resolve(parse(text), "n", None).unwrap();
        let document = config.document();
        let again = Config::resolve(serde_json::from_value(document.clone()).unwrap(), "other", None).unwrap();
        assert_eq!(format!("{config:?}"), format!("{again:?}"));
        assert_eq!(document["nftables"]["syncPeriod"], "1m30s");
        assert_eq!(document["conntrack"]["tcpEstablishedTimeout"], "24h0m0s");
    }

    #[test]
    fn mistakes_name_the_field() {
        for (text, field) in [
            ("mode: userspace", "mode"),
            ("clusterCIDR: nonsense", "clusterCIDR"),
            ("detectLocalMode: Guess", "detectLocalMode"),
            ("detectLocalMode: BridgeInterface", "detectLocal.bridgeInterface"),
            ("healthzBindAddress: here", "healthzBindAddress"),
            ("nodePortAddresses: [primary, 10.0.0.0/8]", "nodePortAddresses"),
            ("kind: Pod", "kind"),
            ("iptables: {masqueradeBit: 40}", "masqueradeBit"),
            ("iptables: {syncPeriod: 1s, minSyncPeriod: 2s}", "syncPeriod"),
        ] {
            assert_eq!(Config::resolve(parse(text), "n", None).unwrap_err().field, field, "{text}");
        }
    }

    #[test]
    fn addresses_may_leave_the_port_out_or_turn_the_server_off() {
        let config = Config::resolve(parse("healthzBindAddress: 127.0.0.9\nmetricsBindAddress: 127.0.0.1:0"), "n", None).unwrap();
        assert_eq!(config.healthz_bind_address.unwrap().to_string(), "127.0.0.9:10256");
        assert_eq!(config.metrics_bind_address, None);
    }
}

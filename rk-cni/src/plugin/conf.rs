//! What the runtime hands over: the environment and the network configuration.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::Value;

use super::SUPPORTED_VERSIONS;
use super::error::{CniError, Code};

/// Where reservations live. Upstream (plugins/ipam/host-local): /var/lib/cni/networks.
pub const DATA_DIR: &str = "/var/lib/cni/networks";
/// A link name must fit in IFNAMSIZ with its NUL.
const MAX_LINK_NAME: usize = 15;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

/// The `CNI_*` variables.
#[derive(Debug, Clone)]
pub struct Environment {
    pub command: Command,
    pub container_id: String,
    /// Path of the pod's network namespace; may be empty or gone at DEL.
    pub netns: String,
    pub ifname: String,
    pub args: Vec<(String, String)>,
}

impl Environment {
    pub fn from_process() -> Result<Self, CniError> {
        Self::new(|name| std::env::var(name).ok())
    }

    pub fn new(get: impl Fn(&str) -> Option<String>) -> Result<Self, CniError> {
        let text = |name| get(name).unwrap_or_default();
        let command = match text("CNI_COMMAND").as_str() {
            "ADD" => Command::Add,
            "DEL" => Command::Del,
            "CHECK" => Command::Check,
            "GC" => Command::Gc,
            "STATUS" => Command::Status,
            "VERSION" => Command::Version,
            other => {
                let message = format!("unknown CNI_COMMAND {other:?}, must be one of ADD, DEL, CHECK, GC, STATUS, VERSION");
                return Err(CniError::new(Code::InvalidEnvironment, message));
            }
        };
        let args = text("CNI_ARGS")
            .split(';')
            .filter_map(|pair| pair.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        Ok(Self { command, container_id: text("CNI_CONTAINERID"), netns: text("CNI_NETNS"), ifname: text("CNI_IFNAME"), args })
    }

    /// Checks that what the command needs is there and well-formed.
    pub fn validate(&self) -> Result<(), CniError> {
        let invalid = |message: String| Err(CniError::new(Code::InvalidEnvironment, message));
        if !matches!(self.command, Command::Add | Command::Del | Command::Check) {
            return Ok(());
        }
        let mut missing = Vec::new();
        if self.container_id.is_empty() {
            missing.push("CNI_CONTAINERID");
        }
        if self.netns.is_empty() && self.command != Command::Del {
            missing.push("CNI_NETNS");
        }
        if self.ifname.is_empty() {
            missing.push("CNI_IFNAME");
        }
        if !missing.is_empty() {
            return invalid(format!("required env variables [{}] missing", missing.join(",")));
        }
        let ordinary = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        if !self.container_id.starts_with(|c: char| c.is_ascii_alphanumeric()) || !self.container_id.chars().all(ordinary) {
            return invalid(format!("invalid characters in CNI_CONTAINERID {:?}", self.container_id));
        }
        let bad = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
        if self.ifname.len() > MAX_LINK_NAME || matches!(self.ifname.as_str(), "." | "..") || self.ifname.contains(bad) {
            return invalid(format!("invalid interface name CNI_IFNAME {:?}", self.ifname));
        }
        Ok(())
    }
}

/// One contiguous piece of a subnet to allocate from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Range {
    pub subnet: IpNet,
    #[serde(default)]
    pub range_start: Option<IpAddr>,
    #[serde(default)]
    pub range_end: Option<IpAddr>,
    #[serde(default)]
    pub gateway: Option<IpAddr>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct RouteConf {
    pub dst: IpNet,
    #[serde(default)]
    pub gw: Option<IpAddr>,
}

/// `runtimeConfig.portMappings`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    pub host_port: u16,
    pub container_port: u16,
    #[serde(default = "tcp")]
    pub protocol: String,
    #[serde(rename = "hostIP", default)]
    pub host_ip: String,
}

fn tcp() -> String {
    "tcp".to_owned()
}

/// `runtimeConfig.bandwidth`, bits per second and bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Bandwidth {
    pub ingress_rate: u64,
    pub ingress_burst: u64,
    pub egress_rate: u64,
    pub egress_burst: u64,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RuntimeConfig {
    pub port_mappings: Vec<PortMapping>,
    pub bandwidth: Option<Bandwidth>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Attachment {
    #[serde(rename = "containerID")]
    pub container_id: String,
    pub ifname: String,
}

/// A network configuration, complete and valid.
#[derive(Debug, Clone)]
pub struct NetConf {
    pub version: String,
    pub name: String,
    pub kind: String,
    pub bridge: String,
    /// 0: as the kernel chooses.
    pub mtu: u32,
    pub hairpin: bool,
    /// Sets of ranges: an interface gets one address of each set.
    pub ranges: Vec<Vec<Range>>,
    pub routes: Vec<RouteConf>,
    pub data_dir: PathBuf,
    pub dns: Value,
    pub runtime: RuntimeConfig,
    pub prev_result: Option<Value>,
    /// GC only: everything else is garbage.
    pub valid_attachments: Option<Vec<Attachment>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct IpamConf {
    r#type: String,
    ranges: Vec<Vec<Range>>,
    subnet: Option<IpNet>,
    range_start: Option<IpAddr>,
    range_end: Option<IpAddr>,
    gateway: Option<IpAddr>,
    routes: Vec<RouteConf>,
    data_dir: Option<PathBuf>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Raw {
    cni_version: String,
    name: String,
    r#type: String,
    bridge: Option<String>,
    mtu: u32,
    hairpin_mode: Option<bool>,
    subnets: Vec<IpNet>,
    routes: Vec<RouteConf>,
    data_dir: Option<PathBuf>,
    ipam: Option<IpamConf>,
    dns: Value,
    runtime_config: RuntimeConfig,
    prev_result: Option<Value>,
    #[serde(rename = "cni.dev/valid-attachments")]
    valid_attachments: Option<Vec<Attachment>>,
    // The spelling of early 1.1 runtimes.
    #[serde(rename = "cni.dev/attachments")]
    attachments: Option<Vec<Attachment>>,
}

/// The configuration's `cniVersion`, or the newest we know when it cannot be read.
pub fn version_of(input: &str) -> String {
    let newest = || SUPPORTED_VERSIONS[SUPPORTED_VERSIONS.len() - 1].to_owned();
    let parsed: Option<Value> = serde_json::from_str(input).ok();
    match parsed.as_ref().map(|value| value.get("cniVersion").and_then(Value::as_str)) {
        Some(Some(version)) if !version.is_empty() => version.to_owned(),
        Some(_) if !input.trim().is_empty() => "0.1.0".to_owned(), // the specification: absent means 0.1.0
        _ => newest(),
    }
}

impl NetConf {
    pub fn parse(input: &str) -> Result<Self, CniError> {
        let invalid = |message: String| CniError::new(Code::InvalidConfig, message);
        let raw: Raw = serde_json::from_str(input)
            .map_err(|error| CniError::new(Code::Decode, format!("failed to decode the network configuration: {error}")))?;
        let version = version_of(input);
        if !SUPPORTED_VERSIONS.contains(&version.as_str()) {
            let message =
                format!("incompatible CNI versions: config is {version:?}, plugin supports {}", SUPPORTED_VERSIONS.join(", "));
            return Err(CniError::new(Code::IncompatibleVersion, message));
        }
        let ordinary = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        if raw.name.is_empty() || !raw.name.starts_with(|c: char| c.is_ascii_alphanumeric()) || !raw.name.chars().all(ordinary) {
            return Err(invalid(format!("invalid network name {:?}", raw.name)));
        }
        let bridge = raw.bridge.unwrap_or_else(|| "cni0".to_owned());
        if bridge.is_empty() || bridge.len() > MAX_LINK_NAME || bridge.contains('/') {
            return Err(invalid(format!("invalid bridge name {bridge:?}")));
        }
        let whole = |subnet| vec![Range { subnet, range_start: None, range_end: None, gateway: None }];
        let mut ranges: Vec<Vec<Range>> = raw.subnets.iter().copied().map(whole).collect();
        let (mut routes, mut data_dir) = (raw.routes, raw.data_dir);
        if let Some(ipam) = raw.ipam {
            if !matches!(ipam.r#type.as_str(), "" | "host-local" | "rk-cni") {
                return Err(invalid(format!("unsupported ipam type {:?}, only \"host-local\" is built in", ipam.r#type)));
            }
            if let Some(subnet) = ipam.subnet {
                let (range_start, range_end, gateway) = (ipam.range_start, ipam.range_end, ipam.gateway);
                ranges.push(vec![Range { subnet, range_start, range_end, gateway }]);
            }
            ranges.extend(ipam.ranges);
            routes.extend(ipam.routes);
            data_dir = data_dir.or(ipam.data_dir);
        }
        for range in ranges.iter().flatten() {
            validate_range(range)?;
        }
        Ok(Self {
            version,
            name: raw.name,
            kind: raw.r#type,
            bridge,
            mtu: raw.mtu,
            hairpin: raw.hairpin_mode.unwrap_or(true),
            ranges,
            routes,
            data_dir: data_dir.unwrap_or_else(|| DATA_DIR.into()),
            dns: raw.dns,
            runtime: raw.runtime_config,
            prev_result: raw.prev_result,
            valid_attachments: raw.valid_attachments.or(raw.attachments),
        })
    }

    /// Refuses a command that the configuration's version does not have.
    pub fn requires(&self, command: &str, since: &str) -> Result<(), CniError> {
        let position = |version: &str| SUPPORTED_VERSIONS.iter().position(|known| *known == version);
        if position(&self.version) >= position(since) {
            return Ok(());
        }
        let message = format!("config version {} does not allow {command}, it needs {since}", self.version);
        // The reference library answers CHECK on an old version as a bad command.
        let code = if command == "CHECK" { Code::InvalidEnvironment } else { Code::IncompatibleVersion };
        Err(CniError::new(code, message))
    }
}

fn validate_range(range: &Range) -> Result<(), CniError> {
    let inside = |address: Option<IpAddr>| address.is_none_or(|address| range.subnet.contains(&address));
    if !inside(range.range_start) || !inside(range.range_end) || !inside(range.gateway) {
        return Err(CniError::new(
            Code::InvalidConfig,
            format!("an address of the range is outside of its subnet {}", range.subnet),
        ));
    }
    let longest = if range.subnet.addr().is_ipv4() { 30 } else { 126 };
    if range.subnet.prefix_len() > longest {
        return Err(CniError::new(Code::InvalidConfig, format!("subnet {} is too small to allocate from", range.subnet)));
    }
    Ok(())
}

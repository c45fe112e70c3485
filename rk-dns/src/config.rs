//! From a Corefile to what the server does. Directives are checked completely before anything changes.
//!
//! To add a directive: a line in [`Server::apply`].

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use ipnet::IpNet;

use crate::corefile::{Block, Directive, SyntaxError, error};

/// Directives that we understand and that need nothing here: logs and limits are always on, or are another program's affair.
const NOTHING_TO_DO: [&str; 9] = ["errors", "log", "debug", "bufsize", "local", "any", "minimal", "nsid", "pprof"];

/// A domain as its labels in lower case, the most significant last.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Zone(pub Vec<String>);

impl Zone {
    pub fn parse(text: &str) -> Self {
        Self(text.trim_matches('.').split('.').filter(|label| !label.is_empty()).map(str::to_ascii_lowercase).collect())
    }

    /// Whether a name (labels in lower case) is in the zone.
    pub fn contains(&self, name: &[String]) -> bool {
        name.ends_with(&self.0)
    }
}

impl std::fmt::Display for Zone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.", self.0.join("."))
    }
}

/// How `a-b-c-d.ns.pod.zone` is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pods {
    #[default]
    Disabled,
    Insecure,
    Verified,
}

/// The zones for which a plugin hands on what it does not know.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Fallthrough {
    #[default]
    No,
    All,
    Zones(Vec<Zone>),
}

impl Fallthrough {
    pub fn allows(&self, name: &[String]) -> bool {
        match self {
            Self::No => false,
            Self::All => true,
            Self::Zones(zones) => zones.iter().any(|zone| zone.contains(name)),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kubernetes {
    pub zones: Vec<Zone>,
    pub pods: Pods,
    pub fallthrough: Fallthrough,
    pub ttl: u32,
    pub endpoint_pod_names: bool,
    /// Answer "no such name" for Services without ready endpoints.
    pub ignore_empty: bool,
    /// Only these; empty means all.
    pub namespaces: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    Random,
    RoundRobin,
    Sequential,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    pub from: Zone,
    pub to: Vec<SocketAddr>,
    pub except: Vec<Zone>,
    pub policy: Policy,
    pub max_concurrent: usize,
    pub max_fails: u32,
    pub force_tcp: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    pub zones: Vec<Zone>,
    pub success: usize,
    pub success_ttl: u32,
    pub denial: usize,
    pub denial_ttl: u32,
    pub servfail_ttl: u32,
    pub disable_success: Vec<Zone>,
    pub disable_denial: Vec<Zone>,
    /// Seconds for which expired answers may stand in when upstreams fail.
    pub serve_stale: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hosts {
    pub names: HashMap<Vec<String>, Vec<IpAddr>>,
    pub fallthrough: Fallthrough,
    pub ttl: u32,
}

/// One server block.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Server {
    pub zones: Vec<(Zone, u16)>,
    pub bind: Vec<IpAddr>,
    pub kubernetes: Option<Kubernetes>,
    pub forwards: Vec<Forward>,
    pub cache: Option<Cache>,
    pub hosts: Option<Hosts>,
    pub health: Option<SocketAddr>,
    pub lameduck: Duration,
    pub ready: Option<SocketAddr>,
    pub prometheus: Option<SocketAddr>,
    pub detect_loops: bool,
    pub load_balance: bool,
    pub reload: Option<Duration>,
}

/// The whole file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    pub servers: Vec<Server>,
}

impl Config {
    /// Checks a parsed Corefile. `resolv_conf` reads the files that `forward` names.
    pub fn new(blocks: &[Block], read: &impl Fn(&Path) -> std::io::Result<String>) -> Result<Self, SyntaxError> {
        let mut servers: Vec<Server> = Vec::new();
        for block in blocks {
            let mut server = Server::default();
            for key in &block.keys {
                server.zones.extend(keys(key, block.line)?);
            }
            for directive in &block.directives {
                server.apply(directive, read)?;
            }
            for (zone, port) in &server.zones {
                if servers.iter().any(|other| other.zones.contains(&(zone.clone(), *port)) && other.bind == server.bind) {
                    return error(block.line, format!("cannot serve {zone}:{port}, it is already defined"));
                }
            }
            servers.push(server);
        }
        if servers.is_empty() {
            return error(1, "there is no server block");
        }
        Ok(Self { servers })
    }

    /// The servers for one port, and the one among them that is responsible for a name: the longest zone wins.
    pub fn responsible(&self, port: u16, name: &[String]) -> Option<&Server> {
        let zones = self.servers.iter().flat_map(|server| server.zones.iter().map(move |zone| (server, zone)));
        let fitting = zones.filter(|(_, (zone, at))| *at == port && zone.contains(name));
        fitting.max_by_key(|(_, (zone, _))| zone.0.len()).map(|(server, _)| server)
    }

    /// Every address to listen on.
    pub fn listeners(&self) -> Vec<SocketAddr> {
        let mut all = Vec::new();
        for server in &self.servers {
            for (_, port) in &server.zones {
                if server.bind.is_empty() {
                    all.push(SocketAddr::new(IpAddr::from([0; 16]), *port));
                }
                all.extend(server.bind.iter().map(|ip| SocketAddr::new(*ip, *port)));
            }
        }
        all.sort();
        all.dedup();
        all
    }

    /// The first value that any block gives, for what there is once per process.
    pub fn first<T>(&self, get: impl Fn(&Server) -> Option<T>) -> Option<T> {
        self.servers.iter().find_map(get)
    }
}

/// `zone:port`, `dns://zone:port`, `10.0.0.0/24` (its reverse zone).
fn keys(key: &str, line: usize) -> Result<Vec<(Zone, u16)>, SyntaxError> {
    let plain = key.strip_prefix("dns://").unwrap_or(key);
    if plain.contains("://") {
        return error(line, format!("unsupported transport in {key:?}, only plain DNS is served"));
    }
    let (zone, port) = match plain.rsplit_once(':') {
        Some((zone, port)) if !zone.contains(':') => {
            let Ok(port) = port.parse() else { return error(line, format!("invalid port in {key:?}")) };
            (zone, port)
        }
        _ => (plain, 53),
    };
    Ok(match zone.parse::<IpNet>() {
        Ok(net) => reverse_zones(net).into_iter().map(|zone| (zone, port)).collect(),
        Err(_) => vec![(Zone::parse(zone), port)],
    })
}

/// The reverse zone of a subnet, cut at whole octets or nibbles.
fn reverse_zones(net: IpNet) -> Vec<Zone> {
    match net {
        IpNet::V4(v4) => {
            let octets = v4.network().octets();
            let used = usize::from(v4.prefix_len() / 8);
            let labels = octets[..used].iter().rev().map(ToString::to_string);
            vec![Zone(labels.chain(["in-addr", "arpa"].map(str::to_owned)).collect())]
        }
        IpNet::V6(v6) => {
            let nibbles: Vec<String> =
                v6.network().octets().iter().flat_map(|o| [o >> 4, o & 15]).map(|nibble| format!("{nibble:x}")).collect();
            let used = usize::from(v6.prefix_len() / 4);
            vec![Zone(nibbles[..used].iter().rev().cloned().chain(["ip6", "arpa"].map(str::to_owned)).collect())]
        }
    }
}

fn number<T: std::str::FromStr>(directive: &Directive, index: usize) -> Result<T, SyntaxError> {
    let text = directive.args.get(index).map(String::as_str).unwrap_or_default();
    text.parse().or_else(|_| error(directive.line, format!("{} wants a number, got {text:?}", directive.name)))
}

fn duration(directive: &Directive, index: usize) -> Result<Option<Duration>, SyntaxError> {
    let Some(text) = directive.args.get(index) else { return Ok(None) };
    let plain = text.parse::<u64>().ok().map(Duration::from_secs);
    match plain.map_or_else(|| component::duration::parse(text), Ok) {
        Ok(duration) => Ok(Some(duration)),
        Err(message) => error(directive.line, format!("{}: {message}", directive.name)),
    }
}

fn seconds(directive: &Directive, index: usize) -> Result<Option<u32>, SyntaxError> {
    Ok(duration(directive, index)?.map(|duration| u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)))
}

/// `:8080`, `0.0.0.0:8080`
fn address(directive: &Directive, default: &str) -> Result<SocketAddr, SyntaxError> {
    let text = directive.args.first().map_or(default, String::as_str);
    let full = if text.starts_with(':') { format!("[::]{text}") } else { text.replace("localhost", "127.0.0.1") };
    full.parse().or_else(|_| error(directive.line, format!("{}: not an address: {text:?}", directive.name)))
}

fn zones(args: &[String]) -> Vec<Zone> {
    args.iter().map(|arg| Zone::parse(arg)).collect()
}

fn fallthrough(args: &[String]) -> Fallthrough {
    if args.is_empty() { Fallthrough::All } else { Fallthrough::Zones(zones(args)) }
}

fn unknown<T>(directive: &Directive, within: &str) -> Result<T, SyntaxError> {
    error(directive.line, format!("unknown property '{}' in {within}", directive.name))
}

impl Server {
    fn apply(&mut self, directive: &Directive, read: &impl Fn(&Path) -> std::io::Result<String>) -> Result<(), SyntaxError> {
        match directive.name.as_str() {
            "kubernetes" => self.kubernetes = Some(self.parse_kubernetes(directive)?),
            "forward" => self.forwards.push(parse_forward(directive, read)?),
            "cache" => self.cache = Some(self.parse_cache(directive)?),
            "hosts" => self.hosts = Some(parse_hosts(directive, read)?),
            "health" => {
                self.health = Some(address(directive, ":8080")?);
                for property in &directive.block {
                    match property.name.as_str() {
                        "lameduck" => self.lameduck = duration(property, 0)?.unwrap_or_default(),
                        _ => return unknown(property, "health"),
                    }
                }
            }
            "ready" => self.ready = Some(address(directive, ":8181")?),
            "prometheus" => self.prometheus = Some(address(directive, "localhost:9153")?),
            "bind" => {
                for arg in &directive.args {
                    let Ok(ip) = arg.parse() else {
                        return error(directive.line, format!("bind wants IP addresses, got {arg:?}"));
                    };
                    self.bind.push(ip);
                }
            }
            "loop" => self.detect_loops = true,
            "loadbalance" => self.load_balance = directive.args.first().is_none_or(|policy| policy == "round_robin"),
            "reload" => self.reload = Some(duration(directive, 0)?.unwrap_or(Duration::from_secs(30))),
            name if NOTHING_TO_DO.contains(&name) => {}
            name => return error(directive.line, format!("Unknown directive '{name}'")),
        }
        Ok(())
    }

    fn own_zones(&self) -> Vec<Zone> {
        self.zones.iter().map(|(zone, _)| zone.clone()).collect()
    }

    fn parse_kubernetes(&self, directive: &Directive) -> Result<Kubernetes, SyntaxError> {
        let mut out = Kubernetes {
            zones: if directive.args.is_empty() { self.own_zones() } else { zones(&directive.args) },
            pods: Pods::Disabled,
            fallthrough: Fallthrough::No,
            ttl: 5, // upstream: coredns plugin/kubernetes defaultTTL
            endpoint_pod_names: false,
            ignore_empty: false,
            namespaces: Vec::new(),
        };
        for property in &directive.block {
            match property.name.as_str() {
                "pods" => {
                    out.pods = match property.args.first().map(String::as_str) {
                        Some("insecure") => Pods::Insecure,
                        Some("verified") => Pods::Verified,
                        Some("disabled") => Pods::Disabled,
                        other => {
                            return error(property.line, format!("pods must be disabled, insecure or verified, got {other:?}"));
                        }
                    };
                }
                "fallthrough" => out.fallthrough = fallthrough(&property.args),
                "ttl" => out.ttl = number::<u32>(property, 0)?.min(3600),
                "endpoint_pod_names" => out.endpoint_pod_names = true,
                "ignore" => out.ignore_empty = property.args.first().is_some_and(|arg| arg == "empty_service"),
                "namespaces" => out.namespaces.clone_from(&property.args),
                // The connection is the process's own, see --kubeconfig.
                "endpoint"
                | "tls"
                | "kubeconfig"
                | "labels"
                | "namespace_labels"
                | "noendpoints"
                | "upstream"
                | "resyncperiod"
                | "apiserver_qps"
                | "apiserver_burst"
                | "apiserver_max_inflight"
                | "startup_timeout" => {}
                _ => return unknown(property, "kubernetes"),
            }
        }
        Ok(out)
    }

    fn parse_cache(&self, directive: &Directive) -> Result<Cache, SyntaxError> {
        let mut args = directive.args.as_slice();
        // Upstream: coredns plugin/cache defaultCap, maxTTL, maxNTTL, failureTTL.
        let mut out = Cache {
            zones: Vec::new(),
            success: 9984,
            success_ttl: 3600,
            denial: 9984,
            denial_ttl: 1800,
            servfail_ttl: 5,
            disable_success: Vec::new(),
            disable_denial: Vec::new(),
            serve_stale: None,
        };
        if let Some(ttl) = args.first().and_then(|arg| arg.parse().ok()) {
            (out.success_ttl, out.denial_ttl) = (ttl, ttl);
            args = &args[1..];
        }
        out.zones = if args.is_empty() { self.own_zones() } else { zones(args) };
        for property in &directive.block {
            match property.name.as_str() {
                "success" => {
                    out.success = number(property, 0)?;
                    if property.args.len() > 1 {
                        out.success_ttl = number(property, 1)?;
                    }
                }
                "denial" => {
                    out.denial = number(property, 0)?;
                    if property.args.len() > 1 {
                        out.denial_ttl = number(property, 1)?;
                    }
                }
                "servfail" => out.servfail_ttl = seconds(property, 0)?.unwrap_or(5).min(300),
                "serve_stale" => out.serve_stale = Some(seconds(property, 0)?.unwrap_or(3600)),
                "disable" => {
                    let listed = zones(property.args.get(1..).unwrap_or_default());
                    let listed = if listed.is_empty() { vec![Zone::default()] } else { listed };
                    match property.args.first().map(String::as_str) {
                        Some("success") => out.disable_success.extend(listed),
                        Some("denial") => out.disable_denial.extend(listed),
                        other => return error(property.line, format!("disable must be success or denial, got {other:?}")),
                    }
                }
                "prefetch" | "keepttl" => {}
                _ => return unknown(property, "cache"),
            }
        }
        Ok(out)
    }
}

fn parse_forward(directive: &Directive, read: &impl Fn(&Path) -> std::io::Result<String>) -> Result<Forward, SyntaxError> {
    let [from, to @ ..] = directive.args.as_slice() else { return error(directive.line, "forward wants a zone and servers") };
    let mut out = Forward {
        from: Zone::parse(from),
        to: Vec::new(),
        except: Vec::new(),
        policy: Policy::Random,
        max_concurrent: 0,
        max_fails: 2,
        force_tcp: false,
    };
    for target in to {
        if target.starts_with('/') {
            match read(Path::new(target)) {
                Ok(text) => out.to.extend(nameservers(&text)),
                Err(problem) => return error(directive.line, format!("failed to read {target}: {problem}")),
            }
            continue;
        }
        let plain = target.strip_prefix("dns://").unwrap_or(target);
        let parsed = plain.parse::<SocketAddr>().ok().or_else(|| Some(SocketAddr::new(plain.parse().ok()?, 53)));
        match parsed {
            Some(address) => out.to.push(address),
            None => return error(directive.line, format!("not an IP address or file: {target:?}")),
        }
    }
    if to.is_empty() {
        return error(directive.line, "forward names no servers");
    }
    for property in &directive.block {
        match property.name.as_str() {
            "except" => out.except = zones(&property.args),
            "max_concurrent" => out.max_concurrent = number(property, 0)?,
            "max_fails" => out.max_fails = number(property, 0)?,
            "force_tcp" => out.force_tcp = true,
            "policy" => {
                out.policy = match property.args.first().map(String::as_str) {
                    Some("random") => Policy::Random,
                    Some("round_robin") => Policy::RoundRobin,
                    Some("sequential") => Policy::Sequential,
                    other => {
                        return error(property.line, format!("policy must be random, round_robin or sequential, got {other:?}"));
                    }
                };
            }
            "prefer_udp"
            | "expire"
            | "health_check"
            | "tls"
            | "tls_servername"
            | "next"
            | "failfast_all_unhealthy_upstreams"
            | "failover"
            | "max_idle_conns"
            | "max_age" => {}
            _ => return unknown(property, "forward"),
        }
    }
    Ok(out)
}

/// The servers that a resolv.conf names.
pub fn nameservers(text: &str) -> Vec<SocketAddr> {
    let lines = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    lines
        .filter_map(|rest| {
            let ip = rest.trim().split(['%', ' ', '\t', '#', ';']).next()?;
            Some(SocketAddr::new(ip.parse().ok()?, 53))
        })
        .collect()
}

fn parse_hosts(directive: &Directive, read: &impl Fn(&Path) -> std::io::Result<String>) -> Result<Hosts, SyntaxError> {
    let mut out = Hosts { ttl: 3600, ..Hosts::default() };
    let mut add = |ip: IpAddr, names: &[String]| {
        for name in names {
            out.names.entry(Zone::parse(name).0).or_default().push(ip);
        }
    };
    if let Some(path) = directive.args.first().filter(|arg| arg.starts_with('/')) {
        let text = read(Path::new(path)).or_else(|problem| error(directive.line, format!("failed to read {path}: {problem}")))?;
        for line in text.lines() {
            let mut words = line.split('#').next().unwrap_or_default().split_whitespace().map(str::to_owned);
            if let Some(ip) = words.next().and_then(|word| word.parse().ok()) {
                add(ip, &words.collect::<Vec<_>>());
            }
        }
    }
    let mut passing = Fallthrough::No;
    let mut ttl = 3600;
    for property in &directive.block {
        if let Ok(ip) = property.name.parse() {
            add(ip, &property.args);
            continue;
        }
        match property.name.as_str() {
            "fallthrough" => passing = fallthrough(&property.args),
            "ttl" => ttl = number(property, 0)?,
            "no_reverse" | "reload" => {}
            _ => return unknown(property, "hosts"),
        }
    }
    out.fallthrough = passing;
    out.ttl = ttl;
    Ok(out)
}

#[cfg(test)]
mod tests;

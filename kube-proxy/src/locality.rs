//! Which traffic comes from pods of this cluster (or node): the rest is masqueraded on its way to a Service.

use ipnet::IpNet;
use net::iptables::Family;

/// How local traffic is recognised. Upstream: pkg/proxy/util/localdetector.go
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Locality {
    /// Not at all: nothing is known to be local.
    #[default]
    Unknown,
    /// By source address.
    Cidr(IpNet),
    /// By the bridge it comes from.
    Bridge(String),
    /// By the prefix of the interface it comes from.
    InterfacePrefix(String),
}

impl Locality {
    /// The first subnet of a family.
    pub fn of_cidrs(cidrs: &[IpNet], family: Family) -> Self {
        cidrs.iter().find(|net| net.addr().is_ipv4() == (family == Family::V4)).map_or(Self::Unknown, |net| Self::Cidr(*net))
    }

    pub fn is_known(&self) -> bool {
        *self != Self::Unknown
    }

    /// The iptables match for traffic that is (not) local.
    pub fn iptables(&self, local: bool) -> String {
        let not = if local { "" } else { "! " };
        match self {
            Self::Unknown => String::new(),
            Self::Cidr(net) => format!("{not}-s {net}"),
            Self::Bridge(name) => format!("{not}-i {name}"),
            Self::InterfacePrefix(prefix) => format!("{not}-i {prefix}+"),
        }
    }

    /// The nft match for traffic that is (not) local.
    pub fn nft(&self, local: bool) -> String {
        let not = if local { "" } else { "!= " };
        match self {
            Self::Unknown => String::new(),
            Self::Cidr(net) if net.addr().is_ipv4() => format!("ip saddr {not}{net}"),
            Self::Cidr(net) => format!("ip6 saddr {not}{net}"),
            Self::Bridge(name) => format!("iifname {not}\"{name}\""),
            Self::InterfacePrefix(prefix) => format!("iifname {not}\"{prefix}*\""),
        }
    }
}

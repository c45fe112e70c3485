//! Backends: from portals to rules in the kernel.
//!
//! To add one: a file under `backend/` and a line in [`BACKENDS`]. The contract suite (`tests/contract.rs`) then runs over it.

pub mod iptables;
pub mod nftables;
pub mod node_ports;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use net::iptables::Family;

use crate::locality::Locality;
use crate::portal::Portal;
use crate::service::ServiceName;

/// The portals of every Service of one family.
pub type Portals = BTreeMap<ServiceName, Arc<[Portal]>>;

/// What rules depend on besides portals.
#[derive(Debug, Clone)]
pub struct Settings {
    pub family: Family,
    pub locality: Locality,
    /// Masquerade all traffic to Services.
    pub masquerade_all: bool,
    /// The bit of the packet mark that stands for "masquerade this".
    pub masquerade_bit: u8,
    /// NodePorts answer on the loopback address too.
    pub localhost_node_ports: bool,
    /// Subnets whose local addresses answer on NodePorts; empty means all (`primary` is resolved before).
    pub node_port_addresses: Vec<IpNet>,
    /// The node's own addresses of this family.
    pub node_ips: Vec<IpAddr>,
}

impl Settings {
    pub fn mark(&self) -> u32 {
        1 << self.masquerade_bit
    }
}

/// What to bring up to date.
#[derive(Debug, Clone, Copy)]
pub enum Scope<'a> {
    /// Everything, whatever the kernel holds.
    All,
    /// These Services; the rest is as the last successful sync left it.
    Only(&'a [ServiceName]),
}

/// What a sync did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// Rules (or elements) written.
    pub written: usize,
    pub full: bool,
}

/// A sync that failed left the kernel as it was; the next one has to be of [`Scope::All`].
#[derive(Debug, thiserror::Error)]
#[error("failed to sync {family} rules: {message}")]
pub struct SyncError {
    pub family: Family,
    pub message: String,
}

/// One way of writing rules, for one address family.
pub trait Backend: Send {
    /// Makes the kernel forward as `portals` say.
    fn sync(&mut self, portals: &Portals, scope: Scope<'_>) -> Result<Report, SyncError>;

    /// Whether the rules are still there; somebody may have flushed them.
    fn verify(&mut self) -> Result<bool, SyncError>;
}

/// A row of [`BACKENDS`].
pub struct Kind {
    /// As in `--proxy-mode`.
    pub name: &'static str,
    /// NodePorts answer on every local address unless told otherwise.
    pub node_ports_everywhere: bool,
    /// Whether this machine can do it for a family; says why not.
    pub probe: fn(Family) -> Result<(), String>,
    pub new: fn(Settings) -> Box<dyn Backend>,
    /// Removes everything that the backend ever made; idempotent.
    pub cleanup: fn(Family) -> Result<(), SyncError>,
}

/// Every backend; the first is the default.
pub const BACKENDS: [Kind; 2] = [iptables::KIND, nftables::KIND];

/// Finds a backend by its `--proxy-mode`; empty means the default.
pub fn find(mode: &str) -> Option<&'static Kind> {
    const ALL: &[Kind] = &BACKENDS;
    if mode.is_empty() { ALL.first() } else { ALL.iter().find(|kind| kind.name == mode) }
}

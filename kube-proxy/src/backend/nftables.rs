//! The nftables backend: one table of our own per family, made so that most Services are map elements and nothing else.
//!
//! A cluster IP is an element of `service-ips` that leads to `balance-N`, where N is its number of endpoints; that chain
//! picks one of N elements of `endpoints-N` by a random number. Loading and changing a Service therefore touches its own
//! elements only, and a packet's way is as long with 10,000 Services as with one. Chains of their own have only Services
//! with session affinity, NodePorts, external addresses or source ranges.

pub mod items;
pub mod render;

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::process::{Command, Stdio};

use net::iptables::Family;

use super::{Backend, Kind, Portals, Report, Scope, Settings, SyncError, node_ports};
use crate::service::ServiceName;
use items::{Counts, Items};

pub const KIND: Kind = Kind {
    name: "nftables",
    node_ports_everywhere: false,
    probe,
    new: |settings| Box::new(NftablesBackend::new(settings)),
    cleanup,
};

/// Our table; nothing outside of it is ever touched. The name is upstream's.
pub const TABLE: &str = "kube-proxy";

/// `ip` or `ip6`, as nft names families.
pub fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

fn nft(family: Family, args: &[&str], input: &str) -> Result<String, SyncError> {
    let failed = |message: String| SyncError { family, message };
    let mut child = Command::new("nft")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(format!("failed to run nft: {error}")))?;
    let mut stdin = child.stdin.take().expect("stdin was asked to be a pipe");
    let text = input.to_owned();
    // nft may report before it has read everything: somebody has to read while we write.
    let writer = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
    let output = child.wait_with_output().map_err(|error| failed(format!("failed to run nft: {error}")))?;
    let _ = writer.join();
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let complaint: String = String::from_utf8_lossy(&output.stderr).chars().take(2000).collect();
    Err(failed(format!("nft: {}", complaint.trim())))
}

fn probe(family: Family) -> Result<(), String> {
    let name = family_name(family);
    let batch = format!("table {name} kube-proxy-probe {{\n chain c {{ type nat hook prerouting priority 0; }}\n}}\n");
    nft(family, &["--check", "-f", "-"], &batch).map(drop).map_err(|error| error.to_string())
}

fn cleanup(family: Family) -> Result<(), SyncError> {
    let name = family_name(family);
    // Deleting what may not be there: nft 1.0.6 has no `destroy`.
    nft(family, &["-f", "-"], &format!("add table {name} {TABLE}\ndelete table {name} {TABLE}\n")).map(drop)
}

pub struct NftablesBackend {
    settings: Settings,
    /// What the kernel holds since the last successful sync; `None`: unknown.
    applied: Option<Applied>,
    node_port_addresses: Option<Vec<IpAddr>>,
}

#[derive(Default)]
struct Applied {
    portals: Portals,
    counts: Counts,
}

impl NftablesBackend {
    pub fn new(settings: Settings) -> Self {
        Self { settings, applied: None, node_port_addresses: None }
    }

    fn items(&self, portals: &Portals, name: &ServiceName) -> Items {
        let mut items = Items::default();
        for portal in portals.get(name).into_iter().flat_map(|portals| portals.iter()) {
            render::add(&self.settings, portal, &mut items);
        }
        items
    }

    fn sync_all(&mut self, portals: &Portals) -> Result<Report, SyncError> {
        self.node_port_addresses = node_ports::addresses(&self.settings)?;
        let family = family_name(self.settings.family);
        let mut counts = Counts::default();
        let mut batch = format!("add table {family} {TABLE}\ndelete table {family} {TABLE}\n");
        let _ = writeln!(batch, "table {family} {TABLE} {{");
        render::frame(&self.settings, self.node_port_addresses.as_deref(), &mut batch);
        batch.push_str("}\n");
        let mut change = items::Change::new(family);
        for name in portals.keys() {
            change.replace(&Items::default(), &self.items(portals, name), &mut counts);
        }
        let written = change.len();
        change.write(&mut batch);
        nft(self.settings.family, &["-f", "-"], &batch)?;
        self.applied = Some(Applied { portals: portals.clone(), counts });
        Ok(Report { written, full: true })
    }

    fn sync_some(&mut self, portals: &Portals, names: &[ServiceName]) -> Result<Report, SyncError> {
        let family = family_name(self.settings.family);
        let Some(applied) = &self.applied else { return self.sync_all(portals) };
        let mut counts = applied.counts.clone_for_change();
        let mut change = items::Change::new(family);
        for name in names {
            change.replace(&self.items(&applied.portals, name), &self.items(portals, name), &mut counts);
        }
        let written = change.len();
        if written > 0 {
            let mut batch = String::new();
            change.write(&mut batch);
            nft(self.settings.family, &["-f", "-"], &batch)?;
        }
        if let Some(applied) = &mut self.applied {
            applied.counts.merge(counts);
            for name in names {
                match portals.get(name) {
                    Some(portals) => applied.portals.insert(name.clone(), portals.clone()),
                    None => applied.portals.remove(name),
                };
            }
        }
        Ok(Report { written, full: false })
    }
}

impl Backend for NftablesBackend {
    fn sync(&mut self, portals: &Portals, scope: Scope<'_>) -> Result<Report, SyncError> {
        let names = match scope {
            Scope::Only(names) if self.applied.is_some() => names,
            _ => return self.sync_all(portals),
        };
        match self.sync_some(portals, names) {
            Ok(report) => Ok(report),
            Err(error) => {
                tracing::warn!(err = %error, "Partial sync failed, writing all rules");
                self.applied = None;
                self.sync_all(portals)
            }
        }
    }

    fn verify(&mut self) -> Result<bool, SyncError> {
        let family = family_name(self.settings.family);
        let present = nft(self.settings.family, &["list", "chain", family, TABLE, "nat-prerouting"], "");
        if !present.is_ok_and(|text| text.contains("jump services")) {
            return Ok(false);
        }
        Ok(self.node_port_addresses == node_ports::addresses(&self.settings)?)
    }
}

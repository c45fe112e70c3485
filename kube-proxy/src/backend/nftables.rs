//! The nftables backend: one table of our own per family, made so that most Services are map elements and nothing else.
//!
//! A cluster IP is an element of `service-ips` that leads to `balance-N`, where N is its number of endpoints; that chain
//! picks one of N elements of `endpoints-N` by a random number. Loading and changing a Service therefore touches its own
//! elements only, and a packet's way is as long with 10,000 Services as with one. Chains of their own have only Services
//! with session affinity, NodePorts, external addresses or source ranges.

pub mod element;
pub mod items;
pub mod render;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::process::{Command, Stdio};

use net::Socket;
use net::iptables::Family;
use net::nft::{self as netlink, Batch};
use sha2::{Digest, Sha256};

use super::iptables::names::base32;
use super::{Backend, Kind, Portals, Report, Scope, Settings, SyncError, node_ports};
use crate::service::ServiceName;
use element::Element;
use items::{Counts, Items, Shared};

pub const KIND: Kind = Kind {
    name: "nftables",
    node_ports_everywhere: false,
    probe,
    new: |settings| Box::new(NftablesBackend::new(settings)),
    cleanup,
};

/// Bytes of elements that go to the kernel in one transaction of the first sync.
const STEP: usize = 1 << 20;
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

struct Applied {
    portals: Portals,
    counts: Counts,
    /// In the namespace of the rules.
    socket: Socket,
}

/// The part of the table that is there whatever Services exist.
struct Frame {
    text: String,
    /// A chain whose name tells whether the kernel holds this very frame.
    marker: String,
    /// Name → number of rules.
    chains: BTreeMap<String, usize>,
    sets: BTreeSet<String>,
}

impl Frame {
    fn new(settings: &Settings, node_port_addresses: Option<&[IpAddr]>) -> Self {
        let mut text = String::new();
        render::frame(settings, node_port_addresses, &mut text);
        let form = format!("{text}{}", items::balance(family_name(settings.family), 1));
        let marker = format!("frame-{}", base32(&Sha256::digest(form.as_bytes())[..10]));
        let _ = writeln!(text, " chain {marker} {{\n }}");
        let (mut chains, mut sets, mut current) = (BTreeMap::new(), BTreeSet::new(), None);
        for line in text.lines().map(str::trim) {
            let name = |rest: &str| rest.split(' ').next().unwrap_or_default().to_owned();
            match line.split_once(' ') {
                Some(("chain", rest)) => current = Some((name(rest), 0)),
                Some(("set" | "map", rest)) => drop(sets.insert(name(rest))),
                _ if line == "}" => chains.extend(current.take()),
                Some(("type", _)) => {}
                _ => current = current.map(|(name, rules)| (name, rules + 1)),
            }
        }
        Self { text, marker, chains, sets }
    }

    /// Whether the kernel holds this frame and nobody has emptied a part of it.
    fn is_whole(&self, socket: &Socket, family: u8, present: &[String]) -> Result<bool, net::Error> {
        if !present.contains(&self.marker) {
            return Ok(false);
        }
        for (chain, rules) in &self.chains {
            if netlink::rules(socket, family, TABLE, chain)?.len() != *rules {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl NftablesBackend {
    pub fn new(settings: Settings) -> Self {
        Self { settings, applied: None, node_port_addresses: None }
    }

    fn failed(&self, error: &net::Error) -> SyncError {
        SyncError { family: self.settings.family, message: error.to_string() }
    }

    fn items(&self, portals: &Portals, name: &ServiceName) -> Items {
        let mut items = Items::default();
        for portal in portals.get(name).into_iter().flat_map(|portals| portals.iter()) {
            render::add(&self.settings, portal, &mut items);
        }
        items
    }

    /// Where the kernel holds a frame like ours, only what is inside is brought up to date: clients keep their endpoints, and
    /// no packet meets an empty table. Any other table of our name is replaced in one transaction.
    fn sync_all(&mut self, portals: &Portals) -> Result<Report, SyncError> {
        self.applied = None;
        self.node_port_addresses = node_ports::addresses(&self.settings)?;
        let frame = Frame::new(&self.settings, self.node_port_addresses.as_deref());
        let socket = Socket::netfilter().map_err(|error| self.failed(&error))?;
        let family = self.settings.family.number();
        let present = netlink::chains(&socket, family, TABLE).map_err(|error| self.failed(&error))?;
        let whole = frame.is_whole(&socket, family, &present).map_err(|error| self.failed(&error))?;
        let (counts, written) = if present.is_empty() || whole {
            self.fill(portals, &frame, &socket, &present)?
        } else {
            self.replace(portals, &frame)?
        };
        self.applied = Some(Applied { portals: portals.clone(), counts, socket });
        Ok(Report { written, full: true })
    }

    fn replace(&self, portals: &Portals, frame: &Frame) -> Result<(Counts, usize), SyncError> {
        let family = family_name(self.settings.family);
        let mut counts = Counts::default();
        let mut batch = format!("add table {family} {TABLE}\ndelete table {family} {TABLE}\n");
        let _ = write!(batch, "table {family} {TABLE} {{\n{}}}\n", frame.text);
        let mut change = items::Change::new(family);
        for name in portals.keys() {
            change.replace(&Items::default(), &self.items(portals, name), &mut counts);
        }
        let written = change.len();
        change.write(&mut batch);
        nft(self.settings.family, &["-f", "-"], &batch)?;
        counts.keep();
        Ok((counts, written))
    }

    /// Structure first, then all elements in one transaction, then the end of what nothing leads to any more.
    fn fill(&self, portals: &Portals, frame: &Frame, socket: &Socket, present: &[String]) -> Result<(Counts, usize), SyncError> {
        let (family, fresh) = (family_name(self.settings.family), present.is_empty());
        let mut counts = Counts::default();
        let mut change = items::Change::new(family);
        let (mut chains, mut sets): (BTreeSet<String>, _) = (frame.chains.keys().cloned().collect(), frame.sets.clone());
        for name in portals.keys() {
            let mut items = self.items(portals, name);
            items.elements.clear();
            chains.extend(items.chains.keys().cloned());
            sets.extend(items.sets.keys().cloned());
            change.replace(&Items::default(), &items, &mut counts);
        }
        for shared in counts.used() {
            if let Shared::Balance(count) = shared {
                chains.insert(format!("balance-{count}"));
                sets.insert(format!("endpoints-{count}"));
            }
        }
        let mut written = change.len();
        let mut batch = String::new();
        if fresh {
            let _ = write!(batch, "table {family} {TABLE} {{\n{}}}\n", frame.text);
        }
        change.write_structure(present, &mut batch);
        if !batch.is_empty() {
            nft(self.settings.family, &["-f", "-"], &batch)?;
        }
        drop(batch);

        let number = self.settings.family.number();
        let all_sets = netlink::sets(socket, number, TABLE).map_err(|error| self.failed(&error))?;
        let mut batch = Batch::new(number);
        // Clients' endpoints are the kernel's to know, and the frame's own addresses are already right.
        let ours = |set: &&String| !fresh && !set.starts_with("affinity-") && *set != "nodeport-ips" && !set.starts_with("__");
        for set in all_sets.iter().filter(ours) {
            batch.flush_set(TABLE, set);
        }
        for name in portals.keys() {
            let mut by_set: BTreeMap<&str, Vec<Element>> = BTreeMap::new();
            let items = self.items(portals, name);
            for ((set, key), rest) in &items.elements {
                let Some(element) = Element::parse(set, key, rest) else { return self.replace(portals, frame) };
                by_set.entry(set).or_default().push(element);
                written += 1;
            }
            for (set, elements) in by_set {
                batch.add_elements(TABLE, set, &elements, Element::write);
            }
            // Nothing was there before: nobody is missed meanwhile, and less memory is needed.
            if fresh && batch.size() > STEP {
                std::mem::replace(&mut batch, Batch::new(number)).commit(socket).map_err(|error| self.failed(&error))?;
            }
        }
        let mut shared: BTreeMap<&str, Vec<Element>> = BTreeMap::new();
        for used in counts.used() {
            let Shared::Element(set, key) = used else { continue };
            let Some(element) = Element::parse(set, key, "") else { return self.replace(portals, frame) };
            shared.entry(set).or_default().push(element);
        }
        for (set, elements) in shared {
            batch.add_elements(TABLE, set, &elements, Element::write);
        }
        batch.commit(socket).map_err(|error| self.failed(&error))?;

        let mut batch = Batch::new(number);
        let stale: Vec<&String> = present.iter().filter(|name| !chains.contains(*name)).collect();
        // All are emptied before any is deleted: they lead to each other.
        for name in &stale {
            batch.flush_chain(TABLE, name);
        }
        for name in &stale {
            batch.delete_chain(TABLE, name);
        }
        for name in all_sets.iter().filter(|name| !sets.contains(*name) && !name.starts_with("__")) {
            batch.delete_set(TABLE, name);
        }
        batch.commit(socket).map_err(|error| self.failed(&error))?;
        counts.keep();
        Ok((counts, written))
    }

    fn sync_some(&self, applied: &mut Applied, portals: &Portals, names: &[ServiceName]) -> Result<Report, SyncError> {
        let mut change = items::Change::new(family_name(self.settings.family));
        for name in names {
            change.replace(&self.items(&applied.portals, name), &self.items(portals, name), &mut applied.counts);
        }
        let written = change.len();
        if written > 0 {
            self.write(&applied.socket, change)?;
        }
        applied.counts.keep();
        for name in names {
            match portals.get(name) {
                Some(portals) => applied.portals.insert(name.clone(), portals.clone()),
                None => applied.portals.remove(name),
            };
        }
        Ok(Report { written, full: false })
    }

    /// Elements go to the kernel directly; nft is there for chains and rules.
    fn write(&self, socket: &Socket, change: items::Change) -> Result<(), SyncError> {
        if let Some(elements) = change.only_elements()
            && let Some(batch) = self.encode(&elements)
        {
            return batch.commit(socket).map_err(|error| self.failed(&error));
        }
        let mut batch = String::new();
        change.write(&mut batch);
        nft(self.settings.family, &["-f", "-"], &batch).map(drop)
    }

    fn encode(&self, elements: &items::Elements) -> Option<Batch> {
        let mut batch = Batch::new(self.settings.family.number());
        for (set, keys) in &elements.deleted {
            let all: Option<Vec<Element>> = keys.iter().map(|key| Element::parse(set, key, "")).collect();
            batch.delete_elements(TABLE, set, &all?, Element::write_key);
        }
        for (set, elements) in &elements.added {
            let all: Option<Vec<Element>> = elements.iter().map(|(key, rest)| Element::parse(set, key, rest)).collect();
            batch.add_elements(TABLE, set, &all?, Element::write);
        }
        Some(batch)
    }
}

impl Backend for NftablesBackend {
    fn sync(&mut self, portals: &Portals, scope: Scope<'_>) -> Result<Report, SyncError> {
        let names = match scope {
            Scope::Only(names) if self.applied.is_some() => names,
            _ => return self.sync_all(portals),
        };
        let Some(mut applied) = self.applied.take() else { return self.sync_all(portals) };
        match self.sync_some(&mut applied, portals, names) {
            Ok(report) => {
                self.applied = Some(applied);
                Ok(report)
            }
            Err(error) => {
                tracing::warn!(err = %error, "Partial sync failed, writing all rules");
                self.sync_all(portals)
            }
        }
    }

    fn verify(&mut self) -> Result<bool, SyncError> {
        // Never empty, and emptied by whoever flushes the table.
        for chain in ["nat-prerouting", "nat-postrouting", "services"] {
            if !netlink::has_rules(self.settings.family.number(), TABLE, chain).map_err(|error| self.failed(&error))? {
                return Ok(false);
            }
        }
        Ok(self.node_port_addresses == node_ports::addresses(&self.settings)?)
    }
}

//! The iptables backend. Chains, comments and their order are upstream's, so that `iptables -t nat -L | grep ns/svc` works.
//!
//! A sync of some Services rewrites only those of their chains that differ, and adds or deletes single rules in the shared
//! chains; a sync of all rewrites everything in one batch and removes chains that no longer belong.
//!
//! Upstream: pkg/proxy/iptables/proxier.go

pub mod frame;
pub mod full;
pub mod names;
pub mod render;

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use net::Socket;
use net::iptables::native::{self, Failure};
use net::iptables::{Error, Family, Iptables};

use super::{Backend, Kind, Portals, Report, Scope, Settings, SyncError, node_ports};
use crate::portal::Portal;
use render::{Context, Rules, Table};

pub const KIND: Kind = Kind {
    name: "iptables",
    node_ports_everywhere: true,
    probe,
    new: |settings| Box::new(IptablesBackend::new(settings)),
    cleanup: frame::cleanup,
};

/// Above this many endpoints, comments on the chains of endpoints are left out: they are most of the batch's size.
/// Upstream: largeClusterEndpointsThreshold.
const LARGE_CLUSTER_ENDPOINTS: usize = 1000;

/// Bytes of batch text that go to the kernel in one transaction of the first sync: memory on one side, the cost of checking all
/// rules for loops, once per transaction, on the other.
const STEP: usize = 1 << 20;

fn probe(family: Family) -> Result<(), String> {
    Iptables::new(family).chains("nat").map(drop).map_err(|error| error.to_string())
}

pub struct IptablesBackend {
    settings: Settings,
    iptables: Iptables,
    /// Where iptables is iptables-nft: the kernel itself, which does the same a hundred times faster.
    kernel: Option<Socket>,
    /// What the kernel holds since the last successful sync.
    applied: Portals,
    /// Endpoints in `applied`.
    endpoints: usize,
    applied_context: Option<Context>,
    node_port_addresses: Option<Vec<IpAddr>>,
}

fn count(portals: Option<&Arc<[Portal]>>) -> usize {
    portals.map_or(0, |portals| portals.iter().map(|portal| portal.cluster.len()).sum())
}

impl IptablesBackend {
    pub fn new(settings: Settings) -> Self {
        let iptables = Iptables::new(settings.family);
        Self {
            settings,
            iptables,
            kernel: None,
            applied: Portals::new(),
            endpoints: 0,
            applied_context: None,
            node_port_addresses: None,
        }
    }

    fn failed(&self, error: &Error) -> SyncError {
        let source = std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
        SyncError { family: self.settings.family, message: format!("{error}{source}") }
    }

    fn context(&self, endpoints: usize) -> Context {
        Context { settings: self.settings.clone(), terse: endpoints > LARGE_CLUSTER_ENDPOINTS }
    }

    /// Applies a batch by the shortest way that can.
    fn apply(&self, batch: &str) -> Result<(), SyncError> {
        let failed = |message: String| SyncError { family: self.settings.family, message };
        if let Some(socket) = &self.kernel {
            match native::apply(socket, self.settings.family, batch) {
                Ok(()) => return Ok(()),
                Err(Failure::NotUnderstood(reason)) => tracing::debug!(rule = reason.0, "Leaving a batch to iptables-restore"),
                Err(Failure::Kernel(error)) => return Err(failed(error.to_string())),
                Err(Failure::NoSuchRule(rule)) => return Err(failed(format!("no such rule: {rule}"))),
            }
        }
        self.iptables.restore(batch).map_err(|error| self.failed(&error))
    }

    fn sync_all(&mut self, portals: &Portals) -> Result<Report, SyncError> {
        self.applied_context = None;
        self.node_port_addresses = node_ports::addresses(&self.settings)?;
        self.endpoints = portals.values().map(|portals| count(Some(portals))).sum();
        let context = self.context(self.endpoints);
        frame::prepare(self.iptables).map_err(|error| self.failed(&error))?;
        // A socket stays in the namespace in which it was opened.
        self.kernel = if self.iptables.is_nf_tables() { Socket::netfilter().ok() } else { None };
        let written = match &self.kernel {
            Some(socket) => self.write_in_steps(socket, &context, portals)?,
            None => self.write_at_once(&context, portals)?,
        };
        for jump in frame::jumps() {
            self.iptables.ensure_jump(&jump).map_err(|error| self.failed(&error))?;
        }
        self.applied = portals.clone();
        self.applied_context = Some(context);
        Ok(Report { written, full: true })
    }

    /// One batch through the program: what is fastest for the legacy iptables, which reads and writes whole tables.
    fn write_at_once(&self, context: &Context, portals: &Portals) -> Result<usize, SyncError> {
        let present = self.iptables.chains("nat").map_err(|error| self.failed(&error))?;
        let mut whole = full::Steps::new(context, usize::MAX);
        let mut batch = frame::fixed(&context.settings);
        for portal in portals.values().flat_map(|portals| portals.iter()) {
            whole.add(context.rules(portal));
        }
        let (mut nat, last) = whole.finish(&present, self.node_port_addresses.as_deref());
        nat.push_str(&last);
        batch.push_str(&nat);
        self.iptables.restore(&batch).map_err(|error| self.failed(&error))?;
        Ok(whole.written())
    }

    /// The Services' own chains some at a time, then in one transaction all that leads there and the end of what is stale:
    /// at every moment each Service has its old chains or its new ones, and memory is bounded.
    fn write_in_steps(&self, socket: &Socket, context: &Context, portals: &Portals) -> Result<usize, SyncError> {
        let family = self.settings.family;
        let failed = |error: net::Error| SyncError { family, message: error.to_string() };
        for (table, chains) in frame::SHARED {
            native::ensure_chains(socket, family, table, chains).map_err(failed)?;
        }
        self.iptables.restore(&frame::fixed(&context.settings)).map_err(|error| self.failed(&error))?;
        let mut steps = full::Steps::new(context, STEP);
        for portal in portals.values().flat_map(|portals| portals.iter()) {
            if let Some(batch) = steps.add(context.rules(portal)) {
                self.apply(&batch)?;
            }
        }
        let present = native::chains(socket, family, "nat").map_err(failed)?.into_iter().collect();
        let (chains, last) = steps.finish(&present, self.node_port_addresses.as_deref());
        self.apply(&chains)?;
        self.apply(&last)?;
        Ok(steps.written())
    }

    fn sync_some(
        &mut self,
        portals: &Portals,
        context: &Context,
        names: &[crate::service::ServiceName],
    ) -> Result<Report, SyncError> {
        let mut batch = Partial::default();
        for name in names {
            let rules = |portals: &Portals| -> Vec<Rules> {
                portals.get(name).map(|portals| portals.iter().map(|portal| context.rules(portal)).collect()).unwrap_or_default()
            };
            batch.replace(&rules(&self.applied), &rules(portals));
        }
        let written = batch.written;
        if let Some(text) = batch.finish() {
            self.apply(&text)?;
        }
        for name in names {
            self.endpoints += count(portals.get(name));
            let old = match portals.get(name) {
                Some(portals) => self.applied.insert(name.clone(), portals.clone()),
                None => self.applied.remove(name),
            };
            self.endpoints -= count(old.as_ref());
        }
        Ok(Report { written, full: false })
    }
}

impl Backend for IptablesBackend {
    fn sync(&mut self, portals: &Portals, scope: Scope<'_>) -> Result<Report, SyncError> {
        let names = match scope {
            Scope::Only(names) => names,
            Scope::All => return self.sync_all(portals),
        };
        // Rules are compared as text: they have to be rendered the same way as those that are there.
        let Some(context) = self.applied_context.clone() else { return self.sync_all(portals) };
        let changed = |portals: &Portals| -> usize { names.iter().map(|name| count(portals.get(name))).sum() };
        let endpoints = self.endpoints + changed(portals) - changed(&self.applied);
        if context.terse != self.context(endpoints).terse {
            return self.sync_all(portals);
        }
        match self.sync_some(portals, &context, names) {
            Ok(report) => Ok(report),
            // Somebody changed our rules: write all of them again.
            Err(error) => {
                tracing::warn!(err = %error, "Partial sync failed, writing all rules");
                self.applied_context = None;
                self.sync_all(portals)
            }
        }
    }

    fn verify(&mut self) -> Result<bool, SyncError> {
        let family = self.settings.family;
        // Never empty, and emptied by whoever flushes the table.
        for (table, chain) in [("nat", "KUBE-SERVICES"), ("nat", "KUBE-POSTROUTING"), ("filter", "KUBE-FORWARD")] {
            let there = if self.kernel.is_some() {
                native::has_rules(family, table, chain).map_err(|error| SyncError { family, message: error.to_string() })?
            } else {
                self.iptables.chain_has_rules(table, chain).map_err(|error| self.failed(&error))?
            };
            if !there {
                return Ok(false);
            }
        }
        // New addresses on the node may want NodePorts.
        Ok(self.node_port_addresses == node_ports::addresses(&self.settings)?)
    }
}

/// A batch that changes some Services only.
#[derive(Default)]
struct Partial {
    filter: String,
    nat_chains: String,
    nat_deleted: String,
    nat_rules: String,
    nat_removed: String,
    written: usize,
}

impl Partial {
    /// Adds what leads from the old rules of one Service to the new ones.
    fn replace(&mut self, old: &[Rules], new: &[Rules]) {
        let shared = |all: &[Rules]| all.iter().flat_map(|rules| rules.shared.clone()).collect::<Vec<_>>();
        let (had, wants) = (shared(old), shared(new));
        for rule in had.iter().filter(|rule| !wants.contains(rule)) {
            let out = if rule.table == Table::Filter { &mut self.filter } else { &mut self.nat_deleted };
            let _ = writeln!(out, "-D {} {}", rule.chain, rule.rule);
            self.written += 1;
        }
        for rule in wants.iter().filter(|rule| !had.contains(rule)) {
            let out = if rule.table == Table::Filter { &mut self.filter } else { &mut self.nat_rules };
            // At the head: the jump to the NodePorts has to stay last.
            let _ = writeln!(out, "-I {} {}", rule.chain, rule.rule);
            self.written += 1;
        }
        let chains = |all: &[Rules]| all.iter().flat_map(|rules| rules.chains.clone()).collect::<Vec<_>>();
        let (had, wants) = (chains(old), chains(new));
        for chain in wants.iter().filter(|chain| !had.contains(chain)) {
            let _ = writeln!(self.nat_chains, ":{} - [0:0]", chain.name);
            for rule in &chain.rules {
                let _ = writeln!(self.nat_rules, "-A {} {rule}", chain.name);
            }
            self.written += chain.rules.len();
        }
        for chain in had.iter().filter(|chain| !wants.iter().any(|wanted| wanted.name == chain.name)) {
            let _ = writeln!(self.nat_chains, ":{} - [0:0]", chain.name);
            let _ = writeln!(self.nat_removed, "-X {}", chain.name);
        }
    }

    fn finish(self) -> Option<String> {
        let nat = [&self.nat_chains, &self.nat_deleted, &self.nat_rules, &self.nat_removed].map(String::as_str).concat();
        let mut batch = String::new();
        for (table, text) in [("filter", self.filter), ("nat", nat)] {
            if !text.is_empty() {
                let _ = write!(batch, "*{table}\n{text}COMMIT\n");
            }
        }
        Some(batch).filter(|batch| !batch.is_empty())
    }
}

//! The iptables backend. Chains, comments and their order are upstream's, so that `iptables -t nat -L | grep ns/svc` works.
//!
//! A sync of some Services rewrites only those of their chains that differ, and adds or deletes single rules in the shared
//! chains; a sync of all rewrites everything in one batch and removes chains that no longer belong.
//!
//! Upstream: pkg/proxy/iptables/proxier.go

pub mod frame;
pub mod names;
pub mod render;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;

use net::iptables::{Error, Family, Iptables};

use super::{Backend, Kind, Portals, Report, Scope, Settings, SyncError, node_ports};
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

fn probe(family: Family) -> Result<(), String> {
    Iptables::new(family).chains("nat").map(drop).map_err(|error| error.to_string())
}

pub struct IptablesBackend {
    settings: Settings,
    iptables: Iptables,
    /// What the kernel holds since the last successful sync.
    applied: Portals,
    applied_context: Option<Context>,
    node_port_addresses: Option<Vec<IpAddr>>,
}

impl IptablesBackend {
    pub fn new(settings: Settings) -> Self {
        let iptables = Iptables::new(settings.family);
        Self { settings, iptables, applied: Portals::new(), applied_context: None, node_port_addresses: None }
    }

    fn failed(&self, error: &Error) -> SyncError {
        let source = std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
        SyncError { family: self.settings.family, message: format!("{error}{source}") }
    }

    fn context(&self, portals: &Portals) -> Context {
        let endpoints: usize = portals.values().flat_map(|portals| portals.iter()).map(|portal| portal.cluster.len()).sum();
        Context { settings: self.settings.clone(), terse: endpoints > LARGE_CLUSTER_ENDPOINTS }
    }

    fn sync_all(&mut self, portals: &Portals) -> Result<Report, SyncError> {
        self.node_port_addresses = node_ports::addresses(&self.settings)?;
        let context = self.context(portals);
        let present = self.iptables.chains("nat").map_err(|error| self.failed(&error))?;
        let all = portals.values().flat_map(|portals| portals.iter()).map(|portal| context.rules(portal));
        let (batch, written) = full_batch(&context, all, &present, self.node_port_addresses.as_deref());
        frame::prepare(self.iptables).map_err(|error| self.failed(&error))?;
        self.iptables.restore(&batch).map_err(|error| self.failed(&error))?;
        for jump in frame::jumps() {
            self.iptables.ensure_jump(&jump).map_err(|error| self.failed(&error))?;
        }
        self.applied = portals.clone();
        self.applied_context = Some(context);
        Ok(Report { written, full: true })
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
            self.iptables.restore(&text).map_err(|error| self.failed(&error))?;
        }
        for name in names {
            match portals.get(name) {
                Some(portals) => self.applied.insert(name.clone(), portals.clone()),
                None => self.applied.remove(name),
            };
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
        if context.terse != self.context(portals).terse {
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
        for table in ["nat", "filter"] {
            if !self.iptables.chain_exists(table, frame::CANARY).map_err(|error| self.failed(&error))? {
                return Ok(false);
            }
        }
        // Emptied but not removed: these two are never empty.
        for chain in ["KUBE-SERVICES", "KUBE-POSTROUTING"] {
            if !self.iptables.chain_has_rules("nat", chain).map_err(|error| self.failed(&error))? {
                return Ok(false);
            }
        }
        // New addresses on the node may want NodePorts.
        Ok(self.node_port_addresses == node_ports::addresses(&self.settings)?)
    }
}

/// Everything as one batch for `iptables-restore --noflush`, and the number of rules in it.
fn full_batch(
    context: &Context,
    all: impl Iterator<Item = Rules>,
    present: &BTreeSet<String>,
    node_port_addresses: Option<&[IpAddr]>,
) -> (String, usize) {
    let (mut filter, mut nat_rules) = (String::new(), String::new());
    let mut own: BTreeSet<String> = BTreeSet::new();
    let mut written = 0;
    for rules in all {
        for shared in &rules.shared {
            let out = if shared.table == Table::Filter { &mut filter } else { &mut nat_rules };
            let _ = writeln!(out, "-A {} {}", shared.chain, shared.rule);
            written += 1;
        }
        for chain in rules.chains {
            for rule in &chain.rules {
                let _ = writeln!(nat_rules, "-A {} {rule}", chain.name);
            }
            written += chain.rules.len();
            own.insert(chain.name);
        }
    }
    let stale: Vec<&String> = present.iter().filter(|name| names::is_per_service(name) && !own.contains(*name)).collect();
    let mut batch = String::with_capacity(filter.len() + nat_rules.len() + own.len() * 40 + 4096);
    batch.push_str("*filter\n");
    frame::filter(&context.settings, &mut batch);
    batch.push_str(&filter);
    batch.push_str("COMMIT\n*nat\n");
    // iptables-nft keeps chains sorted and looks for a new one's place from the front: in descending order every place is
    // the first. With 20,000 chains that is 0.2 s instead of 2.5 s, and the difference grows with their square.
    let declared: BTreeSet<&str> =
        frame::NAT_CHAINS.into_iter().chain(own.iter().chain(stale.iter().copied()).map(String::as_str)).collect();
    for name in declared.into_iter().rev() {
        let _ = writeln!(batch, ":{name} - [0:0]");
    }
    frame::nat_rules(&context.settings, &mut batch);
    batch.push_str(&nat_rules);
    frame::nat_last_rules(&context.settings, node_port_addresses, &mut batch);
    for name in &stale {
        let _ = writeln!(batch, "-X {name}");
    }
    batch.push_str("COMMIT\n");
    (batch, written)
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

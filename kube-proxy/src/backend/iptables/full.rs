//! A sync of everything: the chains of the Services in steps, then what leads to them.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;

use super::render::{Context, Rules, Table};
use super::{frame, names};

/// Collects the rules of portals into batches.
pub struct Steps<'a> {
    context: &'a Context,
    /// Bytes after which a batch is handed out.
    limit: usize,
    declared: Vec<String>,
    rules: String,
    filter: String,
    shared: String,
    own: BTreeSet<String>,
    written: usize,
}

impl<'a> Steps<'a> {
    pub fn new(context: &'a Context, limit: usize) -> Self {
        Self {
            context,
            limit,
            declared: Vec::new(),
            rules: String::new(),
            filter: String::new(),
            shared: String::new(),
            own: BTreeSet::new(),
            written: 0,
        }
    }

    /// Rules so far.
    pub fn written(&self) -> usize {
        self.written
    }

    /// Adds a portal's rules; hands out a batch of chains when one is full. A portal's chains are never in two batches.
    pub fn add(&mut self, rules: Rules) -> Option<String> {
        for shared in &rules.shared {
            let out = if shared.table == Table::Filter { &mut self.filter } else { &mut self.shared };
            let _ = writeln!(out, "-A {} {}", shared.chain, shared.rule);
            self.written += 1;
        }
        for chain in rules.chains {
            for rule in &chain.rules {
                let _ = writeln!(self.rules, "-A {} {rule}", chain.name);
            }
            self.written += chain.rules.len();
            self.own.insert(chain.name.clone());
            self.declared.push(chain.name);
        }
        (self.rules.len() >= self.limit).then(|| self.take())
    }

    fn take(&mut self) -> String {
        let mut batch = String::with_capacity(self.rules.len() + self.declared.len() * 40 + 16);
        batch.push_str("*nat\n");
        // iptables-nft keeps chains sorted and looks for a new one's place from the front: in descending order every place
        // is the first. With 20,000 chains that is 0.2 s instead of 2.5 s, and the difference grows with their square.
        self.declared.sort_unstable();
        for name in self.declared.drain(..).rev() {
            let _ = writeln!(batch, ":{name} - [0:0]");
        }
        batch.push_str(&self.rules);
        batch.push_str("COMMIT\n");
        self.rules.clear();
        batch
    }

    /// The last chains, and the batch that makes all of them reachable and removes those of `present` that are nobody's.
    pub fn finish(&mut self, present: &BTreeSet<String>, node_port_addresses: Option<&[IpAddr]>) -> (String, String) {
        let chains = self.take();
        let stale: Vec<&String> =
            present.iter().filter(|name| names::is_per_service(name) && !self.own.contains(*name)).collect();
        let mut batch = String::with_capacity(self.filter.len() + self.shared.len() + stale.len() * 80 + 4096);
        for (table, shared) in frame::SHARED {
            let _ = writeln!(batch, "*{table}");
            for name in shared {
                let _ = writeln!(batch, ":{name} - [0:0]");
            }
            if table == "filter" {
                batch.push_str(&self.filter);
            } else {
                // All are emptied before any is removed: they lead to each other.
                for name in &stale {
                    let _ = writeln!(batch, ":{name} - [0:0]");
                }
                batch.push_str(&self.shared);
                frame::nat_last_rules(&self.context.settings, node_port_addresses, &mut batch);
                for name in &stale {
                    let _ = writeln!(batch, "-X {name}");
                }
            }
            batch.push_str("COMMIT\n");
        }
        self.filter = String::new();
        self.shared = String::new();
        (chains, batch)
    }
}

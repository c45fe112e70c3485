//! Rules in the kernel: one nftables table of our own, changed by transactions.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use super::compile::Rules;

/// Our table.
pub const TABLE: &str = "rk-policy";

/// The part that is always there. Replies and errors of allowed connections pass; so does IPv6 neighbour discovery, without
/// which nothing would; and a pod always reaches itself. Traffic of the node itself to its pods (probes) never comes here.
const FRAME: &str = "
 map in4 { type ipv4_addr : verdict; }
 map in6 { type ipv6_addr : verdict; }
 map out4 { type ipv4_addr : verdict; }
 map out6 { type ipv6_addr : verdict; }
 set self4 { type ipv4_addr . ipv4_addr; }
 set self6 { type ipv6_addr . ipv6_addr; }
 chain common {
  ct state established,related accept
  icmpv6 type { nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert } accept
 }
 chain forward {
  type filter hook forward priority -1;
  jump common
  ip saddr . ip daddr @self4 accept
  ip6 saddr . ip6 daddr @self6 accept
  ip saddr vmap @out4
  ip6 saddr vmap @out6
  ip daddr vmap @in4
  ip6 daddr vmap @in6
 }
 chain input {
  type filter hook input priority -1;
  jump common
  ip saddr vmap @out4
  ip6 saddr vmap @out6
 }
";

/// What is in the kernel.
#[derive(Default)]
pub struct Kernel {
    /// `None`: unknown, everything has to be written.
    applied: Option<Rules>,
}

impl Kernel {
    /// Makes the kernel's rules these; returns the number of commands that took.
    ///
    /// # Errors
    /// nft refused; the rules are as they were, and the next call writes all of them.
    pub fn apply(&mut self, rules: Rules) -> anyhow::Result<usize> {
        let mut batch = String::new();
        let empty = Rules::default();
        let old = match &self.applied {
            Some(applied) if *applied == rules => return Ok(0),
            Some(applied) => applied,
            None => {
                let _ = write!(batch, "add table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{{FRAME}}}\n");
                &empty
            }
        };
        difference(old, &rules, &mut batch);
        let commands = batch.lines().count();
        match nft(&["-f", "-"], &batch) {
            Ok(_) => {
                self.applied = Some(rules);
                Ok(commands)
            }
            Err(error) => {
                self.applied = None;
                Err(error)
            }
        }
    }

    /// Whether the table is still there.
    pub fn is_intact(&self) -> bool {
        self.applied.is_none() || nft(&["list", "chain", "inet", TABLE, "forward"], "").is_ok_and(|text| text.contains("@in4"))
    }
}

/// Removes the table.
pub fn remove() -> anyhow::Result<()> {
    nft(&["-f", "-"], &format!("add table inet {TABLE}\ndelete table inet {TABLE}\n")).map(drop)
}

fn verdicts(rules: &Rules) -> BTreeMap<(&'static str, String), String> {
    let mut all: BTreeMap<(&'static str, String), String> = rules
        .maps
        .iter()
        .flat_map(|(map, entries)| entries.iter().map(move |(ip, chain)| ((*map, ip.to_string()), format!(" : jump {chain}"))))
        .collect();
    let own = |ip: &IpAddr| (if ip.is_ipv4() { "self4" } else { "self6" }, format!("{ip} . {ip}"));
    all.extend(rules.selves.iter().map(|ip| (own(ip), String::new())));
    all
}

fn difference(old: &Rules, new: &Rules, out: &mut String) {
    for (name, set) in &new.sets {
        if !old.sets.contains_key(name) {
            let _ = writeln!(out, "add set inet {TABLE} {name} {{ type {}; }}", set.kind);
        }
    }
    let nothing = std::collections::BTreeSet::new();
    for (name, set) in &new.sets {
        let had = old.sets.get(name).map_or(&nothing, |set| &set.elements);
        elements(out, "delete", name, had.difference(&set.elements));
        elements(out, "add", name, set.elements.difference(had));
    }
    for (name, rules) in new.chains.iter().filter(|(name, _)| !old.chains.contains_key(*name)) {
        let _ = writeln!(out, "add chain inet {TABLE} {name}");
        for rule in rules {
            let _ = writeln!(out, "add rule inet {TABLE} {name} {rule}");
        }
    }
    let (had, wants) = (verdicts(old), verdicts(new));
    let mut deleted: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for ((map, key), value) in &had {
        if wants.get(&(*map, key.clone())) != Some(value) {
            deleted.entry(map).or_default().push(key.clone());
        }
    }
    let mut added: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for ((map, key), value) in &wants {
        if had.get(&(*map, key.clone())) != Some(value) {
            added.entry(map).or_default().push(format!("{key}{value}"));
        }
    }
    for (verb, all) in [("delete", &deleted), ("add", &added)] {
        for (map, keys) in all {
            elements(out, verb, map, keys.iter());
        }
    }
    let gone: Vec<&String> = old.chains.keys().filter(|name| !new.chains.contains_key(*name)).collect();
    for name in gone {
        let _ = writeln!(out, "flush chain inet {TABLE} {name}\ndelete chain inet {TABLE} {name}");
    }
    for name in old.sets.keys().filter(|name| !new.sets.contains_key(*name)) {
        let _ = writeln!(out, "delete set inet {TABLE} {name}");
    }
}

fn elements<'a>(out: &mut String, verb: &str, set: &str, all: impl Iterator<Item = &'a String>) {
    let all: Vec<&str> = all.map(String::as_str).collect();
    if !all.is_empty() {
        let _ = writeln!(out, "{verb} element inet {TABLE} {set} {{ {} }}", all.join(", "));
    }
}

fn nft(args: &[&str], input: &str) -> anyhow::Result<String> {
    let piped = || Stdio::piped();
    let mut child =
        Command::new("nft").args(args).stdin(piped()).stdout(piped()).stderr(piped()).spawn().context("failed to run nft")?;
    let mut stdin = child.stdin.take().expect("stdin was asked to be a pipe");
    let text = input.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
    let output = child.wait_with_output().context("failed to run nft")?;
    let _ = writer.join();
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let complaint: String = String::from_utf8_lossy(&output.stderr).chars().take(2000).collect();
    bail!("nft: {}", complaint.trim())
}

#[cfg(test)]
mod tests;

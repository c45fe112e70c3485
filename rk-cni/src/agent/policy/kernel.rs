//! Rules in the kernel: one nftables table of our own, changed by transactions.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use super::compile::Rules;
use super::engine::Changes;

/// `NFPROTO_INET`
const INET: u8 = 1;
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
    /// The rules are what the last batch made them; else everything has to be written.
    known: bool,
}

impl Kernel {
    /// The commands that bring the kernel from where it is to `rules`, of which `changes` is what differs since the last call.
    pub fn plan(&self, rules: &Rules, changes: &Changes) -> String {
        let mut batch = String::new();
        if self.known {
            change(rules, changes, &mut batch);
        } else {
            let _ = write!(batch, "add table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{{FRAME}}}\n");
            everything(rules, &mut batch);
        }
        batch
    }

    /// Applies a plan as one transaction.
    ///
    /// # Errors
    /// nft refused; the rules are as they were, and the next plan writes all of them.
    pub fn apply(&mut self, batch: &str) -> anyhow::Result<()> {
        let result = if batch.is_empty() { Ok(()) } else { nft(&["-f", "-"], batch).map(drop) };
        self.known = result.is_ok();
        result
    }

    /// Whether the table is still there.
    pub fn is_intact(&self) -> bool {
        !self.known || net::nft::has_rules(INET, TABLE, "forward").unwrap_or(true)
    }
}

/// Removes the table.
pub fn remove() -> anyhow::Result<()> {
    nft(&["-f", "-"], &format!("add table inet {TABLE}\ndelete table inet {TABLE}\n")).map(drop)
}

fn own(ip: &IpAddr) -> (&'static str, String) {
    (if ip.is_ipv4() { "self4" } else { "self6" }, format!("{ip} . {ip}"))
}

fn add_chain(rules: &Rules, name: &str, out: &mut String) {
    let _ = writeln!(out, "add chain inet {TABLE} {name}");
    for rule in rules.chains.get(name).into_iter().flatten() {
        let _ = writeln!(out, "add rule inet {TABLE} {name} {rule}");
    }
}

/// All rules, into the bare frame.
fn everything(rules: &Rules, out: &mut String) {
    for (name, set) in &rules.sets {
        let _ = writeln!(out, "add set inet {TABLE} {name} {{ type {}; }}", set.kind);
        elements(out, "add", name, set.elements.iter());
    }
    for name in rules.chains.keys() {
        add_chain(rules, name, out);
    }
    for (map, entries) in &rules.maps {
        let all: Vec<String> = entries.iter().map(|(ip, chain)| format!("{ip} : jump {chain}")).collect();
        elements(out, "add", map, all.iter());
    }
    for v4 in [true, false] {
        let all: Vec<(&str, String)> = rules.selves.iter().filter(|ip| ip.is_ipv4() == v4).map(own).collect();
        if let Some((set, _)) = all.first() {
            elements(out, "add", set, all.iter().map(|(_, key)| key));
        }
    }
}

/// What differs: additions before what leads to them, removals after.
fn change(rules: &Rules, changes: &Changes, out: &mut String) {
    for (name, had) in &changes.sets {
        if let (false, Some(set)) = (had, rules.sets.get(name)) {
            let _ = writeln!(out, "add set inet {TABLE} {name} {{ type {}; }}", set.kind);
        }
    }
    for (name, touched) in &changes.elements {
        let Some(set) = rules.sets.get(name) else { continue };
        let differing =
            |wanted: bool| touched.iter().filter(move |(key, had)| set.elements.contains(*key) == wanted && **had != wanted);
        elements(out, "delete", name, differing(false).map(|(key, _)| key));
        elements(out, "add", name, differing(true).map(|(key, _)| key));
    }
    for (name, _) in changes.chains.iter().filter(|(name, had)| !**had && rules.chains.contains_key(*name)) {
        add_chain(rules, name, out);
    }
    let mut deleted: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut added: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for ((map, ip), had) in &changes.verdicts {
        let wanted = rules.maps.get(map).and_then(|entries| entries.get(ip));
        if wanted == had.as_ref() {
            continue;
        }
        if had.is_some() {
            deleted.entry(map).or_default().push(ip.to_string());
        }
        if let Some(chain) = wanted {
            added.entry(map).or_default().push(format!("{ip} : jump {chain}"));
        }
    }
    for (ip, had) in &changes.selves {
        let (set, key) = own(ip);
        match (*had, rules.selves.contains(ip)) {
            (true, false) => deleted.entry(set).or_default().push(key),
            (false, true) => added.entry(set).or_default().push(key),
            _ => {}
        }
    }
    for (verb, all) in [("delete", &deleted), ("add", &added)] {
        for (map, keys) in all {
            elements(out, verb, map, keys.iter());
        }
    }
    for (name, _) in changes.chains.iter().filter(|(name, had)| **had && !rules.chains.contains_key(*name)) {
        let _ = writeln!(out, "flush chain inet {TABLE} {name}\ndelete chain inet {TABLE} {name}");
    }
    for (name, _) in changes.sets.iter().filter(|(name, had)| **had && !rules.sets.contains_key(*name)) {
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

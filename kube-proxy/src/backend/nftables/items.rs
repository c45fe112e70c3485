//! What Services consist of in the kernel, and the difference between two states of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;

use super::TABLE;

/// Everything that belongs to one Service.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Items {
    /// (Set or map, key) → the rest of the element: comment and value.
    pub elements: BTreeMap<(String, String), String>,
    pub chains: BTreeMap<String, Vec<String>>,
    /// Sets of its own (affinity): name → definition.
    pub sets: BTreeMap<String, String>,
    /// Shared things that exist as long as anybody uses them.
    pub shared: BTreeSet<Shared>,
}

/// Used by several Services at once.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Shared {
    /// `balance-N` and `endpoints-N`.
    Balance(usize),
    /// An element without value, e.g. an endpoint in `hairpin`.
    Element(&'static str, String),
}

/// How many Services use each shared thing. Changes count for readers at once, and for good only when they are kept.
#[derive(Debug, Default)]
pub struct Counts {
    base: HashMap<Shared, usize>,
    changed: HashMap<Shared, usize>,
}

impl Counts {
    /// The kernel has the changes.
    pub fn keep(&mut self) {
        for (shared, count) in self.changed.drain() {
            if count == 0 {
                self.base.remove(&shared);
            } else {
                self.base.insert(shared, count);
            }
        }
    }

    /// What somebody uses.
    pub fn used(&self) -> impl Iterator<Item = &Shared> {
        let unchanged = self.base.keys().filter(|shared| !self.changed.contains_key(*shared));
        unchanged.chain(self.changed.iter().filter(|(_, count)| **count > 0).map(|(shared, _)| shared))
    }

    fn get(&self, shared: &Shared) -> usize {
        self.changed.get(shared).or_else(|| self.base.get(shared)).copied().unwrap_or(0)
    }

    fn set(&mut self, shared: &Shared, count: usize) {
        self.changed.insert(shared.clone(), count);
    }
}

/// A change of elements only.
#[derive(Debug, Default)]
pub struct Elements {
    pub deleted: BTreeMap<String, Vec<String>>,
    pub added: BTreeMap<String, Vec<(String, String)>>,
}

/// A transaction in the making. Its parts are written in an order in which every name exists when it is used.
pub struct Change {
    family: &'static str,
    added_sets: String,
    added_chains: String,
    rules: String,
    deleted_elements: BTreeMap<String, Vec<String>>,
    added_elements: BTreeMap<String, Vec<(String, String)>>,
    emptied_chains: String,
    deleted_chains: String,
    deleted_sets: String,
    used: BTreeMap<Shared, (usize, usize)>,
    count: usize,
}

impl Change {
    pub fn new(family: &'static str) -> Self {
        Self {
            family,
            added_sets: String::new(),
            added_chains: String::new(),
            rules: String::new(),
            deleted_elements: BTreeMap::new(),
            added_elements: BTreeMap::new(),
            emptied_chains: String::new(),
            deleted_chains: String::new(),
            deleted_sets: String::new(),
            used: BTreeMap::new(),
            count: 0,
        }
    }

    /// Elements, rules and sets that are written.
    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds what leads from one state of a Service to another.
    pub fn replace(&mut self, old: &Items, new: &Items, counts: &mut Counts) {
        let family = self.family;
        for (name, definition) in &new.sets {
            if old.sets.get(name) != Some(definition) {
                let _ = writeln!(self.added_sets, "add set {family} {TABLE} {name} {definition}");
                self.count += 1;
            }
        }
        for (name, rules) in &new.chains {
            match old.chains.get(name) {
                Some(had) if had == rules => continue,
                Some(_) => {}
                None => {
                    let _ = writeln!(self.added_chains, "add chain {family} {TABLE} {name}");
                }
            }
            // Also a new one: an earlier process may have left it.
            let _ = writeln!(self.added_chains, "flush chain {family} {TABLE} {name}");
            for rule in rules {
                let _ = writeln!(self.rules, "add rule {family} {TABLE} {name} {rule}");
            }
            self.count += rules.len();
        }
        for (place, rest) in &new.elements {
            if old.elements.get(place) != Some(rest) {
                self.added_elements.entry(place.0.clone()).or_default().push((place.1.clone(), rest.clone()));
                self.count += 1;
            }
        }
        for (place, rest) in &old.elements {
            if new.elements.get(place) != Some(rest) {
                self.deleted_elements.entry(place.0.clone()).or_default().push(place.1.clone());
                self.count += 1;
            }
        }
        for name in old.chains.keys().filter(|name| !new.chains.contains_key(*name)) {
            let _ = writeln!(self.emptied_chains, "flush chain {family} {TABLE} {name}");
            let _ = writeln!(self.deleted_chains, "delete chain {family} {TABLE} {name}");
            self.count += 1;
        }
        for name in old.sets.keys().filter(|name| !new.sets.contains_key(*name)) {
            let _ = writeln!(self.deleted_sets, "delete set {family} {TABLE} {name}");
            self.count += 1;
        }
        for shared in new.shared.difference(&old.shared) {
            self.count_use(shared, counts, |count| count + 1);
        }
        for shared in old.shared.difference(&new.shared) {
            self.count_use(shared, counts, |count| count.saturating_sub(1));
        }
    }

    fn count_use(&mut self, shared: &Shared, counts: &mut Counts, change: impl Fn(usize) -> usize) {
        let before = counts.get(shared);
        let now = change(before);
        counts.set(shared, now);
        self.used.entry(shared.clone()).and_modify(|(_, last)| *last = now).or_insert((before, now));
        self.count += 1;
    }

    /// The change, if it is one of elements only: set → (key, rest) to delete and to add.
    pub fn only_elements(&self) -> Option<Elements> {
        let texts =
            [&self.added_sets, &self.added_chains, &self.rules, &self.emptied_chains, &self.deleted_chains, &self.deleted_sets];
        let structure = texts.iter().any(|text| !text.is_empty())
            || self
                .used
                .iter()
                .any(|(shared, (before, now))| matches!(shared, Shared::Balance(_)) && (*before == 0) != (*now == 0));
        if structure {
            return None;
        }
        let mut all = Elements { deleted: self.deleted_elements.clone(), added: self.added_elements.clone() };
        for (shared, (before, now)) in &self.used {
            let Shared::Element(set, key) = shared else { continue };
            match (*before, *now) {
                (0, 1..) => all.added.entry((*set).to_owned()).or_default().push((key.clone(), String::new())),
                (1.., 0) => all.deleted.entry((*set).to_owned()).or_default().push(key.clone()),
                _ => {}
            }
        }
        Some(all)
    }

    /// Only what elements lead to: sets, chains and their rules. nft cannot add a map of `endpoints-N` that is `present`.
    pub fn write_structure(self, present: &[String], out: &mut String) {
        let family = self.family;
        out.push_str(&self.added_sets);
        out.push_str(&self.added_chains);
        for (shared, (before, now)) in &self.used {
            if let (Shared::Balance(count), 0, 1..) = (shared, *before, *now)
                && !present.contains(&format!("balance-{count}"))
            {
                out.push_str(&balance(family, *count));
            }
        }
        out.push_str(&self.rules);
    }

    /// The whole as nft commands.
    pub fn write(mut self, out: &mut String) {
        let family = self.family;
        for (shared, (before, now)) in std::mem::take(&mut self.used) {
            let (appears, goes) = (before == 0 && now > 0, before > 0 && now == 0);
            match shared {
                Shared::Balance(count) if appears => self.added_chains.push_str(&balance(family, count)),
                Shared::Balance(count) if goes => {
                    let _ = writeln!(self.deleted_chains, "delete chain {family} {TABLE} balance-{count}");
                    let _ = writeln!(self.deleted_sets, "delete map {family} {TABLE} endpoints-{count}");
                }
                Shared::Element(set, key) if appears => {
                    self.added_elements.entry(set.to_owned()).or_default().push((key, String::new()));
                }
                Shared::Element(set, key) if goes => self.deleted_elements.entry(set.to_owned()).or_default().push(key),
                _ => {}
            }
        }
        out.push_str(&self.added_sets);
        out.push_str(&self.added_chains);
        out.push_str(&self.rules);
        for (set, keys) in &self.deleted_elements {
            let _ = writeln!(out, "delete element {family} {TABLE} {set} {{ {} }}", keys.join(", "));
        }
        for (set, elements) in &self.added_elements {
            let elements: Vec<String> = elements.iter().map(|(key, rest)| format!("{key}{rest}")).collect();
            let _ = writeln!(out, "add element {family} {TABLE} {set} {{ {} }}", elements.join(", "));
        }
        // All are emptied before any is deleted: they lead to each other.
        out.push_str(&self.emptied_chains);
        out.push_str(&self.deleted_chains);
        out.push_str(&self.deleted_sets);
    }
}

/// The chain and map for Services with so many endpoints.
pub fn balance(family: &str, count: usize) -> String {
    let key = format!("{family} daddr . meta l4proto . th dport . numgen random mod {count}");
    format!(
        "add map {family} {TABLE} endpoints-{count} {{ typeof {key} : {family} daddr . th dport; }}\n\
         add chain {family} {TABLE} balance-{count}\n\
         add rule {family} {TABLE} balance-{count} meta l4proto {{ tcp, udp, sctp }} dnat {family} to {key} map @endpoints-{count}\n"
    )
}

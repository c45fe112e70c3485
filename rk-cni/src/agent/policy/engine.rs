//! The cluster's objects and the rules that follow from them for one node, kept up to date change by change.
//!
//! A pod concerns the groups that hold it and, on this node, the policies of its namespace; a policy concerns this node's pods
//! that it selects; a namespace's labels concern the groups that look at them. Nothing else is computed again.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use super::compile::{self, Chain, Direction, Rules, Set};
use super::group::{Anchor, Group};
use super::model::{Labels, Pod, Policy};

/// What became of the rules since somebody last asked: for everything that was touched, how it was before.
#[derive(Debug, Default)]
pub struct Changes {
    /// Set → whether it was there.
    pub sets: BTreeMap<String, bool>,
    /// Set → element → whether it was there.
    pub elements: BTreeMap<String, BTreeMap<String, bool>>,
    /// Chain → whether it was there. Names tell the content: what stays is the same.
    pub chains: BTreeMap<String, bool>,
    /// Verdict map and address → chain.
    pub verdicts: BTreeMap<(&'static str, IpAddr), Option<String>>,
    /// Address → whether it was among the isolated.
    pub selves: BTreeMap<IpAddr, bool>,
}

impl Changes {
    pub fn is_empty(&self) -> bool {
        self.sets.is_empty()
            && self.elements.is_empty()
            && self.chains.is_empty()
            && self.verdicts.is_empty()
            && self.selves.is_empty()
    }
}

/// A group that some chain mentions.
#[derive(Debug)]
struct Used {
    group: Group,
    chains: usize,
    /// Element → pods that have it: an address may change hands before the old owner is gone.
    counts: HashMap<(bool, String), usize>,
}

#[derive(Debug)]
struct ChainUse {
    pods: usize,
    groups: Vec<String>,
}

/// What a pod of this node has in the kernel.
#[derive(Debug, Default)]
struct Local {
    ips: Vec<IpAddr>,
    /// By direction.
    chains: [Option<String>; 2],
}

/// All that is known and what follows from it.
#[derive(Debug, Default)]
pub struct Engine {
    node: String,
    namespaces: HashMap<String, Labels>,
    /// By `namespace/name`, as all keys here.
    pods: HashMap<String, Pod>,
    policies: HashMap<String, Policy>,
    pods_in: HashMap<String, BTreeSet<String>>,
    policies_in: HashMap<String, BTreeSet<String>>,
    groups: HashMap<String, Used>,
    anchors: HashMap<Anchor, BTreeSet<String>>,
    chains: HashMap<String, ChainUse>,
    local: HashMap<String, Local>,
    addresses: HashMap<IpAddr, BTreeSet<String>>,
    rules: Rules,
    changes: Changes,
}

fn index(map: &mut HashMap<String, BTreeSet<String>>, namespace: &str, key: &str, there: bool) {
    if there {
        map.entry(namespace.to_owned()).or_default().insert(key.to_owned());
    } else if let Some(keys) = map.get_mut(namespace) {
        keys.remove(key);
        if keys.is_empty() {
            map.remove(namespace);
        }
    }
}

impl Engine {
    pub fn new(node: &str) -> Self {
        Self { node: node.to_owned(), ..Self::default() }
    }

    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    pub fn policies(&self) -> usize {
        self.policies.len()
    }

    /// What changed since the last call.
    pub fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    pub fn has_changes(&self) -> bool {
        !self.changes.is_empty()
    }

    /// Notes a namespace's labels, or its end.
    pub fn set_namespace(&mut self, name: &str, labels: Option<Labels>) {
        let old = self.namespaces.remove(name);
        if old != labels {
            let keys: Vec<String> = self.pods_in.get(name).into_iter().flatten().cloned().collect();
            for group in self
                .groups
                .iter()
                .filter(|(_, used)| used.group.looks_at_namespaces())
                .map(|(name, _)| name.clone())
                .collect::<Vec<_>>()
            {
                for key in &keys {
                    let (Some(pod), Some(used)) = (self.pods.get(key), self.groups.get(&group)) else { continue };
                    let (was, is) = (used.group.holds(pod, old.as_ref()), used.group.holds(pod, labels.as_ref()));
                    if was != is {
                        let pod = pod.clone();
                        self.count(&group, &pod, is);
                    }
                }
            }
        }
        if let Some(labels) = labels {
            self.namespaces.insert(name.to_owned(), labels);
        }
    }

    /// Notes a pod, or its end (also that it no longer takes part in the pod network).
    pub fn set_pod(&mut self, key: &str, pod: Option<Pod>) {
        let old = self.pods.remove(key);
        if old == pod {
            if let Some(pod) = pod {
                self.pods.insert(key.to_owned(), pod);
            }
            return;
        }
        let mut groups: HashSet<String> = HashSet::new();
        for anchor in old.iter().chain(&pod).flat_map(Anchor::of_pod) {
            groups.extend(self.anchors.get(&anchor).into_iter().flatten().cloned());
        }
        for group in groups {
            // What comes first is added: what stays is then never missing.
            for (pod, comes) in [(&pod, true), (&old, false)] {
                let Some(pod) = pod else { continue };
                let namespace = self.namespaces.get(&pod.namespace);
                if self.groups.get(&group).is_some_and(|used| used.group.holds(pod, namespace)) {
                    self.count(&group, pod, comes);
                }
            }
        }
        for (pod, there) in [(&old, false), (&pod, true)] {
            if let Some(pod) = pod {
                index(&mut self.pods_in, &pod.namespace, key, there);
            }
        }
        let concerned = old.iter().chain(&pod).any(|pod| pod.node == self.node);
        if let Some(pod) = pod {
            self.pods.insert(key.to_owned(), pod);
        }
        if concerned {
            self.isolate(key);
        }
    }

    /// Notes a policy, or its end.
    pub fn set_policy(&mut self, key: &str, policy: Option<Policy>) {
        let old = self.policies.remove(key);
        if old == policy {
            if let Some(policy) = policy {
                self.policies.insert(key.to_owned(), policy);
            }
            return;
        }
        let mut concerned: BTreeSet<String> = BTreeSet::new();
        for policy in old.iter().chain(&policy) {
            let keys = self.pods_in.get(&policy.namespace).into_iter().flatten();
            concerned.extend(
                keys.filter(|key| {
                    self.pods.get(*key).is_some_and(|pod| pod.node == self.node && policy.pods.matches(&pod.labels))
                })
                .cloned(),
            );
        }
        for (policy, there) in [(&old, false), (&policy, true)] {
            if let Some(policy) = policy {
                index(&mut self.policies_in, &policy.namespace, key, there);
            }
        }
        if let Some(policy) = policy {
            self.policies.insert(key.to_owned(), policy);
        }
        for pod in concerned {
            self.isolate(&pod);
        }
    }

    /// Brings what the kernel holds for one pod of this node up to date.
    fn isolate(&mut self, key: &str) {
        let mut new = Local::default();
        let mut made: Vec<Chain> = Vec::new();
        if let Some(pod) = self.pods.get(key).filter(|pod| pod.node == self.node) {
            let policies = self.policies_in.get(&pod.namespace);
            let selecting: Vec<&Policy> = policies
                .into_iter()
                .flatten()
                .filter_map(|key| self.policies.get(key))
                .filter(|policy| policy.pods.matches(&pod.labels))
                .collect();
            new.ips.clone_from(&pod.ips);
            for (slot, direction) in new.chains.iter_mut().zip(Direction::BOTH) {
                if let Some(chain) = compile::chain(pod, selecting.iter().copied(), direction) {
                    *slot = Some(chain.name.clone());
                    made.push(chain);
                }
            }
        }
        for chain in made {
            self.acquire(chain);
        }
        let old = self.local.remove(key).unwrap_or_default();
        for chain in old.chains.iter().flatten() {
            self.release(chain);
        }
        let mut ips: BTreeSet<IpAddr> = BTreeSet::new();
        for (local, there) in [(&old, false), (&new, true)] {
            for ip in &local.ips {
                let owners = self.addresses.entry(*ip).or_default();
                if there {
                    owners.insert(key.to_owned())
                } else {
                    owners.remove(key)
                };
                ips.insert(*ip);
            }
        }
        if !new.ips.is_empty() {
            self.local.insert(key.to_owned(), new);
        }
        for ip in ips {
            self.point(ip);
        }
    }

    /// Leads an address to its owner's chains.
    fn point(&mut self, ip: IpAddr) {
        let owners = self.addresses.get(&ip).cloned().unwrap_or_default();
        if owners.is_empty() {
            self.addresses.remove(&ip);
        }
        let mut isolated = false;
        for (at, direction) in Direction::BOTH.into_iter().enumerate() {
            let chain = owners.iter().find_map(|key| self.local.get(key)?.chains[at].clone());
            isolated |= chain.is_some();
            let map = direction.map(&ip);
            let entries = self.rules.maps.entry(map).or_default();
            let had = entries.get(&ip).cloned();
            if had != chain {
                match chain {
                    Some(chain) => entries.insert(ip, chain),
                    None => entries.remove(&ip),
                };
                self.changes.verdicts.entry((map, ip)).or_insert(had);
            }
            if entries.is_empty() {
                self.rules.maps.remove(map);
            }
        }
        let had = self.rules.selves.contains(&ip);
        if had != isolated {
            if isolated {
                self.rules.selves.insert(ip)
            } else {
                self.rules.selves.remove(&ip)
            };
            self.changes.selves.entry(ip).or_insert(had);
        }
    }

    fn acquire(&mut self, chain: Chain) {
        if let Some(known) = self.chains.get_mut(&chain.name) {
            known.pods += 1;
            return;
        }
        let mut names = Vec::new();
        for group in chain.groups {
            let name = group.name();
            if !self.groups.contains_key(&name) {
                self.make(&name, group);
            }
            if let Some(used) = self.groups.get_mut(&name) {
                used.chains += 1;
            }
            names.push(name);
        }
        self.changes.chains.entry(chain.name.clone()).or_insert(false);
        self.rules.chains.insert(chain.name.clone(), chain.rules);
        self.chains.insert(chain.name, ChainUse { pods: 1, groups: names });
    }

    fn release(&mut self, name: &str) {
        let Some(known) = self.chains.get_mut(name) else { return };
        known.pods -= 1;
        if known.pods > 0 {
            return;
        }
        let groups = self.chains.remove(name).map(|known| known.groups).unwrap_or_default();
        self.rules.chains.remove(name);
        self.changes.chains.entry(name.to_owned()).or_insert(true);
        for group in groups {
            let unused = self.groups.get_mut(&group).is_some_and(|used| {
                used.chains -= 1;
                used.chains == 0
            });
            if unused {
                self.unmake(&group);
            }
        }
    }

    fn make(&mut self, name: &str, group: Group) {
        for v4 in [true, false] {
            let set = set_name(name, v4);
            self.changes.sets.entry(set.clone()).or_insert(false);
            self.rules.sets.insert(set, Set { kind: group.kind(v4), elements: BTreeSet::new() });
        }
        for anchor in group.anchors() {
            self.anchors.entry(anchor).or_default().insert(name.to_owned());
        }
        let held: Vec<Pod> = match group.scope() {
            Some(namespace) => {
                let keys = self.pods_in.get(namespace).into_iter().flatten();
                keys.filter_map(|key| self.pods.get(key)).filter(|pod| group.holds(pod, None)).cloned().collect()
            }
            None => {
                let namespace = |pod: &Pod| self.namespaces.get(&pod.namespace);
                self.pods.values().filter(|pod| group.holds(pod, namespace(pod))).cloned().collect()
            }
        };
        self.groups.insert(name.to_owned(), Used { group, chains: 0, counts: HashMap::new() });
        for pod in &held {
            self.count(name, pod, true);
        }
    }

    fn unmake(&mut self, name: &str) {
        let Some(used) = self.groups.remove(name) else { return };
        for anchor in used.group.anchors() {
            if let Some(names) = self.anchors.get_mut(&anchor) {
                names.remove(name);
                if names.is_empty() {
                    self.anchors.remove(&anchor);
                }
            }
        }
        for v4 in [true, false] {
            let set = set_name(name, v4);
            // Should it come back before anybody looks, what is in the kernel has to be known.
            for element in self.rules.sets.remove(&set).map(|set| set.elements).unwrap_or_default() {
                self.changes.elements.entry(set.clone()).or_default().entry(element).or_insert(true);
            }
            self.changes.sets.entry(set).or_insert(true);
        }
    }

    /// Counts a pod in or out of a group.
    fn count(&mut self, name: &str, pod: &Pod, comes: bool) {
        let Some(used) = self.groups.get_mut(name) else { return };
        for v4 in [true, false] {
            for element in used.group.elements(pod, v4) {
                let count = used.counts.entry((v4, element.clone())).or_default();
                let had = *count > 0;
                *count = if comes { *count + 1 } else { count.saturating_sub(1) };
                let has = *count > 0;
                if had == has {
                    continue;
                }
                let set = set_name(name, v4);
                if let Some(known) = self.rules.sets.get_mut(&set) {
                    if has {
                        known.elements.insert(element.clone())
                    } else {
                        known.elements.remove(&element)
                    };
                }
                if !has {
                    used.counts.remove(&(v4, element.clone()));
                }
                self.changes.elements.entry(set).or_default().entry(element).or_insert(had);
            }
        }
    }
}

fn set_name(group: &str, v4: bool) -> String {
    format!("{group}-{}", if v4 { 4 } else { 6 })
}

#[cfg(test)]
mod tests;

//! Spreads pods evenly over zones, nodes, or any label.
//!
//! Upstream: pkg/scheduler/framework/plugins/podtopologyspread

use std::borrow::Cow;
use std::sync::Arc;

use crate::cluster::NodeIdx;
use crate::cluster::node_info::NodeInfo;
use crate::cluster::topology::Topology;
use crate::event::Event;
use crate::object::Named;
use crate::object::pod::{Pod, Spread};
use crate::object::selector::{Requirement, Selector};
use crate::plugin::taint_toleration::tolerated;
use crate::plugin::{Begin, Context, Failure, Filter, MAX_SCORE, Plugin, Score};

const HOSTNAME: &str = "kubernetes.io/hostname";

/// PodTopologySpread.
pub const PLUGIN: Plugin =
    Plugin { weight: 2, filter: Some(filter), score: Some(score), hint: Some(hint), ..Plugin::named("PodTopologySpread") };

/// One constraint at work.
struct Counted<'a> {
    spread: Cow<'a, Spread>,
    topology: Arc<Topology>,
    /// Matching pods by domain.
    counts: Vec<i64>,
    /// Domains with at least one node that counts.
    domains: Vec<bool>,
    /// The smallest count of any domain; 0 where there are fewer than `minDomains`.
    min: i64,
    matches_itself: bool,
}

struct Even<'a> {
    cx: Nodes<'a>,
    pod: &'a Pod,
    constraints: Vec<Counted<'a>>,
}

/// Which nodes count for a pod.
struct Nodes<'a>(&'a crate::cluster::Cluster);

impl Nodes<'_> {
    fn counts(&self, pod: &Pod, spread: &Spread, idx: NodeIdx) -> bool {
        let Some(node) = &self.0.node(idx).node else { return false };
        (!spread.honor_affinity || pod.wants_node(node.labels(), node.name())) && (!spread.honor_taints || tolerated(pod, node))
    }
}

fn filter<'a>(cx: &Context<'a>, pod: &'a Pod) -> Begin<'a> {
    let spreads = constraints(cx, pod, true);
    if spreads.is_empty() {
        return Begin::Skip;
    }
    let topologies: Vec<_> = spreads.iter().map(|spread| cx.cluster.topology(&spread.topology_key)).collect();
    let restricted = pod.restricts_nodes();
    let nodes = Nodes(cx.cluster);
    let constraints = spreads.into_iter().zip(&topologies).map(|(spread, topology)| {
        let mut counts = vec![0; topology.size];
        let mut domains = vec![true; topology.size];
        // Which nodes count; `None` for all, the common case.
        let mut counting: Option<Vec<bool>> = None;
        if restricted || spread.honor_taints || !topologies.iter().all(|topology| topology.complete) {
            domains.fill(false);
            let counting = counting.insert(vec![false; cx.cluster.bound()]);
            for idx in cx.cluster.order() {
                let complete = topologies.iter().all(|topology| topology.value(*idx).is_some());
                if let Some(value) = topology.value(*idx).filter(|_| complete && nodes.counts(pod, &spread, *idx)) {
                    domains[value] = true;
                    counting[*idx as usize] = true;
                }
            }
        }
        for group in cx.cluster.groups.of_namespace(pod.namespace()) {
            if group.terminating() || !spread.selector.matches(group.labels()) {
                continue;
            }
            for (idx, count) in &group.nodes {
                if counting.as_ref().is_none_or(|counting| counting[*idx as usize])
                    && let Some(value) = topology.value(*idx)
                {
                    counts[value] += i64::from(*count);
                }
            }
        }
        let matches_itself = spread.selector.matches(pod.labels());
        let mut counted = Counted { spread, topology: topology.clone(), counts, domains, min: 0, matches_itself };
        counted.find_min();
        counted
    });
    let constraints = constraints.collect();
    Begin::Check(Box::new(Even { cx: Nodes(cx.cluster), pod, constraints }))
}

impl Counted<'_> {
    fn find_min(&mut self) {
        let present = self.counts.iter().zip(&self.domains).filter(|(_, present)| **present);
        let (mut min, mut domains) = (i64::MAX, 0);
        for (count, _) in present {
            min = min.min(*count);
            domains += 1;
        }
        self.min = if domains < self.spread.min_domains.max(1) { 0 } else { min };
    }
}

impl Filter for Even<'_> {
    fn check(&self, idx: NodeIdx, _node: &NodeInfo) -> Result<(), Failure> {
        for one in &self.constraints {
            let Some(value) = one.topology.value(idx) else {
                let reason = "node(s) didn't match pod topology spread constraints (missing required label)";
                return Err(Failure::unresolvable(reason));
            };
            let skew = one.counts[value] + i64::from(one.matches_itself) - one.min;
            if skew > i64::from(one.spread.max_skew) {
                return Err(Failure::resolvable("node(s) didn't match pod topology spread constraints"));
            }
        }
        Ok(())
    }

    fn add(&mut self, idx: NodeIdx, pod: &Pod) {
        self.change(idx, pod, 1);
    }

    fn remove(&mut self, idx: NodeIdx, pod: &Pod) {
        self.change(idx, pod, -1);
    }
}

impl Even<'_> {
    fn change(&mut self, idx: NodeIdx, other: &Pod, by: i64) {
        let complete = self.constraints.iter().all(|one| one.topology.value(idx).is_some());
        if other.namespace() != self.pod.namespace() || !complete || other.terminating() {
            return;
        }
        for one in &mut self.constraints {
            let Some(value) = one.topology.value(idx) else { continue };
            if one.spread.selector.matches(other.labels()) && self.cx.counts(self.pod, &one.spread, idx) {
                one.counts[value] += by;
                one.find_min();
            }
        }
    }
}

/// One constraint, for scoring.
struct Scored {
    topology: Arc<Topology>,
    by_host: bool,
    /// By domain, or by node where the domain is the host.
    counts: Vec<i64>,
    weight: f64,
    max_skew: f64,
}

struct Spreading {
    constraints: Vec<Scored>,
    /// Nodes that lack a label do not take part.
    all_keys: bool,
}

fn score<'a>(cx: &Context<'a>, pod: &'a Pod, feasible: &[NodeIdx]) -> Option<Box<dyn Score + 'a>> {
    let spreads = constraints(cx, pod, false);
    if spreads.is_empty() {
        return None;
    }
    // The system's own defaults also serve nodes without a zone.
    let all_keys = !pod.spec.spread.is_empty() || !cx.args.spread.system_defaults;
    let topologies: Vec<_> = spreads.iter().map(|spread| cx.cluster.topology(&spread.topology_key)).collect();
    let all_complete = topologies.iter().all(|topology| topology.complete);
    let complete = |idx: NodeIdx| !all_keys || all_complete || topologies.iter().all(|topology| topology.value(idx).is_some());
    let taking_part = feasible.iter().filter(|idx| complete(**idx)).count();
    let restricted = pod.restricts_nodes();
    let nodes = Nodes(cx.cluster);
    let constraints = spreads.iter().zip(&topologies).map(|(spread, topology)| {
        let by_host = spread.topology_key == HOSTNAME;
        let mut counts = vec![0; if by_host { cx.cluster.bound() } else { topology.size }];
        let mut domains = vec![false; topology.size];
        let mut size = 0;
        if by_host {
            size = taking_part;
        } else {
            let mut without = false;
            for idx in feasible.iter().filter(|idx| complete(**idx)) {
                match topology.value(*idx) {
                    Some(value) if !domains[value] => {
                        domains[value] = true;
                        size += 1;
                    }
                    // All nodes without the label are one domain, too.
                    None if !without => {
                        without = true;
                        size += 1;
                    }
                    _ => {}
                }
            }
        }
        let all_count = !restricted && !spread.honor_taints;
        for group in cx.cluster.groups.of_namespace(pod.namespace()) {
            if group.terminating() || !spread.selector.matches(group.labels()) {
                continue;
            }
            for (idx, count) in &group.nodes {
                if by_host {
                    counts[*idx as usize] += i64::from(*count);
                    continue;
                }
                let Some(value) = topology.value(*idx) else { continue };
                if domains[value] && complete(*idx) && (all_count || nodes.counts(pod, spread, *idx)) {
                    counts[value] += i64::from(*count);
                }
            }
        }
        let weight = ((size + 2) as f64).ln();
        Scored { topology: topology.clone(), by_host, counts, weight, max_skew: f64::from(spread.max_skew - 1) }
    });
    Some(Box::new(Spreading { constraints: constraints.collect(), all_keys }))
}

impl Spreading {
    fn ignores(&self, idx: NodeIdx) -> bool {
        self.all_keys && self.constraints.iter().any(|one| one.topology.value(idx).is_none())
    }
}

impl Score for Spreading {
    fn score(&self, idx: NodeIdx, _node: &NodeInfo) -> i64 {
        if self.ignores(idx) {
            return 0;
        }
        let mut sum = 0.0;
        for one in &self.constraints {
            let Some(value) = one.topology.value(idx) else { continue };
            let count = one.counts[if one.by_host { idx as usize } else { value }];
            sum += count as f64 * one.weight + one.max_skew;
        }
        sum.round() as i64
    }

    fn normalize(&self, nodes: &[NodeIdx], scores: &mut [i64]) {
        let (mut min, mut max) = (i64::MAX, 0);
        for (idx, score) in nodes.iter().zip(scores.iter()) {
            if !self.ignores(*idx) {
                min = min.min(*score);
                max = max.max(*score);
            }
        }
        for (idx, score) in nodes.iter().zip(scores.iter_mut()) {
            *score = if self.ignores(*idx) {
                0
            } else if max == 0 {
                MAX_SCORE
            } else {
                MAX_SCORE * (max + min - *score) / max
            };
        }
    }
}

/// The pod's own constraints of one kind, or the defaults where it has none at all.
fn constraints<'a>(cx: &Context<'a>, pod: &'a Pod, hard: bool) -> Vec<Cow<'a, Spread>> {
    if !pod.spec.spread.is_empty() {
        return pod.spec.spread.iter().filter(|spread| spread.hard == hard).map(Cow::Borrowed).collect();
    }
    let defaults: Vec<_> = cx.args.spread.defaults.iter().filter(|spread| spread.hard == hard).collect();
    if defaults.is_empty() {
        return Vec::new();
    }
    let selector = default_selector(cx, pod);
    if selector.is_everything() {
        return Vec::new();
    }
    defaults.into_iter().map(|spread| Cow::Owned(Spread { selector: selector.clone(), ..spread.clone() })).collect()
}

/// What selects the pods of the same service and owner. Upstream: helper.DefaultSelector
fn default_selector(cx: &Context<'_>, pod: &Pod) -> Selector {
    let mut requirements: Vec<Requirement> = Vec::new();
    for service in cx.stores.services.list_namespace(pod.namespace()) {
        if service.selector.matches(pod.labels())
            && let Selector::All(own) = &service.selector
        {
            for one in own {
                requirements.retain(|known| known.key != one.key);
                requirements.push(one.clone());
            }
        }
    }
    let owners = pod.metadata.owner_references.iter().flatten();
    let Some(owner) = owners.into_iter().find(|owner| owner.controller == Some(true)) else {
        return Selector::All(requirements);
    };
    let key = client::key(pod.namespace(), &owner.name);
    let selector = match (owner.api_version.as_str(), owner.kind.as_str()) {
        ("v1", "ReplicationController") => cx.stores.replication_controllers.get(&key).map(|found| found.selector.clone()),
        ("apps/v1", "ReplicaSet") => cx.stores.replica_sets.get(&key).map(|found| found.selector.clone()),
        ("apps/v1", "StatefulSet") => cx.stores.stateful_sets.get(&key).map(|found| found.selector.clone()),
        _ => None,
    };
    let mut out = Selector::All(requirements);
    if let Some(Selector::All(own)) = selector {
        for one in own {
            out.and(one);
        }
    }
    out
}

fn hint(pod: &Pod, event: &Event) -> bool {
    let selects = |other: &Pod| {
        other.namespace() == pod.namespace()
            && (pod.spec.spread.is_empty() || pod.spec.spread.iter().any(|spread| spread.selector.matches(other.labels())))
    };
    match event {
        Event::NodeAdded(_) => true,
        Event::NodeUpdated(old, new) => old.labels() != new.labels() || old.taints != new.taints,
        Event::AssignedPodAdded(other) | Event::AssignedPodDeleted(other) => selects(other),
        Event::AssignedPodUpdated(old, new) => {
            (old.labels() != new.labels() || old.terminating() != new.terminating()) && (selects(old) || selects(new))
        }
        Event::PodUpdated(old, new) => old.labels() != new.labels(),
        _ => false,
    }
}

//! Pods that must, must not, would rather or would rather not be near others.
//!
//! Upstream: pkg/scheduler/framework/plugins/interpodaffinity

use std::sync::Arc;

use crate::cluster::NodeIdx;
use crate::cluster::group::Group;
use crate::cluster::node_info::NodeInfo;
use crate::cluster::topology::Topology;
use crate::event::Event;
use crate::object::pod::{Pod, PodAffinity, Term};
use crate::object::{Labels, Named};
use crate::plugin::{Begin, Context, Failure, Filter, MAX_SCORE, Plugin, Score};

/// InterPodAffinity.
pub const PLUGIN: Plugin =
    Plugin { weight: 2, filter: Some(filter), score: Some(score), hint: Some(hint), ..Plugin::named("InterPodAffinity") };

/// Counts by domain of one topology.
struct Counts {
    topology: Arc<Topology>,
    by_domain: Vec<i64>,
}

impl Counts {
    fn new(cx: &Context<'_>, key: &str) -> Self {
        let topology = cx.cluster.topology(key);
        Self { by_domain: vec![0; topology.size], topology }
    }

    /// Adds `times` the group's pods where they are.
    fn add_group(&mut self, group: &Group, times: i64) {
        for (idx, count) in &group.nodes {
            self.add(*idx, times * i64::from(*count));
        }
    }

    fn add(&mut self, idx: NodeIdx, by: i64) {
        if let Some(value) = self.topology.value(idx) {
            self.by_domain[value] += by;
        }
    }

    fn at(&self, idx: NodeIdx) -> Option<i64> {
        self.topology.value(idx).map(|value| self.by_domain[value])
    }
}

/// The counts of a key, made where there are none.
fn of_key<'c>(all: &'c mut Vec<Counts>, cx: &Context<'_>, key: &str) -> &'c mut Counts {
    let at = all.iter().position(|counts| counts.topology.key == key).unwrap_or_else(|| {
        all.push(Counts::new(cx, key));
        all.len() - 1
    });
    &mut all[at]
}

struct Near<'a> {
    pod: &'a Pod,
    own_namespace: Labels,
    stores: &'a crate::stores::Stores,
    cluster: &'a crate::cluster::Cluster,
    /// Pods that match all of the pod's required terms, per term.
    required: Vec<Counts>,
    /// Pods that match each of its required anti-affinity terms.
    anti: Vec<Counts>,
    /// Pods whose required anti-affinity terms match this pod, by topology key.
    existing: Vec<Counts>,
    /// The pod matches all of its own required terms: the first of a group may go anywhere.
    matches_itself: bool,
}

fn none() -> &'static PodAffinity {
    static NONE: PodAffinity =
        PodAffinity { required: Vec::new(), required_anti: Vec::new(), preferred: Vec::new(), preferred_anti: Vec::new() };
    &NONE
}

fn affinity_of(pod: &Pod) -> &PodAffinity {
    pod.spec.affinity.as_deref().unwrap_or_else(|| none())
}

fn filter<'a>(cx: &Context<'a>, pod: &'a Pod) -> Begin<'a> {
    let own = affinity_of(pod);
    let own_namespace = cx.stores.namespace_labels(pod.namespace());
    let mut existing: Vec<Counts> = Vec::new();
    for group in cx.cluster.groups.with_affinity() {
        for term in group.affinity().into_iter().flat_map(|affinity| &affinity.required_anti) {
            if term.matches(pod.labels(), pod.namespace(), &own_namespace) {
                of_key(&mut existing, cx, &term.topology_key).add_group(group, 1);
            }
        }
    }
    if own.required.is_empty() && own.required_anti.is_empty() && existing.is_empty() {
        return Begin::Skip;
    }
    let mut required: Vec<Counts> = own.required.iter().map(|term| Counts::new(cx, &term.topology_key)).collect();
    let mut anti: Vec<Counts> = own.required_anti.iter().map(|term| Counts::new(cx, &term.topology_key)).collect();
    for_candidates(cx, pod, own.required.iter().chain(&own.required_anti), |group, labels| {
        let hit = |term: &Term| term.matches(group.labels(), group.namespace(), labels);
        if !own.required.is_empty() && own.required.iter().all(hit) {
            required.iter_mut().for_each(|counts| counts.add_group(group, 1));
        }
        for (term, counts) in own.required_anti.iter().zip(&mut anti) {
            if hit(term) {
                counts.add_group(group, 1);
            }
        }
    });
    let matches_itself = own.required.iter().all(|term| term.matches(pod.labels(), pod.namespace(), &own_namespace));
    let (stores, cluster) = (cx.stores, cx.cluster);
    Begin::Check(Box::new(Near { pod, own_namespace, stores, cluster, required, anti, existing, matches_itself }))
}

/// Calls `visit` with every group that one of the terms can select, with its namespace's labels.
fn for_candidates<'t>(
    cx: &Context<'_>,
    pod: &Pod,
    terms: impl Iterator<Item = &'t Term> + Clone,
    mut visit: impl FnMut(&Group, &Labels),
) {
    if terms.clone().next().is_none() {
        return;
    }
    let none = Labels::new();
    let own_only = |term: &Term| {
        term.namespaces.len() == 1
            && term.namespaces.contains(pod.namespace())
            && term.namespace_selector == crate::object::selector::Selector::Nothing
    };
    if terms.clone().all(own_only) {
        for group in cx.cluster.groups.of_namespace(pod.namespace()) {
            visit(group, &none);
        }
        return;
    }
    let mut labels: std::collections::HashMap<String, Labels> = std::collections::HashMap::new();
    for group in cx.cluster.groups.iter() {
        let labels = labels.entry(group.namespace().to_owned()).or_insert_with(|| cx.stores.namespace_labels(group.namespace()));
        visit(group, labels);
    }
}

impl Filter for Near<'_> {
    fn check(&self, idx: NodeIdx, _node: &NodeInfo) -> Result<(), Failure> {
        let mut all_near = true;
        for counts in &self.required {
            match counts.at(idx) {
                // Without the label nothing is near.
                None => return Err(Failure::unresolvable("node(s) didn't match pod affinity rules")),
                Some(count) => all_near &= count > 0,
            }
        }
        if !all_near {
            let none_anywhere = self.required.iter().all(|counts| counts.by_domain.iter().all(|count| *count == 0));
            if !(none_anywhere && self.matches_itself) {
                return Err(Failure::unresolvable("node(s) didn't match pod affinity rules"));
            }
        }
        if self.anti.iter().any(|counts| counts.at(idx).is_some_and(|count| count > 0)) {
            return Err(Failure::resolvable("node(s) didn't match pod anti-affinity rules"));
        }
        if self.existing.iter().any(|counts| counts.at(idx).is_some_and(|count| count > 0)) {
            return Err(Failure::resolvable("node(s) didn't satisfy existing pods anti-affinity rules"));
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

impl Near<'_> {
    fn change(&mut self, idx: NodeIdx, other: &Pod, by: i64) {
        let own = affinity_of(self.pod);
        for term in &affinity_of(other).required_anti {
            if !term.matches(self.pod.labels(), self.pod.namespace(), &self.own_namespace) {
                continue;
            }
            match self.existing.iter_mut().find(|counts| counts.topology.key == term.topology_key) {
                Some(counts) => counts.add(idx, by),
                None => {
                    let topology = self.cluster.topology(&term.topology_key);
                    let mut counts = Counts { by_domain: vec![0; topology.size], topology };
                    counts.add(idx, by);
                    self.existing.push(counts);
                }
            }
        }
        let namespace = self.stores.namespace_labels(other.namespace());
        let hit = |term: &Term| term.matches(other.labels(), other.namespace(), &namespace);
        if !own.required.is_empty() && own.required.iter().all(hit) {
            self.required.iter_mut().for_each(|counts| counts.add(idx, by));
        }
        for (term, counts) in own.required_anti.iter().zip(&mut self.anti) {
            if hit(term) {
                counts.add(idx, by);
            }
        }
    }
}

struct Preferred(Vec<Counts>);

fn score<'a>(cx: &Context<'a>, pod: &'a Pod, _feasible: &[NodeIdx]) -> Option<Box<dyn Score + 'a>> {
    let own = affinity_of(pod);
    let mut sums: Vec<Counts> = Vec::new();
    let own_terms = own.preferred.iter().chain(&own.preferred_anti).map(|(_, term)| term);
    for_candidates(cx, pod, own_terms, |group, labels| {
        for (terms, sign) in [(&own.preferred, 1), (&own.preferred_anti, -1)] {
            for (weight, term) in terms {
                if term.matches(group.labels(), group.namespace(), labels) {
                    of_key(&mut sums, cx, &term.topology_key).add_group(group, sign * weight);
                }
            }
        }
    });
    // Pods already there may want this one near, or not.
    let ignore = cx.args.inter_pod.ignore_preferred_of_existing && own.preferred.is_empty() && own.preferred_anti.is_empty();
    let hard = cx.args.inter_pod.hard_weight;
    let mut own_namespace: Option<Labels> = None;
    for group in cx.cluster.groups.with_affinity() {
        let Some(theirs) = group.affinity().filter(|_| !ignore) else { continue };
        let namespace = own_namespace.get_or_insert_with(|| cx.stores.namespace_labels(pod.namespace()));
        let hit = |term: &Term| term.matches(pod.labels(), pod.namespace(), namespace);
        if hard > 0 {
            for term in theirs.required.iter().filter(|term| hit(term)) {
                of_key(&mut sums, cx, &term.topology_key).add_group(group, hard);
            }
        }
        for (terms, sign) in [(&theirs.preferred, 1), (&theirs.preferred_anti, -1)] {
            for (weight, term) in terms.iter().filter(|(_, term)| hit(term)) {
                of_key(&mut sums, cx, &term.topology_key).add_group(group, sign * weight);
            }
        }
    }
    if sums.is_empty() { None } else { Some(Box::new(Preferred(sums))) }
}

impl Score for Preferred {
    fn score(&self, idx: NodeIdx, _node: &NodeInfo) -> i64 {
        self.0.iter().filter_map(|counts| counts.at(idx)).sum()
    }

    fn normalize(&self, _nodes: &[NodeIdx], scores: &mut [i64]) {
        let (min, max) = (scores.iter().copied().min().unwrap_or(0), scores.iter().copied().max().unwrap_or(0));
        let span = (max - min) as f64;
        for score in scores {
            *score = if span > 0.0 { (MAX_SCORE as f64 * ((*score - min) as f64 / span)) as i64 } else { 0 };
        }
    }
}

fn hint(pod: &Pod, event: &Event) -> bool {
    let own = affinity_of(pod);
    // Namespace labels are not at hand here: a namespace selector counts as matching.
    let selects = |term: &Term, other: &Pod| {
        let anywhere = term.namespace_selector != crate::object::selector::Selector::Nothing;
        (anywhere || term.namespaces.contains(other.namespace())) && term.selector.matches(other.labels())
    };
    match event {
        Event::NodeAdded(_) | Event::Namespace => true,
        Event::NodeUpdated(old, new) => old.labels() != new.labels(),
        Event::AssignedPodAdded(other) => own.required.iter().any(|term| selects(term, other)),
        Event::AssignedPodDeleted(other) => {
            own.required_anti.iter().any(|term| selects(term, other))
                || affinity_of(other).required_anti.iter().any(|term| selects(term, pod))
        }
        Event::AssignedPodUpdated(old, new) => old.labels() != new.labels(),
        Event::PodUpdated(old, new) => old.labels() != new.labels(),
        _ => false,
    }
}

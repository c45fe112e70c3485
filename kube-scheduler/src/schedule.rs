//! The decision: on which node a pod goes, or why on none.
//!
//! Upstream: pkg/scheduler/schedule_one.go

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::cluster::node_info::{NodeInfo, Placed};
use crate::cluster::{Cluster, NodeIdx};
use crate::config::Profile;
use crate::metrics;
use crate::object::Named;
use crate::object::pod::Pod;
use crate::plugin::{Begin, Context, Failure, Filter};
use crate::stores::Stores;

/// Below this many nodes all are looked at. Upstream: minFeasibleNodesToFind
const MIN_FEASIBLE: usize = 100;
/// However large the cluster, at least this percentage. Upstream: minFeasibleNodesPercentageToFind
const MIN_PERCENTAGE: usize = 5;

/// A pod on its way through the plugins.
pub struct Attempt<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// What plugins see.
    pub cx: Context<'a>,
    profile: &'a Profile,
    filters: Vec<Running<'a>>,
    /// Plugins of this attempt are timed.
    sampled: bool,
    /// The first node is still to come.
    first: Cell<bool>,
    /// Where it may go at all; `None` for everywhere. With the plugins that say so.
    only: Option<(Vec<NodeIdx>, Vec<&'static str>)>,
}

/// A filter at work.
struct Running<'a> {
    plugin: &'static str,
    filter: Box<dyn Filter + 'a>,
    /// How many nodes it has looked at.
    nodes: Cell<u64>,
}

/// Why a pod fits nowhere.
#[derive(Clone, Debug, Default)]
pub struct Diagnosis {
    /// By node.
    pub nodes: Vec<(NodeIdx, Failure)>,
    /// Of all nodes that are not in `nodes`.
    pub absent: Option<Failure>,
    /// A plugin refused the pod whatever the node.
    pub rejected: bool,
    /// There are no nodes.
    pub no_nodes: bool,
}

impl Diagnosis {
    /// The plugins that refused.
    pub fn plugins(&self) -> Vec<&'static str> {
        let mut names: Vec<_> =
            self.nodes.iter().map(|(_, failure)| failure).chain(&self.absent).map(|failure| failure.plugin).collect();
        names.sort_unstable();
        names.dedup();
        names.retain(|name| !name.is_empty());
        names
    }

    /// The message of the event and the condition; `post` is what preemption had to say.
    pub fn message(&self, total: usize, post: Option<&str>) -> String {
        if self.no_nodes {
            return "no nodes available to schedule pods".to_owned();
        }
        let head = self.rejected.then(|| self.absent.as_ref().map(|failure| failure.reasons.join(", ")).unwrap_or_default());
        let mut out = fit_message(total, &self.nodes, self.absent.as_ref(), head.as_deref());
        if let Some(post) = post.filter(|post| !post.is_empty()) {
            out.push(' ');
            out.push_str(post);
        }
        out
    }
}

/// `0/5 nodes are available: 2 Insufficient cpu, 3 node(s) had untolerated taint(s).`
pub fn fit_message(total: usize, nodes: &[(NodeIdx, Failure)], absent: Option<&Failure>, head: Option<&str>) -> String {
    let mut out = format!("0/{total} nodes are available:");
    if let Some(head) = head {
        out.push_str(&format!(" {head}."));
        return out;
    }
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, failure) in nodes {
        for reason in &failure.reasons {
            *counts.entry(reason).or_default() += 1;
        }
    }
    let rest = total.saturating_sub(nodes.len());
    if let Some(absent) = absent.filter(|_| rest > 0) {
        for reason in &absent.reasons {
            *counts.entry(reason).or_default() += rest;
        }
    }
    let mut texts: Vec<String> = counts.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    texts.sort();
    if !texts.is_empty() {
        out.push_str(&format!(" {}.", texts.join(", ")));
    }
    out
}

/// A node, and how it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The node.
    pub node: NodeIdx,
    /// How many nodes were looked at.
    pub evaluated: usize,
    /// How many of them would do.
    pub feasible: usize,
}

/// State that goes from one decision to the next.
#[derive(Default)]
pub struct Rotation {
    /// Where in the visiting order to begin, so that sampling is fair.
    pub start: usize,
    scores: Vec<i64>,
    totals: Vec<i64>,
    heap: Vec<usize>,
}

impl<'a> Attempt<'a> {
    /// Shows the pod to all filter plugins.
    ///
    /// # Errors
    /// A plugin refuses it whatever the node.
    pub fn begin(cluster: &'a Cluster, stores: &'a Stores, profile: &'a Profile, pod: &'a Pod) -> Result<Self, Diagnosis> {
        let cx = Context { cluster, stores, args: &profile.args };
        let sampled = metrics::sampled();
        let mut attempt = Self { pod, cx, profile, filters: Vec::new(), sampled, first: Cell::new(sampled), only: None };
        let begun = Instant::now();
        let run = |plugin, filter| Running { plugin, filter, nodes: Cell::new(0) };
        for plugin in &profile.filters {
            let Some(filter) = plugin.filter else { continue };
            let since = sampled.then(Instant::now);
            let begin = filter(&attempt.cx, pod);
            if let Some(since) = since {
                metrics::plugin("PreFilter", plugin.name, begin.status(), since);
            }
            match begin {
                Begin::Skip => {}
                Begin::Check(check) => attempt.filters.push(run(plugin.name, check)),
                Begin::Only(check, nodes) => {
                    attempt.filters.push(run(plugin.name, check));
                    attempt.restrict(nodes, plugin.name);
                }
                Begin::Reject(mut failure) => {
                    failure.plugin = plugin.name;
                    metrics::point("PreFilter", &profile.name, false, begun);
                    return Err(Diagnosis { absent: Some(failure), rejected: true, ..Diagnosis::default() });
                }
            }
        }
        metrics::point("PreFilter", &profile.name, true, begun);
        Ok(attempt)
    }

    /// Chooses a node.
    ///
    /// # Errors
    /// Why none will do.
    pub fn choose(&mut self, rotation: &mut Rotation) -> Result<Choice, Diagnosis> {
        let (feasible, evaluated) = self.feasible(rotation)?;
        self.score(&feasible, rotation);
        let node = feasible[top(&rotation.totals, &mut rotation.heap)];
        Ok(Choice { node, evaluated, feasible: feasible.len() })
    }

    /// Nodes that will do, with their scores: for somebody else to choose from.
    ///
    /// # Errors
    /// Why none will do.
    pub fn rank(&mut self, rotation: &mut Rotation) -> Result<Vec<(NodeIdx, i64)>, Diagnosis> {
        let (feasible, _) = self.feasible(rotation)?;
        self.score(&feasible, rotation);
        Ok(feasible.into_iter().zip(rotation.totals.iter().copied()).collect())
    }

    /// Enough nodes that will do, and how many were looked at.
    fn feasible(&mut self, rotation: &mut Rotation) -> Result<(Vec<NodeIdx>, usize), Diagnosis> {
        let order = self.cx.cluster.order();
        if order.is_empty() {
            return Err(Diagnosis { no_nodes: true, ..Diagnosis::default() });
        }
        let mut diagnosis = Diagnosis::default();
        // A nominated node that fits is taken at once.
        let nominated = self.cx.cluster.nominated.node_of(self.pod.uid()).unwrap_or(&self.pod.nominated);
        if !nominated.is_empty()
            && let Some(idx) = self.cx.cluster.find(nominated)
            && self.cx.cluster.node(idx).node.is_some()
            && self.only.as_ref().is_none_or(|(nodes, _)| nodes.contains(&idx))
            && self.check_with_nominated(idx, self.cx.cluster.node(idx)).is_ok()
        {
            return Ok((vec![idx], 1));
        }
        let restricted = self.only.clone();
        let candidates: &[NodeIdx] = restricted.as_ref().map_or(order, |(nodes, _)| nodes);
        let wanted = feasible_wanted(order.len(), self.profile.percentage);
        let start = if restricted.is_some() { 0 } else { rotation.start % candidates.len().max(1) };
        let mut feasible: Vec<NodeIdx> = Vec::new();
        let mut evaluated = 0;
        let begun = Instant::now();
        for turn in 0..candidates.len() {
            let idx = candidates[(start + turn) % candidates.len()];
            let node = self.cx.cluster.node(idx);
            if node.node.is_none() {
                continue;
            }
            evaluated += 1;
            match self.check_with_nominated(idx, node) {
                Ok(()) => feasible.push(idx),
                Err(failure) => diagnosis.nodes.push((idx, failure)),
            }
            if feasible.len() >= wanted {
                break;
            }
        }
        rotation.start = (rotation.start + evaluated) % order.len();
        metrics::point("Filter", &self.profile.name, !feasible.is_empty(), begun);
        for running in &self.filters {
            let labels = &["Filter", running.plugin, &self.profile.name];
            metrics::EVALUATIONS.with_label_values(labels).inc_by(running.nodes.take());
        }
        if feasible.is_empty() {
            if let Some((_, plugins)) = &restricted {
                let mut failure = Failure::unresolvable(format!("node(s) didn't satisfy plugin(s) [{}]", plugins.join(" ")));
                failure.plugin = plugins.first().copied().unwrap_or("");
                diagnosis.absent = Some(failure);
            }
            return Err(diagnosis);
        }
        Ok((feasible, evaluated))
    }

    /// Whether the pod fits, also once the pods are there that were promised the node. The failure names its plugin.
    ///
    /// # Errors
    /// Why not.
    pub fn check_with_nominated(&mut self, idx: NodeIdx, node: &NodeInfo) -> Result<(), Failure> {
        if self.cx.cluster.nominated.is_empty() {
            return self.check(idx, node);
        }
        let (uid, priority) = (self.pod.uid(), self.pod.spec.priority);
        let promised = self.cx.cluster.nominated.on(&node.name).iter();
        let promised: Vec<_> = promised.filter(|pod| pod.uid() != uid && pod.spec.priority >= priority).cloned().collect();
        if !promised.is_empty() {
            let mut with = node.clone();
            for pod in &promised {
                // Not in any group: thought there, not placed there.
                with.put(Placed { pod: pod.clone(), group: u32::MAX });
                self.think_on(idx, pod);
            }
            let result = self.check(idx, &with);
            for pod in &promised {
                self.think_off(idx, pod);
            }
            result?;
        }
        self.check(idx, node)
    }

    fn check(&self, idx: NodeIdx, node: &NodeInfo) -> Result<(), Failure> {
        let timed = self.first.replace(false);
        for running in &self.filters {
            running.nodes.set(running.nodes.get() + 1);
            let since = timed.then(Instant::now);
            let result = running.filter.check(idx, node);
            if let Some(since) = since {
                metrics::plugin("Filter", running.plugin, status(result.as_ref().err()), since);
            }
            if let Err(mut failure) = result {
                failure.plugin = running.plugin;
                return Err(failure);
            }
        }
        Ok(())
    }

    /// Thinks a pod onto a node, in the filters' own counts.
    pub fn think_on(&mut self, idx: NodeIdx, pod: &Pod) {
        self.filters.iter_mut().for_each(|running| running.filter.add(idx, pod));
    }

    /// Thinks a pod off a node.
    pub fn think_off(&mut self, idx: NodeIdx, pod: &Pod) {
        self.filters.iter_mut().for_each(|running| running.filter.remove(idx, pod));
    }

    fn restrict(&mut self, nodes: Vec<NodeIdx>, plugin: &'static str) {
        match &mut self.only {
            None => self.only = Some((nodes, vec![plugin])),
            Some((known, plugins)) => {
                known.retain(|idx| nodes.contains(idx));
                plugins.push(plugin);
            }
        }
    }

    /// Sums of weighted scores, into the rotation's buffer.
    fn score(&self, feasible: &[NodeIdx], rotation: &mut Rotation) {
        let Rotation { scores, totals, .. } = rotation;
        totals.clear();
        totals.resize(feasible.len(), 0);
        if feasible.len() == 1 {
            return;
        }
        let begun = Instant::now();
        let mut preparing = Duration::ZERO;
        for (plugin, weight) in &self.profile.scores {
            let since = Instant::now();
            let made = plugin.score.and_then(|make| make(&self.cx, self.pod, feasible));
            preparing += since.elapsed();
            if self.sampled {
                metrics::plugin("PreScore", plugin.name, if made.is_some() { "Success" } else { "Skip" }, since);
            }
            let Some(score) = made else { continue };
            metrics::EVALUATIONS.with_label_values(&["Score", plugin.name, &self.profile.name]).inc_by(feasible.len() as u64);
            if self.sampled {
                let since = Instant::now();
                score.score(feasible[0], self.cx.cluster.node(feasible[0]));
                metrics::plugin("Score", plugin.name, "Success", since);
            }
            scores.clear();
            scores.extend(feasible.iter().map(|idx| score.score(*idx, self.cx.cluster.node(*idx))));
            score.normalize(feasible, scores);
            for (total, score) in totals.iter_mut().zip(scores.iter()) {
                *total += weight * score;
            }
        }
        metrics::point_took("PreScore", &self.profile.name, preparing);
        metrics::point_took("Score", &self.profile.name, begun.elapsed().saturating_sub(preparing));
    }
}

/// Upstream's name for how a plugin answered.
pub(crate) fn status(failure: Option<&Failure>) -> &'static str {
    match failure {
        None => "Success",
        Some(failure) if failure.resolvable => "Unschedulable",
        Some(_) => "UnschedulableAndUnresolvable",
    }
}

/// The position of the highest total. Among equals it is the one that ends on top when the list becomes a heap: the choice is the
/// same each time, and the same as upstream's, which stopped choosing among equals at random.
///
/// Upstream: prioritizeNodes, newSortedNodeScores (container/heap)
fn top(totals: &[i64], heap: &mut Vec<usize>) -> usize {
    heap.clear();
    heap.extend(0..totals.len());
    for root in (0..totals.len() / 2).rev() {
        let mut parent = root;
        loop {
            let left = 2 * parent + 1;
            let Some(mut child) = (left < heap.len()).then_some(left) else { break };
            let right = left + 1;
            if right < heap.len() && totals[heap[right]] > totals[heap[left]] {
                child = right;
            }
            if totals[heap[child]] <= totals[heap[parent]] {
                break;
            }
            heap.swap(parent, child);
            parent = child;
        }
    }
    heap[0]
}

/// How many feasible nodes are enough to choose from. Upstream: numFeasibleNodesToFind
fn feasible_wanted(total: usize, percentage: u32) -> usize {
    if total < MIN_FEASIBLE {
        return total;
    }
    let percentage = match percentage as usize {
        0 => 50_usize.saturating_sub(total / 125).max(MIN_PERCENTAGE),
        given => given,
    };
    if percentage >= 100 { total } else { (total * percentage / 100).max(MIN_FEASIBLE) }
}

#[cfg(test)]
mod tests;

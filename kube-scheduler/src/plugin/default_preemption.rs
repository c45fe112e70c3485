//! Pods of lower priority make room.
//!
//! Upstream: pkg/scheduler/framework/plugins/defaultpreemption, pkg/scheduler/framework/preemption

use std::cmp::Reverse;
use std::sync::Arc;

use jiff::Timestamp;

use crate::cluster::NodeIdx;
use crate::event::Event;
use crate::object::Named;
use crate::object::pod::Pod;
use crate::object::workload::Budget;
use crate::plugin::{Failure, Plugin};
use crate::schedule::{Attempt, Diagnosis, fit_message};

/// DefaultPreemption.
pub const PLUGIN: Plugin =
    Plugin { hint: Some(|_, event| matches!(event, Event::AssignedPodDeleted(_))), ..Plugin::named("DefaultPreemption") };

/// Who must go from where.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The node.
    pub node: NodeIdx,
    /// Its pods that must go, most important first.
    pub victims: Vec<Arc<Pod>>,
    /// How many of them a disruption budget protects.
    pub violations: usize,
}

/// What came of it.
pub enum Outcome {
    /// On any of these nodes there would be room; at least one.
    Found(Vec<Candidate>),
    /// Nobody can make room; the nomination, if any, is void.
    Hopeless(String),
    /// The pod may not preempt, now or ever; its nomination stays.
    NotEligible(&'static str),
}

/// Looks for a node where the pod fits once pods of lower priority are gone.
pub fn preempt(attempt: &mut Attempt<'_>, diagnosis: &Diagnosis, offset: usize) -> Outcome {
    if let Some(reason) = not_eligible(attempt, diagnosis) {
        return Outcome::NotEligible(reason);
    }
    let potential: Vec<NodeIdx> = diagnosis.nodes.iter().filter(|(_, failure)| failure.resolvable).map(|(idx, _)| *idx).collect();
    let mut failures: Vec<(NodeIdx, Failure)> = Vec::new();
    let mut candidates: Vec<Candidate> = Vec::new();
    if !potential.is_empty() {
        let budgets = attempt.cx.stores.budgets.list();
        let (percentage, least) = attempt.cx.args.preemption;
        let wanted = (potential.len() * percentage as usize / 100).max(least as usize).min(potential.len());
        let mut harmless = false;
        for turn in 0..potential.len() {
            let idx = potential[(offset + turn) % potential.len()];
            match victims_on(attempt, idx, &budgets) {
                Ok(candidate) => {
                    harmless |= candidate.violations == 0;
                    candidates.push(candidate);
                }
                Err(failure) => failures.push((idx, failure)),
            }
            // Enough to choose from, among them one that breaks no budget.
            if candidates.len() >= wanted && harmless {
                break;
            }
        }
    }
    if candidates.is_empty() {
        let total = attempt.cx.cluster.order().len();
        let absent = Failure::unresolvable("Preemption is not helpful for scheduling");
        return Outcome::Hopeless(fit_message(total, &failures, Some(&absent), None));
    }
    Outcome::Found(candidates)
}

fn not_eligible(attempt: &Attempt<'_>, diagnosis: &Diagnosis) -> Option<&'static str> {
    let pod = attempt.pod;
    if pod.spec.never_preempts {
        return Some("not eligible due to preemptionPolicy=Never.");
    }
    let cluster = attempt.cx.cluster;
    let nominated = cluster.nominated.node_of(pod.uid()).unwrap_or(&pod.nominated);
    let idx = cluster.find(nominated)?;
    let unresolvable = diagnosis.nodes.iter().any(|(node, failure)| *node == idx && !failure.resolvable);
    if unresolvable {
        return None;
    }
    let going = |victim: &Pod| victim.terminating() && victim.spec.priority < pod.spec.priority;
    let waits = cluster.node(idx).pods.iter().any(|placed| going(&placed.pod));
    waits.then_some("not eligible due to a terminating pod on the nominated node.")
}

/// The fewest and least important pods of a node that must go.
fn victims_on(attempt: &mut Attempt<'_>, idx: NodeIdx, budgets: &[Arc<Budget>]) -> Result<Candidate, Failure> {
    let priority = attempt.pod.spec.priority;
    let mut node = attempt.cx.cluster.node(idx).clone();
    let mut lower: Vec<Arc<Pod>> =
        node.pods.iter().map(|placed| placed.pod.clone()).filter(|pod| pod.spec.priority < priority).collect();
    if lower.is_empty() {
        return Err(Failure::unresolvable("No preemption victims found for incoming pod"));
    }
    let groups: Vec<_> = lower.iter().filter_map(|pod| node.take(pod.uid())).collect();
    for pod in &lower {
        attempt.think_off(idx, pod);
    }
    if let Err(failure) = attempt.check_with_nominated(idx, &node) {
        for pod in &lower {
            attempt.think_on(idx, pod);
        }
        return Err(failure);
    }
    lower.sort_by_key(|pod| importance(pod));
    let (violating, harmless) = split_by_budget(lower, budgets);
    let mut victims: Vec<Arc<Pod>> = Vec::new();
    let mut violations = 0;
    // Keep as many as possible, the protected and the important first.
    for (pod, protected) in violating.into_iter().map(|pod| (pod, true)).chain(harmless.into_iter().map(|pod| (pod, false))) {
        let Some(placed) = groups.iter().find(|placed| placed.pod.uid() == pod.uid()) else { continue };
        node.put(placed.clone());
        attempt.think_on(idx, &pod);
        if attempt.check_with_nominated(idx, &node).is_err() {
            node.take(pod.uid());
            attempt.think_off(idx, &pod);
            violations += usize::from(protected);
            victims.push(pod);
        }
    }
    for pod in &victims {
        attempt.think_on(idx, pod);
    }
    victims.sort_by_key(|pod| importance(pod));
    Ok(Candidate { node: idx, victims, violations })
}

/// Sorts important pods first: higher priority, then started earlier.
fn importance(pod: &Pod) -> (Reverse<i32>, Timestamp) {
    (Reverse(pod.spec.priority), pod.started.unwrap_or(Timestamp::MAX))
}

/// Pods whose going would break a budget, and the others.
fn split_by_budget(pods: Vec<Arc<Pod>>, budgets: &[Arc<Budget>]) -> (Vec<Arc<Pod>>, Vec<Arc<Pod>>) {
    let mut allowed: Vec<i32> = budgets.iter().map(|budget| budget.allowed).collect();
    pods.into_iter().partition(|pod| {
        let mut violated = false;
        if pod.labels().is_empty() {
            return false;
        }
        for (budget, left) in budgets.iter().zip(&mut allowed) {
            let selects = budget.namespace() == pod.namespace()
                && !budget.selector.is_everything()
                && budget.selector.matches(pod.labels())
                && !budget.disrupted.iter().any(|name| name == pod.name());
            if selects {
                *left -= 1;
                violated |= *left < 0;
            }
        }
        violated
    })
}

/// The best of some: fewest budgets broken, then least important, least sum, fewest, latest started victims, then the first.
pub fn best<T>(candidates: Vec<T>, facts: impl Fn(&T) -> (&[Arc<Pod>], usize)) -> Option<T> {
    let key = |candidate: &T| {
        let (victims, violations) = facts(candidate);
        let highest = victims.first().map_or(i64::MIN, |pod| i64::from(pod.spec.priority));
        // Priorities may be negative: lifted, so that more victims never make a smaller sum.
        let lift = i64::from(i32::MAX) + 1;
        let sum: i64 = victims.iter().map(|pod| i64::from(pod.spec.priority) + lift).sum();
        let top = victims.iter().filter(|pod| i64::from(pod.spec.priority) == highest);
        let earliest = top.filter_map(|pod| pod.started).min().unwrap_or(Timestamp::MAX);
        (violations, highest, sum, victims.len(), Reverse(earliest))
    };
    candidates.into_iter().min_by_key(key)
}

//! Requests against what is free; scores by how much would be left (or used).
//!
//! Upstream: pkg/scheduler/framework/plugins/noderesources/fit.go

use std::borrow::Cow;

use smallvec::SmallVec;

use crate::cluster::NodeIdx;
use crate::cluster::node_info::NodeInfo;
use crate::config::{ScoringStrategy, Shape};
use crate::event::Event;
use crate::object::pod::Pod;
use crate::plugin::{Begin, Failure, Filter, MAX_SCORE, Plugin, Score};

/// NodeResourcesFit.
pub const PLUGIN: Plugin = Plugin {
    weight: 1,
    filter: Some(|cx, pod| {
        Begin::Check(Box::new(Fit { pod, ignored: &cx.args.fit.ignored, ignored_groups: &cx.args.fit.ignored_groups }))
    }),
    score: Some(|cx, pod, _| {
        Some(Box::new(Allocation { pod, strategy: &cx.args.fit.strategy, resources: &cx.args.fit.resources }))
    }),
    hint: Some(hint),
    ..Plugin::named("NodeResourcesFit")
};

struct Fit<'a> {
    pod: &'a Pod,
    ignored: &'a [String],
    ignored_groups: &'a [String],
}

impl Filter for Fit<'_> {
    fn check(&self, _idx: NodeIdx, node: &NodeInfo) -> Result<(), Failure> {
        let allocatable = &node.allocatable;
        let (wanted, used) = (&self.pod.spec.requests, &node.requested);
        let mut reasons: SmallVec<[Cow<'static, str>; 1]> = SmallVec::new();
        let mut resolvable = true;
        if node.pods.len() as i64 + 1 > allocatable.pods {
            reasons.push("Too many pods".into());
        }
        let mut lack = |wanted: i64, allocatable: i64, used: i64, reason: &dyn Fn() -> Cow<'static, str>| {
            if wanted > 0 && wanted > allocatable - used {
                reasons.push(reason());
                resolvable &= wanted <= allocatable;
            }
        };
        lack(wanted.milli_cpu, allocatable.milli_cpu, used.milli_cpu, &|| "Insufficient cpu".into());
        lack(wanted.memory, allocatable.memory, used.memory, &|| "Insufficient memory".into());
        lack(wanted.ephemeral_storage, allocatable.ephemeral_storage, used.ephemeral_storage, &|| {
            "Insufficient ephemeral-storage".into()
        });
        for (name, amount) in &wanted.scalars {
            let group = name.split_once('/').map_or("", |(group, _)| group);
            if self.ignored.iter().any(|ignored| **ignored == **name) || self.ignored_groups.iter().any(|own| own == group) {
                continue;
            }
            lack(*amount, allocatable.scalar(name), used.scalar(name), &|| format!("Insufficient {name}").into());
        }
        if reasons.is_empty() { Ok(()) } else { Err(Failure { resolvable, reasons, plugin: "" }) }
    }
}

struct Allocation<'a> {
    pod: &'a Pod,
    strategy: &'a ScoringStrategy,
    resources: &'a [(String, i64)],
}

impl Score for Allocation<'_> {
    fn score(&self, _idx: NodeIdx, node: &NodeInfo) -> i64 {
        let allocatable = &node.allocatable;
        let (mut total, mut weights) = (0, 0);
        for (name, weight) in self.resources {
            let spec = &self.pod.spec;
            let (capacity, requested) = match name.as_str() {
                "cpu" => (allocatable.milli_cpu, node.scored.0 + spec.scored.0),
                "memory" => (allocatable.memory, node.scored.1 + spec.scored.1),
                other => {
                    let own = spec.requests.get(other);
                    // An extended resource that the pod does not want does not count.
                    if own == 0 && other != "ephemeral-storage" {
                        continue;
                    }
                    (allocatable.get(other), node.requested.get(other) + own)
                }
            };
            if capacity == 0 {
                continue;
            }
            let score = match self.strategy {
                ScoringStrategy::LeastAllocated if requested > capacity => 0,
                ScoringStrategy::LeastAllocated => (capacity - requested) * MAX_SCORE / capacity,
                ScoringStrategy::MostAllocated => requested.min(capacity) * MAX_SCORE / capacity,
                ScoringStrategy::RequestedToCapacityRatio(shape) => {
                    let utilization = if requested > capacity { 100 } else { requested * 100 / capacity };
                    let score = at(shape, utilization);
                    if score > 0 {
                        weights += weight;
                        total += score * weight;
                    }
                    continue;
                }
            };
            total += score * weight;
            weights += weight;
        }
        match (weights, self.strategy) {
            (0, _) => 0,
            (weights, ScoringStrategy::RequestedToCapacityRatio(_)) => (total as f64 / weights as f64).round() as i64,
            (weights, _) => total / weights,
        }
    }
}

/// The piecewise linear function through the points; scores in it are 0…10 and come out as 0…100.
fn at(shape: &[Shape], utilization: i64) -> i64 {
    const SCALE: i64 = 10;
    for (index, point) in shape.iter().enumerate() {
        if utilization <= point.utilization {
            let Some(before) = index.checked_sub(1).map(|index| &shape[index]) else { return point.score * SCALE };
            let (span, rise) = (point.utilization - before.utilization, (point.score - before.score) * SCALE);
            return before.score * SCALE + rise * (utilization - before.utilization) / span.max(1);
        }
    }
    shape.last().map_or(0, |point| point.score * SCALE)
}

fn hint(pod: &Pod, event: &Event) -> bool {
    let wanted = &pod.spec.requests;
    let fits = |allocatable: &crate::object::resources::Resources| {
        allocatable.pods > 0
            && wanted.milli_cpu <= allocatable.milli_cpu
            && wanted.memory <= allocatable.memory
            && wanted.ephemeral_storage <= allocatable.ephemeral_storage
            && wanted.scalars.iter().all(|(name, amount)| *amount <= allocatable.scalar(name))
    };
    match event {
        Event::NodeAdded(node) => fits(&node.allocatable),
        Event::NodeUpdated(old, new) => old.allocatable != new.allocatable && fits(&new.allocatable),
        Event::AssignedPodDeleted(_) => true,
        Event::AssignedPodUpdated(old, new) | Event::PodUpdated(old, new) => {
            let (old, new) = (&old.spec.requests, &new.spec.requests);
            new.milli_cpu < old.milli_cpu || new.memory < old.memory || new.ephemeral_storage < old.ephemeral_storage
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shape_is_linear_between_points() {
        let shape = [Shape { utilization: 0, score: 0 }, Shape { utilization: 100, score: 10 }];
        assert_eq!([0, 50, 100].map(|utilization| at(&shape, utilization)), [0, 50, 100]);
        let packing = [Shape { utilization: 20, score: 10 }, Shape { utilization: 80, score: 0 }];
        assert_eq!([0, 20, 50, 80, 90].map(|utilization| at(&packing, utilization)), [100, 100, 50, 0, 0]);
    }
}

//! Nodes score by how much more evenly their resources would be used with the pod.
//!
//! Upstream: pkg/scheduler/framework/plugins/noderesources/balanced_allocation.go

use smallvec::SmallVec;

use crate::cluster::NodeIdx;
use crate::cluster::node_info::NodeInfo;
use crate::object::pod::Pod;
use crate::plugin::{MAX_SCORE, Plugin, Score};

/// NodeResourcesBalancedAllocation.
pub const PLUGIN: Plugin = Plugin {
    weight: 1,
    score: Some(|cx, pod, _| {
        let resources = &cx.args.balanced_resources;
        // A pod without requests balances nothing.
        let asks = resources.iter().any(|name| pod.spec.requests.get(name) > 0);
        if asks { Some(Box::new(Balanced { pod, resources })) } else { None }
    }),
    ..Plugin::named("NodeResourcesBalancedAllocation")
};

struct Balanced<'a> {
    pod: &'a Pod,
    resources: &'a [String],
}

impl Score for Balanced<'_> {
    fn score(&self, _idx: NodeIdx, node: &NodeInfo) -> i64 {
        let allocatable = &node.allocatable;
        let (mut with, mut without): (Fractions, Fractions) = Default::default();
        for name in self.resources {
            let (capacity, own) = (allocatable.get(name), self.pod.spec.requests.get(name));
            let extended = !matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage");
            if capacity == 0 || (extended && own == 0) {
                continue;
            }
            let used = node.requested.get(name);
            with.push(((used + own) as f64 / capacity as f64).min(1.0));
            without.push((used as f64 / capacity as f64).min(1.0));
        }
        // What the pod changes counts: 75 for nothing, 100 from quite uneven to even, 50 the other way round.
        MAX_SCORE / 2 + (MAX_SCORE / 2 + evenness(&with) - evenness(&without)) / 2
    }
}

type Fractions = SmallVec<[f64; 4]>;

/// 100 where all fractions are the same, 50 where they are as far apart as can be.
fn evenness(fractions: &[f64]) -> i64 {
    let deviation = match fractions {
        [] | [_] => 0.0,
        [one, other] => ((one - other) / 2.0).abs(),
        many => {
            let mean = many.iter().sum::<f64>() / many.len() as f64;
            (many.iter().map(|fraction| (fraction - mean) * (fraction - mean)).sum::<f64>() / many.len() as f64).sqrt()
        }
    };
    // Truncates, as upstream does.
    ((1.0 - deviation) * MAX_SCORE as f64) as i64
}

//! Nodes that have the pod's images score better; an image that only few nodes have counts less, so that pods do not crowd there.
//!
//! Upstream: pkg/scheduler/framework/plugins/imagelocality

use crate::cluster::NodeIdx;
use crate::cluster::node_info::NodeInfo;
use crate::plugin::{MAX_SCORE, Plugin, Score};

/// Below this sum of sizes images do not matter, bytes.
const MIN_BYTES: i64 = 23 * 1024 * 1024;
/// Above this per container they matter no more, bytes.
const MAX_BYTES_PER_CONTAINER: i64 = 1000 * 1024 * 1024;

/// ImageLocality.
pub const PLUGIN: Plugin = Plugin {
    weight: 1,
    score: Some(|cx, pod, _| {
        let total = cx.cluster.order().len() as f64;
        let spread = |image: &'_ String| (f64::from(cx.cluster.image_nodes(image))) / total;
        let images: Vec<_> = pod.spec.images.iter().map(|image| (image.as_str(), spread(image))).collect();
        // No node has any: all score alike.
        if images.iter().all(|(_, spread)| *spread == 0.0) { None } else { Some(Box::new(Local { images })) }
    }),
    ..Plugin::named("ImageLocality")
};

struct Local<'a> {
    images: Vec<(&'a str, f64)>,
}

impl Score for Local<'_> {
    fn score(&self, _idx: NodeIdx, node: &NodeInfo) -> i64 {
        let Some(node) = &node.node else { return 0 };
        let sizes = self.images.iter().filter_map(|(image, spread)| Some((*node.images.get(*image)? as f64 * spread) as i64));
        let sum: i64 = sizes.sum();
        let max = MAX_BYTES_PER_CONTAINER * self.images.len() as i64;
        MAX_SCORE * (sum.clamp(MIN_BYTES, max) - MIN_BYTES) / (max - MIN_BYTES)
    }
}

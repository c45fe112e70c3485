//! Tells kubelets, by an annotation on nodes, how long they may cache Secrets and ConfigMaps: longer in larger clusters.
//!
//! Upstream: pkg/controller/ttl/ttl_controller.go

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::api_error;
use crate::context::{Context, Requeue};

const ANNOTATION: &str = "node.alpha.kubernetes.io/ttl";

/// (smallest cluster, largest cluster, seconds); the ranges overlap, so that the value does not flap.
const BOUNDARIES: &[(usize, usize, u32)] =
    &[(0, 100, 0), (90, 500, 15), (450, 1000, 30), (900, 2000, 60), (1800, usize::MAX, 300)];

pub async fn start(ctx: Context) -> anyhow::Result<()> {
    let (nodes, queue) = (ctx.store::<Node>(), ctx.queue());
    nodes.feed(&queue);
    nodes.synced().await;
    let this = ctx.clone();
    ctx.run(&queue, 1, move |key| {
        let (ctx, nodes) = (this.clone(), nodes.clone());
        async move {
            let Some(node) = nodes.get(&key) else { return Ok(Requeue::No) };
            let current = node.annotations().get(ANNOTATION).and_then(|text| text.parse().ok());
            let wanted = plan(nodes.list().len(), current);
            if current != Some(wanted) {
                let patch = json!({"metadata": {"annotations": {ANNOTATION: wanted.to_string()}}});
                let patched = ctx.cluster::<Node>().patch(&key.name, &PatchParams::default(), &Patch::Strategic(&patch)).await;
                api_error::ignore_not_found(patched)?;
            }
            Ok(Requeue::No)
        }
    });
    Ok(())
}

fn plan(nodes: usize, current: Option<u32>) -> u32 {
    let mut fitting = BOUNDARIES.iter().filter(|(min, max, _)| (*min..=*max).contains(&nodes)).map(|(_, _, seconds)| *seconds);
    let first = fitting.next().unwrap_or(0);
    current.filter(|current| *current == first || fitting.any(|seconds| seconds == *current)).unwrap_or(first)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_value_grows_with_the_cluster_and_does_not_flap() {
        assert_eq!(super::plan(3, None), 0);
        assert_eq!(super::plan(95, Some(15)), 15);
        assert_eq!(super::plan(95, Some(0)), 0);
        assert_eq!(super::plan(300, Some(0)), 15);
        assert_eq!(super::plan(5000, None), 300);
    }
}

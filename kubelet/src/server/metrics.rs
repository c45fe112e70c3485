//! `/metrics` and what is below it. Upstream: pkg/kubelet/metrics, pkg/kubelet/metrics/collectors, pkg/kubelet/prober

mod cadvisor;
mod own;
pub mod page;
mod probes;
mod resource;

use futures::future::BoxFuture;
use http::{Response, StatusCode};

use super::{Body, Call, respond};
use crate::kubelet::Shared;

async fn answer(kubelet: Shared, make: fn(&Shared) -> String) -> Response<Body> {
    // Reading a few files per container takes its time; others go on meanwhile.
    let text = tokio::task::spawn_blocking(move || make(&kubelet)).await.unwrap_or_default();
    respond(Some(component::serve::text(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text)))
}

/// The kubelet's own.
pub fn own(call: Call) -> BoxFuture<'static, Response<Body>> {
    Box::pin(async move {
        // Volumes are measured by then; the page itself only reads.
        let mut volumes = Vec::new();
        for handle in call.kubelet.workers.list() {
            let pod = handle.request().pod;
            let claims = crate::pod::spec(&pod).volumes.iter().flatten();
            if claims.into_iter().any(|volume| volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some()) {
                let measured = super::stats::volumes::of_pod(&call.kubelet, &pod).await;
                volumes.push((crate::pod::namespace(&pod).to_owned(), measured));
            }
        }
        let kubelet = call.kubelet;
        let text = tokio::task::spawn_blocking(move || own::page(&kubelet, &volumes)).await.unwrap_or_default();
        respond(Some(component::serve::text(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text)))
    })
}

/// CPU and memory of node, pods and containers: what the metrics API is made from.
pub fn resource(call: Call) -> BoxFuture<'static, Response<Body>> {
    Box::pin(answer(call.kubelet, resource::page))
}

/// Results of probes.
pub fn probes(call: Call) -> BoxFuture<'static, Response<Body>> {
    Box::pin(answer(call.kubelet, probes::page))
}

/// What dashboards are built on.
pub fn cadvisor(call: Call) -> BoxFuture<'static, Response<Body>> {
    Box::pin(answer(call.kubelet, cadvisor::page))
}

//! `/pods`, `/runningpods/`, `/configz`, `/checkpoint`.

use futures::future::BoxFuture;
use http::{Response, StatusCode};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::{Body, Call, json, text};
use crate::pod;
use crate::runtime::observed::State;

/// The pods bound to the node, with the newest status.
pub fn desired(call: Call) -> BoxFuture<'static, Response<Body>> {
    Box::pin(async move {
        let mut pods: Vec<Pod> = call
            .kubelet
            .pods
            .list()
            .iter()
            .map(|pod| {
                let mut pod = Pod::clone(pod);
                if let Some(status) = call.kubelet.status.get(pod::uid(&pod)) {
                    pod.status = Some((*status).clone());
                }
                pod
            })
            .collect();
        pods.sort_by_key(pod::log_name);
        json(&json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": pods}))
    })
}

/// What the runtime runs.
pub fn running(call: Call) -> BoxFuture<'static, Response<Body>> {
    Box::pin(async move {
        let items: Vec<_> = call
            .kubelet
            .workers
            .list()
            .iter()
            .filter_map(|handle| {
                let (pod, view) = (handle.request().pod, handle.view());
                let containers: Vec<_> = view
                    .runtime
                    .containers
                    .iter()
                    .filter(|record| record.state == State::Running)
                    .map(|record| json!({"name": record.name(), "image": record.image_ref, "resources": {}}))
                    .collect();
                let metadata = json!({"name": pod::name(&pod), "namespace": pod::namespace(&pod), "uid": pod::uid(&pod)});
                (!containers.is_empty()).then(|| json!({"metadata": metadata, "spec": {"containers": containers}, "status": {}}))
            })
            .collect();
        json(&json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
    })
}

/// The configuration in force.
pub fn configz(call: Call) -> BoxFuture<'static, Response<Body>> {
    Box::pin(async move { json(&json!({"kubeletconfig": call.kubelet.config.kubelet})) })
}

/// Refused: containerd has no checkpoints without CRIU.
pub fn checkpoint(_: Call) -> BoxFuture<'static, Response<Body>> {
    Box::pin(async { text(StatusCode::NOT_FOUND, "checkpointing is not supported by the container runtime\n") })
}

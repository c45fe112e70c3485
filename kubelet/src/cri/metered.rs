//! Counts and times every call to the runtime.

use std::task::{Context, Poll};

use futures::future::BoxFuture;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::transport::Channel;
use tower::Service;

use crate::metrics::metrics;

/// A channel that counts.
#[derive(Clone, Debug)]
pub(super) struct Metered(pub(super) Channel);

/// gRPC method and what upstream's metrics call it. Upstream: cri-client/pkg/instrumented_services.go
const NAMES: &[(&str, &str)] = &[
    ("Version", "version"),
    ("Status", "status"),
    ("RuntimeConfig", "runtime_config"),
    ("UpdateRuntimeConfig", "update_runtime_config"),
    ("RunPodSandbox", "run_podsandbox"),
    ("StopPodSandbox", "stop_podsandbox"),
    ("RemovePodSandbox", "remove_podsandbox"),
    ("PodSandboxStatus", "podsandbox_status"),
    ("ListPodSandbox", "list_podsandbox"),
    ("CreateContainer", "create_container"),
    ("StartContainer", "start_container"),
    ("StopContainer", "stop_container"),
    ("RemoveContainer", "remove_container"),
    ("ListContainers", "list_containers"),
    ("ContainerStatus", "container_status"),
    ("UpdateContainerResources", "update_container"),
    ("ExecSync", "exec_sync"),
    ("Exec", "exec"),
    ("Attach", "attach"),
    ("PortForward", "port_forward"),
    ("ReopenContainerLog", "reopen_container_log"),
    ("ContainerStats", "container_stats"),
    ("ListContainerStats", "list_container_stats"),
    ("PodSandboxStats", "podsandbox_stats"),
    ("ListPodSandboxStats", "list_podsandbox_stats"),
    ("CheckpointContainer", "checkpoint_container"),
    ("ListImages", "list_images"),
    ("ImageStatus", "image_status"),
    ("PullImage", "pull_image"),
    ("RemoveImage", "remove_image"),
    ("ImageFsInfo", "image_fs_info"),
];

fn name(path: &str) -> Option<&'static str> {
    let method = path.rsplit('/').next()?;
    NAMES.iter().find(|(known, _)| *known == method).map(|(_, name)| *name)
}

impl Service<http::Request<Body>> for Metered {
    type Response = http::Response<Body>;
    type Error = tonic::transport::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let name = name(request.uri().path());
        let answer = self.0.call(request);
        Box::pin(async move {
            let began = Instant::now();
            let answer = answer.await;
            let Some(name) = name else { return answer };
            let metrics = metrics();
            metrics.runtime_operations.with_label_values(&[name]).inc();
            metrics.runtime_operation_seconds.with_label_values(&[name]).observe(began.elapsed().as_secs_f64());
            // A call that fails has its status in the first and only headers.
            let failed = answer
                .as_ref()
                .map_or(true, |answer| answer.headers().get("grpc-status").is_some_and(|status| status.as_bytes() != b"0"));
            if failed {
                metrics.runtime_operation_errors.with_label_values(&[name]).inc();
            }
            answer
        })
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn operations_have_upstreams_names() {
        assert_eq!(super::name("/runtime.v1.RuntimeService/ListPodSandbox"), Some("list_podsandbox"));
        assert_eq!(super::name("/runtime.v1.RuntimeService/GetContainerEvents"), None);
    }
}

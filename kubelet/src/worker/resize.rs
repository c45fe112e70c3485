//! Changes the limits of running containers to what the definition says now (`pods/resize`). Upstream: in-place pod resize

use std::sync::Arc;

use client::events::Kind;
use k8s_openapi::api::core::v1::{Container, Pod};

use super::Worker;
use crate::cgroup::values;
use crate::cri::v1::LinuxContainerResources;
use crate::pod::{self, init_containers, is_sidecar, spec};
use crate::runtime::observed::{PodRuntime, State};

impl Worker {
    /// Applies resources that changed since the containers were made. A definition that was never changed costs nothing.
    pub(super) async fn resize(&mut self, pod: &Arc<Pod>, runtime: &PodRuntime) {
        // The first generation is what the containers were made from.
        if pod.metadata.generation.is_none_or(|generation| generation <= 1) {
            return;
        }
        let kubelet = self.kubelet.clone();
        let containers = init_containers(pod).iter().filter(|container| is_sidecar(container)).chain(&spec(pod).containers);
        let mut changed: Vec<(String, Container, LinuxContainerResources)> = Vec::new();
        for container in containers {
            let Some(record) = runtime.latest(&container.name).filter(|record| record.state == State::Running) else { continue };
            let wanted = values::container(pod, container, &kubelet.values);
            if self.applied.get(&record.id) != Some(&wanted) {
                changed.push((record.id.clone(), container.clone(), wanted));
            }
        }
        self.applied.retain(|id, _| runtime.containers.iter().any(|record| record.id == *id));
        if changed.is_empty() {
            return;
        }
        // The pod's bound first where it grows; it never is below its containers', so the order matters only there.
        if let Err(error) = kubelet.cgroups.ensure_pod(pod, &values::pod(pod, &kubelet.values)) {
            tracing::warn!(pod = pod::log_name(pod), err = %error, "Failed to resize the pod's cgroup");
        }
        for (id, container, wanted) in changed {
            match kubelet.cri.update_container_resources(&id, wanted.clone()).await {
                Ok(()) => {
                    self.applied.insert(id, wanted);
                }
                Err(status) => {
                    let message = format!("failed to resize container {}: {}", container.name, status.message());
                    kubelet.container_event(pod, &container, Kind::Warning, "ResizeError", message);
                }
            }
        }
        crate::node::update_burstable(&kubelet);
    }
}

//! What one pod uses, measured for a decision. Upstream: pkg/kubelet/eviction/helpers.go podDiskUsage, podMemoryUsage

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use crate::cri::v1;
use crate::kubelet::Kubelet;
use crate::pod;
use crate::runtime::observed::State;
use crate::server::stats::layer;
use crate::server::stats::volumes::{self, Measure, Size};
use crate::worker::Handle;

/// A pod's usage.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Usage {
    /// Working set of the pod's cgroup, bytes.
    pub memory: i64,
    /// Processes.
    pub processes: i64,
    /// Its containers.
    pub containers: Vec<ContainerUsage>,
    /// Volumes on the node's disk.
    pub volumes: Vec<Measure>,
}

/// A container's usage.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContainerUsage {
    /// Name in the pod.
    pub name: String,
    /// Working set, bytes.
    pub memory: i64,
    /// Its writable layer.
    pub layer: Size,
    /// Its log files.
    pub logs: Size,
}

impl ContainerUsage {
    /// Bytes of layer and logs.
    pub fn disk(&self) -> i64 {
        number(self.layer.bytes + self.logs.bytes)
    }
}

/// Which parts of a pod's storage are on the disk that is short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parts {
    /// Layers, logs and volumes.
    All,
    /// Logs and volumes: images have a disk of their own.
    WithoutLayers,
    /// Layers: the images' own disk is short.
    Layers,
}

impl Usage {
    /// Bytes and inodes of the parts.
    pub fn storage(&self, parts: Parts) -> Size {
        let mut out = Size::default();
        let mut add = |size: Size| {
            out.bytes += size.bytes;
            out.inodes += size.inodes;
        };
        for container in &self.containers {
            if parts != Parts::WithoutLayers {
                add(container.layer);
            }
            if parts != Parts::Layers {
                add(container.logs);
            }
        }
        if parts != Parts::Layers {
            for volume in self.volumes.iter().filter(|volume| volume.claim.is_none()) {
                let positive = |value: i64| u64::try_from(value).unwrap_or(0);
                add(Size { bytes: positive(volume.used), inodes: positive(volume.inodes_used) });
            }
        }
        out
    }
}

/// A count as Go's signed numbers.
pub fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Measures a pod; `layers`: what the runtime says of its containers' writable layers.
pub async fn measure(kubelet: &Arc<Kubelet>, handle: &Arc<Handle>, layers: &Arc<HashMap<String, v1::ContainerStats>>) -> Usage {
    let (kubelet, handle, layers) = (kubelet.clone(), handle.clone(), layers.clone());
    let measured = tokio::task::spawn_blocking(move || {
        let (pod, view) = (handle.request().pod, handle.view());
        let containers = view.runtime.containers.iter().filter(|record| record.state == State::Running).map(|record| {
            let (bytes, inodes) = layer(layers.get(&record.id));
            ContainerUsage {
                name: record.name().to_owned(),
                memory: kubelet.cgroups.container_usage(&pod, &record.id).map_or(0, |usage| number(usage.working_set)),
                layer: Size { bytes, inodes },
                logs: Path::new(&record.log_path).parent().map(volumes::size).unwrap_or_default(),
            }
        });
        let usage = kubelet.cgroups.pod_usage(&pod).unwrap_or_default();
        Usage {
            memory: number(usage.working_set),
            processes: number(usage.processes),
            containers: containers.collect(),
            volumes: volumes::measure(&kubelet.config.pod_dir(pod::uid(&pod)), &pod),
        }
    });
    measured.await.unwrap_or_default()
}

/// Whether a pod may be ended for the node's sake.
pub fn evictable(pod: &Pod) -> bool {
    !pod::is_critical(pod)
}

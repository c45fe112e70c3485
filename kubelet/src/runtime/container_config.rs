//! A container in CRI's words. Pure. Upstream: pkg/kubelet/kuberuntime/kuberuntime_container.go

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};

use crate::cgroup::values;
use crate::cri::v1;
use crate::env::expansion;
use crate::runtime::security::{self, ImageUser, Policy};
use crate::runtime::{label, stop_signal};

/// What a container depends on besides the pod.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// Its environment, complete.
    pub env: BTreeMap<String, String>,
    /// Its mounts, complete.
    pub mounts: Vec<v1::Mount>,
    /// Devices given to it.
    pub devices: Vec<v1::Device>,
    /// CDI devices given to it.
    pub cdi_devices: Vec<String>,
    /// The image as the runtime named it after the pull.
    pub image_ref: String,
    /// The user the image asks for.
    pub user: ImageUser,
    /// Runtime's id of the container whose processes to see (ephemeral containers).
    pub target_id: Option<String>,
    /// The runtime handler of the pod.
    pub runtime_handler: String,
    /// Annotations beside our own.
    pub annotations: BTreeMap<String, String>,
    /// CPUs of its own, where the CPU manager gave any.
    pub cpuset: String,
}

/// The container to ask for.
pub fn config(
    pod: &Pod,
    container: &Container,
    restart_count: u32,
    around: &Surroundings,
    policy: &Policy,
    node: &values::Node,
) -> v1::ContainerConfig {
    let expand = |list: &Option<Vec<String>>| list.iter().flatten().map(|text| expansion::expand(text, &around.env)).collect();
    let mut resources = values::container(pod, container, node);
    resources.cpuset_cpus = around.cpuset.clone();
    v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: container.name.clone(), attempt: restart_count }),
        image: Some(v1::ImageSpec {
            image: around.image_ref.clone(),
            user_specified_image: container.image.clone().unwrap_or_default(),
            runtime_handler: around.runtime_handler.clone(),
            ..Default::default()
        }),
        command: expand(&container.command),
        args: expand(&container.args),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: around.env.iter().map(|(key, value)| v1::KeyValue { key: key.clone(), value: value.clone() }).collect(),
        mounts: around.mounts.clone(),
        devices: around.devices.clone(),
        labels: label::container_labels(pod, container),
        annotations: {
            let mut annotations = label::container_annotations(pod, container, restart_count);
            annotations.extend(around.annotations.clone());
            annotations
        },
        log_path: log_path(&container.name, restart_count),
        stdin: container.stdin.unwrap_or(false),
        stdin_once: container.stdin_once.unwrap_or(false),
        tty: container.tty.unwrap_or(false),
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(resources),
            security_context: Some(security::container(pod, container, &around.user, policy, around.target_id.as_deref())),
        }),
        windows: None,
        stop_signal: container
            .lifecycle
            .as_ref()
            .and_then(|lifecycle| lifecycle.stop_signal.as_deref())
            .map_or(0, stop_signal::number),
        cdi_devices: around.cdi_devices.iter().map(|name| v1::CdiDevice { name: name.clone() }).collect(),
    }
}

/// The log file, relative to the pod's log directory.
pub fn log_path(container: &str, restart_count: u32) -> String {
    format!("{container}/{restart_count}.log")
}

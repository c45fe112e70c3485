//! One pod as the runtime has it.

use std::net::IpAddr;

use crate::cri::{self, Cri, v1};
use crate::runtime::label::{self, Recovered};

/// A sandbox.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sandbox {
    /// Runtime's id.
    pub id: String,
    /// Counts up with every new sandbox of the pod.
    pub attempt: u32,
    /// Up, with a network.
    pub ready: bool,
    /// Unix nanoseconds.
    pub created_at: i64,
    /// In the node's own network namespace.
    pub host_network: bool,
    /// Pod addresses, the primary one first.
    pub ips: Vec<String>,
}

/// Where a container is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum State {
    /// Made, not started.
    Created,
    /// Running.
    Running,
    /// Ended.
    Exited,
    /// The runtime lost it.
    #[default]
    Unknown,
}

/// A container, one of its runs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContainerRecord {
    /// Runtime's id.
    pub id: String,
    /// The sandbox it is in.
    pub sandbox_id: String,
    /// What labels and annotations tell.
    pub about: Recovered,
    /// Where it is.
    pub state: State,
    /// Unix nanoseconds, 0 for never.
    pub created_at: i64,
    /// See above.
    pub started_at: i64,
    /// See above.
    pub finished_at: i64,
    /// When exited.
    pub exit_code: i32,
    /// The runtime's short reason: `OOMKilled`, `Completed`, `Error`, `StartError`.
    pub reason: String,
    /// The runtime's message, or the container's last words.
    pub message: String,
    /// Image as asked for.
    pub image: String,
    /// Image by digest.
    pub image_ref: String,
    /// Path of the log file.
    pub log_path: String,
    /// Where the file of last words is on the host.
    pub message_host_path: Option<String>,
    /// Limits in force, where the runtime tells.
    pub resources: Option<v1::LinuxContainerResources>,
    /// The user of the first process, where the runtime tells.
    pub user: Option<v1::LinuxContainerUser>,
    /// The stop signal, where the runtime tells.
    pub stop_signal: Option<String>,
    /// Mounts as made: (container path, read-only, recursively).
    pub mounts: Vec<(String, bool, bool)>,
}

impl ContainerRecord {
    /// The container's name within the pod.
    pub fn name(&self) -> &str {
        &self.about.name
    }

    /// `containerd://<id>` as statuses show it.
    pub fn full_id(&self, runtime: &str) -> String {
        format!("{runtime}://{}", self.id)
    }
}

/// All the runtime has of one pod, newest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodRuntime {
    /// Sandboxes.
    pub sandboxes: Vec<Sandbox>,
    /// Containers of all sandboxes.
    pub containers: Vec<ContainerRecord>,
}

impl PodRuntime {
    /// The newest sandbox.
    pub fn sandbox(&self) -> Option<&Sandbox> {
        self.sandboxes.first()
    }

    /// The sandbox that is up, if it is the newest.
    pub fn ready_sandbox(&self) -> Option<&Sandbox> {
        self.sandbox().filter(|sandbox| sandbox.ready)
    }

    /// The newest run of a container.
    pub fn latest(&self, name: &str) -> Option<&ContainerRecord> {
        self.containers.iter().find(|container| container.name() == name)
    }

    /// The newest run of a container within the newest sandbox.
    pub fn latest_active(&self, name: &str) -> Option<&ContainerRecord> {
        let sandbox = &self.sandbox()?.id;
        self.containers.iter().find(|container| container.name() == name && container.sandbox_id == *sandbox)
    }

    /// Runs that have not ended.
    pub fn running(&self) -> impl Iterator<Item = &ContainerRecord> {
        self.containers.iter().filter(|container| container.state != State::Exited && container.state != State::Created)
    }

    /// Addresses of the pod.
    pub fn ips(&self) -> &[String] {
        self.ready_sandbox().map(|sandbox| sandbox.ips.as_slice()).unwrap_or_default()
    }
}

/// Asks the runtime for everything about one pod.
///
/// # Errors
/// The runtime does not answer; retried by the caller.
pub async fn observe(cri: &Cri, uid: &str) -> cri::Result<PodRuntime> {
    let (sandboxes, containers) = tokio::try_join!(cri.list_pod_sandboxes(Some(uid)), cri.list_containers(Some(uid)))?;
    let statuses = futures::future::join_all(containers.iter().map(|container| cri.container_status(&container.id)));
    let sandbox_statuses = futures::future::join_all(sandboxes.iter().map(|sandbox| cri.pod_sandbox_status(&sandbox.id)));
    let (statuses, sandbox_statuses) = tokio::join!(statuses, sandbox_statuses);
    let mut out = PodRuntime::default();
    for status in sandbox_statuses {
        match status {
            Ok(response) => out.sandboxes.extend(response.status.map(sandbox)),
            Err(status) if status.code() == tonic::Code::NotFound => {}
            Err(status) => return Err(status),
        }
    }
    for (listed, status) in containers.iter().zip(statuses) {
        match status {
            Ok(status) => out.containers.push(container(&listed.pod_sandbox_id, status)),
            Err(status) if status.code() == tonic::Code::NotFound => {}
            Err(status) => return Err(status),
        }
    }
    out.sandboxes.sort_by(|a, b| b.created_at.cmp(&a.created_at).then(b.attempt.cmp(&a.attempt)));
    out.containers.sort_by(|a, b| b.created_at.cmp(&a.created_at).then(b.about.restart_count.cmp(&a.about.restart_count)));
    Ok(out)
}

/// A sandbox from its CRI status.
pub fn sandbox(status: v1::PodSandboxStatus) -> Sandbox {
    let options =
        status.linux.as_ref().and_then(|linux| linux.namespaces.as_ref()).and_then(|namespaces| namespaces.options.as_ref());
    let mut ips = Vec::new();
    if let Some(network) = &status.network {
        let all = std::iter::once(&network.ip).chain(network.additional_ips.iter().map(|ip| &ip.ip));
        ips.extend(all.filter(|ip| ip.parse::<IpAddr>().is_ok()).cloned());
    }
    Sandbox {
        ready: status.state == v1::PodSandboxState::SandboxReady as i32,
        attempt: status.metadata.as_ref().map_or(0, |metadata| metadata.attempt),
        created_at: status.created_at,
        host_network: options.is_some_and(|options| options.network == v1::NamespaceMode::Node as i32),
        id: status.id,
        ips,
    }
}

/// A container from its CRI status.
pub fn container(sandbox_id: &str, status: v1::ContainerStatus) -> ContainerRecord {
    let about = label::recover(&status.labels, &status.annotations);
    let message_host_path = status
        .mounts
        .iter()
        .find(|mount| !about.message_path.is_empty() && mount.container_path == about.message_path)
        .map(|mount| mount.host_path.clone());
    ContainerRecord {
        id: status.id,
        sandbox_id: sandbox_id.to_owned(),
        about,
        state: match v1::ContainerState::try_from(status.state) {
            Ok(v1::ContainerState::ContainerCreated) => State::Created,
            Ok(v1::ContainerState::ContainerRunning) => State::Running,
            Ok(v1::ContainerState::ContainerExited) => State::Exited,
            _ => State::Unknown,
        },
        created_at: status.created_at,
        started_at: status.started_at,
        finished_at: status.finished_at,
        exit_code: status.exit_code,
        reason: status.reason,
        message: status.message,
        image: status
            .image
            .map(|image| if image.user_specified_image.is_empty() { image.image } else { image.user_specified_image })
            .unwrap_or_default(),
        image_ref: status.image_ref,
        log_path: status.log_path,
        message_host_path,
        resources: status.resources.and_then(|resources| resources.linux),
        stop_signal: crate::runtime::stop_signal::name(status.stop_signal),
        user: status.user.and_then(|user| user.linux),
        mounts: status
            .mounts
            .iter()
            .map(|mount| (mount.container_path.clone(), mount.readonly, mount.recursive_read_only))
            .collect(),
    }
}

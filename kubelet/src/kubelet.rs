//! What all parts of a running kubelet share.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::sync::Notify;

use client::events::{Kind, Recorder, reference};
use component::tasks::Tasks;
use k8s_openapi::api::core::v1::{Container, ObjectReference, Pod};
use parking_lot::RwLock;

use crate::cgroup::{Cgroups, values};
use crate::config::Config;
use crate::cri::Cri;
use crate::csi::Csi;
use crate::image::Images;
use crate::node::capabilities::Capabilities;
use crate::objects::Objects;
use crate::pods::Pods;
use crate::probe::Probes;
use crate::runtime::security;
use crate::status::manager::StatusManager;
use crate::worker::Workers;

/// The parts. One per process, shared as `Arc`.
pub struct Kubelet {
    /// What it was told.
    pub config: Config,
    /// The runtime.
    pub cri: Cri,
    /// Its name in container ids: `containerd`.
    pub runtime_name: RwLock<String>,
    /// The API server; `None` in standalone mode.
    pub api: Option<kube::Client>,
    /// Events; `None` in standalone mode.
    pub recorder: Option<Recorder>,
    /// The cgroup tree.
    pub cgroups: Cgroups,
    /// How cgroup values are computed on this node.
    pub values: values::Node,
    /// Security policy of the node.
    pub security: security::Policy,
    /// Desired pods.
    pub pods: Pods,
    /// One worker per pod.
    pub workers: Workers,
    /// Statuses on their way to the API server.
    pub status: StatusManager,
    /// Probes.
    pub probes: Probes,
    /// Image pulls.
    pub images: Images,
    /// ConfigMaps, Secrets, tokens, services.
    pub objects: Objects,
    /// Storage drivers and their volumes.
    pub csi: Csi,
    /// Addresses, readiness, allocatable.
    pub node: NodeState,
    /// Processors and devices that containers have for themselves.
    pub allocation: crate::allocation::Allocation,
    /// Background tasks.
    pub tasks: Tasks,
}

/// What is known of the node at run time.
#[derive(Default)]
pub struct NodeState {
    /// Addresses that pods on the host network have, primary first.
    pub ips: RwLock<Vec<IpAddr>>,
    /// Allocatable: `cpu` in thousandths, others in units.
    pub allocatable: RwLock<BTreeMap<String, i64>>,
    /// Why the runtime's network is not ready; `None` when it is.
    pub network_error: RwLock<Option<String>>,
    /// Why the runtime is not ready.
    pub runtime_error: RwLock<Option<String>>,
    /// What the runtime said it can do.
    pub capabilities: RwLock<Capabilities>,
    /// Whether every source has told all its pods once: before, nothing may be taken for gone.
    pub sources_ready: AtomicBool,
    /// Labels of the node as the API server has them.
    pub labels: RwLock<BTreeMap<String, String>>,
    /// Conditions of pressure: `MemoryPressure`, `DiskPressure`, `PIDPressure`.
    pub pressure: RwLock<Vec<&'static str>>,
    /// Asks for a status update soon.
    pub status_soon: Arc<Notify>,
    /// The pods that the runtime had at the first look.
    pub known_at_start: OnceLock<HashSet<String>>,
    /// The machine is about to go down.
    pub shutting_down: AtomicBool,
    /// The last time the relist of the runtime worked.
    pub pleg_healthy: AtomicBool,
}

impl NodeState {
    /// The addresses as text.
    pub fn ip_texts(&self) -> Vec<String> {
        self.ips.read().iter().map(IpAddr::to_string).collect()
    }
}

impl Kubelet {
    /// Notes an event about a pod.
    pub fn event(&self, pod: &Pod, kind: Kind, reason: &str, message: impl Into<String>) {
        self.send_event(reference(pod), kind, reason, message.into());
    }

    /// Notes an event about a container of a pod.
    pub fn container_event(&self, pod: &Pod, container: &Container, kind: Kind, reason: &str, message: impl Into<String>) {
        let list = match () {
            () if crate::pod::init_containers(pod).iter().any(|init| init.name == container.name) => "initContainers",
            () if crate::pod::spec(pod).containers.iter().any(|main| main.name == container.name) => "containers",
            () => "ephemeralContainers",
        };
        let mut about = reference(pod);
        about.field_path = Some(format!("spec.{list}{{{}}}", container.name));
        self.send_event(about, kind, reason, message.into());
    }

    /// Notes an event about the node.
    pub fn node_event(&self, kind: Kind, reason: &str, message: impl Into<String>) {
        let about = ObjectReference {
            kind: Some("Node".into()),
            name: Some(self.config.node_name.clone()),
            uid: Some(self.config.node_name.clone()),
            ..Default::default()
        };
        self.send_event(about, kind, reason, message.into());
    }

    fn send_event(&self, about: ObjectReference, kind: Kind, reason: &str, message: String) {
        let name = about.name.as_deref().unwrap_or("");
        match kind {
            Kind::Normal => tracing::debug!(object = name, reason, "{message}"),
            Kind::Warning => tracing::info!(object = name, reason, "{message}"),
        }
        if let Some(recorder) = &self.recorder {
            recorder.about(about, kind, reason, message);
        }
    }

    /// Whether orphans may be removed.
    pub fn sources_ready(&self) -> bool {
        self.node.sources_ready.load(Ordering::Acquire)
    }

    /// Directory of a pod's log files, as the runtime is told.
    pub fn log_directory(&self, pod: &Pod) -> String {
        crate::runtime::sandbox_config::log_directory(&self.config.kubelet.pod_logs_dir, pod)
    }
}

/// A shared kubelet.
pub type Shared = Arc<Kubelet>;

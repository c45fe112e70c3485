//! What happens in the cluster, as far as it may let a waiting pod through.
//!
//! Upstream: pkg/scheduler/framework/types.go (ClusterEvent)

use std::sync::Arc;

use crate::object::Named;
use crate::object::node::Node;
use crate::object::pod::Pod;

/// An event. Plugins say through their hint whether it helps a pod.
#[derive(Clone, Debug)]
pub enum Event {
    /// A node came.
    NodeAdded(Arc<Node>),
    /// A node changed: old, new.
    NodeUpdated(Arc<Node>, Arc<Node>),
    /// A pod is on a node now.
    AssignedPodAdded(Arc<Pod>),
    /// A pod on a node changed: old, new.
    AssignedPodUpdated(Arc<Pod>, Arc<Pod>),
    /// A pod is gone from its node, or will not use it.
    AssignedPodDeleted(Arc<Pod>),
    /// The waiting pod itself changed: old, new.
    PodUpdated(Arc<Pod>, Arc<Pod>),
    /// A claim, volume, class or CSINode came, changed or went.
    Storage,
    /// A resource claim, slice or device class came, changed or went.
    Devices,
    /// A namespace's labels changed, or it came.
    Namespace,
    /// A service or owner came or changed.
    Workload,
    /// Time: the pod has waited long enough.
    Timeout,
}

impl Event {
    /// Upstream's label of it, for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::NodeAdded(_) => "NodeAdd",
            Self::NodeUpdated(old, new) if old.allocatable != new.allocatable => "NodeAllocatableChange",
            Self::NodeUpdated(old, new) if old.labels() != new.labels() => "NodeLabelChange",
            Self::NodeUpdated(old, new) if old.taints != new.taints || old.unschedulable != new.unschedulable => {
                "NodeTaintChange"
            }
            Self::NodeUpdated(..) => "NodeConditionChange",
            Self::AssignedPodAdded(_) => "AssignedPodAdd",
            Self::AssignedPodUpdated(..) => "AssignedPodUpdate",
            Self::AssignedPodDeleted(_) => "AssignedPodDelete",
            Self::PodUpdated(..) => "PodUpdate",
            Self::Storage => "PersistentVolumeClaimUpdate",
            Self::Devices => "ResourceClaimUpdate",
            Self::Namespace => "NamespaceUpdate",
            Self::Workload => "ServiceUpdate",
            Self::Timeout => "UnschedulableTimeout",
        }
    }
}

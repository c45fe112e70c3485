//! Everything else that plugins look up: claims, volumes, owners, namespaces, budgets.

use std::sync::Arc;

use client::store::Store;

use crate::object::device::{DeviceClaim, DeviceClass, Slice};
use crate::object::storage::{Capacity, Claim, Class, CsiDriver, CsiNode, Volume};
use crate::object::workload::{Budget, Namespace, ReplicaSet, ReplicationController, Service, StatefulSet};
use crate::object::{Labels, Named};
use crate::plugin::dynamic_resources::inventory::Assumed;

/// The stores; informers fill them. Cheap to clone.
#[derive(Clone, Default)]
pub struct Stores {
    /// Namespaces.
    pub namespaces: Store<Namespace>,
    /// Services.
    pub services: Store<Service>,
    /// ReplicationControllers.
    pub replication_controllers: Store<ReplicationController>,
    /// ReplicaSets.
    pub replica_sets: Store<ReplicaSet>,
    /// StatefulSets.
    pub stateful_sets: Store<StatefulSet>,
    /// PodDisruptionBudgets.
    pub budgets: Store<Budget>,
    /// PersistentVolumeClaims.
    pub claims: Store<Claim>,
    /// PersistentVolumes.
    pub volumes: Store<Volume>,
    /// StorageClasses.
    pub classes: Store<Class>,
    /// CSINodes.
    pub csi_nodes: Store<CsiNode>,
    /// CSIDrivers.
    pub csi_drivers: Store<CsiDriver>,
    /// CSIStorageCapacities.
    pub capacities: Store<Capacity>,
    /// ResourceClaims.
    pub device_claims: Store<DeviceClaim>,
    /// DeviceClasses.
    pub device_classes: Store<DeviceClass>,
    /// ResourceSlices.
    pub slices: Store<Slice>,
    /// Devices that are decided on but not yet written.
    pub assumed_devices: Assumed,
}

impl Stores {
    /// The labels of a namespace; none where it is not known.
    pub fn namespace_labels(&self, name: &str) -> Labels {
        self.namespaces.get(name).map_or_else(Labels::new, |namespace| namespace.labels().clone())
    }

    /// A claim.
    pub fn claim(&self, namespace: &str, name: &str) -> Option<Arc<Claim>> {
        self.claims.get(&client::key(namespace, name))
    }
}

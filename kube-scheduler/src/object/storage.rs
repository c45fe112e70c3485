//! Volumes, claims and classes, as placement needs them.

use k8s_openapi::api::{core::v1 as core, storage::v1 as storage};
use kube::core::ObjectMeta;
use serde::Deserialize;

use crate::object::resources::{Amount, List};
use crate::object::selector::{NodeSelector, Selector};
use crate::object::{Labels, Meta, stands_for};

/// A PersistentVolumeClaim.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(from = "WireClaim")]
pub struct Claim {
    /// Name.
    pub metadata: ObjectMeta,
    /// `spec.volumeName`, or "".
    pub volume: String,
    /// `spec.storageClassName`; `None` where absent.
    pub class: Option<String>,
    /// Access modes.
    pub modes: Vec<String>,
    /// `Filesystem` or `Block`.
    pub volume_mode: String,
    /// Bytes asked for.
    pub bytes: i64,
    /// Which volumes it accepts.
    pub selector: Option<Selector>,
    /// Fully bound: the controller has said so.
    pub bound: bool,
    /// `volume.kubernetes.io/selected-node`, or "".
    pub selected_node: String,
    /// `status.phase` is Lost.
    pub lost: bool,
}

stands_for!(Claim, core::PersistentVolumeClaim);

/// A PersistentVolume.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(from = "WireVolume")]
pub struct Volume {
    /// Name and labels.
    pub metadata: ObjectMeta,
    /// `namespace/name` and uid of the claim it is for, or "".
    pub claim: (String, String),
    /// Its class, or "".
    pub class: String,
    /// Access modes.
    pub modes: Vec<String>,
    /// `Filesystem` or `Block`.
    pub volume_mode: String,
    /// Bytes.
    pub bytes: i64,
    /// Which nodes can reach it.
    pub nodes: Option<NodeSelector>,
    /// CSI driver and handle, where it is a CSI volume.
    pub csi: Option<(String, String)>,
    /// `status.phase` is Available or "".
    pub available: bool,
}

stands_for!(Volume, core::PersistentVolume);

/// A StorageClass.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(from = "WireClass")]
pub struct Class {
    /// Name.
    pub metadata: ObjectMeta,
    /// Who makes volumes.
    pub provisioner: String,
    /// Volumes are bound once a pod needs them.
    pub waits: bool,
    /// Where volumes can be made; empty for everywhere.
    pub topologies: NodeSelector,
}

stands_for!(Class, storage::StorageClass);

/// A CSINode: how many volumes of each driver a node can have.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(from = "WireCsiNode")]
pub struct CsiNode {
    /// Name.
    pub metadata: ObjectMeta,
    /// Driver and its limit.
    pub limits: Vec<(String, Option<i32>)>,
}

stands_for!(CsiNode, storage::CSINode);

/// A CSIDriver.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(from = "WireCsiDriver")]
pub struct CsiDriver {
    /// Name.
    pub metadata: ObjectMeta,
    /// It tells by CSIStorageCapacities how much room is where.
    pub tells_capacity: bool,
}

stands_for!(CsiDriver, storage::CSIDriver);

/// A CSIStorageCapacity: how much room there is for volumes of a class.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "WireCapacity")]
pub struct Capacity {
    /// Name.
    pub metadata: ObjectMeta,
    /// The class.
    pub class: String,
    /// Bytes that one volume can have at most; `None` for not known.
    pub bytes: Option<i64>,
    /// Which nodes reach it, by label.
    pub nodes: Selector,
}

stands_for!(Capacity, storage::CSIStorageCapacity);

/// Why a PV can be of no claim: its class of none.
pub const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Annotated {
    #[serde(flatten)]
    meta: Meta,
    annotations: Option<Labels>,
}

#[derive(Deserialize)]
struct WireClaim {
    #[serde(default)]
    metadata: Annotated,
    #[serde(default)]
    spec: WireClaimSpec,
    #[serde(default)]
    status: WirePhase,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WireClaimSpec {
    volume_name: Option<String>,
    storage_class_name: Option<String>,
    access_modes: Option<Vec<String>>,
    volume_mode: Option<String>,
    selector: Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector>,
    resources: WireRequests,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireRequests {
    requests: Option<List>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WirePhase {
    phase: Option<String>,
}

impl From<WireClaim> for Claim {
    fn from(wire: WireClaim) -> Self {
        let annotations = wire.metadata.annotations.unwrap_or_default();
        let volume = wire.spec.volume_name.unwrap_or_default();
        Self {
            metadata: wire.metadata.meta.into(),
            bound: !volume.is_empty() && annotations.contains_key("pv.kubernetes.io/bind-completed"),
            volume,
            class: annotations.get("volume.beta.kubernetes.io/storage-class").cloned().or(wire.spec.storage_class_name),
            modes: wire.spec.access_modes.unwrap_or_default(),
            volume_mode: wire.spec.volume_mode.unwrap_or_else(|| "Filesystem".to_owned()),
            bytes: wire.spec.resources.requests.as_ref().and_then(|list| list.get("storage")).map_or(0, |amount| amount.value()),
            selector: wire.spec.selector.as_ref().map(|selector| Selector::compile(Some(selector))),
            selected_node: annotations.get("volume.kubernetes.io/selected-node").cloned().unwrap_or_default(),
            lost: wire.status.phase.as_deref() == Some("Lost"),
        }
    }
}

#[derive(Deserialize)]
struct WireVolume {
    #[serde(default)]
    metadata: Meta,
    #[serde(default)]
    spec: WireVolumeSpec,
    #[serde(default)]
    status: WirePhase,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WireVolumeSpec {
    claim_ref: Option<core::ObjectReference>,
    storage_class_name: Option<String>,
    access_modes: Option<Vec<String>>,
    volume_mode: Option<String>,
    capacity: Option<List>,
    node_affinity: Option<core::VolumeNodeAffinity>,
    csi: Option<WireCsi>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WireCsi {
    driver: String,
    volume_handle: String,
}

impl From<WireVolume> for Volume {
    fn from(wire: WireVolume) -> Self {
        let claim = wire.spec.claim_ref.unwrap_or_default();
        let key = claim.name.as_deref().map_or(String::new(), |name| client::key(claim.namespace.as_deref().unwrap_or(""), name));
        Self {
            metadata: wire.metadata.into(),
            claim: (key, claim.uid.unwrap_or_default()),
            class: wire.spec.storage_class_name.unwrap_or_default(),
            modes: wire.spec.access_modes.unwrap_or_default(),
            volume_mode: wire.spec.volume_mode.unwrap_or_else(|| "Filesystem".to_owned()),
            bytes: wire.spec.capacity.as_ref().and_then(|list| list.get("storage")).map_or(0, |amount| amount.value()),
            nodes: wire.spec.node_affinity.and_then(|affinity| affinity.required).as_ref().map(NodeSelector::compile),
            csi: wire.spec.csi.map(|csi| (csi.driver, csi.volume_handle)),
            available: matches!(wire.status.phase.as_deref(), None | Some("" | "Available")),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireClass {
    #[serde(default)]
    metadata: Meta,
    #[serde(default)]
    provisioner: String,
    #[serde(default)]
    volume_binding_mode: Option<String>,
    #[serde(default)]
    allowed_topologies: Option<Vec<core::TopologySelectorTerm>>,
}

impl From<WireClass> for Class {
    fn from(wire: WireClass) -> Self {
        let terms = wire.allowed_topologies.into_iter().flatten().map(|term| {
            let expressions = term.match_label_expressions.into_iter().flatten();
            let labels = expressions.map(|one| core::NodeSelectorRequirement {
                key: one.key,
                operator: "In".to_owned(),
                values: Some(one.values),
            });
            core::NodeSelectorTerm { match_expressions: Some(labels.collect()), match_fields: None }
        });
        let topologies = core::NodeSelector { node_selector_terms: terms.collect() };
        Self {
            metadata: wire.metadata.into(),
            provisioner: wire.provisioner,
            waits: wire.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"),
            topologies: NodeSelector::compile(&topologies),
        }
    }
}

#[derive(Deserialize)]
struct WireCsiNode {
    #[serde(default)]
    metadata: Meta,
    #[serde(default)]
    spec: WireDrivers,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireDrivers {
    // The server writes an empty list as null, as Go does.
    drivers: Option<Vec<WireDriver>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireDriver {
    name: String,
    allocatable: Option<WireCount>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireCount {
    count: Option<i32>,
}

impl From<WireCsiNode> for CsiNode {
    fn from(wire: WireCsiNode) -> Self {
        let drivers = wire.spec.drivers.into_iter().flatten();
        Self {
            metadata: wire.metadata.into(),
            limits: drivers.map(|driver| (driver.name, driver.allocatable.and_then(|allocatable| allocatable.count))).collect(),
        }
    }
}

#[derive(Deserialize)]
struct WireCsiDriver {
    #[serde(default)]
    metadata: Meta,
    #[serde(default)]
    spec: WireCsiDriverSpec,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WireCsiDriverSpec {
    storage_capacity: Option<bool>,
}

impl From<WireCsiDriver> for CsiDriver {
    fn from(wire: WireCsiDriver) -> Self {
        Self { metadata: wire.metadata.into(), tells_capacity: wire.spec.storage_capacity.unwrap_or(false) }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireCapacity {
    #[serde(default)]
    metadata: Meta,
    #[serde(default)]
    storage_class_name: String,
    #[serde(default)]
    capacity: Option<Amount>,
    #[serde(default)]
    maximum_volume_size: Option<Amount>,
    #[serde(default)]
    node_topology: Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector>,
}

impl From<WireCapacity> for Capacity {
    fn from(wire: WireCapacity) -> Self {
        Self {
            metadata: wire.metadata.into(),
            class: wire.storage_class_name,
            bytes: wire.maximum_volume_size.or(wire.capacity).map(|amount| amount.value()),
            nodes: Selector::compile(wire.node_topology.as_ref()),
        }
    }
}

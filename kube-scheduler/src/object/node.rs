//! A node, compiled for placement.

use std::collections::HashMap;

use k8s_openapi::api::core::v1 as core;
use kube::core::ObjectMeta;
use serde::Deserialize;

use crate::object::resources::{List, Resources};
use crate::object::{Meta, stands_for};

/// What a taint does to pods that do not tolerate it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// They are not placed.
    NoSchedule,
    /// They are rather placed elsewhere.
    PreferNoSchedule,
    /// They are not placed, and evicted.
    NoExecute,
}

impl Effect {
    /// From the wire.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "NoSchedule" => Some(Self::NoSchedule),
            "PreferNoSchedule" => Some(Self::PreferNoSchedule),
            "NoExecute" => Some(Self::NoExecute),
            _ => None,
        }
    }
}

/// A taint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taint {
    /// Key.
    pub key: String,
    /// Value.
    pub value: String,
    /// Effect.
    pub effect: Effect,
}

/// A node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(from = "Wire")]
pub struct Node {
    /// Name and labels.
    pub metadata: ObjectMeta,
    /// `spec.unschedulable`.
    pub unschedulable: bool,
    /// Taints.
    pub taints: Vec<Taint>,
    /// What pods may use.
    pub allocatable: Resources,
    /// Sizes of the images it has, by every name.
    pub images: HashMap<String, i64>,
}

stands_for!(Node, core::Node);

#[derive(Deserialize)]
struct Wire {
    #[serde(default)]
    metadata: Meta,
    #[serde(default)]
    spec: WireSpec,
    #[serde(default)]
    status: WireStatus,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireSpec {
    unschedulable: Option<bool>,
    taints: Option<Vec<WireTaint>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireTaint {
    key: String,
    value: Option<String>,
    effect: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WireStatus {
    allocatable: Option<List>,
    images: Option<Vec<WireImage>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WireImage {
    names: Option<Vec<String>>,
    size_bytes: Option<i64>,
}

impl From<Wire> for Node {
    fn from(wire: Wire) -> Self {
        let taints = wire.spec.taints.into_iter().flatten().filter_map(|taint| {
            Some(Taint { effect: Effect::parse(&taint.effect)?, key: taint.key, value: taint.value.unwrap_or_default() })
        });
        let mut images = HashMap::new();
        for image in wire.status.images.into_iter().flatten() {
            for name in image.names.into_iter().flatten() {
                images.insert(name, image.size_bytes.unwrap_or(0));
            }
        }
        Self {
            metadata: wire.metadata.into(),
            unschedulable: wire.spec.unschedulable.unwrap_or(false),
            taints: taints.collect(),
            allocatable: wire.status.allocatable.as_ref().map(Resources::from_list).unwrap_or_default(),
            images,
        }
    }
}

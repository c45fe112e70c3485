//! What owns or fronts pods, reduced to selectors: for default spreading, disruption budgets and namespace selectors.

use k8s_openapi::api::{apps::v1 as apps, core::v1 as core, policy::v1 as policy};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::ObjectMeta;
use serde::Deserialize;

use crate::object::selector::Selector;
use crate::object::{Labels, Meta, stands_for};

macro_rules! selecting {
    ($(#[$doc:meta])* $name:ident, $full:ty) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Deserialize)]
        #[serde(from = "Owner")]
        pub struct $name {
            /// Name.
            pub metadata: ObjectMeta,
            /// Its pods.
            pub selector: Selector,
        }

        impl From<Owner> for $name {
            fn from(wire: Owner) -> Self {
                Self { metadata: wire.metadata.into(), selector: Selector::compile(wire.spec.selector.as_ref()) }
            }
        }

        stands_for!($name, $full);
    };
    (map $(#[$doc:meta])* $name:ident, $full:ty) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Deserialize)]
        #[serde(from = "Front")]
        pub struct $name {
            /// Name.
            pub metadata: ObjectMeta,
            /// Its pods.
            pub selector: Selector,
        }

        impl From<Front> for $name {
            fn from(wire: Front) -> Self {
                let map = wire.spec.selector.filter(|map| !map.is_empty());
                let selector = map.map_or(Selector::Nothing, |map| Selector::All(Selector::of_map(Some(&map))));
                Self { metadata: wire.metadata.into(), selector }
            }
        }

        stands_for!($name, $full);
    };
}

#[derive(Deserialize)]
struct Owner {
    #[serde(default)]
    metadata: Meta,
    #[serde(default)]
    spec: OwnerSpec,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct OwnerSpec {
    selector: Option<LabelSelector>,
}

#[derive(Deserialize)]
struct Front {
    #[serde(default)]
    metadata: Meta,
    #[serde(default)]
    spec: FrontSpec,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct FrontSpec {
    selector: Option<Labels>,
}

selecting!(
    /// A ReplicaSet.
    ReplicaSet,
    apps::ReplicaSet
);
selecting!(
    /// A StatefulSet.
    StatefulSet,
    apps::StatefulSet
);
selecting!(map
    /// A ReplicationController.
    ReplicationController, core::ReplicationController);
selecting!(map
    /// A Service; without a selector it selects nothing.
    Service, core::Service);

/// A namespace, for its labels.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(from = "WireNamespace")]
pub struct Namespace {
    /// Name and labels.
    pub metadata: ObjectMeta,
}

stands_for!(Namespace, core::Namespace);

#[derive(Deserialize)]
struct WireNamespace {
    #[serde(default)]
    metadata: Meta,
}

impl From<WireNamespace> for Namespace {
    fn from(wire: WireNamespace) -> Self {
        Self { metadata: wire.metadata.into() }
    }
}

/// A PodDisruptionBudget.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "WireBudget")]
pub struct Budget {
    /// Name.
    pub metadata: ObjectMeta,
    /// Its pods.
    pub selector: Selector,
    /// How many may go.
    pub allowed: i32,
    /// Names of pods whose disruption is already under way.
    pub disrupted: Vec<String>,
}

stands_for!(Budget, policy::PodDisruptionBudget);

#[derive(Deserialize)]
struct WireBudget {
    #[serde(default)]
    metadata: Meta,
    #[serde(default)]
    spec: OwnerSpec,
    #[serde(default)]
    status: WireBudgetStatus,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WireBudgetStatus {
    disruptions_allowed: i32,
    disrupted_pods: Option<std::collections::BTreeMap<String, serde::de::IgnoredAny>>,
}

impl From<WireBudget> for Budget {
    fn from(wire: WireBudget) -> Self {
        Self {
            metadata: wire.metadata.into(),
            selector: Selector::compile(wire.spec.selector.as_ref()),
            allowed: wire.status.disruptions_allowed,
            disrupted: wire.status.disrupted_pods.into_iter().flatten().map(|(name, _)| name).collect(),
        }
    }
}

//! Objects as the scheduler needs them: decoded straight from the wire into compiled, small forms.
//!
//! A pod is decoded some times in its life; reading only what decides placement costs a fraction of the full type.

pub mod device;
pub mod node;
pub mod pod;
pub mod resources;
pub mod selector;
pub mod storage;
pub mod workload;

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use kube::core::ObjectMeta;
use serde::Deserialize;

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// The parts of `metadata` that matter here: managed fields and annotations are skipped, not stored.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Meta {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    generation: Option<i64>,
    labels: Option<Labels>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<Time>,
    owner_references: Option<Vec<OwnerReference>>,
}

impl From<Meta> for ObjectMeta {
    fn from(meta: Meta) -> Self {
        Self {
            name: meta.name,
            namespace: meta.namespace,
            uid: meta.uid,
            resource_version: meta.resource_version,
            generation: meta.generation,
            labels: meta.labels,
            creation_timestamp: meta.creation_timestamp,
            deletion_timestamp: meta.deletion_timestamp,
            owner_references: meta.owner_references,
            ..Self::default()
        }
    }
}

/// Reads of metadata that never fail.
pub trait Named {
    /// `metadata`.
    fn metadata(&self) -> &ObjectMeta;

    /// The name, or "".
    fn name(&self) -> &str {
        self.metadata().name.as_deref().unwrap_or("")
    }

    /// The namespace, or "".
    fn namespace(&self) -> &str {
        self.metadata().namespace.as_deref().unwrap_or("")
    }

    /// The uid, or "".
    fn uid(&self) -> &str {
        self.metadata().uid.as_deref().unwrap_or("")
    }

    /// The labels.
    fn labels(&self) -> &Labels {
        static NONE: Labels = Labels::new();
        self.metadata().labels.as_ref().unwrap_or(&NONE)
    }

    /// `namespace/name`.
    fn key(&self) -> String {
        client::key(self.namespace(), self.name())
    }

    /// Whether it is being deleted.
    fn terminating(&self) -> bool {
        self.metadata().deletion_timestamp.is_some()
    }

    /// When it was made.
    fn created(&self) -> Timestamp {
        self.metadata().creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0)
    }
}

/// Makes a decoded form a resource that can be watched, standing for the full type.
macro_rules! stands_for {
    ($own:ty, $full:ty) => {
        impl kube::Resource for $own {
            type DynamicType = ();
            type Scope = <$full as kube::Resource>::Scope;

            fn kind((): &()) -> std::borrow::Cow<'_, str> {
                <$full as kube::Resource>::kind(&())
            }
            fn group((): &()) -> std::borrow::Cow<'_, str> {
                <$full as kube::Resource>::group(&())
            }
            fn version((): &()) -> std::borrow::Cow<'_, str> {
                <$full as kube::Resource>::version(&())
            }
            fn plural((): &()) -> std::borrow::Cow<'_, str> {
                <$full as kube::Resource>::plural(&())
            }
            fn meta(&self) -> &kube::core::ObjectMeta {
                &self.metadata
            }
            fn meta_mut(&mut self) -> &mut kube::core::ObjectMeta {
                &mut self.metadata
            }
        }

        impl crate::object::Named for $own {
            fn metadata(&self) -> &kube::core::ObjectMeta {
                &self.metadata
            }
        }
    };
}
pub(crate) use stands_for;

//! What plugins need of the API server beyond reading its caches.

use std::sync::Arc;

use api::lister::Lister;
use api::status::Status;
use async_trait::async_trait;
use serde_json::Value;

use crate::attributes::User;

/// The API server, as plugins see it.
#[derive(Clone)]
pub struct Host {
    /// Reads from memory.
    pub lister: Arc<dyn Lister>,
    /// Asks whether somebody may do something.
    pub authorizer: Arc<dyn Authorizer>,
    /// Writes quota usage.
    pub quotas: Arc<dyn QuotaWriter>,
}

/// A question to the authorizer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Question {
    /// `update`, `approve`, …
    pub verb: String,
    /// API group.
    pub group: String,
    /// Version; `*` for any.
    pub version: String,
    /// Plural name.
    pub resource: String,
    /// Subresource, or empty.
    pub subresource: String,
    /// Namespace, or empty.
    pub namespace: String,
    /// Name, or empty.
    pub name: String,
}

/// Asks whether somebody may do something.
#[async_trait]
pub trait Authorizer: Send + Sync {
    /// Whether `user` may.
    async fn allowed(&self, user: &User, question: &Question) -> bool;

    /// The resource (plural) and scope of a kind, for permissions on owners: `None` where it is not served.
    async fn resource_of(&self, group: &str, kind: &str) -> Option<(String, bool)>;
}

/// Writes quota usage.
#[async_trait]
pub trait QuotaWriter: Send + Sync {
    /// The quotas of a namespace as etcd has them now: decisions on usage must not be made on a stale cache.
    ///
    /// # Errors
    /// etcd is away.
    async fn read(&self, namespace: &str) -> Result<Vec<Value>, Status>;

    /// Writes `status.used` of a quota if it is still the version in `metadata.resourceVersion`.
    ///
    /// # Errors
    /// `Conflict` (409) where somebody else was faster: read and decide again.
    async fn write_status(&self, quota: &Value) -> Result<(), Status>;
}

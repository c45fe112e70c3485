//! How authorization and admission read the cluster: from memory, without waiting.

use std::sync::Arc;

use serde_json::Value;

/// Reads of the API server's own caches. Resources are named by group (`""` for core) and plural name.
pub trait Lister: Send + Sync {
    /// The object, or `None`. `namespace` is empty for cluster-scoped resources.
    fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>>;

    /// All objects of the resource, of one namespace or of all (`None`), in key order.
    fn list(&self, group: &str, resource: &str, namespace: Option<&str>) -> Vec<Arc<Value>>;

    /// A number that changes whenever an object of the resource changes: the key under which compiled forms may be kept.
    fn version(&self, group: &str, resource: &str) -> u64;
}

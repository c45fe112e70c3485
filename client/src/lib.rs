//! How a component watches the API and works on keys: connections, shared informers, queues, leases, events.
//!
//! Stands on the `kube` crate (types, requests, watch protocol) and adds what that lacks: HTTP/2 with credential reload,
//! stores with indexes shared by many handlers, client-go's work queue, leader election, event correlation.

pub mod connect;
pub mod connector;
pub mod events;
pub mod informer;
pub mod leader;
pub mod queue;
pub mod store;

pub use k8s_openapi;
pub use kube;

use kube::ResourceExt;

/// `namespace/name`, or `name` for what lives in no namespace: the key of stores and queues.
pub fn key_of<K: kube::Resource>(object: &K) -> String {
    key(object.namespace().as_deref().unwrap_or(""), &object.name_any())
}

/// The key of a namespace and a name.
pub fn key(namespace: &str, name: &str) -> String {
    if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") }
}

/// Namespace (empty where there is none) and name of a key.
pub fn split_key(key: &str) -> (&str, &str) {
    key.split_once('/').unwrap_or(("", key))
}

/// Whether `error` is an answer of the API server with this HTTP code.
pub fn is_code(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

/// 404.
pub fn is_not_found(error: &kube::Error) -> bool {
    is_code(error, 404)
}

/// 409: a lost race (`Conflict`) or a create of what exists (`AlreadyExists`).
pub fn is_conflict(error: &kube::Error) -> bool {
    is_code(error, 409)
}

//! What Kubernetes objects are and which rules hold for them; no I/O, no clock.
//!
//! An object is a generic JSON tree ([`serde_json::Value`], always an object at the top). Everything generic is driven by one
//! [schema] per kind: decoding with Go's omit rules, unknown and duplicate fields, patches, managed fields, protobuf, OpenAPI.

pub mod apply;
pub mod discovery;
pub mod field;
pub mod json;
pub mod kind;
pub mod lister;
pub mod openapi;
pub mod patch;
pub mod proto;
pub mod quantity;
#[cfg(test)]
mod reference;
pub mod schema;
pub mod selector;
pub mod status;
pub mod validation;
pub mod yaml;

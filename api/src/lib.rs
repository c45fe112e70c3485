//! What Kubernetes objects are and which rules hold for them; no I/O, no clock.
//!
//! An object is a generic JSON tree ([`serde_json::Value`], always an object at the top). Everything generic is driven by one
//! [schema] per kind: decoding with Go's omit rules, unknown and duplicate fields, patches, managed fields, protobuf, OpenAPI.
//!
//! | To do | Call |
//! |---|---|
//! | find a built-in kind, its names and verbs | [`kind::by_plural`], [`kind::by_kind`], [`kind::all`] |
//! | read a JSON body | [`schema::Schema::builtin`], then [`schema::Schema::decode`] |
//! | read a YAML or protobuf body | [`yaml::decode`] or [`proto::decode`], then [`schema::Schema::decode_value`] for YAML |
//! | bring an object into canonical form after changing it | [`schema::Schema::normalize`] |
//! | patch | [`patch::Patch::parse`] once, [`patch::Patch::apply`] per try |
//! | keep managedFields on a write | [`apply::track_update`] after decoding and defaulting |
//! | server-side apply | [`apply::apply`], then defaulting |
//! | write protobuf, lists and watch frames of it | [`proto::encode`], [`proto::list_frame`], [`proto::watch_frame`] |
//! | select | [`selector::LabelSelector`], [`selector::FieldSelector`] |
//! | reckon with quantities | [`quantity::Quantity`] |
//! | show discovery and OpenAPI | [`discovery::builtin`], [`openapi::v3`], [`openapi::v2`] |
//! | report errors | [`field::Errors`], [`status::Status`] |
//!
//! Data in `data/` is written by `generate.py` (from upstream's published documents and `go-fields.txt`), `go_facts.py` and
//! `descriptions.py`; the scripts say how to move to another version. A test writes the tables again and compares.

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

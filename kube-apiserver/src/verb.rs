//! The verbs, each for all resources: nothing here knows a kind.

pub mod create;
pub mod delete;
pub mod delete_collection;
pub mod get;
pub mod list;
pub mod options;
pub mod patch;
pub mod update;
pub mod watch;
pub mod write;

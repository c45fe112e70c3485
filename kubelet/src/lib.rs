//! Makes one node run its pods through CRI.

pub mod backoff;
pub mod bootstrap;
pub mod certificate;
pub mod cgroup;
pub mod config;
pub mod containers;
pub mod cri;
pub mod dns;
pub mod env;
pub mod eviction;
#[cfg(test)]
mod fake_cri;
pub mod flags;
pub mod hosts;
pub mod housekeeping;
pub mod image;
pub mod kubelet;
pub mod lifecycle;
pub mod logs;
pub mod mirror;
pub mod node;
pub mod objects;
pub mod pleg;
pub mod pod;
pub mod pods;
pub mod probe;
pub mod run;
pub mod runtime;
pub mod server;
pub mod source;
pub mod status;
pub mod volume;
pub mod worker;

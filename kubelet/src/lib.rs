//! Makes one node run its pods through CRI.

pub mod cgroup;
pub mod config;
pub mod cri;
pub mod env;
pub mod flags;
pub mod pod;
pub mod runtime;
pub mod status;

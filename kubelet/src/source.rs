//! Where pods come from. Each source tells its pods and says when it has told all of them once.
//!
//! Upstream: pkg/kubelet/config

pub mod api;
pub mod decode;
pub mod file;
pub mod url;

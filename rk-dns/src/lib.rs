//! Cluster DNS: names of Services and pods from the API server, everything else from upstream servers, configured by a Corefile.
//!
//! Specification: Kubernetes DNS-Based Service Discovery 1.1.0.

pub mod cache;
pub mod config;
pub mod corefile;
pub mod forward;
pub mod handler;
pub mod hosts;
pub mod http;
pub mod index;
pub mod kubernetes;
pub mod local;
pub mod metrics;
pub mod start;
pub mod watch;

//! Makes one node run its pods through CRI.
//!
//! ```text
//!  source (file, url, api) ──► pods ──► worker, one task per pod ──► status ──► API server
//!                                        │  observe: what the runtime has of the pod
//!                                        │  decide:  runtime::actions, status (pure)
//!                                        ▼  apply:   containers, volume, cgroup, image
//!                                       cri (containerd)
//! ```
//!
//! A worker is poked when the definition changes, when [`pleg`] sees a container change state, when a probe turns, and by a slow
//! resync. It then looks at everything anew: no step depends on what an earlier one remembered, so that a killed kubelet goes on where
//! it was. What a later kubelet must know is in the labels and annotations of containers ([`runtime::label`]), in the directories below
//! `<root>/pods`, and in the API. A pod goes through three stages ([`worker::Stage`]): run, terminate, clean; the API object is deleted when the
//! last is through, and containers and logs go when the object is gone.

pub mod allocation;
pub mod backoff;
pub mod bootstrap;
pub mod certificate;
pub mod cgroup;
pub mod config;
pub mod containers;
pub mod cri;
pub mod csi;
pub mod dns;
pub mod env;
pub mod eviction;
#[cfg(test)]
mod fake_cri;
pub mod flags;
pub mod hosts;
pub mod housekeeping;
pub mod image;
pub mod kernel;
pub mod kubelet;
pub mod lifecycle;
pub mod logs;
pub mod metrics;
pub mod mirror;
pub mod node;
pub mod objects;
pub mod pleg;
pub mod plugins;
pub mod pod;
pub mod pods;
pub mod probe;
pub mod run;
pub mod runtime;
pub mod server;
pub mod shutdown;
pub mod source;
pub mod status;
pub mod volume;
pub mod worker;

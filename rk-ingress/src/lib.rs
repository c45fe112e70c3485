//! rk-ingress: the Ingress controller of small clusters. Routes HTTP(S) by host and path to Services.
//!
//! Objects → [`table`] (pure) → [`proxy`]; [`status`] tells the addresses to users.

pub mod annotations;
pub mod certificates;
pub mod matching;
pub mod options;
pub mod proxy;
pub mod run;
pub mod status;
pub mod table;

/// What `IngressClass.spec.controller` says of classes that are ours.
pub const CONTROLLER: &str = "rk.io/ingress-controller";

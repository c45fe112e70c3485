//! Serves, guards and stores objects; the only crate that speaks to etcd.
//!
//! A request's life: [`server`] (TLS, HTTP) → [`chain`] (who, may they, limits) → [`route`] → [`verb`] or [`subresource`] →
//! [`cache`] for reads, [`verb::write`] and [`storage`] for writes. See README.md for the watch cache.

pub mod admit;
pub mod allocator;
pub mod audit;
pub mod body;
pub mod bootstrap;
pub mod cache;
pub mod call;
pub mod chain;
pub mod codec;
pub mod component_status;
pub mod compress;
pub mod config;
pub mod documents;
pub mod flow;
pub mod health;
pub mod kubelet_client;
pub mod metadata;
pub mod metrics;
pub mod negotiate;
pub mod oidc;
pub mod options;
pub mod reply;
pub mod request_info;
pub mod resource_metrics;
pub mod route;
pub mod server;
pub mod storage;
pub mod subresource;
pub mod table;
pub mod tabular;
pub mod tls;
pub mod verb;

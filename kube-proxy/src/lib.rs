//! Turns Services into kernel rules.
//!
//! Service and EndpointSlice objects → [`state::State`] → [`portal::Portal`]s (one per service port: what is reachable where,
//! and which endpoints stand behind it) → a backend's rules, applied as a difference.

pub mod backend;
pub mod config;
pub mod conntrack;
pub mod endpoint;
pub mod follow;
pub mod health;
pub mod locality;
pub mod metrics;
pub mod node;
pub mod options;
pub mod portal;
pub mod proxier;
pub mod service;
pub mod service_health;
pub mod start;
pub mod state;

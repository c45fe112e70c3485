//! Chooses a node for each pod.
//!
//! [`object`] is what it reads, [`cluster`] what it knows, [`plugin`] the rules, [`schedule`] the decision.

pub mod cluster;
pub mod config;
pub mod event;
pub mod object;
pub mod plugin;
pub mod schedule;
pub mod stores;

//! Chooses a node for each pod.
//!
//! [`object`] is what it reads, [`cluster`] what it knows, [`plugin`] the rules, [`schedule`] the decision, [`queue`] who is next,
//! [`scheduler`] the loop, [`bind`] what it does to the world, [`cel`] what device selectors are written in. [`run`] puts them together.

pub mod bind;
pub mod cel;
pub mod cluster;
pub mod config;
pub mod event;
pub mod extender;
pub mod metrics;
pub mod object;
pub mod options;
pub mod plugin;
pub mod queue;
pub mod run;
pub mod schedule;
pub mod scheduler;
pub mod serving;
pub mod stores;
pub mod watch;

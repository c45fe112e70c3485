//! What the runtime has of a pod, and what is asked of it.

pub mod actions;
pub mod container_config;
pub mod label;
pub mod observed;
pub mod sandbox_config;
pub mod security;
pub mod stop_signal;
pub mod user_namespace;

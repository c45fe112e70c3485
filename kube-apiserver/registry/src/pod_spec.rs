//! What pods and everything that holds a pod template share.

pub mod affinity;
pub mod container;
pub mod defaults;
pub mod environment;
pub mod image;
pub mod probe;
pub mod qos;
pub mod resources;
pub mod security;
pub mod template;
pub mod validate;
pub mod volume;
pub mod warnings;

//! What pods and everything that holds a pod template share.

pub mod defaults;
pub mod image;
pub mod qos;

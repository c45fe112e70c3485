//! What the tests share: labs, kubectl, waiting for conditions.

pub mod bench;
pub mod kubectl;
pub mod lab;
pub mod wait;

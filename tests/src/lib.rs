//! What the tests share: labs, kubectl, waiting for conditions.

pub mod bench;
pub mod drill;
pub mod kubectl;
pub mod lab;
pub mod leaks;
pub mod release;
pub mod wait;

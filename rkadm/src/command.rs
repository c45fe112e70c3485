//! Commands beside `init`, `join`, `reset` and `upgrade`.

pub mod config;
pub mod token;
pub mod version;

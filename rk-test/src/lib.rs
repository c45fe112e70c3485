//! A tiny HTTP, TCP and UDP server for tests and the tour: says who answered, who asked and with which environment,
//! and fails its probes on demand. Plain threads, no runtime: it must stay small in every pod.

pub mod http;
pub mod state;

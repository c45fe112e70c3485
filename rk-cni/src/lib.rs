//! Plugs pods into the network: the CNI plugin itself (synchronous, one process per call) and the agent that runs on each node.

pub mod agent;
pub mod install;
pub mod plugin;

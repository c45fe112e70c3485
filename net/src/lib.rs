//! How our node-side network programs speak to the kernel: links, addresses, routes, neighbours, namespaces, connection
//! tracking, iptables. Knows nothing about Kubernetes; synchronous, so that a CNI plugin needs no runtime.

pub mod address;
pub mod conntrack;
pub mod iptables;
pub mod link;
pub mod neighbour;
pub mod netlink;
pub mod netns;
pub mod nft;
pub mod route;
mod sys;
pub mod sysctl;
pub mod tc;

pub use netlink::{Error, Socket};
pub use netns::NetNs;

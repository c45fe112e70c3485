//! Sets up a cluster: kubeadm's commands, phases, configuration and files, on hosts with systemd and without.
//!
//! Facts about the host ([`host`]) and the configuration ([`config`]) decide, in pure functions, what is written and created
//! ([`manifest`], [`kubelet`], [`objects`], [`addons`], [`preflight`]); the phases ([`phase`]) carry it out in order.

pub mod addons;
pub mod apply;
pub mod balancer;
pub mod cli;
pub mod command;
pub mod config;
pub mod cri;
pub mod diagnose;
pub mod discovery;
pub mod endpoint;
pub mod etcd;
pub mod host;
pub mod https;
pub mod images;
pub mod init;
pub mod join;
pub mod jws;
pub mod kubelet;
pub mod lab;
pub mod manifest;
pub mod node;
pub mod objects;
pub mod patches;
pub mod phase;
pub mod preflight;
pub mod reset;
pub mod runtime;
pub mod say;
pub mod supervise;
pub mod token;
pub mod unfinished;
pub mod upgrade;
pub mod version;

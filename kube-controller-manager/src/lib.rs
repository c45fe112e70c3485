//! Moves the world toward spec: the controllers of a Kubernetes cluster, one file or folder each, in one table.

pub mod api_error;
pub mod bootstrap_signer;
pub mod bootstrap_token;
pub mod certificates;
pub mod clusterrole_aggregation;
pub mod config;
pub mod context;
pub mod controllers;
pub mod credentials;
pub mod deployment;
pub mod discovery;
pub mod expectations;
pub mod hash;
pub mod int_or_percent;
pub mod key;
pub mod manager;
pub mod options;
pub mod owner;
pub mod pod_control;
pub mod pods;
pub mod selector;
pub mod serving;

pub mod namespace;
pub mod replicaset;
pub mod root_ca_publisher;
pub mod serviceaccount;
pub mod token_cleaner;

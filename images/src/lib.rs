//! Builds OCI image archives from files on this machine: no Docker, no registry.
//!
//! [`catalog`] says what each image holds; [`archive`] writes one as an OCI layout in a tar, which `ctr images import` takes.

pub mod archive;
pub mod catalog;
pub mod libraries;

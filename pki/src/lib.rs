//! Issues keys and certificates: authorities, leaves, signing requests, kubeconfigs, and the exact tree of files that kubeadm writes.
//!
//! Everything here is synchronous. Time is always an argument, so that tests and renewals can choose it. Host files are reached through
//! [`Files`], which can keep its writes in memory (dry runs) or below another root.
//!
//! The usual way in: [`tree::ensure_all`] for a whole `/etc/kubernetes/pki`, [`Authority`] to sign, [`Request`] for CSRs,
//! [`Kubeconfig`] for kubeconfigs, [`serving::self_signed`] for a daemon without a certificate of its own.

pub mod authority;
pub mod certificate;
pub mod error;
pub mod expiration;
pub mod files;
pub mod key;
pub mod kubeconfig;
pub mod name;
pub mod pem;
pub mod request;
pub mod serving;
pub mod tree;
pub mod usage;

pub use authority::{Authority, Profile};
pub use certificate::Certificate;
pub use error::Error;
pub use files::Files;
pub use key::{Algorithm, KeyPool, PrivateKey};
pub use kubeconfig::Kubeconfig;
pub use name::{San, Subject};
pub use request::Request;
pub use usage::Usage;

/// How long a leaf certificate lives. kubeadm: `certificateValidityPeriod`, 8760h.
pub const LEAF_VALIDITY: std::time::Duration = std::time::Duration::from_secs(8760 * 3600);
/// How long an authority lives. kubeadm: `caCertificateValidityPeriod`, 87600h.
pub const CA_VALIDITY: std::time::Duration = std::time::Duration::from_secs(87600 * 3600);
/// How far before "now" a certificate starts to be valid, so that a host whose clock is a little behind accepts it. kubeadm: 5 minutes.
pub const BACKDATE: std::time::Duration = std::time::Duration::from_secs(300);

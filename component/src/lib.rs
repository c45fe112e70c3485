//! What every binary shares besides Kubernetes: flags, logs, metrics, health, tasks, shutdown, TLS serving.

pub mod duration;
pub mod flags;
pub mod health;
pub mod logging;
pub mod memory;
pub mod metrics;
pub mod serve;
pub mod tasks;
pub mod tls;
pub mod version;

use std::fmt::Write as _;

/// An error with its causes on one line, `outer: inner: innermost`, without repeats.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut out = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if !out.contains(&text) {
            let _ = write!(out, ": {text}");
        }
        source = cause.source();
    }
    out
}

/// Makes aws-lc-rs the process's one TLS provider. Call first in every `main`; calling again is harmless.
pub fn install_crypto() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

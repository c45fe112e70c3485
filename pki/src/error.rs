//! What can go wrong, in words that name the file and the remedy.

use std::path::PathBuf;

/// Nothing here is worth a retry without somebody changing a file first.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {action} {path}")]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{what} is not usable: {why}")]
    Malformed { what: &'static str, why: String },
    #[error("cannot generate a {0} key")]
    Generate(&'static str),
    #[error("cannot sign")]
    Sign,
    #[error("cannot encode {what}: {why}")]
    Encode { what: &'static str, why: String },
    #[error("unknown encryption algorithm {0:?}: choose one of RSA-2048, RSA-3072, RSA-4096, ECDSA-P256, ECDSA-P384")]
    Algorithm(String),
    #[error("the certificate request is not signed by the key that it asks a certificate for")]
    RequestSignature,
    /// A file of the tree is there but must not be used. `problem` says why, `remedy` what to do.
    #[error("{path}: {problem}; {remedy}")]
    Refused { path: PathBuf, problem: String, remedy: String },
}

impl Error {
    pub(crate) fn malformed(what: &'static str, why: impl ToString) -> Error {
        Error::Malformed { what, why: why.to_string() }
    }

    pub(crate) fn encode(what: &'static str, why: impl ToString) -> Error {
        Error::Encode { what, why: why.to_string() }
    }

    /// The error and its causes on one line.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        text
    }
}

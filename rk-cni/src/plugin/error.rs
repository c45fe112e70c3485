//! Errors as the CNI specification numbers and prints them.

use serde_json::{Value, json};

/// Well-known codes; from 100 on they are ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    IncompatibleVersion = 1,
    UnknownContainer = 3,
    InvalidEnvironment = 4,
    Io = 5,
    Decode = 6,
    InvalidConfig = 7,
    TryAgain = 11,
    NotAvailable = 50,
    /// No free address is left in the pod's subnet.
    Exhausted = 100,
    /// The kernel refused to make or change a device.
    Kernel = 101,
    /// CHECK found something that is not as ADD left it.
    Drifted = 102,
}

/// What went wrong, for the runtime's log and the pod's events.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct CniError {
    pub code: Code,
    pub message: String,
    pub details: String,
}

impl CniError {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: String::new() }
    }

    pub fn to_json(&self, version: &str) -> Value {
        json!({"cniVersion": version, "code": self.code as u32, "msg": self.message, "details": self.details})
    }
}

impl From<net::Error> for CniError {
    fn from(error: net::Error) -> Self {
        Self::new(Code::Kernel, error.to_string())
    }
}

impl From<net::iptables::Error> for CniError {
    fn from(error: net::iptables::Error) -> Self {
        let source = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
        Self::new(Code::Kernel, format!("{error}{source}"))
    }
}

/// An I/O error with what was being done.
pub fn io(doing: impl std::fmt::Display) -> impl FnOnce(std::io::Error) -> CniError {
    move |error| CniError::new(Code::Io, format!("failed to {doing}: {error}"))
}

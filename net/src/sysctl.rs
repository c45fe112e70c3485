//! Kernel settings under /proc/sys. Those under `net/` belong to the calling thread's network namespace.

use std::path::PathBuf;
use std::{fs, io};

fn path(name: &str) -> PathBuf {
    PathBuf::from("/proc/sys").join(name)
}

/// Reads a setting, e.g. `net/ipv4/ip_forward`.
pub fn read(name: &str) -> io::Result<String> {
    Ok(fs::read_to_string(path(name))?.trim().to_owned())
}

/// Writes a setting unless it already has the value (many are read-only where they are right).
pub fn ensure(name: &str, value: &str) -> io::Result<()> {
    if read(name)? == value {
        return Ok(());
    }
    fs::write(path(name), value)
        .map_err(|error| io::Error::new(error.kind(), format!("failed to set {name} to {value}: {error}")))
}

//! Reading and writing the tree, whichever version it is.

use std::io;
use std::path::{Path, PathBuf};

use super::values::Limits;
use super::{v1, v2};

/// A mounted tree.
pub enum Tree {
    /// One hierarchy per controller below the path.
    V1(PathBuf),
    /// One hierarchy at the path.
    V2(PathBuf),
}

/// What a cgroup uses.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Nanoseconds of CPU since it began.
    pub cpu_nanos: u64,
    /// Bytes charged.
    pub memory_usage: u64,
    /// Bytes that cannot be dropped at once: usage without inactive file pages.
    pub working_set: u64,
    /// Anonymous bytes.
    pub rss: u64,
    /// Page faults.
    pub faults: u64,
    /// Major ones.
    pub major_faults: u64,
    /// Bytes it may use; 0 for no limit.
    pub limit: u64,
    /// Processes in it and below.
    pub processes: u64,
    /// Bytes in swap.
    pub swap: u64,
}

impl Tree {
    /// The tree mounted at `mount`.
    pub fn detect(mount: &Path) -> Self {
        if mount.join("cgroup.controllers").exists() { Self::V2(mount.to_owned()) } else { Self::V1(mount.to_owned()) }
    }

    /// Makes the cgroup at `path` and writes its limits.
    pub fn ensure(&self, path: &str, limits: &Limits) -> io::Result<()> {
        match self {
            Self::V1(mount) => v1::ensure(mount, path, limits),
            Self::V2(mount) => v2::ensure(mount, path, limits),
        }
    }

    /// Removes the cgroup at `path` and all below, killing what is in it; fine where it is absent.
    pub fn remove(&self, path: &str) -> io::Result<()> {
        let dirs = match self {
            Self::V1(mount) => v1::all_hierarchies(mount),
            Self::V2(mount) => vec![mount.clone()],
        };
        for dir in dirs {
            remove_below(&join(&dir, path))?;
        }
        Ok(())
    }

    /// Names of the cgroups directly below `path`, in any hierarchy.
    pub fn children(&self, path: &str) -> Vec<String> {
        let dirs = match self {
            Self::V1(mount) => v1::all_hierarchies(mount),
            Self::V2(mount) => vec![mount.clone()],
        };
        let mut out: Vec<String> = dirs.iter().flat_map(|dir| subdirectories(&join(dir, path))).map(|(name, _)| name).collect();
        out.sort();
        out.dedup();
        out
    }

    /// What the cgroup at `path` uses; `None` where it is absent.
    pub fn usage(&self, path: &str) -> Option<Usage> {
        match self {
            Self::V1(mount) => v1::usage(mount, path),
            Self::V2(mount) => v2::usage(mount, path),
        }
    }
}

/// `path` below `dir`.
pub(super) fn join(dir: &Path, path: &str) -> PathBuf {
    dir.join(path.trim_start_matches('/'))
}

fn subdirectories(dir: &Path) -> Vec<(String, PathBuf)> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))
        .collect()
}

fn remove_below(dir: &Path) -> io::Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    for (_, child) in subdirectories(dir) {
        remove_below(&child)?;
    }
    const TRIES: u32 = 10;
    let mut tries = 0;
    loop {
        match std::fs::remove_dir(dir) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if tries == TRIES => return Err(error),
            Err(_) => {}
        }
        // Busy: processes that outlived their container.
        for pid in std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default().lines() {
            if let Ok(pid) = pid.parse::<i32>()
                && pid > 1
            {
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
            }
        }
        tries += 1;
        std::thread::sleep(std::time::Duration::from_millis(5 * u64::from(tries)));
    }
}

/// Reads a file with one number; `max` is none.
pub(super) fn number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// A value from a file of `key value` lines.
pub(super) fn keyed(text: &str, key: &str) -> u64 {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok()).unwrap_or(0)
}

/// Writes a value, naming the file in the error.
pub(super) fn write(path: &Path, value: impl ToString) -> io::Result<()> {
    std::fs::write(path, value.to_string()).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

//! Where a lab keeps its things, and what it knows about itself between commands.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// The directory of all labs. `RK_LAB_ROOT` overrides it; it must be on a disk (containerd's overlays need one).
const ROOT: &str = "/var/lib/rk/labs";

/// The paths of one lab.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The lab's name.
    pub lab: String,
    root: PathBuf,
}

/// What a lab is: written by `up`, read by all other commands.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
pub struct State {
    /// Our binaries, bound into every host.
    pub bins: PathBuf,
    /// Image archives, bound into every host.
    pub images: PathBuf,
    /// The loopback port that leads to an API server.
    pub port: u16,
    /// Its hosts.
    pub nodes: Vec<Node>,
}

/// One host.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct Node {
    /// Host name.
    pub name: String,
    /// Whether it is a control-plane host.
    pub control_plane: bool,
    /// Its number, 1 and up: the last byte of its address.
    pub index: u8,
}

impl Node {
    /// Its address on the switch.
    pub fn address(&self) -> String {
        format!("172.30.0.{}", self.index)
    }
}

impl Layout {
    /// The paths of the lab of this name.
    ///
    /// # Errors
    /// The name is not 1–20 lower-case letters, digits and dashes.
    pub fn new(lab: &str) -> Result<Self> {
        let fits =
            !lab.is_empty() && lab.len() <= 20 && lab.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !fits {
            bail!("lab name {lab:?}: 1 to 20 lower-case letters, digits and dashes");
        }
        let root = std::env::var_os("RK_LAB_ROOT").map_or_else(|| PathBuf::from(ROOT), PathBuf::from);
        Ok(Self { lab: lab.to_owned(), root: root.join(lab) })
    }

    /// The lab's directory.
    pub fn dir(&self) -> &Path {
        &self.root
    }

    /// A host's directory.
    pub fn node_dir(&self, node: &str) -> PathBuf {
        self.root.join("nodes").join(node)
    }

    /// A host's disks: what survives its power cord, below the path it has in the host.
    pub fn disk(&self, node: &str, path: &str) -> PathBuf {
        self.node_dir(node).join("disk").join(path.trim_start_matches('/'))
    }

    /// The file with the pid of a host's outer process.
    pub fn node_pid_file(&self, node: &str) -> PathBuf {
        self.node_dir(node).join("pid")
    }

    /// The file with the pid of the switch.
    pub fn keeper_pid_file(&self) -> PathBuf {
        self.root.join("switch.pid")
    }

    /// The cgroup of a host, by name, in every hierarchy.
    pub fn cgroup(&self, node: &str) -> String {
        format!("rk-lab-{}-{node}", self.lab)
    }

    /// What `up` wrote.
    ///
    /// # Errors
    /// There is no such lab.
    pub fn load(&self) -> Result<State> {
        let path = self.root.join("lab.json");
        let text = std::fs::read(&path)
            .with_context(|| format!("lab {:?} is not up (no {}); try: rkadm lab up", self.lab, path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is damaged; try: rkadm lab down", path.display()))
    }

    /// Remembers the lab.
    ///
    /// # Errors
    /// The disk is full or read-only.
    pub fn save(&self, state: &State) -> Result<()> {
        let (path, part) = (self.root.join("lab.json"), self.root.join("lab.json.part"));
        std::fs::write(&part, serde_json::to_vec_pretty(state)?).with_context(|| format!("write {}", part.display()))?;
        std::fs::rename(&part, &path).with_context(|| format!("write {}", path.display()))
    }

    /// The host of this name.
    ///
    /// # Errors
    /// The lab has none.
    pub fn node(&self, name: &str) -> Result<(State, Node)> {
        let state = self.load()?;
        let Some(node) = state.nodes.iter().find(|node| node.name == name).cloned() else {
            let names: Vec<_> = state.nodes.iter().map(|node| node.name.as_str()).collect();
            bail!("no host {name:?} in lab {:?}; there are {}", self.lab, names.join(", "));
        };
        Ok((state, node))
    }
}

/// The pid in a file, if that process still runs and is one of ours (its command line names `marker`).
pub fn live_pid(file: &Path, marker: &str) -> Option<i32> {
    let pid: i32 = std::fs::read_to_string(file).ok()?.trim().parse().ok()?;
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    String::from_utf8_lossy(&command).replace('\0', " ").contains(marker).then_some(pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_the_directory_are_refused() {
        for bad in ["", "..", "a/b", "A", "a b", "abcdefghijklmnopqrstu"] {
            assert!(Layout::new(bad).is_err(), "{bad}");
        }
        let layout = Layout::new("t-1").unwrap();
        assert!(layout.disk("cp1", "/etc/kubernetes").ends_with("t-1/nodes/cp1/disk/etc/kubernetes"));
    }

    #[test]
    fn a_pid_of_somebody_else_is_not_ours() {
        let file = std::env::temp_dir().join(format!("rk-lab-pid-{}", std::process::id()));
        std::fs::write(&file, std::process::id().to_string()).unwrap();
        assert_eq!(live_pid(&file, "surely not in any command line"), None);
        std::fs::remove_file(&file).unwrap();
    }
}

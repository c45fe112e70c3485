//! Which processor is on which core, socket and memory node. From /sys, or a tree like it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::cpuset::CpuSet;

/// A processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// Its number.
    pub id: usize,
    /// Its core; the same number only within a socket.
    pub core: usize,
    /// Its socket.
    pub socket: usize,
    /// Its memory node.
    pub numa: usize,
}

/// The machine's processors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// In order of their numbers.
    pub cpus: Vec<Cpu>,
}

impl Topology {
    /// Reads `/sys` at `root`; only `usable` processors count.
    pub fn read(root: &Path, usable: &CpuSet) -> Self {
        let number = |path: &Path| std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<usize>().ok());
        let mut nodes: BTreeMap<usize, CpuSet> = BTreeMap::new();
        for entry in std::fs::read_dir(root.join("devices/system/node")).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(id) = name.strip_prefix("node").and_then(|id| id.parse().ok()) else { continue };
            let list = std::fs::read_to_string(entry.path().join("cpulist")).unwrap_or_default();
            nodes.insert(id, CpuSet::parse(&list).unwrap_or_default());
        }
        let cpus = usable.0.iter().map(|id| {
            let dir = root.join(format!("devices/system/cpu/cpu{id}/topology"));
            Cpu {
                id: *id,
                core: number(&dir.join("core_id")).unwrap_or(*id),
                socket: number(&dir.join("physical_package_id")).unwrap_or(0),
                numa: nodes.iter().find(|(_, set)| set.0.contains(id)).map_or(0, |(node, _)| *node),
            }
        });
        Self { cpus: cpus.collect() }
    }

    /// All processors.
    pub fn all(&self) -> CpuSet {
        self.cpus.iter().map(|cpu| cpu.id).collect()
    }

    /// Memory nodes.
    pub fn nodes(&self) -> BTreeSet<usize> {
        self.cpus.iter().map(|cpu| cpu.numa).collect()
    }

    /// Processors on any of the memory nodes of `mask`.
    pub fn on(&self, mask: u64) -> CpuSet {
        self.cpus.iter().filter(|cpu| cpu.numa < 64 && mask & (1 << cpu.numa) != 0).map(|cpu| cpu.id).collect()
    }

    /// Threads of a core.
    pub fn threads_per_core(&self) -> usize {
        let cores: BTreeSet<(usize, usize)> = self.cpus.iter().map(|cpu| (cpu.socket, cpu.core)).collect();
        (self.cpus.len() / cores.len().max(1)).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_read() {
        let temp = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = temp.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        for (cpu, core, node) in [(0, 0, 0), (1, 0, 0), (2, 0, 1), (3, 0, 1)] {
            put(&format!("devices/system/cpu/cpu{cpu}/topology/core_id"), &core.to_string());
            put(&format!("devices/system/cpu/cpu{cpu}/topology/physical_package_id"), &node.to_string());
        }
        put("devices/system/node/node0/cpulist", "0-1\n");
        put("devices/system/node/node1/cpulist", "2-3\n");
        let topology = Topology::read(temp.path(), &CpuSet::parse("0-3").unwrap());
        assert_eq!(topology.threads_per_core(), 2);
        assert_eq!(topology.on(0b10).to_string(), "2-3");
        assert_eq!(topology.cpus[3], Cpu { id: 3, core: 0, socket: 1, numa: 1 });
    }
}

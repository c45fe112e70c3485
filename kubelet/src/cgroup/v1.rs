//! cgroup v1: one hierarchy per controller.

use std::io;
use std::path::{Path, PathBuf};

use super::tree::{Usage, join, keyed, number, write};
use super::values::Limits;

/// Controllers in which pods get cgroups, as runc does.
const CONTROLLERS: &[&str] = &[
    "cpu",
    "cpuacct",
    "cpuset",
    "memory",
    "devices",
    "freezer",
    "blkio",
    "pids",
    "hugetlb",
    "net_cls",
    "net_prio",
    "perf_event",
    "systemd",
];

/// The directories of the mounted hierarchies.
pub fn hierarchies(mount: &Path) -> Vec<PathBuf> {
    CONTROLLERS.iter().map(|name| mount.join(name)).filter(|dir| dir.is_dir()).collect()
}

/// The same and the one beside them that systemd's hybrid layout has (`unified`): runtimes leave directories there.
pub fn all_hierarchies(mount: &Path) -> Vec<PathBuf> {
    let mut out = hierarchies(mount);
    out.extend(Some(mount.join("unified")).filter(|dir| dir.is_dir()));
    out
}

/// Makes the cgroup in every hierarchy and writes its limits.
pub fn ensure(mount: &Path, path: &str, limits: &Limits) -> io::Result<()> {
    for dir in hierarchies(mount) {
        let cgroup = join(&dir, path);
        std::fs::create_dir_all(&cgroup)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", cgroup.display())))?;
        if dir.ends_with("cpuset") {
            inherit_cpuset(&dir, path)?;
        }
    }
    let set = |controller: &str, file: &str, value: Option<String>| match value {
        Some(value) if mount.join(controller).is_dir() => write(&join(&mount.join(controller), path).join(file), value),
        _ => Ok(()),
    };
    set("cpu", "cpu.shares", limits.cpu_shares.map(|value| value.to_string()))?;
    set("cpu", "cpu.cfs_period_us", limits.cpu_period.map(|value| value.to_string()))?;
    set("cpu", "cpu.cfs_quota_us", limits.cpu_quota.map(|value| value.to_string()))?;
    set("memory", "memory.limit_in_bytes", limits.memory.map(|value| value.to_string()))?;
    set("pids", "pids.max", limits.pids.map(|value| value.to_string()))
}

/// A new v1 cpuset is empty and holds no process: it takes its parent's, from the top down.
fn inherit_cpuset(dir: &Path, path: &str) -> io::Result<()> {
    let mut at = dir.to_owned();
    for part in path.split('/').filter(|part| !part.is_empty()) {
        let child = at.join(part);
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let (own, parent) = (child.join(file), at.join(file));
            let Ok(value) = std::fs::read_to_string(&own) else { continue };
            if value.trim().is_empty()
                && let Ok(value) = std::fs::read_to_string(&parent)
            {
                write(&own, value.trim())?;
            }
        }
        at = child;
    }
    Ok(())
}

/// What the cgroup uses.
pub fn usage(mount: &Path, path: &str) -> Option<Usage> {
    let file = |controller: &str, name: &str| join(&mount.join(controller), path).join(name);
    let memory_usage = number(&file("memory", "memory.usage_in_bytes"))?;
    let stat = std::fs::read_to_string(file("memory", "memory.stat")).unwrap_or_default();
    // No limit is a number near 2^63 here.
    const UNLIMITED: u64 = 1 << 62;
    Some(Usage {
        cpu_nanos: number(&file("cpuacct", "cpuacct.usage")).unwrap_or(0),
        memory_usage,
        working_set: memory_usage.saturating_sub(keyed(&stat, "total_inactive_file")),
        rss: keyed(&stat, "total_rss"),
        faults: keyed(&stat, "total_pgfault"),
        major_faults: keyed(&stat, "total_pgmajfault"),
        limit: number(&file("memory", "memory.limit_in_bytes")).filter(|limit| *limit < UNLIMITED).unwrap_or(0),
        processes: number(&file("pids", "pids.current")).unwrap_or(0),
        swap: keyed(&stat, "total_swap"),
    })
}

#[cfg(test)]
mod tests {
    use super::super::tree::Tree;
    use super::*;

    #[test]
    fn limits_and_usage_go_through_the_right_files() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["cpu", "cpuacct", "cpuset", "memory", "pids"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        std::fs::write(dir.path().join("cpuset/cpuset.cpus"), "0-3\n").unwrap();
        std::fs::create_dir_all(dir.path().join("cpuset/kubepods/podx")).unwrap();
        for part in ["kubepods", "kubepods/podx"] {
            std::fs::write(dir.path().join("cpuset").join(part).join("cpuset.cpus"), "\n").unwrap();
        }
        let tree = Tree::detect(dir.path());
        assert!(matches!(tree, Tree::V1(_)));
        let limits = Limits {
            cpu_shares: Some(102),
            cpu_quota: Some(5000),
            cpu_period: Some(100_000),
            memory: Some(1 << 20),
            pids: Some(9),
        };
        tree.ensure("/kubepods/podx", &limits).unwrap();
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(read("cpu/kubepods/podx/cpu.shares"), "102");
        assert_eq!(read("cpu/kubepods/podx/cpu.cfs_quota_us"), "5000");
        assert_eq!(read("memory/kubepods/podx/memory.limit_in_bytes"), "1048576");
        assert_eq!(read("pids/kubepods/podx/pids.max"), "9");
        assert_eq!(read("cpuset/kubepods/podx/cpuset.cpus"), "0-3");
        assert_eq!(tree.children("/kubepods"), ["podx"]);
        std::fs::write(dir.path().join("memory/kubepods/podx/memory.usage_in_bytes"), "1000\n").unwrap();
        std::fs::write(dir.path().join("memory/kubepods/podx/memory.stat"), "total_rss 300\ntotal_inactive_file 400\n").unwrap();
        let got = tree.usage("/kubepods/podx").unwrap();
        assert_eq!((got.memory_usage, got.working_set, got.rss, got.limit), (1000, 600, 300, 1 << 20));
    }
}

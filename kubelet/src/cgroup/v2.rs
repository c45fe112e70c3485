//! cgroup v2: one hierarchy.

use std::io;
use std::path::Path;

use super::tree::{Usage, join, keyed, number, write};
use super::values::{Limits, weight};

/// Controllers handed down to pods.
const CONTROLLERS: &[&str] = &["cpu", "cpuset", "io", "memory", "hugetlb", "pids"];

/// Makes the cgroup, hands the controllers down to it and writes its limits.
pub fn ensure(mount: &Path, path: &str, limits: &Limits) -> io::Result<()> {
    let mut at = mount.to_owned();
    for part in path.split('/').filter(|part| !part.is_empty()) {
        delegate(&at);
        at = at.join(part);
        if !at.is_dir() {
            std::fs::create_dir(&at).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", at.display())))?;
        }
    }
    delegate(&at);
    if let Some(shares) = limits.cpu_shares {
        write(&at.join("cpu.weight"), weight(shares))?;
    }
    if let Some(quota) = limits.cpu_quota {
        let quota = if quota < 0 { "max".to_owned() } else { quota.to_string() };
        write(&at.join("cpu.max"), format!("{quota} {}", limits.cpu_period.unwrap_or(100_000)))?;
    }
    if let Some(memory) = limits.memory {
        write(&at.join("memory.max"), memory)?;
    }
    if let Some(pids) = limits.pids {
        write(&at.join("pids.max"), pids)?;
    }
    Ok(())
}

/// Hands down each controller that is there; a missing one is the machine's affair.
fn delegate(dir: &Path) {
    let available = std::fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
    for name in CONTROLLERS.iter().filter(|name| available.split_whitespace().any(|have| have == **name)) {
        let _ = std::fs::write(dir.join("cgroup.subtree_control"), format!("+{name}"));
    }
}

/// What the cgroup uses.
pub fn usage(mount: &Path, path: &str) -> Option<Usage> {
    let dir = join(mount, path);
    let stat = std::fs::read_to_string(dir.join("memory.stat")).ok()?;
    // The root has no memory.current: the machine's own count stands in.
    let memory_usage = number(&dir.join("memory.current")).unwrap_or_else(|| keyed(&stat, "anon") + keyed(&stat, "file"));
    let cpu = std::fs::read_to_string(dir.join("cpu.stat")).unwrap_or_default();
    Some(Usage {
        cpu_nanos: keyed(&cpu, "usage_usec") * 1000,
        memory_usage,
        working_set: memory_usage.saturating_sub(keyed(&stat, "inactive_file")),
        rss: keyed(&stat, "anon"),
        faults: keyed(&stat, "pgfault"),
        major_faults: keyed(&stat, "pgmajfault"),
        limit: number(&dir.join("memory.max")).unwrap_or(0),
        processes: number(&dir.join("pids.current")).unwrap_or(0),
        swap: number(&dir.join("memory.swap.current")).unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::super::tree::Tree;
    use super::*;

    #[test]
    fn limits_and_usage_go_through_the_right_files() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("cgroup.controllers"), "cpu memory pids\n").unwrap();
        let tree = Tree::detect(dir.path());
        assert!(matches!(tree, Tree::V2(_)));
        let limits = Limits {
            cpu_shares: Some(1024),
            cpu_quota: Some(-1),
            cpu_period: Some(100_000),
            memory: Some(1 << 20),
            pids: Some(9),
        };
        tree.ensure("/kubepods.slice/kubepods-podx.slice", &limits).unwrap();
        let pod = dir.path().join("kubepods.slice/kubepods-podx.slice");
        let read = |name: &str| std::fs::read_to_string(pod.join(name)).unwrap();
        assert_eq!(read("cpu.weight"), "39");
        assert_eq!(read("cpu.max"), "max 100000");
        assert_eq!(read("memory.max"), "1048576");
        assert_eq!(
            std::fs::read_to_string(dir.path().join("cgroup.subtree_control")).unwrap(),
            "+pids",
            "the last of those handed down"
        );
        std::fs::write(pod.join("memory.current"), "1000\n").unwrap();
        std::fs::write(pod.join("memory.stat"), "anon 300\nfile 700\ninactive_file 400\n").unwrap();
        std::fs::write(pod.join("cpu.stat"), "usage_usec 5\n").unwrap();
        let got = tree.usage("/kubepods.slice/kubepods-podx.slice").unwrap();
        assert_eq!((got.cpu_nanos, got.working_set, got.rss), (5000, 600, 300));
    }
}

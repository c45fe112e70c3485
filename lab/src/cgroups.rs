//! A host's part of the machine's cgroups: one directory in every hierarchy, v1 or v2.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A mounted hierarchy.
#[derive(Clone, Debug, PartialEq)]
pub struct Hierarchy {
    /// Where it is mounted: `/sys/fs/cgroup/cpu`.
    pub mount: PathBuf,
    /// Whether it is the unified one.
    pub v2: bool,
    /// Mount options that name it: `cpu`, `name=systemd`; empty for v2.
    pub options: String,
}

/// All hierarchies of this machine.
///
/// # Errors
/// /proc/mounts cannot be read.
pub fn hierarchies() -> Result<Vec<Hierarchy>> {
    Ok(parse(&std::fs::read_to_string("/proc/self/mounts").context("read /proc/self/mounts")?))
}

fn parse(mounts: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mounts.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, mount, kind @ ("cgroup" | "cgroup2"), options, ..] = fields[..] else { continue };
        // What is not a generic mount option names the controllers.
        const GENERIC: [&str; 12] = [
            "rw",
            "ro",
            "relatime",
            "noatime",
            "nosuid",
            "nodev",
            "noexec",
            "nsdelegate",
            "memory_recursiveprot",
            "xattr",
            "seclabel",
            "release_agent",
        ];
        let own: Vec<&str> = options
            .split(',')
            .filter(|option| !GENERIC.contains(option) && !option.starts_with("release_agent=") && !option.starts_with("memory_"))
            .collect();
        let v2 = kind == "cgroup2";
        let hierarchy = Hierarchy { mount: PathBuf::from(mount), v2, options: if v2 { String::new() } else { own.join(",") } };
        if mount.starts_with("/sys/fs/cgroup") && !found.contains(&hierarchy) {
            found.push(hierarchy);
        }
    }
    found
}

/// Makes the cgroup `name` in every hierarchy.
///
/// # Errors
/// A hierarchy is read-only.
pub fn create(name: &str) -> Result<()> {
    for hierarchy in hierarchies()? {
        let dir = hierarchy.mount.join(name);
        std::fs::create_dir_all(&dir).with_context(|| format!("make cgroup {}", dir.display()))?;
        if hierarchy.v2 {
            // What the root offers to its children, the host offers to its own.
            let controllers = std::fs::read_to_string(hierarchy.mount.join("cgroup.controllers")).unwrap_or_default();
            for controller in controllers.split_whitespace() {
                let _ = std::fs::write(hierarchy.mount.join("cgroup.subtree_control"), format!("+{controller}"));
            }
        } else if hierarchy.options.split(',').any(|option| option == "cpuset") {
            // A v1 cpuset is born empty and takes no process until it has processors and memory nodes.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let value = std::fs::read_to_string(hierarchy.mount.join(file))?;
                std::fs::write(dir.join(file), value.trim())?;
            }
        }
    }
    Ok(())
}

/// Puts this process into the cgroup `name` of every hierarchy.
///
/// # Errors
/// The cgroup does not exist.
pub fn enter(name: &str) -> Result<()> {
    for hierarchy in hierarchies()? {
        let file = hierarchy.mount.join(name).join("cgroup.procs");
        std::fs::write(&file, std::process::id().to_string()).with_context(|| format!("write {}", file.display()))?;
    }
    Ok(())
}

/// Processes left in the cgroup `name`, in any hierarchy, in it or below.
pub fn processes(name: &str) -> Vec<i32> {
    let mut pids = Vec::new();
    for hierarchy in hierarchies().unwrap_or_default() {
        walk(&hierarchy.mount.join(name), &mut |dir| {
            let text = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
        });
    }
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// Removes the cgroup `name` and all below from every hierarchy. Returns the directories that would not go.
pub fn remove(name: &str) -> Vec<PathBuf> {
    let mut left = Vec::new();
    for hierarchy in hierarchies().unwrap_or_default() {
        // Deepest first, since a cgroup with children cannot go.
        walk(&hierarchy.mount.join(name), &mut |dir| {
            if std::fs::remove_dir(dir).is_err() && dir.exists() {
                left.push(dir.to_owned());
            }
        });
    }
    left
}

/// Visits `dir` and all directories below it, children before parents.
fn walk(dir: &Path, visit: &mut dyn FnMut(&Path)) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), visit);
        }
    }
    if dir.exists() {
        visit(dir);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_read_from_mounts_of_both_versions() {
        let text = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
            cgroup /sys/fs/cgroup/cpu cgroup rw,relatime,cpu 0 0\n\
            cgroup /sys/fs/cgroup/net cgroup rw,nosuid,net_cls,net_prio 0 0\n\
            cgroup /sys/fs/cgroup/systemd cgroup rw,xattr,release_agent=/x,name=systemd 0 0\n\
            cgroup2 /sys/fs/cgroup/unified cgroup2 rw,nsdelegate 0 0\n";
        let found = parse(text);
        let rows: Vec<_> = found.iter().map(|h| (h.mount.to_str().unwrap(), h.v2, h.options.as_str())).collect();
        assert_eq!(
            rows,
            [
                ("/sys/fs/cgroup/cpu", false, "cpu"),
                ("/sys/fs/cgroup/net", false, "net_cls,net_prio"),
                ("/sys/fs/cgroup/systemd", false, "name=systemd"),
                ("/sys/fs/cgroup/unified", true, ""),
            ]
        );
    }
}

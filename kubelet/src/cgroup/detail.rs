//! What only dashboards ask for: throttling, caches, limits as set, block I/O. Absent files count as nothing.

use std::path::{Path, PathBuf};

use super::tree::{Tree, join, keyed, number};

/// The rest of what the kernel tells about a cgroup.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Detail {
    /// Nanoseconds in user mode.
    pub cpu_user: u64,
    /// Nanoseconds in the kernel.
    pub cpu_system: u64,
    /// Periods with a quota that passed.
    pub periods: u64,
    /// Those in which it ran out.
    pub throttled_periods: u64,
    /// Nanoseconds it waited for the next.
    pub throttled: u64,
    /// Bytes of page cache.
    pub cache: u64,
    /// Bytes of mapped files.
    pub mapped: u64,
    /// Bytes in swap.
    pub swap: u64,
    /// The largest usage so far.
    pub max_usage: u64,
    /// How often the limit was hit.
    pub limit_hits: u64,
    /// Processes killed for memory.
    pub oom_kills: u64,
    /// CPU weight, as v1's shares.
    pub shares: u64,
    /// Microseconds per period; -1 for no limit.
    pub quota: i64,
    /// Microseconds.
    pub period: u64,
    /// Bytes; 0 for no limit.
    pub memory_limit: u64,
    /// Bytes below which memory is not reclaimed; 0 for none.
    pub memory_reservation: u64,
    /// Bytes of memory and swap together (v1) or of swap (v2); 0 for no limit.
    pub swap_limit: u64,
    /// Tasks it may have; 0 for no limit.
    pub pids_limit: u64,
    /// Block I/O by device.
    pub io: Vec<Io>,
}

/// Block I/O of a device.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Io {
    /// `8:0`.
    pub device: String,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
}

/// v1 writes "no limit" as a number near 2^63.
const UNLIMITED: u64 = 1 << 62;

impl Tree {
    /// Details of the cgroup at `path`.
    pub fn detail(&self, path: &str) -> Detail {
        match self {
            Self::V1(mount) => v1(mount, path),
            Self::V2(mount) => v2(&join(mount, path)),
        }
    }

    /// Processes in the cgroup at `path` itself.
    pub fn processes(&self, path: &str) -> Vec<i32> {
        let dir: PathBuf = match self {
            Self::V1(mount) => join(&mount.join("memory"), path),
            Self::V2(mount) => join(mount, path),
        };
        read(&dir.join("cgroup.procs")).lines().filter_map(|line| line.trim().parse().ok()).collect()
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn v1(mount: &Path, path: &str) -> Detail {
    let file = |controller: &str, name: &str| join(&mount.join(controller), path).join(name);
    let value = |controller: &str, name: &str| number(&file(controller, name)).unwrap_or(0);
    let bounded = |value: u64| if value < UNLIMITED { value } else { 0 };
    let (acct, cpu, memory) =
        (read(&file("cpuacct", "cpuacct.stat")), read(&file("cpu", "cpu.stat")), read(&file("memory", "memory.stat")));
    const NANOS_PER_TICK: u64 = 10_000_000;
    let mut io: Vec<Io> = Vec::new();
    for (name, bytes) in [("blkio.throttle.io_service_bytes_recursive", true), ("blkio.throttle.io_serviced_recursive", false)] {
        for line in read(&file("blkio", name)).lines() {
            let mut words = line.split_whitespace();
            let (Some(device), Some(what), Some(count)) = (words.next(), words.next(), words.next()) else { continue };
            let count = count.parse().unwrap_or(0);
            let index = io.iter().position(|row| row.device == device).unwrap_or_else(|| {
                io.push(Io { device: device.to_owned(), ..Default::default() });
                io.len() - 1
            });
            match (what, bytes) {
                ("Read", true) => io[index].read_bytes = count,
                ("Write", true) => io[index].write_bytes = count,
                ("Read", false) => io[index].reads = count,
                ("Write", false) => io[index].writes = count,
                _ => {}
            }
        }
    }
    Detail {
        cpu_user: keyed(&acct, "user") * NANOS_PER_TICK,
        cpu_system: keyed(&acct, "system") * NANOS_PER_TICK,
        periods: keyed(&cpu, "nr_periods"),
        throttled_periods: keyed(&cpu, "nr_throttled"),
        throttled: keyed(&cpu, "throttled_time"),
        cache: keyed(&memory, "total_cache"),
        mapped: keyed(&memory, "total_mapped_file"),
        swap: keyed(&memory, "total_swap"),
        max_usage: value("memory", "memory.max_usage_in_bytes"),
        limit_hits: value("memory", "memory.failcnt"),
        oom_kills: keyed(&read(&file("memory", "memory.oom_control")), "oom_kill"),
        shares: value("cpu", "cpu.shares"),
        quota: read(&file("cpu", "cpu.cfs_quota_us")).trim().parse().unwrap_or(-1),
        period: value("cpu", "cpu.cfs_period_us"),
        memory_limit: bounded(value("memory", "memory.limit_in_bytes")),
        memory_reservation: bounded(value("memory", "memory.soft_limit_in_bytes")),
        swap_limit: bounded(value("memory", "memory.memsw.limit_in_bytes")),
        pids_limit: value("pids", "pids.max"),
        io,
    }
}

fn v2(dir: &Path) -> Detail {
    let value = |name: &str| number(&dir.join(name)).unwrap_or(0);
    let (cpu, memory, events) = (read(&dir.join("cpu.stat")), read(&dir.join("memory.stat")), read(&dir.join("memory.events")));
    let max = read(&dir.join("cpu.max"));
    let mut max = max.split_whitespace();
    let (quota, period) = (max.next().and_then(|text| text.parse().ok()).unwrap_or(-1), max.next());
    let weight = value("cpu.weight");
    let io = read(&dir.join("io.stat"))
        .lines()
        .filter_map(|line| {
            let (device, rest) = line.split_once(' ')?;
            let of = |key: &str| {
                let mut pairs = rest.split_whitespace().filter_map(|pair| pair.split_once('='));
                pairs.find(|(name, _)| *name == key).and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
            };
            Some(Io {
                device: device.to_owned(),
                read_bytes: of("rbytes"),
                write_bytes: of("wbytes"),
                reads: of("rios"),
                writes: of("wios"),
            })
        })
        .collect();
    Detail {
        cpu_user: keyed(&cpu, "user_usec") * 1000,
        cpu_system: keyed(&cpu, "system_usec") * 1000,
        periods: keyed(&cpu, "nr_periods"),
        throttled_periods: keyed(&cpu, "nr_throttled"),
        throttled: keyed(&cpu, "throttled_usec") * 1000,
        cache: keyed(&memory, "file"),
        mapped: keyed(&memory, "file_mapped"),
        swap: value("memory.swap.current"),
        max_usage: value("memory.peak"),
        limit_hits: keyed(&events, "max"),
        oom_kills: keyed(&events, "oom_kill"),
        // The inverse of upstream's CpuSharesToCpuWeight.
        shares: if weight == 0 { 0 } else { 2 + ((weight - 1) * 262_142) / 9999 },
        quota,
        period: period.and_then(|text| text.parse().ok()).unwrap_or(0),
        memory_limit: value("memory.max"),
        memory_reservation: value("memory.low"),
        swap_limit: value("memory.swap.max"),
        pids_limit: value("pids.max"),
        io,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, Tree) {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let tree = Tree::detect(dir.path());
        (dir, tree)
    }

    #[test]
    fn both_versions_tell_the_same() {
        let (_v1, old) = tree(&[
            ("cpuacct/p/cpuacct.stat", "user 3\nsystem 1\n"),
            ("cpu/p/cpu.stat", "nr_periods 10\nnr_throttled 4\nthrottled_time 5000\n"),
            ("cpu/p/cpu.cfs_quota_us", "-1\n"),
            ("cpu/p/cpu.cfs_period_us", "100000\n"),
            ("memory/p/memory.stat", "total_cache 70\ntotal_mapped_file 7\ntotal_swap 2\n"),
            ("memory/p/memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory/p/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"),
            ("memory/p/cgroup.procs", "12\n13\n"),
            ("blkio/p/blkio.throttle.io_service_bytes_recursive", "8:0 Read 10\n8:0 Write 20\nTotal 30\n"),
        ]);
        let (_v2, new) = tree(&[
            ("cgroup.controllers", "cpu memory\n"),
            ("p/cpu.stat", "usage_usec 9\nuser_usec 30000\nsystem_usec 10000\nnr_periods 10\nnr_throttled 4\nthrottled_usec 5\n"),
            ("p/cpu.max", "max 100000\n"),
            ("p/memory.stat", "file 70\nfile_mapped 7\n"),
            ("p/memory.swap.current", "2\n"),
            ("p/memory.max", "max\n"),
            ("p/memory.events", "low 0\nhigh 0\nmax 0\noom 2\noom_kill 2\n"),
            ("p/cgroup.procs", "12\n13\n"),
            ("p/io.stat", "8:0 rbytes=10 wbytes=20 rios=0 wios=0 dbytes=0 dios=0\n"),
        ]);
        let got = old.detail("/p");
        assert_eq!(got, new.detail("/p"));
        assert_eq!((got.cpu_user, got.throttled, got.quota, got.memory_limit, got.oom_kills), (30_000_000, 5000, -1, 0, 2));
        assert_eq!(got.io, [Io { device: "8:0".into(), read_bytes: 10, write_bytes: 20, ..Default::default() }]);
        assert_eq!(old.processes("/p"), [12, 13]);
        assert_eq!(new.processes("/p"), [12, 13]);
    }
}

//! CPU and memory of a process, from /proc.

use std::path::Path;
use std::time::Duration;

/// Clock ticks per second of /proc/<pid>/stat: 100 on Linux.
const TICK: Duration = Duration::from_millis(10);

/// CPU time of a process so far, user and system.
pub fn cpu(pid: u32) -> Duration {
    // Nanosecond precision where the scheduler tells it; threads summed.
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let nanos: u64 = threads
        .filter_map(|thread| std::fs::read_to_string(thread.path().join("schedstat")).ok())
        .filter_map(|text| text.split_whitespace().next()?.parse::<u64>().ok())
        .sum();
    if nanos > 0 {
        return Duration::from_nanos(nanos);
    }
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<u32> = stat
        .rsplit_once(')')
        .map(|(_, rest)| rest.split_whitespace().skip(11).take(2).filter_map(|n| n.parse().ok()).collect())
        .unwrap_or_default();
    TICK * fields.iter().sum()
}

/// A line of /proc/<pid>/status in kB, as bytes: `VmRSS`, `VmHWM`.
pub fn memory(pid: u32, line: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let found = status.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(':'));
    found.and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Forgets the peak of a process's memory: `VmHWM` starts anew from what it has now.
///
/// # Errors
/// The process is gone, or not ours.
pub fn reset_peak(pid: u32) -> std::io::Result<()> {
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5")
}

/// Pids of processes whose program file has this name.
pub fn named(name: &str) -> Vec<u32> {
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let first = command.split(|byte| *byte == 0).next().unwrap_or_default();
        Path::new(&*String::from_utf8_lossy(first)).file_name().is_some_and(|file| file == name)
    })
    .collect()
}

//! Metrics in Prometheus' text form. Names, labels and buckets are upstream's; what upstream lacks has the prefix `rk_`.
//!
//! Make metrics once, at start or in a `LazyLock`, with the macros of the re-exported crate
//! (`prometheus::register_int_counter_vec!` …) — they land in the default registry that [`render`] prints.

pub use prometheus;
use prometheus::{Encoder, TextEncoder};

/// Everything registered so far, as the body of `/metrics` (`text/plain; version=0.0.4`), with the process's own figures.
pub fn render() -> String {
    let mut out = Vec::with_capacity(16 * 1024);
    let _ = TextEncoder::new().encode(&prometheus::gather(), &mut out);
    let mut text = String::from_utf8(out).unwrap_or_default();
    text.push_str(&process());
    text
}

/// `process_*`: CPU, memory, descriptors, start time, read from /proc/self.
fn process() -> String {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Fields after the command's closing parenthesis; utime is the 14th of the line, stime the 15th, starttime 22nd, vsize 23rd, rss 24th.
    let fields: Vec<&str> = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default();
    let field = |index: usize| fields.get(index - 3).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    const TICKS_PER_SECOND: f64 = 100.0;
    const PAGE_BYTES: f64 = 4096.0;
    let descriptors = std::fs::read_dir("/proc/self/fd").map(|dir| dir.count()).unwrap_or(0);
    let boot = std::fs::read_to_string("/proc/stat")
        .ok()
        .and_then(|text| text.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse::<f64>().ok()))
        .unwrap_or(0.0);
    let rows = [
        (
            "process_cpu_seconds_total",
            "counter",
            "Total user and system CPU time spent in seconds.",
            (field(14) + field(15)) / TICKS_PER_SECOND,
        ),
        ("process_resident_memory_bytes", "gauge", "Resident memory size in bytes.", field(24) * PAGE_BYTES),
        ("process_virtual_memory_bytes", "gauge", "Virtual memory size in bytes.", field(23)),
        ("process_open_fds", "gauge", "Number of open file descriptors.", descriptors as f64),
        (
            "process_start_time_seconds",
            "gauge",
            "Start time of the process since unix epoch in seconds.",
            boot + field(22) / TICKS_PER_SECOND,
        ),
    ];
    rows.iter().map(|(name, kind, help, value)| format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n")).collect()
}

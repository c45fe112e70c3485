//! What the user reads: a line per phase on stdout, warnings on stderr.

use std::time::Instant;

/// `[phase] text`.
pub fn phase(phase: &str, text: &str) {
    println!("[{phase}] {text}");
}

/// A line with `[WARNING …]`, in kubeadm's form.
pub fn warning(text: &str) {
    let (check, rest) = text.split_once("]: ").map_or(("", text), |(check, rest)| (check.trim_start_matches('['), rest));
    if check.is_empty() { eprintln!("\t[WARNING]: {rest}") } else { eprintln!("\t[WARNING {check}]: {rest}") }
}

/// Seconds since a start, for the end of a line: `(0.42s)`.
pub fn took(since: Instant) -> String {
    format!("({:.2}s)", since.elapsed().as_secs_f64())
}

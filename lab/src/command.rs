//! Running the system's tools, with errors that show what was run.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Runs a tool to its end; its output.
///
/// # Errors
/// The tool is missing or fails; the text holds its own words.
pub fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("run {program}: not installed? On Debian: apt-get install {}", package(program)))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        bail!("{program} {}: {}", arguments.join(" "), if words.is_empty() { output.status.to_string() } else { words });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether a tool is on the PATH.
pub fn exists(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

/// The Debian package that has a tool.
pub fn package(program: &str) -> &str {
    match program {
        "ip" => "iproute2",
        "nsenter" | "unshare" => "util-linux",
        "ctr" => "containerd",
        other => other,
    }
}

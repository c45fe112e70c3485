//! Which shared libraries a program of the distribution needs.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The shared libraries of `program` (also a plug-in such as `libxt_statistic.so`), by `ldd`. None for a static program.
///
/// # Errors
/// `ldd` is missing, or a library is.
pub fn of(program: &Path) -> Result<BTreeSet<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("run ldd (Debian: package libc-bin)")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let all = format!("{text}{}", String::from_utf8_lossy(&output.stderr));
    if all.contains("statically linked") || all.contains("not a dynamic executable") {
        return Ok(BTreeSet::new());
    }
    if !output.status.success() {
        bail!("ldd {}: {}", program.display(), all.trim());
    }
    parse(&text).with_context(|| format!("libraries of {}", program.display()))
}

fn parse(text: &str) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for line in text.lines() {
        if line.contains("not found") {
            bail!("missing library: {}", line.trim());
        }
        // `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)` or `/lib64/ld-linux-x86-64.so.2 (0x…)`; vdso has no path.
        if let Some(path) = line.split_whitespace().find(|word| word.starts_with('/')) {
            found.insert(PathBuf::from(path));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ldd_output_is_read_and_missing_libraries_are_errors() {
        let text = "\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x2)\n\t/lib64/ld.so.2 (0x3)\n";
        let found: Vec<_> = parse(text).unwrap().into_iter().collect();
        assert_eq!(found, [PathBuf::from("/lib/x/libc.so.6"), PathBuf::from("/lib64/ld.so.2")]);
        assert!(parse("libfoo.so => not found\n").is_err());
    }
}

//! Mounts, by the kernel's own table.

use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags};

/// Mount points at or below `dir`, deepest first.
pub fn points_below(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    Ok(below(&table, dir))
}

fn below(table: &str, dir: &Path) -> Vec<PathBuf> {
    let mut out: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|field| PathBuf::from(unescape(field)))
        .filter(|point| point.starts_with(dir))
        .collect();
    // Later mounts cover earlier ones: the table's order reversed, deepest first.
    out.reverse();
    out.sort_by_key(|point| std::cmp::Reverse(point.components().count()));
    out
}

/// The table writes space, tab, newline and backslash as octal.
fn unescape(field: &str) -> String {
    let mut out = Vec::with_capacity(field.len());
    let bytes = field.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let octal = (bytes[at] == b'\\')
            .then(|| field.get(at + 1..at + 4))
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(byte) => {
                out.push(byte);
                at += 4;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Whether something is mounted exactly at `path`.
pub fn is_mount_point(path: &Path) -> bool {
    points_below(path).is_ok_and(|points| points.iter().any(|point| point == path))
}

/// Unmounts everything at or below `dir`.
pub fn unmount_below(dir: &Path) -> io::Result<()> {
    for point in points_below(dir)? {
        unmount(&point)?;
    }
    Ok(())
}

/// Unmounts; a busy mount is detached, so that it goes with its last user.
pub fn unmount(point: &Path) -> io::Result<()> {
    match nix::mount::umount2(point, MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => Ok(()),
        Err(nix::Error::EBUSY) => {
            nix::mount::umount2(point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW).map_err(io::Error::from)
        }
        Err(error) => Err(io::Error::other(format!("unmount {}: {error}", point.display()))),
    }
}

/// Mounts a tmpfs at `dir`, `size` bytes at most (0: the kernel's default).
pub fn tmpfs(dir: &Path, size: i64) -> io::Result<()> {
    let options = if size > 0 { format!("size={size}") } else { String::new() };
    nix::mount::mount(Some("tmpfs"), dir, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
        .map_err(|error| io::Error::other(format!("mount tmpfs at {}: {error}", dir.display())))
}

/// Binds `source` to `target`, which exists and is of the same kind.
pub fn bind(source: &Path, target: &Path) -> io::Result<()> {
    nix::mount::mount(Some(source), target, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .map_err(|error| io::Error::other(format!("bind {} to {}: {error}", source.display(), target.display())))
}

/// Mounts a file system of a kind with options in the words of mount(8).
pub fn filesystem(kind: &str, source: &str, target: &Path, options: &[String]) -> io::Result<()> {
    let mut command = std::process::Command::new("mount");
    command.args(["-t", kind]);
    if !options.is_empty() {
        command.args(["-o", &options.join(",")]);
    }
    let output = command.arg(source).arg(target).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("mount failed: {}", String::from_utf8_lossy(&output.stderr).trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read_deepest_first() {
        let table = "1 0 0:1 / / rw - ext4 x rw\n2 1 0:2 / /a/b rw - tmpfs t rw\n3 2 0:3 / /a/b/c\\040d rw - tmpfs t rw\n4 1 0:4 / /ab rw - tmpfs t rw\n";
        assert_eq!(below(table, Path::new("/a")), [PathBuf::from("/a/b/c d"), PathBuf::from("/a/b")]);
    }
}

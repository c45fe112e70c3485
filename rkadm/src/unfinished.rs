//! A mark on the host while `init` or `join` is at work: after a power cut the same command goes on where it was, instead of taking its own
//! half-made files for somebody else's cluster.

use std::path::PathBuf;

use anyhow::Context as _;
use pki::Files;

const DIR: &str = "/var/lib/rk/unfinished";

fn path(command: &str) -> PathBuf {
    PathBuf::from(DIR).join(command)
}

/// Whether an earlier run of this command was cut off.
pub fn is(files: &Files, command: &str) -> bool {
    files.exists(path(command))
}

/// Marks the host. A dry run marks nothing.
pub fn begin(files: &mut Files, command: &str) -> anyhow::Result<()> {
    if files.is_dry() {
        return Ok(());
    }
    Ok(files.write(path(command), pki::files::PUBLIC, format!("rkadm {command} is at work, or was when the power went\n"))?)
}

/// The command has ended well.
pub fn end(files: &Files, command: &str) -> anyhow::Result<()> {
    if files.is_dry() {
        return Ok(());
    }
    let path = files.real(&path(command));
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// The keys of authorities that an interrupted `init` had made without getting to their certificates: nothing was signed with them.
pub fn forget_lone_keys(files: &Files, pki_dir: &std::path::Path) -> anyhow::Result<()> {
    for item in pki::tree::CERTIFICATES.iter().filter(|item| item.authority.is_none()) {
        let key = item.key_path(pki_dir);
        if files.exists(&key) && !files.exists(item.certificate_path(pki_dir)) {
            let key = files.real(&key);
            std::fs::remove_file(&key).with_context(|| format!("cannot remove {}", key.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_is_there_from_begin_to_end() {
        let root = tempfile::tempdir().unwrap();
        let mut files = Files::below(root.path());
        assert!(!is(&files, "init"));
        begin(&mut files, "init").unwrap();
        assert!(is(&files, "init") && !is(&files, "join"));
        files.write("/p/ca.key", pki::files::SECRET, "x").unwrap();
        files.write("/p/etcd/ca.key", pki::files::SECRET, "x").unwrap();
        files.write("/p/etcd/ca.crt", pki::files::PUBLIC, "x").unwrap();
        forget_lone_keys(&files, std::path::Path::new("/p")).unwrap();
        assert!(!files.exists("/p/ca.key") && files.exists("/p/etcd/ca.key"));
        end(&files, "init").unwrap();
        end(&files, "init").unwrap();
        assert!(!is(&files, "init"));
    }
}

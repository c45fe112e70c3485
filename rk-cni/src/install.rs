//! Puts the plugin binary where container runtimes look for it.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// `rk-cni install`
#[derive(clap::Args, Debug, Clone)]
pub struct Options {
    /// Directory of CNI plugins.
    #[arg(long, default_value = "/opt/cni/bin")]
    pub bin_dir: PathBuf,
}

/// Copies this program to `dir` as `rk-cni` and, where nobody else has put one, as `loopback`, which containerd runs for
/// every pod. A runtime never sees a half-written file; an identical one is left alone.
pub fn install(dir: &Path) -> io::Result<()> {
    let program = env::current_exe()?;
    fs::create_dir_all(dir)?;
    let target = dir.join("rk-cni");
    copy(&program, &target)?;
    let loopback = dir.join("loopback");
    // Ours is a link to `rk-cni`; anything else there belongs to somebody else.
    if fs::symlink_metadata(&loopback).is_err() {
        std::os::unix::fs::symlink("rk-cni", &loopback)?;
    }
    Ok(())
}

fn copy(program: &Path, target: &Path) -> io::Result<()> {
    let wanted = fs::read(program)?;
    if fs::read(target).is_ok_and(|present| present == wanted) {
        return Ok(());
    }
    let temporary = target.with_extension("new");
    fs::write(&temporary, &wanted)?;
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o755))?;
    fs::rename(&temporary, target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn somebody_elses_loopback_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("loopback"), "theirs").unwrap();
        install(dir.path()).unwrap();
        install(dir.path()).unwrap();
        assert_eq!(fs::read(dir.path().join("loopback")).unwrap(), b"theirs");
        assert!(dir.path().join("rk-cni").metadata().unwrap().permissions().mode() & 0o111 != 0);
        let fresh = tempfile::tempdir().unwrap();
        install(fresh.path()).unwrap();
        assert_eq!(fs::read_link(fresh.path().join("loopback")).unwrap(), Path::new("rk-cni"));
    }
}

//! `subPath`: a part of a volume, found without following a symlink out of it.
//!
//! A container can plant symlinks in its volumes. Every step from the volume's root down is opened without following links, and what
//! was opened is bound by its descriptor, so that no later swap matters. Upstream: pkg/volume/util/subpath

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, SFlag, fstat, mkdirat};

use super::mount;

/// Binds `sub` of the volume at `root` to a place of its own below `pod_dir` and tells where. Missing directories are made.
///
/// # Errors
/// The path leaves the volume or meets a symlink; or the kernel refuses.
pub fn prepare(root: &Path, sub: &str, pod_dir: &Path, volume: &str, container: &str, index: usize) -> io::Result<PathBuf> {
    let target = pod_dir.join("volume-subpaths").join(volume).join(container).join(index.to_string());
    if mount::is_mount_point(&target) {
        return Ok(target);
    }
    let opened = open_beneath(root, sub)?;
    let kind = fstat(&opened).map_err(io::Error::from)?.st_mode;
    if let Some(parent) = target.parent() {
        std::fs::create_dir_all(parent)?;
    }
    if SFlag::from_bits_truncate(kind & SFlag::S_IFMT.bits()) == SFlag::S_IFDIR {
        std::fs::create_dir_all(&target)?;
    } else if !target.exists() {
        std::fs::File::create(&target)?;
    }
    mount::bind(Path::new(&format!("/proc/self/fd/{}", opened.as_raw_fd())), &target)?;
    Ok(target)
}

/// Opens `sub` below `root`, step by step.
fn open_beneath(root: &Path, sub: &str) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    // The root itself may be a link (a hostPath): that is the pod author's own choice.
    let mut at = open(root, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).map_err(io::Error::from)?;
    for component in Path::new(sub).components() {
        let name = match component {
            Component::Normal(name) => name,
            Component::CurDir => continue,
            _ => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("subPath {sub:?} must not contain '..' or be absolute"),
                ));
            }
        };
        let next = match openat(&at, name, flags, Mode::empty()) {
            Err(nix::Error::ENOENT) => {
                match mkdirat(&at, name, Mode::from_bits_truncate(0o750)) {
                    Ok(()) | Err(nix::Error::EEXIST) => {}
                    Err(error) => return Err(error.into()),
                }
                openat(&at, name, flags, Mode::empty())
            }
            other => other,
        }
        .map_err(io::Error::from)?;
        let kind = fstat(&next).map_err(io::Error::from)?.st_mode & SFlag::S_IFMT.bits();
        if kind == SFlag::S_IFLNK.bits() {
            // Volumes written atomically consist of links into themselves; anything else is refused.
            let resolved = std::fs::canonicalize(root.join(sub))?;
            let root = std::fs::canonicalize(root)?;
            if !resolved.starts_with(&root) {
                return Err(io::Error::new(
                    io::ErrorKind::PermissionDenied,
                    format!("subpath {sub:?} not within volume path {:?}", root.display()),
                ));
            }
            let inner = resolved.strip_prefix(&root).map_err(io::Error::other)?.to_string_lossy().into_owned();
            return open_strictly(&root, &inner);
        }
        at = next;
    }
    Ok(at)
}

/// As above, and a symlink anywhere is an error.
fn open_strictly(root: &Path, sub: &str) -> io::Result<OwnedFd> {
    let mut at = open(root, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).map_err(io::Error::from)?;
    for component in Path::new(sub).components() {
        at = openat(&at, component.as_os_str(), OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())
            .map_err(io::Error::from)?;
        let kind = fstat(&at).map_err(io::Error::from)?.st_mode & SFlag::S_IFMT.bits();
        if kind == SFlag::S_IFLNK.bits() {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("symlink at subpath {sub:?}")));
        }
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn seen(fd: &OwnedFd) -> PathBuf {
        std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap()
    }

    #[test]
    fn a_link_cannot_lead_out() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("volume");
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::fs::create_dir(temp.path().join("secret")).unwrap();
        symlink("../secret", root.join("out")).unwrap();
        symlink("/etc", root.join("a/etc")).unwrap();
        symlink("b", root.join("a/in")).unwrap();
        assert_eq!(seen(&open_beneath(&root, "a/b").unwrap()), root.join("a/b"));
        assert_eq!(seen(&open_beneath(&root, "a/in").unwrap()), root.join("a/b"), "links within are fine");
        assert_eq!(seen(&open_beneath(&root, "new/deep").unwrap()), root.join("new/deep"));
        for bad in ["out", "a/etc", "../secret", "/etc", "a/etc/passwd"] {
            assert!(open_beneath(&root, bad).is_err(), "{bad}");
        }
    }
}

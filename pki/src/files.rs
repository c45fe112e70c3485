//! Files of a host: written whole or not at all, below a root, or only in memory for a dry run.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::Error;

/// Mode of secrets: keys, kubeconfigs, manifests.
pub const SECRET: u32 = 0o600;
/// Mode of what everybody may read: certificates, configuration.
pub const PUBLIC: u32 = 0o644;

/// A view of the host's files. Paths are absolute, as the host sees them.
#[derive(Debug, Default)]
pub struct Files {
    root: Option<PathBuf>,
    /// `Some` in a dry run: what would have been written (`None` as content: removed).
    overlay: Option<BTreeMap<PathBuf, Option<Written>>>,
}

/// What a dry run would have written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    pub mode: u32,
    pub content: Vec<u8>,
}

impl Files {
    /// The host's files.
    pub fn host() -> Files {
        Files::default()
    }

    /// The files below `root` (kubeadm's `--rootfs`).
    pub fn below(root: impl Into<PathBuf>) -> Files {
        Files { root: Some(root.into()), overlay: None }
    }

    /// The same files for reading; writes stay in memory.
    pub fn dry(self) -> Files {
        Files { overlay: Some(BTreeMap::new()), ..self }
    }

    pub fn is_dry(&self) -> bool {
        self.overlay.is_some()
    }

    /// What a dry run has collected, in path order.
    pub fn written(&self) -> impl Iterator<Item = (&Path, &Written)> {
        self.overlay.iter().flatten().filter_map(|(path, written)| Some((path.as_path(), written.as_ref()?)))
    }

    /// Where a path lies in truth.
    pub fn real(&self, path: &Path) -> PathBuf {
        match &self.root {
            Some(root) => root.join(path.strip_prefix("/").unwrap_or(path)),
            None => path.to_path_buf(),
        }
    }

    /// The content, or `None` when there is no such file.
    pub fn read(&self, path: impl AsRef<Path>) -> Result<Option<Vec<u8>>, Error> {
        let path = path.as_ref();
        if let Some(known) = self.overlay.as_ref().and_then(|overlay| overlay.get(path)) {
            return Ok(known.as_ref().map(|written| written.content.clone()));
        }
        match std::fs::read(self.real(path)) {
            Ok(content) => Ok(Some(content)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::File { action: "read", path: path.to_path_buf(), source }),
        }
    }

    pub fn exists(&self, path: impl AsRef<Path>) -> bool {
        let path = path.as_ref();
        match self.overlay.as_ref().and_then(|overlay| overlay.get(path)) {
            Some(known) => known.is_some(),
            None => self.real(path).exists(),
        }
    }

    /// Writes a file whole: beside its place, synced, then renamed, so that a crash leaves the old file or the new one.
    /// Missing directories are made (0755).
    pub fn write(&mut self, path: impl AsRef<Path>, mode: u32, content: impl AsRef<[u8]>) -> Result<(), Error> {
        let (path, content) = (path.as_ref(), content.as_ref());
        if let Some(overlay) = &mut self.overlay {
            overlay.insert(path.to_path_buf(), Some(Written { mode, content: content.to_vec() }));
            return Ok(());
        }
        write_whole(&self.real(path), mode, content).map_err(|source| Error::File {
            action: "write",
            path: path.to_path_buf(),
            source,
        })
    }

    /// Removes a file; one that is not there is fine.
    pub fn remove(&mut self, path: impl AsRef<Path>) -> Result<(), Error> {
        let path = path.as_ref();
        if let Some(overlay) = &mut self.overlay {
            overlay.insert(path.to_path_buf(), None);
            return Ok(());
        }
        match std::fs::remove_file(self.real(path)) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(Error::File { action: "remove", path: path.to_path_buf(), source }),
        }
    }
}

fn write_whole(path: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(parent)?;
    let name = path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not a file name"))?;
    // A leading dot keeps the kubelet's manifest directory watcher from taking the unfinished file for a pod.
    let beside = parent.join(format!(".{}.{}.tmp", name.to_string_lossy(), std::process::id()));
    let result = (|| {
        let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&beside)?;
        file.set_permissions(std::fs::Permissions::from_mode(mode))?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&beside, path)
    })();
    if result.is_err() {
        let _ = std::fs::remove_file(&beside);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_written_with_their_mode_and_leave_nothing_beside() {
        let dir = tempfile::tempdir().unwrap();
        let mut files = Files::below(dir.path());
        files.write("/a/b/secret", SECRET, "one").unwrap();
        files.write("/a/b/secret", SECRET, "two").unwrap();
        assert_eq!(files.read("/a/b/secret").unwrap().unwrap(), b"two");
        let real = dir.path().join("a/b");
        assert_eq!(std::fs::metadata(real.join("secret")).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(std::fs::read_dir(real).unwrap().count(), 1);
        files.remove("/a/b/secret").unwrap();
        files.remove("/a/b/secret").unwrap();
        assert_eq!(files.read("/a/b/secret").unwrap(), None);
    }

    #[test]
    fn a_dry_run_reads_its_own_writes_and_touches_nothing() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("old"), "old").unwrap();
        let mut files = Files::below(dir.path()).dry();
        files.write("/new", PUBLIC, "new").unwrap();
        files.remove("/old").unwrap();
        assert!(files.exists("/new") && !files.exists("/old"));
        assert!(dir.path().join("old").exists() && !dir.path().join("new").exists());
        assert_eq!(files.written().count(), 1);
    }
}

//! Directories whose whole content changes at once: `..data` points to a directory with the files, names in the volume point through it.
//!
//! A reader that holds `..data` open sees one version; the switch is one rename. Upstream: pkg/volume/util/atomic_writer.go

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path};

/// A file to be: its bytes and mode.
#[derive(Clone, Debug, PartialEq)]
pub struct File {
    /// Content.
    pub data: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
}

/// Files by their path within the volume.
pub type Payload = BTreeMap<String, File>;

const DATA: &str = "..data";
const DATA_TMP: &str = "..data_tmp";

/// Makes `dir` hold exactly `payload`; whether anything changed. `own` is given each new directory before it is shown
/// (ownership).
///
/// # Errors
/// A path leaves the volume, or the disk fails; the old content stays.
pub fn write(dir: &Path, payload: &Payload, own: impl Fn(&Path) -> io::Result<()>) -> io::Result<bool> {
    for path in payload.keys() {
        validate(path)?;
    }
    let current = std::fs::read_link(dir.join(DATA)).ok().map(|name| dir.join(name));
    if let Some(current) = &current
        && same(current, payload)
        && visible_names(payload).iter().all(|name| dir.join(name).symlink_metadata().is_ok())
    {
        return Ok(false);
    }
    let name = fresh_name(dir);
    let fresh = dir.join(&name);
    std::fs::create_dir(&fresh)?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o755))?;
    for (path, file) in payload {
        let at = fresh.join(path);
        if let Some(parent) = at.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(&at, &file.data)?;
        std::fs::set_permissions(&at, std::fs::Permissions::from_mode(file.mode))?;
    }
    own(&fresh)?;
    let tmp = dir.join(DATA_TMP);
    let _ = std::fs::remove_file(&tmp);
    symlink(&name, &tmp)?;
    std::fs::rename(&tmp, dir.join(DATA))?;
    let wanted = visible_names(payload);
    for name in &wanted {
        let link = dir.join(name);
        if link.symlink_metadata().is_err() {
            symlink(Path::new(DATA).join(name), &link)?;
        }
    }
    for entry in std::fs::read_dir(dir)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") && !wanted.contains(&name) {
            let _ = std::fs::remove_file(entry.path());
        }
        // Older versions, and what a crash left.
        if name.starts_with("..") && name != DATA && dir.join(&name) != fresh {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    Ok(true)
}

fn validate(path: &str) -> io::Result<()> {
    let invalid = |why: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, format!("invalid path {path:?}: {why}")));
    if path.is_empty() || Path::new(path).is_absolute() {
        return invalid("must be relative");
    }
    for component in Path::new(path).components() {
        match component {
            Component::Normal(_) | Component::CurDir => {}
            _ => return invalid("must not contain '..'"),
        }
    }
    if path.starts_with("..") {
        return invalid("must not start with '..'");
    }
    Ok(())
}

fn visible_names(payload: &Payload) -> BTreeSet<String> {
    payload
        .keys()
        .filter_map(|path| Path::new(path).components().next())
        .map(|first| first.as_os_str().to_string_lossy().into_owned())
        .collect()
}

fn fresh_name(dir: &Path) -> String {
    let now = jiff::Timestamp::now();
    let stamp = now.strftime("%Y_%m_%d_%H_%M_%S").to_string();
    let mut number = now.subsec_nanosecond();
    loop {
        let name = format!("..{stamp}.{number}");
        if !dir.join(&name).exists() {
            return name;
        }
        number += 1;
    }
}

fn same(current: &Path, payload: &Payload) -> bool {
    let mut seen = 0;
    let mut dirs = vec![current.to_owned()];
    while let Some(dir) = dirs.pop() {
        let Ok(entries) = std::fs::read_dir(&dir) else { return false };
        for entry in entries.flatten() {
            let path = entry.path();
            if path.is_dir() {
                dirs.push(path);
                continue;
            }
            let Ok(relative) = path.strip_prefix(current) else { return false };
            let Some(file) = payload.get(relative.to_string_lossy().as_ref()) else { return false };
            if std::fs::read(&path).ok().as_ref() != Some(&file.data) {
                return false;
            }
            seen += 1;
        }
    }
    seen == payload.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        files.iter().map(|(path, data)| ((*path).to_owned(), File { data: data.as_bytes().to_vec(), mode: 0o640 })).collect()
    }

    #[test]
    fn content_changes_at_once_and_old_versions_go() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path();
        let read = |name: &str| std::fs::read_to_string(dir.join(name)).ok();
        let none = |_: &Path| Ok(());
        assert!(write(dir, &payload(&[("a", "1"), ("d/b", "2")]), none).unwrap());
        assert_eq!((read("a"), read("d/b")), (Some("1".into()), Some("2".into())));
        assert_eq!(std::fs::metadata(dir.join("a")).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(!write(dir, &payload(&[("a", "1"), ("d/b", "2")]), none).unwrap(), "nothing changed");
        let before = std::fs::read_link(dir.join(DATA)).unwrap();
        assert!(write(dir, &payload(&[("a", "3"), ("c", "4")]), none).unwrap());
        assert_eq!((read("a"), read("c"), read("d/b")), (Some("3".into()), Some("4".into()), None));
        assert!(!dir.join(before).exists());
        assert!(dir.join("d").symlink_metadata().is_err());
        assert!(write(dir, &Payload::new(), none).unwrap());
        assert_eq!(read("a"), None);
    }

    #[test]
    fn paths_out_of_the_volume_are_refused() {
        let temp = tempfile::tempdir().unwrap();
        for path in ["../x", "/x", "a/../../x", "", "..x"] {
            assert!(write(temp.path(), &payload(&[(path, "1")]), |_| Ok(())).is_err(), "{path}");
        }
    }
}

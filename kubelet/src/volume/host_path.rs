//! `hostPath`. Upstream: pkg/volume/hostpath

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use futures::FutureExt;

use super::{Context, Plugin, Ready, VolumeError};

/// See [`super::PLUGINS`].
pub const PLUGIN: Plugin = Plugin {
    name: "kubernetes.io~host-path",
    can: |volume| volume.host_path.is_some(),
    set_up: |context| async move { set_up(&context) }.boxed(),
    refreshes: false,
};

fn set_up(context: &Context<'_>) -> Result<Ready, VolumeError> {
    let Some(source) = &context.volume.host_path else { return Err(VolumeError("not a hostPath".into())) };
    check(Path::new(&source.path), source.type_.as_deref().unwrap_or(""))?;
    Ok(Ready { path: source.path.clone().into(), ..Default::default() })
}

/// Whether the path is what `kind` asks for, made where it may be.
pub(super) fn check(path: &Path, kind: &str) -> Result<(), VolumeError> {
    let wrong = |what: &str| Err(VolumeError(format!("hostPath type check failed: {} is not a {what}", path.display())));
    let meta = std::fs::metadata(path).ok();
    let is = |test: fn(&std::fs::Metadata) -> bool| meta.as_ref().is_some_and(test);
    match kind {
        "" => Ok(()),
        "DirectoryOrCreate" => {
            if meta.is_none() {
                std::fs::create_dir_all(path)?;
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?;
                return Ok(());
            }
            if is(|meta| meta.is_dir()) { Ok(()) } else { wrong("directory") }
        }
        "Directory" => {
            if is(|meta| meta.is_dir()) {
                Ok(())
            } else {
                wrong("directory")
            }
        }
        "FileOrCreate" => {
            if meta.is_none() {
                std::fs::File::create(path)?;
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644))?;
                return Ok(());
            }
            if is(|meta| meta.is_file()) { Ok(()) } else { wrong("file") }
        }
        "File" => {
            if is(|meta| meta.is_file()) {
                Ok(())
            } else {
                wrong("file")
            }
        }
        "Socket" => {
            if is(|meta| meta.file_type().is_socket()) {
                Ok(())
            } else {
                wrong("socket file")
            }
        }
        "CharDevice" => {
            if is(|meta| meta.file_type().is_char_device()) {
                Ok(())
            } else {
                wrong("character device")
            }
        }
        "BlockDevice" => {
            if is(|meta| meta.file_type().is_block_device()) {
                Ok(())
            } else {
                wrong("block device")
            }
        }
        other => Err(VolumeError(format!("{other} is an invalid volume type"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_checked_and_made() {
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().join(name);
        std::fs::write(at("file"), "x").unwrap();
        for (name, kind, ok) in [
            ("none", "", true),
            ("none", "Directory", false),
            ("none", "File", false),
            ("file", "File", true),
            ("file", "Directory", false),
            ("new/dir", "DirectoryOrCreate", true),
            ("new/dir", "Directory", true),
            ("new/dir", "FileOrCreate", false),
            ("new/file", "FileOrCreate", true),
            ("file", "Socket", false),
            ("file", "CharDevice", false),
            ("file", "What", false),
        ] {
            assert_eq!(check(&at(name), kind).is_ok(), ok, "{name} {kind}");
        }
        assert!(check(Path::new("/dev/null"), "CharDevice").is_ok());
        assert_eq!(
            check(&at("file"), "Directory").unwrap_err().0,
            format!("hostPath type check failed: {} is not a directory", at("file").display())
        );
    }
}

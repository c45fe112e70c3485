//! One image, one layer, one tar file: the OCI image layout, reproducible byte for byte.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;
use sha2::{Digest, Sha256};

/// What an image holds and how it starts.
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// The full reference: `registry.k8s.io/pause:3.10.1`.
    pub reference: String,
    /// Path in the image → what is there. Parent directories are made.
    pub entries: BTreeMap<String, Entry>,
    /// ENTRYPOINT; empty for none.
    pub entrypoint: Vec<String>,
    /// CMD; empty for none.
    pub command: Vec<String>,
    /// Environment, `NAME=value`.
    pub environment: Vec<String>,
    /// Numeric user, empty for root.
    pub user: String,
}

/// One file of an image.
#[derive(Clone, Debug)]
pub enum Entry {
    /// A copy of a file here, executable if that is.
    File(PathBuf),
    /// This text, mode 0644.
    Text(String),
    /// A symbolic link to this target.
    Link(String),
    /// An empty directory with this mode.
    Directory(u32),
}

/// Writes `image` to `output`.
///
/// # Errors
/// A file of the image cannot be read, or the archive cannot be written; nothing is left behind then.
pub fn write(image: &Image, output: &Path) -> Result<()> {
    let part = output.with_extension("tar.part");
    let written = write_part(image, &part).with_context(|| format!("build image {}", image.reference));
    match written {
        Ok(()) => std::fs::rename(&part, output).with_context(|| format!("write {}", output.display())),
        Err(error) => {
            let _ = std::fs::remove_file(&part);
            Err(error)
        }
    }
}

fn write_part(image: &Image, part: &Path) -> Result<()> {
    let layer_path = part.with_extension("layer");
    let layer = layer(image, &layer_path);
    let result = layer.and_then(|(digest, size)| assemble(image, part, &layer_path, &digest, size));
    let _ = std::fs::remove_file(&layer_path);
    result
}

/// The one layer as a plain tar file; its digest and size.
fn layer(image: &Image, path: &Path) -> Result<(String, u64)> {
    let mut tar = tar::Builder::new(BufWriter::new(File::create(path)?));
    let mut directories: BTreeMap<String, u32> = BTreeMap::new();
    for (name, entry) in &image.entries {
        let mut parent = Path::new(name.trim_start_matches('/')).parent();
        while let Some(dir) = parent.filter(|dir| !dir.as_os_str().is_empty()) {
            directories.entry(dir.to_string_lossy().into_owned()).or_insert(0o755);
            parent = dir.parent();
        }
        if let Entry::Directory(mode) = entry {
            directories.insert(name.trim_matches('/').to_owned(), *mode);
        }
    }
    for (name, mode) in &directories {
        let mut header = header(tar::EntryType::Directory, *mode, 0);
        tar.append_data(&mut header, format!("{name}/"), std::io::empty())?;
    }
    for (name, entry) in &image.entries {
        let name = name.trim_start_matches('/');
        match entry {
            Entry::Directory(_) => {}
            Entry::Text(text) => {
                let mut header = header(tar::EntryType::Regular, 0o644, text.len() as u64);
                tar.append_data(&mut header, name, text.as_bytes())?;
            }
            Entry::Link(target) => {
                let mut header = header(tar::EntryType::Symlink, 0o777, 0);
                tar.append_link(&mut header, name, target)?;
            }
            Entry::File(source) => {
                use std::os::unix::fs::PermissionsExt;
                let file = File::open(source).with_context(|| format!("read {}", source.display()))?;
                let meta = file.metadata()?;
                let mode = if meta.permissions().mode() & 0o111 == 0 { 0o644 } else { 0o755 };
                let mut header = header(tar::EntryType::Regular, mode, meta.len());
                tar.append_data(&mut header, name, file)?;
            }
        }
    }
    tar.into_inner()?.flush()?;
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => hash.update(&buffer[..n]),
        }
    }
    Ok((hex::encode(hash.finalize()), file.seek(SeekFrom::End(0))?))
}

/// Time 0 and no owner's names: the same input gives the same bytes.
fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn assemble(image: &Image, part: &Path, layer: &Path, digest: &str, size: u64) -> Result<()> {
    let mut config = json!({"Env": image.environment});
    for (key, value) in [("Entrypoint", &image.entrypoint), ("Cmd", &image.command)] {
        if !value.is_empty() {
            config[key] = json!(value);
        }
    }
    if !image.user.is_empty() {
        config["User"] = json!(image.user);
    }
    let platform_arch = component::version::arch();
    let config = serde_json::to_vec(&json!({
        "architecture": platform_arch, "os": "linux", "created": "1970-01-01T00:00:00Z", "config": config,
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "rk-images"}],
    }))?;
    let config_digest = hex::encode(Sha256::digest(&config));
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": format!("sha256:{config_digest}"), "size": config.len()},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": format!("sha256:{digest}"), "size": size}],
    }))?;
    let manifest_digest = hex::encode(Sha256::digest(&manifest));
    let index = serde_json::to_vec(&json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": format!("sha256:{manifest_digest}"), "size": manifest.len(),
            "platform": {"architecture": platform_arch, "os": "linux"},
            "annotations": {"io.containerd.image.name": image.reference, "org.opencontainers.image.ref.name": image.reference},
        }],
    }))?;
    let mut tar = tar::Builder::new(BufWriter::new(File::create(part)?));
    let mut put =
        |name: &str, bytes: &[u8]| tar.append_data(&mut header(tar::EntryType::Regular, 0o644, bytes.len() as u64), name, bytes);
    put("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    put("index.json", &index)?;
    put(&format!("blobs/sha256/{manifest_digest}"), &manifest)?;
    put(&format!("blobs/sha256/{config_digest}"), &config)?;
    let mut layer_header = header(tar::EntryType::Regular, 0o644, size);
    tar.append_data(&mut layer_header, format!("blobs/sha256/{digest}"), File::open(layer)?)?;
    tar.into_inner()?.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_an_oci_layout_and_the_same_every_time() {
        let dir = std::env::temp_dir().join(format!("rk-images-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let mut image = Image { reference: "example.test/a:1".into(), command: vec!["/bin/a".into()], ..Image::default() };
        image.entries.insert("/etc/motd".into(), Entry::Text("hello".into()));
        image.entries.insert("/bin/sh".into(), Entry::Link("busybox".into()));
        let (one, two) = (dir.join("one.tar"), dir.join("two.tar"));
        write(&image, &one).unwrap();
        write(&image, &two).unwrap();
        assert_eq!(std::fs::read(&one).unwrap(), std::fs::read(&two).unwrap());
        let mut archive = tar::Archive::new(File::open(&one).unwrap());
        let names: Vec<String> =
            archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string()).collect();
        assert_eq!(names[..2], ["oci-layout", "index.json"]);
        assert_eq!(names.iter().filter(|name| name.starts_with("blobs/sha256/")).count(), 3);
        image.entries.insert("/x".into(), Entry::File("/no/such/file".into()));
        let error = format!("{:#}", write(&image, &dir.join("three.tar")).unwrap_err());
        assert!(error.contains("/no/such/file"), "{error}");
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 2, "nothing half-written is left");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}

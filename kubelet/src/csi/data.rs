//! What is mounted, on disk: `vol_data.json` beside every mount, in upstream's form, so that either kubelet unmounts the other's.
//!
//! Upstream: pkg/volume/csi/csi_util.go

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

const FILE: &str = "vol_data.json";
/// Directory of CSI volumes below a pod's `volumes`.
pub const PLUGIN_DIR: &str = "kubernetes.io~csi";

/// One mount.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Data {
    /// Name of the PersistentVolume, or of the pod's own volume.
    #[serde(rename = "specVolID")]
    pub spec_id: String,
    /// The driver's name for the volume.
    #[serde(rename = "volumeHandle")]
    pub volume_handle: String,
    /// The driver.
    #[serde(rename = "driverName")]
    pub driver_name: String,
    /// This node.
    #[serde(rename = "nodeName")]
    pub node_name: String,
    /// Name of the VolumeAttachment; empty where the driver needs none.
    #[serde(rename = "attachmentID")]
    pub attachment_id: String,
    /// `Persistent` or `Ephemeral`.
    #[serde(rename = "volumeLifecycleMode")]
    pub mode: String,
}

/// A mount of a pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The directory of the volume: holds the file and `mount`.
    pub dir: PathBuf,
    /// What the file says.
    pub data: Data,
}

/// Writes the file into `dir`.
///
/// # Errors
/// The disk fails.
pub fn write(dir: &Path, data: &Data) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let tmp = dir.join(".vol_data.tmp");
    std::fs::write(&tmp, serde_json::to_vec(data).map_err(std::io::Error::other)?)?;
    std::fs::rename(tmp, dir.join(FILE))
}

/// Reads the file in `dir`.
pub fn read(dir: &Path) -> Option<Data> {
    serde_json::from_slice(&std::fs::read(dir.join(FILE)).ok()?).ok()
}

/// Removes the file and the directory, both if there.
///
/// # Errors
/// Something else is in the directory.
pub fn remove(dir: &Path) -> std::io::Result<()> {
    let gone = |result: std::io::Result<()>| match result {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    gone(std::fs::remove_file(dir.join(FILE)))?;
    gone(std::fs::remove_dir(dir))
}

/// The mounts of a pod.
pub fn of_pod(pod_dir: &Path) -> Vec<Found> {
    let entries = std::fs::read_dir(pod_dir.join("volumes").join(PLUGIN_DIR)).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let dir = entry.path();
            Some(Found { data: read(&dir)?, dir })
        })
        .collect()
}

/// The mounts of all pods, with their uid.
pub fn of_all_pods(root: &Path) -> Vec<(String, Found)> {
    let pods = std::fs::read_dir(root.join("pods")).into_iter().flatten().flatten();
    pods.flat_map(|entry| {
        let uid = entry.file_name().to_string_lossy().into_owned();
        of_pod(&entry.path()).into_iter().map(move |found| (uid.clone(), found))
    })
    .collect()
}

fn staged_root(root: &Path) -> PathBuf {
    root.join("plugins/kubernetes.io/csi")
}

/// The directory of a volume staged on the node; `globalmount` in it is the mount.
pub fn staging_dir(root: &Path, driver: &str, handle: &str) -> PathBuf {
    staged_root(root).join(driver).join(hex::encode(Sha256::digest(handle)))
}

/// All volumes staged on the node.
pub fn staged(root: &Path) -> Vec<Found> {
    let drivers = std::fs::read_dir(staged_root(root)).into_iter().flatten().flatten();
    drivers
        .flat_map(|driver| std::fs::read_dir(driver.path()).into_iter().flatten().flatten())
        .filter_map(|entry| {
            let dir = entry.path();
            Some(Found { data: read(&dir)?, dir })
        })
        .collect()
}

/// The name of the VolumeAttachment that the attach-detach controller makes.
pub fn attachment_name(handle: &str, driver: &str, node: &str) -> String {
    format!("csi-{}", hex::encode(Sha256::digest(format!("{handle}{driver}{node}"))))
}

/// The handle of a volume that lives with its pod.
pub fn ephemeral_handle(uid: &str, volume: &str) -> String {
    format!("csi-{}", hex::encode(Sha256::digest(format!("{uid}{volume}"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_found_again() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path();
        let data =
            Data { volume_handle: "h".into(), driver_name: "d".into(), attachment_id: "csi-1".into(), ..Default::default() };
        let dir = root.join("pods/u/volumes").join(PLUGIN_DIR).join("pv");
        write(&dir, &data).unwrap();
        assert_eq!(of_all_pods(root), [("u".to_owned(), Found { dir: dir.clone(), data: data.clone() })]);
        let staging = staging_dir(root, "d", "h");
        write(&staging, &data).unwrap();
        assert_eq!(staged(root).len(), 1);
        std::fs::create_dir(dir.join("mount")).unwrap();
        assert!(remove(&dir).is_err(), "something is still mounted there");
        std::fs::remove_dir(dir.join("mount")).unwrap();
        // The file went first: what is half removed is not a volume any more.
        assert!(of_all_pods(root).is_empty());
        remove(&dir).unwrap();
        remove(&dir).unwrap();
        let text = serde_json::to_string(&data).unwrap();
        assert!(text.contains("\"specVolID\"") && text.contains("\"volumeLifecycleMode\""), "{text}");
    }

    #[test]
    fn names_are_upstreams() {
        let name = attachment_name("vol", "driver", "node");
        assert_eq!((name.len(), &name[..4]), (68, "csi-"));
        assert_eq!(name[4..], hex::encode(Sha256::digest("voldrivernode")));
    }
}

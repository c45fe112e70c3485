//! What a pod's volumes take, measured when asked for and remembered for `volumeStatsAggPeriod`.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::kubelet::Kubelet;
use crate::node::facts;
use crate::pod::{self, spec};

/// A volume's measure.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measure {
    /// Name in the pod.
    pub name: String,
    /// The claim it is of.
    pub claim: Option<String>,
    /// Bytes of its file system.
    pub capacity: i64,
    /// Bytes still free there.
    pub available: i64,
    /// Bytes it takes.
    pub used: i64,
    /// Inodes of its file system.
    pub inodes: i64,
    /// Those still free.
    pub inodes_free: i64,
    /// Those it takes.
    pub inodes_used: i64,
}

/// Bytes and inodes of a directory tree.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Size {
    /// Bytes on disk.
    pub bytes: u64,
    /// Files and directories.
    pub inodes: u64,
}

type Cache = HashMap<String, (Instant, Vec<Measure>)>;

/// Measures by pod uid.
static CACHE: std::sync::LazyLock<Mutex<Cache>> = std::sync::LazyLock::new(Mutex::default);

/// The measures of a pod's volumes that are on this node's disks or mounted here.
pub async fn of_pod(kubelet: &Kubelet, pod: &Pod) -> Vec<Measure> {
    let period = kubelet.config.kubelet.volume_stats_agg_period.0.max(Duration::from_secs(1));
    let uid = pod::uid(pod).to_owned();
    if let Some((at, kept)) = CACHE.lock().get(&uid)
        && at.elapsed() < period
    {
        return kept.clone();
    }
    let (dir, pod) = (kubelet.config.pod_dir(&uid), pod.clone());
    let measured = tokio::task::spawn_blocking(move || measure(&dir, &pod)).await.unwrap_or_default();
    let mut cache = CACHE.lock();
    cache.retain(|_, (at, _)| at.elapsed() < period * 2);
    cache.insert(uid, (Instant::now(), measured.clone()));
    measured
}

/// Measures a pod's volumes below its directory now.
pub fn measure(dir: &Path, pod: &Pod) -> Vec<Measure> {
    let own_device = std::fs::metadata(dir).map_or(0, |meta| meta.dev());
    let mut out = Vec::new();
    for (plugin, name, path) in directories(dir) {
        let Some(volume) = spec(pod).volumes.iter().flatten().find(|volume| volume.name == name) else { continue };
        let path = if plugin == "kubernetes.io~csi" { path.join("mount") } else { path };
        let Some((capacity, available, inodes, inodes_free)) = facts::file_system(&path) else { continue };
        let claim = match (&volume.persistent_volume_claim, &volume.ephemeral) {
            (Some(source), _) => Some(source.claim_name.clone()),
            (None, Some(_)) => Some(format!("{}-{name}", pod::name(pod))),
            (None, None) => None,
        };
        // On a file system of its own the file system knows; else the files are counted.
        let mounted = std::fs::metadata(&path).map_or(0, |meta| meta.dev()) != own_device;
        let size = if mounted { Size::default() } else { size(&path) };
        let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let (used, inodes_used) =
            if mounted { (capacity - available, inodes - inodes_free) } else { (number(size.bytes), number(size.inodes)) };
        out.push(Measure { name, claim, capacity, available, used, inodes, inodes_free, inodes_used });
    }
    out.sort_by(|a, b| a.name.cmp(&b.name));
    out
}

/// Plugin, volume and path of what is below `volumes`.
fn directories(dir: &Path) -> Vec<(String, String, PathBuf)> {
    let entries = |path: &Path| std::fs::read_dir(path).into_iter().flatten().flatten();
    let name = |entry: &std::fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    entries(&dir.join("volumes"))
        .flat_map(|plugin| {
            let kind = name(&plugin);
            entries(&plugin.path()).map(move |volume| (kind.clone(), name(&volume), volume.path())).collect::<Vec<_>>()
        })
        .collect()
}

/// The size of what is at and below `dir`, on its own file system, each hard-linked file once.
pub fn size(dir: &Path) -> Size {
    let Ok(meta) = std::fs::symlink_metadata(dir) else { return Size::default() };
    let mut out = Size::default();
    add(dir, &meta, meta.dev(), &mut HashSet::new(), &mut out);
    out
}

fn add(path: &Path, meta: &std::fs::Metadata, device: u64, linked: &mut HashSet<u64>, out: &mut Size) {
    if meta.dev() != device || (meta.nlink() > 1 && !meta.is_dir() && !linked.insert(meta.ino())) {
        return;
    }
    out.bytes += meta.blocks() * 512;
    out.inodes += 1;
    if meta.is_dir() {
        for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
            if let Ok(meta) = entry.metadata() {
                add(&entry.path(), &meta, device, linked, out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn volumes_on_the_nodes_disk_are_counted_by_their_files() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("volumes/kubernetes.io~empty-dir/v");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("a"), vec![1; 64 * 1024]).unwrap();
        std::fs::hard_link(dir.join("a"), dir.join("b")).unwrap();
        std::fs::create_dir_all(temp.path().join("volumes/kubernetes.io~empty-dir/stranger")).unwrap();
        let pod: Pod =
            serde_json::from_value(json!({"spec": {"containers": [], "volumes": [{"name": "v", "emptyDir": {}}]}})).unwrap();
        let got = measure(temp.path(), &pod);
        assert_eq!((got.len(), got[0].inodes_used), (1, 2));
        assert!((64 * 1024..80 * 1024).contains(&got[0].used), "{}", got[0].used);
        assert!(got[0].capacity > got[0].available);
    }
}

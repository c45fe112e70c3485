//! Limits on what a pod keeps on the node's disk. Upstream: pkg/kubelet/eviction localStorageEviction

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use client::events::Kind;
use k8s_openapi::api::core::v1::Pod;

use crate::kubelet::Shared;
use crate::pod::resources::{Limits, of_pod};
use crate::pod::{self, quantity};
use crate::worker::Stage;

/// Ends pods whose `emptyDir` or whole storage is over its limit. Only pods with limits are measured.
pub async fn enforce(kubelet: &Shared) {
    if !kubelet.config.kubelet.local_storage_capacity_isolation {
        return;
    }
    for handle in kubelet.workers.list() {
        let pod = handle.request().pod;
        if handle.view().stage != Stage::Run || !has_limits(&pod) {
            continue;
        }
        let dir = kubelet.config.pod_dir(pod::uid(&pod));
        let logs = kubelet.log_directory(&pod);
        let measured = pod.clone();
        let verdict = tokio::task::spawn_blocking(move || over(&measured, &dir, Path::new(&logs))).await;
        if let Ok(Some(message)) = verdict {
            kubelet.event(&pod, Kind::Warning, "Evicted", message.clone());
            kubelet.workers.evict(pod::uid(&pod), "Evicted", &message, Some(1));
        }
    }
}

fn has_limits(pod: &Pod) -> bool {
    let volumes = pod::spec(pod).volumes.as_deref().unwrap_or_default();
    volumes.iter().any(|volume| volume.empty_dir.as_ref().is_some_and(|source| source.size_limit.is_some()))
        || of_pod(pod, Limits, "ephemeral-storage").is_some()
}

fn over(pod: &Pod, dir: &Path, logs: &Path) -> Option<String> {
    for volume in pod::spec(pod).volumes.iter().flatten() {
        let Some(limit) = volume.empty_dir.as_ref().and_then(|source| source.size_limit.as_ref()) else { continue };
        let bytes = quantity::value(limit);
        let used = disk_usage(&dir.join("volumes/kubernetes.io~empty-dir").join(&volume.name));
        if bytes > 0 && i64::try_from(used).unwrap_or(i64::MAX) > bytes {
            return Some(format!("Usage of EmptyDir volume \"{}\" exceeds the limit \"{}\". ", volume.name, limit.0));
        }
    }
    let limit = of_pod(pod, Limits, "ephemeral-storage")?;
    let used = disk_usage(dir) + disk_usage(logs);
    (i64::try_from(used).unwrap_or(i64::MAX) > limit).then(|| {
        format!("Pod ephemeral local storage usage exceeds the total limit of containers {}. ", quantity::from_bytes(limit).0)
    })
}

/// Bytes on disk at and below `dir`, not crossing into links.
pub fn disk_usage(dir: &Path) -> u64 {
    let Ok(meta) = std::fs::symlink_metadata(dir) else { return 0 };
    let own = meta.blocks() * 512;
    if !meta.is_dir() {
        return own;
    }
    own + std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| disk_usage(&entry.path())).sum::<u64>()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_empty_dir_over_its_limit_is_told() {
        let temp = tempfile::tempdir().unwrap();
        let volume = temp.path().join("volumes/kubernetes.io~empty-dir/v");
        std::fs::create_dir_all(&volume).unwrap();
        let pod: Pod = serde_json::from_value(
            json!({"spec": {"containers": [], "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "64Ki"}}]}}),
        )
        .unwrap();
        assert!(has_limits(&pod));
        assert_eq!(over(&pod, temp.path(), Path::new("/nope")), None);
        std::fs::write(volume.join("big"), vec![1; 100 * 1024]).unwrap();
        assert_eq!(
            over(&pod, temp.path(), Path::new("/nope")).unwrap(),
            "Usage of EmptyDir volume \"v\" exceeds the limit \"64Ki\". "
        );
    }
}

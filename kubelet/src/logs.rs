//! Log files on the node: links for collectors, last words, removal; rotation in [`rotate`]. Upstream: pkg/kubelet/logs, kuberuntime/logs

pub mod read;
pub mod rotate;

use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;

use crate::kubelet::Kubelet;
use crate::pod;
use crate::runtime::container_config::log_path;
use crate::runtime::observed::ContainerRecord;

/// Longest message read from a termination log. Upstream: MaxContainerTerminationMessageLength.
const MAX_MESSAGE: u64 = 4096;
/// With `FallbackToLogsOnError`. Upstream: MaxContainerTerminationMessageLogLength, …LogLines.
const MAX_LOG_MESSAGE: usize = 2048;
const MAX_LOG_LINES: usize = 80;

/// `/var/log/containers/<pod>_<namespace>_<container>-<id>.log` → the log file.
pub fn link(kubelet: &Kubelet, pod: &Pod, container: &str, id: &str, restart_count: u32) {
    let dir = &kubelet.config.container_logs_dir;
    let target = PathBuf::from(kubelet.log_directory(pod)).join(log_path(container, restart_count));
    let _ = std::fs::create_dir_all(dir);
    let link = dir.join(link_name(pod::name(pod), pod::namespace(pod), container, id));
    if let Err(error) = std::os::unix::fs::symlink(target, &link)
        && error.kind() != std::io::ErrorKind::AlreadyExists
    {
        tracing::debug!(err = %error, link = %link.display(), "Failed to link container log");
    }
}

fn link_name(pod: &str, namespace: &str, container: &str, id: &str) -> String {
    format!("{pod}_{namespace}_{container}-{id}.log")
}

/// Removes a dead container with its log file and link.
pub async fn remove_container(kubelet: &Kubelet, pod: Option<&Pod>, record: &ContainerRecord) {
    if let Err(status) = kubelet.cri.remove_container(&record.id).await {
        tracing::debug!(container = record.id, err = %status, "Failed to remove container");
        return;
    }
    if !record.log_path.is_empty() {
        let path = Path::new(&record.log_path);
        if let (Some(dir), Some(name)) = (path.parent(), path.file_name()) {
            let name = name.to_string_lossy().into_owned();
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                // The file and what was rotated from it.
                if entry.file_name().to_string_lossy().starts_with(&name) {
                    let _ = std::fs::remove_file(entry.path());
                }
            }
        }
    }
    if let Some(pod) = pod {
        let name = link_name(pod::name(pod), pod::namespace(pod), record.name(), &record.id);
        let _ = std::fs::remove_file(kubelet.config.container_logs_dir.join(name));
    }
    if let Some(path) = &record.message_host_path {
        let _ = std::fs::remove_file(path);
    }
}

/// What a dead container left to say.
pub fn last_words(kubelet: &Kubelet, record: &ContainerRecord) -> String {
    let file = record.message_host_path.as_ref().and_then(|path| {
        let pods = kubelet.config.root_dir.join("pods");
        let path = Path::new(path);
        // Ours, and no link that the container put there.
        let ours = path.starts_with(pods) && std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file());
        let mut text = Vec::new();
        if ours {
            let mut file = std::fs::File::open(path).ok()?;
            let length = file.metadata().ok()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(MAX_MESSAGE))).ok()?;
            file.take(MAX_MESSAGE).read_to_end(&mut text).ok()?;
        }
        Some(String::from_utf8_lossy(&text).into_owned())
    });
    let text = file.unwrap_or_default();
    if text.is_empty() && record.about.message_policy == "FallbackToLogsOnError" && record.exit_code != 0 {
        return read::tail_text(Path::new(&record.log_path), MAX_LOG_LINES, MAX_LOG_MESSAGE);
    }
    text
}

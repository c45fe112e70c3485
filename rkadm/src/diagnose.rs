//! What went wrong with a control plane that does not come up: container states and the last words in their logs.

use std::path::{Path, PathBuf};

use crate::cri::{Container, Runtime};

/// The last `lines` lines of a file; says so when it cannot be read.
pub fn tail(path: impl AsRef<Path>, lines: usize) -> String {
    let path = path.as_ref();
    match std::fs::read(path) {
        Ok(bytes) => {
            // Logs may be large: the end is enough.
            let start = bytes.len().saturating_sub(64 << 10);
            let text = String::from_utf8_lossy(&bytes[start..]);
            let all: Vec<&str> = text.lines().collect();
            all[all.len().saturating_sub(lines)..].iter().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
        }
        Err(e) => format!("    ({} cannot be read: {e})", path.display()),
    }
}

/// The newest log file of a static pod's container below /var/log/pods.
fn newest_log(component: &str) -> Option<PathBuf> {
    let prefix = format!("kube-system_{component}-");
    let pods = std::fs::read_dir("/var/log/pods")
        .ok()?
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix));
    let logs = pods.flat_map(|pod| std::fs::read_dir(pod.path().join(component)).into_iter().flatten().flatten());
    logs.map(|log| log.path()).max_by_key(|path| std::fs::metadata(path).and_then(|meta| meta.modified()).ok())
}

/// One component in a sentence, with its last log lines.
pub async fn component(runtime: Option<&Runtime>, component: &str) -> String {
    let containers = match runtime {
        Some(runtime) => runtime.containers().await.unwrap_or_default(),
        None => Vec::new(),
    };
    let state = sentence(component, &containers);
    match newest_log(component) {
        Some(log) => format!("{state}; the end of {}:\n{}", log.display(), tail(&log, 8)),
        None => format!("{state}; it has written no log"),
    }
}

/// What the containers say about a component.
fn sentence(component: &str, containers: &[Container]) -> String {
    let of: Vec<&Container> = containers.iter().filter(|container| container.name() == component).collect();
    let Some(newest) = of.iter().max_by_key(|container| container.created_at) else {
        return format!("{component}: the kubelet has created no container for it");
    };
    let attempts = newest.metadata.as_ref().map_or(0, |metadata| metadata.attempt);
    match (newest.is_running(), attempts) {
        (true, 0) => format!("{component}: its container runs but is not healthy"),
        (true, n) => format!("{component}: its container runs (restarted {n} times) but is not healthy"),
        (false, n) => format!("{component}: its container exited (started {} times)", n + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::ContainerMetadata;

    #[test]
    fn a_component_is_described_by_its_newest_container() {
        let container = |state, created_at, attempt| Container {
            metadata: Some(ContainerMetadata { name: "etcd".into(), attempt }),
            state,
            created_at,
            ..Default::default()
        };
        assert!(sentence("etcd", &[]).contains("no container"));
        assert!(sentence("etcd", &[container(2, 1, 0), container(1, 2, 1)]).contains("restarted 1 times"));
        assert!(sentence("etcd", &[container(2, 5, 3), container(1, 2, 0)]).contains("exited (started 4 times)"));
        assert!(sentence("kube-apiserver", &[container(1, 1, 0)]).contains("no container"));
    }

    #[test]
    fn the_end_of_a_log_is_shown() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), (0..100).map(|n| format!("line {n}\n")).collect::<String>()).unwrap();
        assert_eq!(tail(file.path(), 2), "    line 98\n    line 99");
        assert!(tail("/no/such/file", 2).contains("cannot be read"));
    }
}

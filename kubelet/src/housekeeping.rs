//! Removes what no pod owns any more: containers, directories, cgroups, mirrors. Upstream: pkg/kubelet HandlePodCleanups

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::kubelet::Shared;
use crate::logs;
use crate::runtime::observed;
use crate::volume;

/// Orphans being removed.
static BUSY: std::sync::LazyLock<Mutex<HashSet<String>>> = std::sync::LazyLock::new(Mutex::default);

/// Removes sandboxes and containers of pods without a worker, once all sources have spoken. `seen`: uids the runtime has.
pub async fn orphans(kubelet: &Shared, seen: Vec<String>) {
    if !kubelet.sources_ready() {
        return;
    }
    for uid in seen {
        if kubelet.workers.get(&uid).is_some() || !BUSY.lock().insert(uid.clone()) {
            continue;
        }
        let kubelet = kubelet.clone();
        let tasks = kubelet.tasks.clone();
        tasks.spawn("orphan", async move {
            tracing::info!(podUID = uid, "Removing what is left of a pod that is gone");
            crate::metrics::metrics().orphaned_runtime_pods.inc();
            if let Err(status) = remove(&kubelet, &uid).await {
                tracing::debug!(podUID = uid, err = %status, "Failed to remove orphan");
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
            BUSY.lock().remove(&uid);
        });
    }
}

async fn remove(kubelet: &Shared, uid: &str) -> crate::cri::Result<()> {
    let runtime = observed::observe(&kubelet.cri, uid).await?;
    let stops =
        runtime.containers.iter().filter(|record| record.state != observed::State::Exited).map(|record| {
            let grace = Duration::from_secs(u64::try_from(record.about.grace_period.unwrap_or(30)).unwrap_or(30));
            let ip = runtime.ips().first().map(String::as_str).unwrap_or("");
            async move {
                crate::containers::stop(kubelet, record, &crate::containers::Stop { message: "", grace, pod: None, ip }).await
            }
        });
    futures::future::try_join_all(stops).await?;
    for record in &runtime.containers {
        logs::remove_container(kubelet, None, record).await;
    }
    for sandbox in &runtime.sandboxes {
        kubelet.cri.stop_pod_sandbox(&sandbox.id).await?;
        kubelet.cri.remove_pod_sandbox(&sandbox.id).await?;
    }
    Ok(())
}

/// Removes directories, cgroups, links and mirrors that belong to nobody, every two minutes, first soon after start.
pub async fn run(kubelet: Shared) {
    let mut wait = Duration::from_secs(5);
    loop {
        tokio::time::sleep(wait).await;
        if !kubelet.sources_ready() {
            continue;
        }
        wait = Duration::from_secs(120);
        let in_runtime: HashSet<String> =
            match tokio::try_join!(kubelet.cri.list_pod_sandboxes(None), kubelet.cri.list_containers(None)) {
                Ok((sandboxes, containers)) => sandboxes
                    .iter()
                    .map(|sandbox| &sandbox.labels)
                    .chain(containers.iter().map(|container| &container.labels))
                    .filter_map(|labels| crate::runtime::label::owner(labels).map(|owner| owner.0))
                    .collect(),
                Err(_) => continue,
            };
        for (uid, _) in crate::csi::data::of_all_pods(&kubelet.config.root_dir) {
            if !in_runtime.contains(&uid)
                && kubelet.workers.get(&uid).is_none()
                && let Err(why) = crate::csi::unmount::pod(&kubelet, &uid).await
            {
                tracing::warn!(podUID = uid, err = why, "Failed to take back a volume of a pod that is gone");
            }
        }
        crate::csi::unmount::leftovers(&kubelet).await;
        let kept = {
            let kubelet = kubelet.clone();
            Arc::new(move |uid: &str| {
                in_runtime.contains(uid)
                    || kubelet.workers.get(uid).is_some()
                    // A driver must take its volumes back first.
                    || !crate::csi::data::of_pod(&kubelet.config.pod_dir(uid)).is_empty()
            })
        };
        let task = {
            let kubelet = kubelet.clone();
            tokio::task::spawn_blocking(move || sweep(&kubelet, &*kept))
        };
        let _ = task.await;
        crate::mirror::remove_orphans(&kubelet).await;
    }
}

fn sweep(kubelet: &Shared, kept: &dyn Fn(&str) -> bool) {
    for entry in std::fs::read_dir(kubelet.config.root_dir.join("pods")).into_iter().flatten().flatten() {
        let uid = entry.file_name().to_string_lossy().into_owned();
        if !kept(&uid)
            && let Err(error) = volume::tear_down(&entry.path())
        {
            tracing::warn!(podUID = uid, err = %error, "Orphaned pod found, but its directory could not be removed");
        }
    }
    for uid in kubelet.cgroups.pods() {
        if !kept(&uid)
            && let Err(error) = kubelet.cgroups.remove_pod(&uid)
        {
            tracing::warn!(podUID = uid, err = %error, "Failed to remove orphaned cgroup");
        }
    }
    for entry in std::fs::read_dir(&kubelet.config.kubelet.pod_logs_dir).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let uid = name.rsplit('_').next().unwrap_or("");
        if name.split('_').count() == 3 && !kept(uid) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    for entry in std::fs::read_dir(&kubelet.config.container_logs_dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_symlink() && !path.exists() {
            let _ = std::fs::remove_file(path);
        }
    }
}

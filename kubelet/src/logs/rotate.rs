//! Rotation of log files by size. Upstream: pkg/kubelet/logs/container_log_manager.go

use std::io;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::kubelet::Shared;
use crate::pod::quantity;
use crate::runtime::observed::State;

/// Looks at all running containers' logs every `containerLogMonitorInterval`.
pub async fn run(kubelet: Shared) {
    let config = &kubelet.config.kubelet;
    let Some(max_size) =
        quantity::parse_value(&config.container_log_max_size).and_then(|size| u64::try_from(size).ok()).filter(|size| *size > 0)
    else {
        return;
    };
    let max_files = usize::try_from(config.container_log_max_files).unwrap_or(5);
    let mut ticks = tokio::time::interval(config.container_log_monitor_interval.0.max(std::time::Duration::from_secs(1)));
    loop {
        ticks.tick().await;
        for handle in kubelet.workers.list() {
            for record in handle
                .view()
                .runtime
                .containers
                .iter()
                .filter(|record| record.state == State::Running && !record.log_path.is_empty())
            {
                let path = PathBuf::from(&record.log_path);
                if std::fs::metadata(&path).is_ok_and(|meta| meta.len() >= max_size)
                    && let Err(error) = rotate(&kubelet, &record.id, &path, max_files).await
                {
                    tracing::warn!(err = %error, path = %path.display(), "Failed to rotate log");
                }
            }
        }
    }
}

async fn rotate(kubelet: &Shared, id: &str, path: &Path, max_files: usize) -> io::Result<()> {
    let moved = PathBuf::from(format!("{}.{}", path.display(), jiff::Timestamp::now().strftime("%Y%m%d-%H%M%S")));
    std::fs::rename(path, &moved)?;
    if let Err(status) = kubelet.cri.reopen_container_log(id).await {
        std::fs::rename(&moved, path)?;
        return Err(io::Error::other(status.message().to_owned()));
    }
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || tidy(&path, &moved, max_files)).await.map_err(io::Error::other)?
}

/// Compresses all but the newest rotated file and removes the oldest, so that `max_files` remain with the live one.
fn tidy(path: &Path, newest: &Path, max_files: usize) -> io::Result<()> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
    let prefix = format!("{}.", name.to_string_lossy());
    let mut rotated: Vec<PathBuf> = std::fs::read_dir(dir)?
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_none_or(|extension| extension != "tmp"))
        .collect();
    rotated.sort();
    let keep = max_files.saturating_sub(1).max(1);
    while rotated.len() > keep {
        std::fs::remove_file(rotated.remove(0))?;
    }
    for file in rotated.iter().filter(|file| *file != newest && file.extension().is_none_or(|extension| extension != "gz")) {
        let tmp = PathBuf::from(format!("{}.tmp", file.display()));
        let mut encoder = GzEncoder::new(std::fs::File::create(&tmp)?, Compression::default());
        io::copy(&mut std::fs::File::open(file)?, &mut encoder)?;
        encoder.finish()?;
        std::fs::rename(&tmp, format!("{}.gz", file.display()))?;
        std::fs::remove_file(file)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_logs_are_compressed_and_the_oldest_go() {
        let temp = tempfile::tempdir().unwrap();
        let log = temp.path().join("0.log");
        for name in [
            "0.log",
            "0.log.20260101-000001.gz",
            "0.log.20260101-000002",
            "0.log.20260101-000003",
            "0.log.20260101-000004",
            "1.log",
        ] {
            std::fs::write(temp.path().join(name), "x").unwrap();
        }
        tidy(&log, &temp.path().join("0.log.20260101-000004"), 4).unwrap();
        let mut names: Vec<_> =
            std::fs::read_dir(temp.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, ["0.log", "0.log.20260101-000002.gz", "0.log.20260101-000003.gz", "0.log.20260101-000004", "1.log"]);
    }
}

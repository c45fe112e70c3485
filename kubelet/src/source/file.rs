//! Static pods from a directory (or one file): looked at every `fileCheckFrequency`, and at once when something changes.
//!
//! Upstream: pkg/kubelet/config/file.go

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use client::events::Kind;
use k8s_openapi::api::core::v1::Pod;
use notify::{RecursiveMode, Watcher};

use super::decode;
use crate::kubelet::Shared;
use crate::pod;

/// Follows `path` until the tasks stop; `told` is called once all pods were told.
pub async fn run(kubelet: Shared, path: PathBuf, told: impl FnOnce()) {
    let mut told = Some(told);
    let (changes, mut changed) = tokio::sync::mpsc::channel::<()>(1);
    // A full channel already says "look again".
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading is reported too, and we read.
        if event.is_ok_and(|event| event.kind.is_create() || event.kind.is_modify() || event.kind.is_remove()) {
            let _ = changes.try_send(());
        }
    });
    let mut watcher = watcher.ok();
    let mut watching = false;
    let mut known: HashMap<String, Arc<Pod>> = HashMap::new();
    let mut complaints: HashMap<PathBuf, String> = HashMap::new();
    loop {
        if !watching && let Some(watcher) = &mut watcher {
            watching = watcher.watch(&path, RecursiveMode::NonRecursive).is_ok();
        }
        let (pods, errors) = read(&path, &kubelet.config.node_name);
        for (file, why) in &errors {
            if complaints.get(file) != Some(why) {
                tracing::error!(path = %file.display(), err = why, "Could not process manifest file");
                kubelet.node_event(
                    Kind::Warning,
                    "FailedStaticPod",
                    format!("Could not process manifest file {}: {why}", file.display()),
                );
            }
        }
        complaints = errors.into_iter().collect();
        super::api::apply_set(&kubelet, &mut known, pods);
        if let Some(told) = told.take() {
            told();
        }
        tokio::select! {
            () = tokio::time::sleep(kubelet.config.kubelet.file_check_frequency.0) => {}
            Some(()) = changed.recv() => {
                // Editors write in several steps.
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                while changed.try_recv().is_ok() {}
            }
        }
    }
}

/// The pods in the files, and what is wrong with the others.
fn read(path: &Path, node_name: &str) -> (Vec<Pod>, Vec<(PathBuf, String)>) {
    let (mut pods, mut errors) = (Vec::<Pod>::new(), Vec::new());
    let mut files: Vec<PathBuf> = match std::fs::metadata(path) {
        Ok(meta) if meta.is_dir() => std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path()).collect(),
        Ok(_) => vec![path.to_owned()],
        Err(_) => Vec::new(),
    };
    files.sort();
    for file in files {
        let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if name.starts_with('.') || !file.is_file() {
            continue;
        }
        if is_backup(&name) {
            errors.push((file, "looks like an editor's backup; skipped".to_owned()));
            continue;
        }
        // Read twice the same: not while it is being written.
        let text = match std::fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) => {
                errors.push((file, error.to_string()));
                continue;
            }
        };
        if text.trim().is_empty() {
            continue;
        }
        match decode::pod(&text, "file", &file.to_string_lossy(), node_name) {
            Ok(pod) if pods.iter().any(|other| pod::full_name(other) == pod::full_name(&pod)) => {
                errors.push((file, format!("another file already defines pod {}", pod::log_name(&pod))));
            }
            Ok(pod) => pods.push(pod),
            Err(why) => errors.push((file, why)),
        }
    }
    (pods, errors)
}

fn is_backup(name: &str) -> bool {
    name.ends_with('~')
        || name.ends_with(".bak")
        || name.ends_with(".swp")
        || name.ends_with(".orig")
        || name.ends_with(".dpkg-old")
        || name.ends_with(".rpmsave")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_files_are_pods_and_others_are_told() {
        let temp = tempfile::tempdir().unwrap();
        let manifest = |name: &str| {
            format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  containers: [{{name: a, image: i}}]\n")
        };
        for (file, text) in [
            ("a.yaml", manifest("a")), ("b.json", "{\"apiVersion\": \"v1\", \"kind\": \"Pod\", \"metadata\": {\"name\": \"b\"}, \"spec\": {\"containers\": [{\"name\": \"c\", \"image\": \"i\"}]}}".into()),
            ("a.yaml~", manifest("x")), (".hidden", manifest("y")), ("bad.yaml", "x: [".into()), ("dup.yaml", manifest("a")), ("empty.yaml", String::new()),
        ] {
            std::fs::write(temp.path().join(file), text).unwrap();
        }
        let (pods, errors) = read(temp.path(), "n");
        assert_eq!(pods.iter().map(pod::name).collect::<Vec<_>>(), ["a-n", "b-n"]);
        assert_eq!(
            errors.iter().map(|(path, _)| path.file_name().unwrap().to_str().unwrap()).collect::<Vec<_>>(),
            ["a.yaml~", "bad.yaml", "dup.yaml"]
        );
    }
}

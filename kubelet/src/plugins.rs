//! Plugins of the node: whoever puts a socket below `<root>/plugins_registry` is asked what it is and handed to its kind's handler.
//!
//! A kind is one line in [`handle`]. Upstream: pkg/kubelet/pluginmanager

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use notify::{RecursiveMode, Watcher};
use tokio::net::UnixStream;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::kubelet::Shared;

/// The generated messages and services of `proto/pluginregistration.proto`.
#[allow(missing_docs, clippy::all, unreachable_pub)]
pub mod registration {
    tonic::include_proto!("pluginregistration");
}

use registration::registration_client::RegistrationClient;
use registration::{InfoRequest, PluginInfo, RegistrationStatus};

/// Between two looks where no event woke us.
const PERIOD: Duration = Duration::from_secs(30);
/// How long a plugin may take to say what it is. Upstream: dialTimeoutDuration.
const PATIENCE: Duration = Duration::from_secs(10);

/// A channel to a unix socket, made on the first use.
pub fn channel(socket: &Path) -> Channel {
    let path = socket.to_owned();
    let endpoint = Endpoint::from_static("http://localhost").connect_timeout(PATIENCE);
    endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
    }))
}

/// The file that a plugin's endpoint names.
pub fn socket_path(endpoint: &str) -> PathBuf {
    PathBuf::from(endpoint.strip_prefix("unix://").or_else(|| endpoint.strip_prefix("unix:")).unwrap_or(endpoint))
}

/// A registered plugin.
struct Known {
    info: PluginInfo,
    /// A socket made anew under the same name is another plugin.
    made: Option<std::time::SystemTime>,
}

/// Follows the directory until the tasks stop.
pub async fn run(kubelet: Shared) {
    let dir = kubelet.config.root_dir.join("plugins_registry");
    if let Err(error) = std::fs::create_dir_all(&dir) {
        tracing::error!(err = %error, dir = %dir.display(), "Plugins cannot register");
        return;
    }
    let (changes, mut changed) = tokio::sync::mpsc::channel::<()>(1);
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| event.kind.is_create() || event.kind.is_remove()) {
            let _ = changes.try_send(());
        }
    });
    let mut watcher = watcher.ok();
    if let Some(watcher) = &mut watcher
        && let Err(error) = watcher.watch(&dir, RecursiveMode::Recursive)
    {
        tracing::warn!(err = %error, "Plugins are looked for every 30 s only");
    }
    let mut known: HashMap<PathBuf, Known> = HashMap::new();
    let mut failed: HashMap<PathBuf, (Instant, u32)> = HashMap::new();
    loop {
        let there = sockets(&dir);
        let gone: Vec<PathBuf> = known
            .iter()
            .filter(|(path, known)| !there.contains(*path) || made(path) != known.made)
            .map(|(path, _)| path.clone())
            .collect();
        for path in gone {
            if let Some(known) = known.remove(&path) {
                tracing::info!(plugin = known.info.name, kind = known.info.r#type, "Plugin is gone");
                remove(&kubelet, &known.info).await;
            }
        }
        failed.retain(|path, _| there.contains(path));
        let mut wait = PERIOD;
        for path in there {
            if known.contains_key(&path) {
                continue;
            }
            if let Some((due, _)) = failed.get(&path).filter(|(due, _)| *due > Instant::now()) {
                wait = wait.min(*due - Instant::now());
                continue;
            }
            match register(&kubelet, &path).await {
                Ok(info) => {
                    tracing::info!(plugin = info.name, kind = info.r#type, "Registered plugin");
                    failed.remove(&path);
                    let made = made(&path);
                    known.insert(path, Known { info, made });
                }
                Err(why) => {
                    // 500 ms, 1 s … 2 min, as upstream.
                    let times = failed.get(&path).map_or(0, |(_, times)| times + 1);
                    let pause = Duration::from_millis(500 << times.min(8));
                    tracing::warn!(socket = %path.display(), err = why, "Plugin registration failed");
                    wait = wait.min(pause);
                    failed.insert(path, (Instant::now() + pause, times));
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            Some(()) = changed.recv() => {}
        }
    }
}

fn made(path: &Path) -> Option<std::time::SystemTime> {
    std::fs::metadata(path).and_then(|meta| meta.modified()).ok()
}

/// Sockets at and one level below `dir`; hidden ones are not plugins.
fn sockets(dir: &Path) -> HashSet<PathBuf> {
    let mut out = HashSet::new();
    let mut dirs = vec![(dir.to_owned(), 0)];
    while let Some((dir, depth)) = dirs.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            if entry.file_name().to_string_lossy().starts_with('.') {
                continue;
            }
            if kind.is_socket() {
                out.insert(entry.path());
            } else if kind.is_dir() && depth == 0 {
                dirs.push((entry.path(), depth + 1));
            }
        }
    }
    out
}

async fn register(kubelet: &Shared, socket: &Path) -> Result<PluginInfo, String> {
    let mut client = RegistrationClient::new(channel(socket));
    let info = tokio::time::timeout(PATIENCE, client.get_info(InfoRequest {}))
        .await
        .map_err(|_| "the plugin does not answer".to_owned())?
        .map_err(|status| format!("failed to get plugin info: {}", status.message()))?
        .into_inner();
    let outcome = handle(kubelet, &info).await;
    let status = RegistrationStatus {
        plugin_registered: outcome.is_ok(),
        error: outcome.as_ref().err().map(|why| format!("plugin registration failed with err: {why}")).unwrap_or_default(),
    };
    // It may not care.
    let _ = tokio::time::timeout(PATIENCE, client.notify_registration_status(status)).await;
    outcome.map(|()| info)
}

async fn handle(kubelet: &Shared, info: &PluginInfo) -> Result<(), String> {
    match info.r#type.as_str() {
        "CSIPlugin" => crate::csi::register(kubelet, info).await,
        other => Err(format!("no handler registered for plugin type: {other}")),
    }
}

async fn remove(kubelet: &Shared, info: &PluginInfo) {
    if info.r#type == "CSIPlugin" {
        crate::csi::unregister(kubelet, &info.name).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_found_one_level_deep() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(temp.path().join("a/b")).unwrap();
        let bind = |name: &str| std::os::unix::net::UnixListener::bind(temp.path().join(name)).unwrap();
        let _open = [bind("x.sock"), bind("a/y.sock"), bind("a/b/z.sock"), bind(".hidden")];
        std::fs::write(temp.path().join("file"), "").unwrap();
        let mut found: Vec<_> =
            sockets(temp.path()).into_iter().map(|path| path.strip_prefix(temp.path()).unwrap().to_owned()).collect();
        found.sort();
        assert_eq!(found, [PathBuf::from("a/y.sock"), PathBuf::from("x.sock")]);
        assert_eq!(socket_path("unix:///a/b.sock"), Path::new("/a/b.sock"));
        assert_eq!(socket_path("/a/b.sock"), Path::new("/a/b.sock"));
    }
}

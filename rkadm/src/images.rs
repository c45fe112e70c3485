//! Which images a cluster needs, and how they get into containerd: imported from a bundle directory, never pulled.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use crate::config::types::ClusterConfiguration;
use crate::cri::{self, Runtime};

/// Where packages put the image archives.
pub const BUNDLE_DIR: &str = "/usr/share/rk/images";
/// Overrides [`BUNDLE_DIR`].
pub const BUNDLE_ENV: &str = "RK_IMAGES";
/// etcd of Debian 12, which bundles hold when nothing says otherwise.
const DEFAULT_ETCD_TAG: &str = "3.4.23-0";

/// The directory with `*.tar` archives: the flag, the environment, or the packages' place.
pub fn bundle_dir(flag: Option<&Path>) -> PathBuf {
    match flag {
        Some(dir) => dir.to_path_buf(),
        None => std::env::var_os(BUNDLE_ENV)
            .filter(|dir| !dir.is_empty())
            .map(PathBuf::from)
            .or_else(beside)
            .unwrap_or_else(|| PathBuf::from(BUNDLE_DIR)),
    }
}

/// The images of an unpacked release, whose rkadm this is: `images` beside `bin`.
fn beside() -> Option<PathBuf> {
    let dir = std::env::current_exe().ok()?.parent()?.parent()?.join("images");
    dir.join("kube-apiserver.tar").exists().then_some(dir)
}

/// The images of one cluster version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Images {
    repository: String,
    version: String,
    etcd: Option<String>,
    dns: Option<String>,
}

impl Images {
    /// `etcd_tag` is what is at hand ([`etcd_tag`]); the configuration's tag goes before it.
    pub fn of(cluster: &ClusterConfiguration, etcd_tag: &str) -> Images {
        let repository = cluster.image_repository.clone();
        let or = |own: &str| if own.is_empty() { repository.clone() } else { own.to_string() };
        let version = component_version(&cluster.kubernetes_version);
        let etcd = cluster.etcd.local.as_ref().map(|local| {
            let tag = if local.image_tag.is_empty() { etcd_tag } else { &local.image_tag };
            format!("{}/etcd:{tag}", or(&local.image_repository))
        });
        let dns_tag = if cluster.dns.image_tag.is_empty() { &version } else { &cluster.dns.image_tag };
        let dns = (!cluster.dns.disabled).then(|| format!("{}/rk-dns:{dns_tag}", or(&cluster.dns.image_repository)));
        Images { repository: repository.clone(), version: version.clone(), etcd, dns }
    }

    /// `registry.k8s.io/kube-apiserver:v1.36.0`.
    pub fn component(&self, name: &str) -> String {
        format!("{}/{name}:{}", self.repository, self.version)
    }

    pub fn etcd(&self) -> Option<&str> {
        self.etcd.as_deref()
    }

    pub fn dns(&self) -> Option<&str> {
        self.dns.as_deref()
    }

    pub fn pause(&self) -> String {
        format!("{}/pause:{}", self.repository, component::version::PAUSE_TAG)
    }

    /// What a control-plane node needs, in kubeadm's order.
    pub fn control_plane(&self) -> Vec<String> {
        let mut list: Vec<String> = ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "rk-cni"]
            .map(|name| self.component(name))
            .to_vec();
        list.extend(self.dns.clone());
        list.push(self.pause());
        list.extend(self.etcd.clone());
        list
    }

    /// What a worker needs.
    pub fn worker(&self) -> Vec<String> {
        let mut list: Vec<String> = ["kube-proxy", "rk-cni"].map(|name| self.component(name)).to_vec();
        list.extend(self.dns.clone());
        list.push(self.pause());
        list
    }
}

/// With a `v`, as images are tagged.
pub fn component_version(version: &str) -> String {
    format!("v{}", version.strip_prefix('v').unwrap_or(version))
}

/// The etcd tag at hand: the newest in the runtime or in the bundle, or Debian 12's.
pub fn etcd_tag(repository: &str, known: &[String]) -> String {
    let prefix = format!("{repository}/etcd:");
    let tags = known.iter().filter_map(|tag| tag.strip_prefix(&prefix));
    let newest = tags.filter_map(|tag| Some((crate::version::parse(tag)?, tag))).max_by(|a, b| a.0.order().cmp(&b.0.order()));
    newest.map_or(DEFAULT_ETCD_TAG, |(_, tag)| tag).to_string()
}

/// The archives of a bundle; an absent directory is an empty bundle.
pub fn archives(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut files: Vec<_> =
        entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "tar")).collect();
    files.sort();
    files
}

/// The tags inside an OCI archive, from its `index.json` (and `manifest.json` of docker archives).
pub fn tags_of(archive: &Path) -> anyhow::Result<Vec<String>> {
    let file = std::fs::File::open(archive).with_context(|| format!("cannot open {}", archive.display()))?;
    let mut tags = Vec::new();
    let mut archive = tar::Archive::new(file);
    for entry in archive.entries_with_seek()? {
        let entry = entry?;
        let name = entry.path()?.to_string_lossy().trim_start_matches("./").to_string();
        // Both are small; a megabyte bounds what a strange archive can make us read.
        if name != "index.json" && name != "manifest.json" {
            continue;
        }
        let index: serde_json::Value = serde_json::from_reader(std::io::Read::take(entry, 1 << 20))?;
        for manifest in index["manifests"].as_array().into_iter().flatten() {
            let annotations = &manifest["annotations"];
            let full = annotations["io.containerd.image.name"].as_str();
            tags.extend(full.or(annotations["org.opencontainers.image.ref.name"].as_str()).map(str::to_string));
        }
        for image in index.as_array().into_iter().flatten() {
            tags.extend(image["RepoTags"].as_array().into_iter().flatten().filter_map(|tag| tag.as_str().map(str::to_string)));
        }
    }
    Ok(tags)
}

/// Every tag of a bundle.
pub fn bundle_tags(dir: &Path) -> Vec<String> {
    archives(dir).iter().flat_map(|archive| tags_of(archive).unwrap_or_default()).collect()
}

/// Which archives to import: those that hold a wanted tag that is missing (archives that do not say their tags: all of them).
pub fn plan(wanted: &[String], present: &[String], bundle: &[(PathBuf, Vec<String>)]) -> Plan {
    let missing: Vec<String> = wanted.iter().filter(|tag| !present.contains(tag)).cloned().collect();
    let mut archives = Vec::new();
    if !missing.is_empty() {
        for (path, tags) in bundle {
            if tags.is_empty() || tags.iter().any(|tag| missing.contains(tag)) {
                archives.push(path.clone());
            }
        }
    }
    let offered = |tag: &String| bundle.iter().any(|(_, tags)| tags.is_empty() || tags.contains(tag));
    let absent = missing.iter().filter(|tag| !offered(tag)).cloned().collect();
    Plan { archives, absent }
}

#[derive(Debug, PartialEq, Eq)]
pub struct Plan {
    pub archives: Vec<PathBuf>,
    /// Wanted, not in the runtime, and not in the bundle either.
    pub absent: Vec<String>,
}

/// Imports what is wanted and missing. Returns how many archives were imported.
pub async fn ensure(runtime: &Runtime, socket: &str, wanted: &[String], dir: &Path) -> anyhow::Result<usize> {
    let present = runtime.image_tags().await.context("asking the container runtime for its images")?;
    if wanted.iter().all(|tag| present.contains(tag)) {
        return Ok(0);
    }
    let bundle: Vec<_> = archives(dir).into_iter().map(|path| (path.clone(), tags_of(&path).unwrap_or_default())).collect();
    let plan = plan(wanted, &present, &bundle);
    if !plan.absent.is_empty() {
        bail!(
            "these images are neither in containerd nor in {}: {}. Give the directory with the release's image archives with \
             --image-bundle DIR (or {BUNDLE_ENV}=DIR); `rkadm config images list` prints what is needed",
            dir.display(),
            plan.absent.join(", ")
        );
    }
    // Two at a time: unpacking is half disk, half processor.
    use futures::{StreamExt as _, TryStreamExt as _};
    let count = plan.archives.len();
    let imports: Vec<_> = plan
        .archives
        .into_iter()
        .map(|archive| {
            let socket = socket.to_string();
            async move { import(&socket, &archive).await }
        })
        .collect();
    futures::stream::iter(imports).buffer_unordered(2).try_collect::<Vec<()>>().await?;
    // The runtime's image list follows containerd's events; do not go on before it does.
    for _ in 0..100 {
        let present = runtime.image_tags().await?;
        if wanted.iter().all(|tag| present.contains(tag)) {
            return Ok(count);
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let present = runtime.image_tags().await?;
    let missing: Vec<_> = wanted.iter().filter(|tag| !present.contains(tag)).cloned().collect();
    bail!("after importing {count} archives from {} containerd still lacks {}", dir.display(), missing.join(", "))
}

/// `ctr images import` into the namespace of Kubernetes.
pub async fn import(socket: &str, archive: &Path) -> anyhow::Result<()> {
    let ctr = crate::host::find_program("ctr")
        .context("`ctr`, containerd's own client, is not installed (apt-get install containerd)")?;
    let output = tokio::process::Command::new(ctr)
        .args(["--address", &cri::plain(socket), "--namespace", "k8s.io", "images", "import"])
        .arg(archive)
        .stdin(std::process::Stdio::null())
        .output()
        .await
        .context("running ctr")?;
    if !output.status.success() {
        bail!("ctr could not import {}: {}", archive.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_follows_the_configuration() {
        let mut cluster = ClusterConfiguration { kubernetes_version: "1.36.3".into(), ..Default::default() };
        let images = Images::of(&cluster, "3.4.23-0");
        let list = images.control_plane();
        assert_eq!(list[0], "registry.k8s.io/kube-apiserver:v1.36.3");
        assert!(list.contains(&"registry.k8s.io/pause:3.10.1".into()) && list.contains(&"registry.k8s.io/etcd:3.4.23-0".into()));
        assert!(!images.worker().iter().any(|image| image.contains("etcd")));
        cluster.image_repository = "my.registry/k8s".into();
        cluster.etcd.local.as_mut().unwrap().image_tag = "3.6.8-0".into();
        cluster.dns.disabled = true;
        let list = Images::of(&cluster, "3.4.23-0").control_plane();
        assert!(list.contains(&"my.registry/k8s/etcd:3.6.8-0".into()) && !list.iter().any(|image| image.contains("dns")));
    }

    #[test]
    fn the_newest_etcd_at_hand_is_taken() {
        let known =
            ["registry.k8s.io/etcd:3.4.23-0", "registry.k8s.io/etcd:3.5.16-0", "other/etcd:3.6.8-0", "registry.k8s.io/etcd:x"];
        assert_eq!(etcd_tag("registry.k8s.io", &known.map(String::from)), "3.5.16-0");
        assert_eq!(etcd_tag("registry.k8s.io", &[]), "3.4.23-0");
    }

    #[test]
    fn only_what_is_missing_is_imported() {
        let tags = |list: &[&str]| list.iter().map(|tag| (*tag).to_string()).collect::<Vec<_>>();
        let bundle = [("a.tar".into(), tags(&["a:1"])), ("b.tar".into(), tags(&["b:1"])), ("c.tar".into(), tags(&["c:1"]))];
        let plan = super::plan(&tags(&["a:1", "b:1", "d:1"]), &tags(&["a:1"]), &bundle);
        assert_eq!(plan, Plan { archives: vec!["b.tar".into()], absent: tags(&["d:1"]) });
        assert_eq!(super::plan(&tags(&["a:1"]), &tags(&["a:1"]), &bundle), Plan { archives: vec![], absent: vec![] });
    }

    #[test]
    fn tags_are_read_from_archives() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.tar");
        let mut builder = tar::Builder::new(std::fs::File::create(&path).unwrap());
        let index = br#"{"manifests":[{"annotations":{"io.containerd.image.name":"registry.k8s.io/x:1"}}]}"#;
        let mut header = tar::Header::new_gnu();
        header.set_size(index.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append_data(&mut header, "index.json", index.as_slice()).unwrap();
        builder.finish().unwrap();
        assert_eq!(bundle_tags(dir.path()), ["registry.k8s.io/x:1"]);
        assert!(bundle_tags(&dir.path().join("absent")).is_empty());
    }
}

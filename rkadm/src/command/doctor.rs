//! `rkadm doctor`: before a cluster is set up, whether this host is fit; afterwards, what is wrong, what was interrupted, how the components that
//! are not well ended, and on demand one file with everything that somebody else needs to see.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use pki::Files;

use super::status::{self, StatusArgs};
use crate::cri::Runtime;
use crate::{diagnose, host, kubelet, manifest, preflight, say, unfinished, upgrade};

#[derive(Debug, Args)]
pub struct DoctorArgs {
    #[command(flatten)]
    status: StatusArgs,
    /// Collect logs, manifests and configuration (no keys, no kubeconfigs) into this file (.tar.gz)
    #[arg(long)]
    collect: Option<PathBuf>,
}

/// Largest part of one log that is collected.
const LOG_MOST: u64 = 4 << 20;

pub async fn run(args: DoctorArgs, rootfs: Option<PathBuf>) -> anyhow::Result<()> {
    let files = rootfs.map_or_else(Files::host, Files::below);
    let mut out = String::new();
    let mut problems = interrupted(&files);
    if files.exists(kubelet::KUBECONFIG) || files.exists(manifest::path("kube-apiserver")) {
        let (page, found) = status::page(&args.status, &files).await;
        out.push_str(&page);
        out.push_str(&post_mortem(&args.status, &files).await);
        problems.extend(found);
    } else {
        let (page, found) = fitness(&args.status);
        out.push_str(&page);
        problems.extend(found);
    }
    problems.extend(disks(&files));
    print!("{out}");
    let own = interrupted(&files).into_iter().chain(disks(&files));
    own.for_each(|problem| println!("  - {problem}"));
    if let Some(file) = &args.collect {
        collect(file, &out, &files)?;
        say::phase("doctor", &format!("Collected into {}", file.display()));
    }
    if problems.is_empty() { Ok(()) } else { anyhow::bail!("{} problems", problems.len()) }
}

/// What was cut off and waits to be finished. Each says how.
fn interrupted(files: &Files) -> Vec<String> {
    let mut found = Vec::new();
    for command in ["init", "join"] {
        if unfinished::is(files, command) {
            found.push(format!("`rkadm {command}` was cut off on this host: run the same command again, or `rkadm reset`"));
        }
    }
    if files.exists(Path::new(super::etcd::HELD).join("etcd.yaml"))
        || files.exists(Path::new(super::etcd::HELD).join("kube-apiserver.yaml"))
    {
        found.push("a restore of etcd was cut off: run the same `rkadm etcd snapshot restore` again".into());
    }
    if let Some(journal) = upgrade::replace::Journal::load(files) {
        found.push(format!(
            "an upgrade from {} to {} was cut off: `rkadm upgrade apply {}` finishes it, `rkadm upgrade rollback` takes it back",
            journal.current, journal.target, journal.target
        ));
    }
    found
}

/// The preflight checks of a host that is no node yet.
fn fitness(args: &StatusArgs) -> (String, Vec<String>) {
    let host = host::observe();
    let socket = &args.cri_socket;
    let runtime = match crate::runtime::plan(crate::cri::is_listening(socket), &host, host::find_program("containerd").is_some())
    {
        crate::runtime::Plan::Refuse(why) => Some(format!("the container runtime does not answer at {socket}: {why}")),
        _ => None,
    };
    let facts = preflight::Facts {
        node_name: host.hostname.clone(),
        missing_programs: ["iptables", "mount", "nsenter"]
            .into_iter()
            .filter(|name| host::find_program(name).is_none())
            .collect(),
        kubelet_installed: host::find_own("kubelet").is_some(),
        ports_in_use: [6443, 10250, 10257, 10259, 2379, 2380].into_iter().filter(|port| host::port_in_use(*port)).collect(),
        runtime_problem: runtime,
        advertise_is_local: true,
        control_plane: true,
        host,
        ..Default::default()
    };
    let mut out = String::from("This host is no node yet. Preflight:\n");
    let findings = preflight::check(&facts);
    for finding in &findings {
        out.push_str(&format!(
            "  {} {}: {}\n",
            if finding.fatal { "ERROR  " } else { "WARNING" },
            finding.check,
            finding.message
        ));
    }
    if findings.is_empty() {
        out.push_str("  nothing speaks against it\n");
    }
    (out, findings.into_iter().filter(|finding| finding.fatal).map(|finding| finding.message).collect())
}

/// The last words of every component that does not run or was restarted.
async fn post_mortem(args: &StatusArgs, files: &Files) -> String {
    let runtime = Runtime::connect(&args.cri_socket).await.ok();
    let mut out = String::new();
    let containers = match &runtime {
        Some(runtime) => runtime.containers().await.unwrap_or_default(),
        None => Vec::new(),
    };
    for component in manifest::COMPONENTS.into_iter().filter(|component| files.exists(manifest::path(component))) {
        let newest = containers.iter().filter(|one| one.name() == component).max_by_key(|one| one.created_at);
        if newest.is_some_and(|one| one.is_running() && one.metadata.as_ref().is_none_or(|metadata| metadata.attempt == 0)) {
            continue;
        }
        out.push_str(&format!("\n{}\n", diagnose::component(runtime.as_ref(), component).await));
    }
    if !host::observe().systemd && crate::supervise::daemon("kubelet").is_none() {
        out.push_str(&format!(
            "\nkubelet: it does not run; the end of /var/log/kubelet.log:\n{}\n",
            diagnose::tail("/var/log/kubelet.log", 8)
        ));
    }
    out
}

/// Disks that are nearly full: etcd and containerd stop writing.
fn disks(files: &Files) -> Vec<String> {
    const LEAST: u64 = 1 << 30;
    let mut found = Vec::new();
    for dir in ["/var/lib/etcd", "/var/lib/containerd", "/var/lib/kubelet", "/var/log"] {
        let dir = files.real(Path::new(dir));
        let Ok(stat) = nix::sys::statvfs::statvfs(&dir) else { continue };
        let free = stat.blocks_available() * stat.fragment_size();
        if free < LEAST {
            found.push(format!("the disk of {} has only {} MB left: etcd stops at a full disk", dir.display(), free >> 20));
        }
    }
    found
}

/// One file for somebody else: nothing secret is in it.
fn collect(file: &Path, page: &str, files: &Files) -> anyhow::Result<()> {
    let output = std::fs::File::create(file).with_context(|| format!("cannot make {}", file.display()))?;
    let mut archive = tar::Builder::new(flate2::write::GzEncoder::new(output, flate2::Compression::default()));
    let mut add = |name: &str, bytes: &[u8]| -> anyhow::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        Ok(archive.append_data(&mut header, name.trim_start_matches('/'), bytes)?)
    };
    add("doctor.txt", page.as_bytes())?;
    for path in [kubelet::CONFIG, kubelet::INSTANCE_CONFIG, kubelet::ENV] {
        if let Some(text) = files.read(path)? {
            add(path, &text)?;
        }
    }
    for component in manifest::COMPONENTS {
        if let Some(text) = files.read(manifest::path(component))? {
            add(&manifest::path(component), &text)?;
        }
    }
    let mut logs =
        vec![PathBuf::from("/var/log/kubelet.log"), "/var/log/containerd.log".into(), "/var/log/rk-balancer.log".into()];
    let pods = std::fs::read_dir("/var/log/pods")
        .into_iter()
        .flatten()
        .flatten()
        .filter(|pod| pod.file_name().to_string_lossy().starts_with("kube-system_"));
    for pod in pods {
        for container in std::fs::read_dir(pod.path()).into_iter().flatten().flatten() {
            logs.extend(std::fs::read_dir(container.path()).into_iter().flatten().flatten().map(|log| log.path()));
        }
    }
    for log in logs {
        let Ok(bytes) = std::fs::read(&log) else { continue };
        let start = bytes.len().saturating_sub(usize::try_from(LOG_MOST).unwrap_or(usize::MAX));
        add(&log.display().to_string(), &bytes[start..])?;
    }
    archive.into_inner()?.finish()?.sync_all().with_context(|| format!("cannot write {}", file.display()))
}

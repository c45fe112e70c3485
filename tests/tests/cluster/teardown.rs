//! Ends: reset, lab down. These run last.

use std::time::Duration;

use anyhow::{Result, ensure};
use tests::wait::holds;

use crate::Cluster;

/// Runs `rkadm join` on node1 with these words, which must fail; what it said.
fn failing_join(cluster: &Cluster, words: &str) -> Result<String> {
    let output = cluster.lab.sh("node1", &format!("rkadm join {words} 2>&1; echo exit=$?"))?;
    ensure!(!output.contains("exit=0"), "{output}");
    Ok(output)
}

pub(crate) fn wrong_joins_fail(cluster: &Cluster) -> Result<()> {
    let hash = cluster.lab.sh(
        "cp1",
        "openssl x509 -pubkey -in /etc/kubernetes/pki/ca.crt | openssl pkey -pubin -outform der 2>/dev/null | sha256sum | cut -d' ' -f1",
    )?;
    let hash = hash.trim();
    let token = cluster.lab.sh("cp1", "rkadm token create")?;
    let token = token.trim();
    // The host is a node already: refused, with the way out.
    let said = failing_join(cluster, &format!("172.30.0.1:6443 --token {token} --discovery-token-ca-cert-hash sha256:{hash}"))?;
    ensure!(said.contains("rkadm reset") || said.contains("already exists"), "{said}");
    cluster.kubectl.run("drain node1 --ignore-daemonsets --force --delete-emptydir-data --timeout=120s")?;
    cluster.kubectl.run("delete node node1")?;
    cluster.lab.sh("node1", "rkadm reset --force")?;
    let wrong = "0".repeat(64);
    let said = failing_join(cluster, &format!("172.30.0.1:6443 --token {token} --discovery-token-ca-cert-hash sha256:{wrong}"))?;
    ensure!(said.contains("hash"), "{said}");
    let said = failing_join(
        cluster,
        &format!(
            "172.30.0.1:6443 --token abcdef.0123456789abcdef --discovery-token-ca-cert-hash sha256:{hash} --discovery-timeout 5s"
        ),
    )?;
    ensure!(said.contains("token"), "{said}");
    let said = failing_join(
        cluster,
        &format!("172.30.0.1:1 --token {token} --discovery-token-ca-cert-hash sha256:{hash} --discovery-timeout 5s"),
    )?;
    ensure!(said.contains("172.30.0.1:1"), "{said}");
    // Nothing half-written: the right command works at once.
    cluster.lab.sh(
        "node1",
        &format!("rkadm join 172.30.0.1:6443 --token {token} --discovery-token-ca-cert-hash sha256:{hash} --node-name node1"),
    )?;
    holds("node1 ready", Duration::from_secs(120), || {
        Ok(cluster.kubectl.field("node node1", ".status.conditions[?(@.type==\"Ready\")].status")? == "True")
    })
}

pub(crate) fn reset_leaves_clean_host(cluster: &Cluster) -> Result<()> {
    cluster.lab.sh("node1", "rkadm reset --force")?;
    let left = cluster.lab.sh(
        "node1",
        "ls -A /etc/kubernetes/manifests /etc/kubernetes/pki /var/lib/kubelet 2>/dev/null | grep -v ':$' | grep . || true",
    )?;
    ensure!(left.trim().is_empty(), "files left: {left}");
    let left = cluster.lab.sh("node1", "ls /etc/kubernetes/*.conf 2>/dev/null || true")?;
    ensure!(left.trim().is_empty(), "kubeconfigs left: {left}");
    ensure!(cluster.lab.sh("node1", "pgrep -x kubelet || true")?.trim().is_empty(), "the kubelet runs on");
    let left = cluster.lab.sh("node1", "ctr -n k8s.io containers ls -q")?;
    ensure!(left.trim().is_empty(), "containers left: {left}");
    let left = cluster.lab.sh("node1", "mount | grep /var/lib/kubelet/ || true")?;
    ensure!(left.trim().is_empty(), "mounts left: {left}");
    Ok(())
}

pub(crate) fn lab_down_leaves_nothing(cluster: &Cluster) -> Result<()> {
    let dir = cluster.lab.dir();
    let name = dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    cluster.lab.down()?;
    ensure!(!dir.exists(), "{} is left", dir.display());
    let mounts = std::fs::read_to_string("/proc/mounts")?;
    ensure!(!mounts.contains(&*dir.to_string_lossy()), "mounts are left");
    let output = std::process::Command::new("find")
        .args(["/sys/fs/cgroup", "-maxdepth", "2", "-name", &format!("rk-lab-{name}-*")])
        .output()?;
    ensure!(output.stdout.is_empty(), "cgroups are left: {}", String::from_utf8_lossy(&output.stdout));
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let text = String::from_utf8_lossy(&command).replace('\0', " ");
        ensure!(!text.contains(&format!("--lab {name}")), "a process is left: {text}");
    }
    Ok(())
}

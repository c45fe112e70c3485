//! A two-node lab: how long init and join take, and what the components weigh when idle.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::process::memory;
use super::row;

const MB: f64 = 1e6;

/// Runs all rows of the section.
///
/// # Errors
/// The lab or a command in it failed.
pub fn run() -> Result<()> {
    let (lab, text) = crate::lab::Lab::up("rk-bench", &["--nodes", "1", "--bare"])?;
    for line in text.lines().filter(|line| line.starts_with("[lab]")) {
        println!("  {line}");
    }
    const READY: &str = "until kubectl --kubeconfig /etc/kubernetes/admin.conf get node $(hostname) 2>/dev/null | grep -qw Ready; do sleep 0.05; done";
    let init = "rkadm init --apiserver-advertise-address 172.30.0.1 --pod-network-cidr 10.244.0.0/16 >/root/init.log 2>&1";
    let started = Instant::now();
    lab.sh("cp1", &format!("{init} && {READY}"))?;
    row("rkadm init to Ready, images present", format!("{:.1} s", started.elapsed().as_secs_f64()), "7.5 s");
    let join = lab.sh("cp1", "rkadm token create --print-join-command")?;
    let started = Instant::now();
    lab.sh("node1", &format!("{} >/root/join.log 2>&1", join.trim()))?;
    lab.sh("cp1", &READY.replace("$(hostname)", "node1"))?;
    row("rkadm join to Ready", format!("{:.1} s", started.elapsed().as_secs_f64()), "1.7 s");
    std::thread::sleep(Duration::from_secs(10));
    let upstream = [
        ("kube-apiserver", "279 MB"),
        ("kube-controller-manager", "123 MB"),
        ("kube-scheduler", "70 MB"),
        ("kubelet", "95 / 86 MB"),
        ("kube-proxy", "58 / 57 MB"),
        ("rk-cni", ""),
        ("rk-dns", ""),
        ("etcd", "51 MB"),
        ("containerd", "51 MB"),
    ];
    for (name, theirs) in upstream {
        let sizes: Vec<String> =
            super::process::named(name).into_iter().map(|pid| format!("{:.0}", memory(pid, "VmRSS") as f64 / MB)).collect();
        row(&format!("idle memory in a cluster: {name}"), format!("{} MB", sizes.join(" / ")), theirs);
    }
    drop(lab);
    Ok(())
}

//! Several control planes: the loss of any one, members that come and go.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{ADMIN, LIMIT, deploy, nodes_ready, pods_run};
use crate::lab::Lab;
use crate::wait::holds;

/// Each of three control planes loses its power in turn under a client that writes all the time: no acknowledged write is lost, the API
/// answers again, workers stay Ready and their pods run on.
///
/// # Errors
/// One of that does not hold.
pub fn loss(lab: &Lab) -> Result<()> {
    let kubectl = lab.kubectl();
    deploy(lab, "cp1", "steady", 4)?;
    for (lost, other) in [("cp1", "cp2"), ("cp2", "cp3"), ("cp3", "cp1")] {
        let stop = AtomicBool::new(false);
        let (written, gap) = std::thread::scope(|scope| {
            let writer = scope.spawn(|| write(&kubectl, lost, &stop));
            std::thread::sleep(Duration::from_secs(2));
            let killed = lab.rkadm(&["kill", lost]).status();
            let answered = Instant::now();
            let back =
                holds("the API", LIMIT, || Ok(lab.sh(other, &format!("{ADMIN} timeout 2 kubectl get --raw /readyz"))? == "ok"));
            let gap = answered.elapsed();
            std::thread::sleep(Duration::from_secs(8));
            stop.store(true, Ordering::Relaxed);
            let written = writer.join().unwrap_or_default();
            killed?;
            back.map(|()| (written, gap))
        })?;
        println!(
            "{lost} lost its power: the API answered after {:.1} s, {} writes acknowledged",
            gap.as_secs_f32(),
            written.len()
        );
        ensure!(!written.is_empty(), "no write was acknowledged");
        let held = lab.sh(other, &format!("{ADMIN} kubectl get configmaps -o name"))?;
        let missing: Vec<_> =
            written.iter().filter(|name| !held.lines().any(|line| line.ends_with(&format!("/{name}")))).collect();
        ensure!(missing.is_empty(), "acknowledged writes are lost: {missing:?}");
        // By now a worker that depends on the lost host would be NotReady.
        holds("the loss noticed", LIMIT, || {
            let status = lab.sh(other, &format!("{ADMIN} kubectl get nodes --no-headers"))?;
            Ok(status.lines().any(|line| line.starts_with(lost) && line.contains("NotReady")))
        })?;
        let nodes = lab.sh(other, &format!("{ADMIN} kubectl get nodes --no-headers"))?;
        let sick: Vec<_> = nodes.lines().filter(|line| line.contains("NotReady") && !line.starts_with(lost)).collect();
        ensure!(sick.is_empty(), "these suffer from the loss of {lost}: {sick:?}");
        pods_run(lab, other, "steady", 4)?;
        ensure!(lab.rkadm(&["start", lost]).status()?.success());
        nodes_ready(lab, other, 4)?;
    }
    Ok(())
}

/// Creates ConfigMaps until told to stop; the names that the server acknowledged.
fn write(kubectl: &crate::kubectl::Kubectl, prefix: &str, stop: &AtomicBool) -> Vec<String> {
    let mut written = Vec::new();
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let name = format!("{prefix}-write-{n}");
        let mut command: Command = kubectl.words(&["create", "configmap", &name, "--request-timeout=10s"]);
        if command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
            written.push(name);
        }
    }
    written
}

/// From one member to three, to a witness besides, and back to one.
///
/// # Errors
/// etcd does not have the members that it should.
pub fn members(lab: &Lab) -> Result<()> {
    let count = |wanted: usize| {
        holds(&format!("{wanted} members"), LIMIT, || Ok(lab.sh("cp1", "rkadm etcd member list")?.lines().count() == wanted + 1))
    };
    count(3)?;
    let join = lab.sh("cp1", "rkadm token create --print-join-command")?;
    let join = join.lines().last().context("a join command")?;
    let key = lab.sh("cp1", "rkadm init phase upload-certs --upload-certs | tail -1")?;
    for (host, wanted) in [("cp3", 2), ("cp2", 1)] {
        lab.sh("cp1", &format!("{ADMIN} kubectl delete node {host}"))?;
        lab.sh(host, "rkadm reset --force")?;
        count(wanted)?;
    }
    for (host, address, wanted) in [("cp2", "172.30.0.2", 2), ("cp3", "172.30.0.3", 3)] {
        lab.sh(
            host,
            &format!(
                "{join} --control-plane --node-name {host} --apiserver-advertise-address {address} --certificate-key {}",
                key.trim()
            ),
        )?;
        count(wanted)?;
    }
    nodes_ready(lab, "cp1", 4)?;
    // The worker becomes a witness, and a worker again.
    lab.sh("cp1", &format!("{ADMIN} kubectl delete node node1"))?;
    lab.sh("node1", "rkadm reset --force")?;
    lab.sh("node1", &format!("{join} --etcd-witness --node-name node1 --certificate-key {}", key.trim()))?;
    count(4)?;
    lab.sh("cp1", &format!("{ADMIN} kubectl delete node node1"))?;
    lab.sh("node1", "rkadm reset --force")?;
    count(3)?;
    lab.sh("node1", &format!("{join} --node-name node1"))?;
    nodes_ready(lab, "cp1", 4)
}

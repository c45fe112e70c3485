//! Power cuts at any moment of init, join, upgrade, snapshot, restore and renewal: the same command finishes the job.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::{ADMIN, nodes_ready};
use crate::lab::Lab;
use crate::release::{Release, later};

/// A sequence that looks random and can be repeated: `RK_SEED` starts it.
struct Dice(u64);

impl Dice {
    fn new() -> Self {
        let given = std::env::var("RK_SEED").ok().and_then(|text| text.parse().ok());
        let seed = given.unwrap_or_else(|| u64::from(std::process::id()) * 7919 + 1);
        println!("power cuts with RK_SEED={seed}");
        Self(seed)
    }

    /// Below `limit`. The multiplier is Knuth's for 64 bits.
    fn throw(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit.max(1)
    }
}

/// Runs a command on a host, cuts the power after a while, boots the host and runs it again, until it was not cut.
fn persist(lab: &Lab, dice: &mut Dice, host: &str, what: &str, script: &str, within: Duration) -> Result<()> {
    for cut in 0..2 {
        let mut child =
            lab.rkadm(&["enter", host, "--", "bash", "-c", script]).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let after = Duration::from_millis(dice.throw(u64::try_from(within.as_millis())?));
        let started = Instant::now();
        let mut ended = None;
        while started.elapsed() < after && ended.is_none() {
            ended = child.try_wait()?;
            std::thread::sleep(Duration::from_millis(5));
        }
        ensure!(lab.rkadm(&["kill", host]).stdout(Stdio::null()).status()?.success());
        let _ = child.wait()?;
        println!(
            "{what}: power cut {} after {:.2} s{}",
            cut + 1,
            after.as_secs_f32(),
            if ended.is_some() { ", it had ended" } else { "" }
        );
        ensure!(lab.rkadm(&["start", host]).stdout(Stdio::null()).status()?.success());
        if ended.is_some_and(|status| status.success()) && what != "snapshot" {
            // What is done is done: the same command again may say so.
            return Ok(());
        }
    }
    let output = lab.rkadm(&["enter", host, "--", "bash", "-c", script]).output()?;
    let words = || format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if !output.status.success() {
        bail!("{what} after power cuts: {}", words());
    }
    Ok(())
}

/// The whole life of a two-node cluster, cut everywhere. The lab is bare.
///
/// # Errors
/// A command does not finish its job.
pub fn cuts(lab: &Lab) -> Result<()> {
    let mut dice = Dice::new();
    let second = Duration::from_secs(1);
    let init = "rkadm init --apiserver-advertise-address 172.30.0.1 --pod-network-cidr 10.244.0.0/16 --node-name cp1 \
                --apiserver-cert-extra-sans 127.0.0.1,localhost";
    persist(lab, &mut dice, "cp1", "init", init, second * 6)?;
    nodes_ready(lab, "cp1", 1)?;
    let join = lab.sh("cp1", "rkadm token create --print-join-command")?;
    let join = format!("{} --node-name node1", join.lines().last().context("a join command")?);
    persist(lab, &mut dice, "node1", "join", &join, second * 2)?;
    nodes_ready(lab, "cp1", 2)?;
    let ready =
        format!("{ADMIN} for i in $(seq 100); do timeout 5 kubectl get --raw /readyz >/dev/null 2>&1 && break; sleep 0.3; done;");
    lab.sh("cp1", &format!("{ADMIN} kubectl create configmap witness --from-literal=a=b"))?;
    persist(lab, &mut dice, "cp1", "snapshot", &format!("{ready} rkadm etcd snapshot save /root/power.db"), second)?;
    lab.sh("cp1", "rkadm etcd snapshot verify /root/power.db")?;
    persist(lab, &mut dice, "cp1", "renewal", &format!("{ready} rkadm certs renew all"), second * 3)?;
    nodes_ready(lab, "cp1", 2)?;
    persist(lab, &mut dice, "cp1", "restore", "rkadm etcd snapshot restore /root/power.db", second * 8)?;
    nodes_ready(lab, "cp1", 2)?;
    let release = Release::make(lab, &later(1), None)?;
    let dir = release.give(lab, "cp1")?;
    let upgrade = format!("{dir}/bin/rkadm upgrade apply {} --yes --force", release.version);
    persist(lab, &mut dice, "cp1", "upgrade", &upgrade, second * 15)?;
    nodes_ready(lab, "cp1", 2)?;
    ensure!(lab.sh("cp1", &format!("{ADMIN} kubectl version -o json"))?.contains(&release.version));
    lab.sh("cp1", &format!("{ADMIN} kubectl get configmap witness")).map(drop)
}

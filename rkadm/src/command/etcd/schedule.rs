//! `rkadm etcd snapshot schedule`: a daemon of this host that saves, checks and rotates snapshots.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use pki::Files;

use super::{TIMEOUT, default_name, rotate, save_sealed, seal};
use crate::node::systemctl;
use crate::supervise::{self, Unit};
use crate::{host, say};

const UNIT: &str = "rk-snapshots";
const SYSTEMD_UNIT: &str = "/etc/systemd/system/rk-snapshots.service";
const LOG: &str = "/var/log/rk-snapshots.log";
/// After a failure: etcd may only be restarting.
const RETRY: Duration = Duration::from_secs(60);

pub(super) struct Schedule {
    pub(super) every: Duration,
    pub(super) keep: usize,
    pub(super) dir: PathBuf,
    pub(super) key_file: Option<PathBuf>,
}

impl Schedule {
    /// The command line of the daemon.
    fn arguments(&self, cert_dir: &Path, endpoints: &[String]) -> Vec<String> {
        let mut words: Vec<String> = ["etcd", "snapshot", "schedule", "--run"].map(str::to_string).to_vec();
        words.push(format!("--every={}s", self.every.as_secs()));
        words.push(format!("--keep={}", self.keep));
        words.push(format!("--dir={}", self.dir.display()));
        if let Some(key) = &self.key_file {
            words.push(format!("--key-file={}", key.display()));
        }
        words.push(format!("--cert-dir={}", cert_dir.display()));
        words.push(format!("--endpoints={}", endpoints.join(",")));
        words
    }

    /// Installs and starts the daemon.
    pub(super) async fn start(&self, cert_dir: &Path, endpoints: &[String]) -> anyhow::Result<()> {
        if let Some(key) = &self.key_file {
            seal::key(key)?;
        }
        let program = std::env::current_exe().context("finding rkadm's own executable")?;
        let args = self.arguments(cert_dir, endpoints);
        if host::observe().systemd {
            let line = format!("{} {}", program.display(), args.join(" "));
            let text = format!(
                "[Unit]\nDescription=rk: snapshots of etcd\nAfter=kubelet.service\n\n[Service]\nExecStart={line}\nRestart=always\nRestartSec=60\n\n\
                 [Install]\nWantedBy=multi-user.target\n"
            );
            Files::host().write(SYSTEMD_UNIT, pki::files::PUBLIC, text)?;
            for args in [&["daemon-reload"][..], &["enable", UNIT], &["restart", UNIT]] {
                systemctl(args).await?;
            }
        } else {
            supervise::start(&Unit { name: UNIT.into(), program, args, log: LOG.into() })?;
        }
        say::phase(
            "etcd",
            &format!("A snapshot every {:?} in {}, the last {} are kept", self.every, self.dir.display(), self.keep),
        );
        Ok(())
    }

    /// Is the daemon.
    pub(super) async fn run(&self, files: &Files, cert_dir: &Path, endpoints: &[String]) -> anyhow::Result<()> {
        loop {
            let pause = match self.once(files, cert_dir, endpoints).await {
                Ok(()) => self.every,
                Err(error) => {
                    tracing::error!(err = %format!("{error:#}"), "No snapshot was saved, will try again");
                    RETRY.min(self.every)
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    async fn once(&self, files: &Files, cert_dir: &Path, endpoints: &[String]) -> anyhow::Result<()> {
        let file = self.dir.join(default_name());
        let mut client = crate::etcd::connect(files, cert_dir, endpoints, TIMEOUT).await?;
        let size = save_sealed(&mut client, &file, self.key_file.as_deref()).await?;
        tracing::info!(file = %file.display(), size, "Saved a snapshot");
        let alarms = super::alarms(&mut client).await?;
        if !alarms.is_empty() {
            tracing::error!(alarms = alarms.join(","), "etcd has alarms");
        }
        rotate(&self.dir, self.keep)
    }
}

/// Ends and removes the daemon of this host.
pub(super) async fn stop() -> anyhow::Result<()> {
    if host::observe().systemd {
        if Path::new(SYSTEMD_UNIT).exists() {
            systemctl(&["disable", "--now", UNIT]).await?;
            std::fs::remove_file(SYSTEMD_UNIT)?;
            systemctl(&["daemon-reload"]).await?;
        }
    } else {
        supervise::stop(UNIT)?;
    }
    say::phase("etcd", "No snapshots are scheduled on this host");
    Ok(())
}

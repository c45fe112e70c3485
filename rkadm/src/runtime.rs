//! containerd: found, or started where nobody else does.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::cri::{self, Runtime};
use crate::host::{self, Host};
use crate::supervise::{self, Unit};

/// Our configuration for a containerd that we start.
pub const CONFIG: &str = "/run/rk/containerd.toml";
/// The distribution's or the user's own.
const USER_CONFIG: &str = "/etc/containerd/config.toml";
/// A cold containerd opens its database and scans its snapshots.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// What to do about the runtime.
#[derive(Debug, PartialEq, Eq)]
pub enum Plan {
    /// It listens.
    Use,
    /// It does not, there is no systemd, but the program is here: supervise it.
    Start,
    Refuse(&'static str),
}

/// Decides from what is seen.
pub fn plan(listening: bool, host: &Host, installed: bool) -> Plan {
    match (listening, installed, host.systemd) {
        (true, ..) => Plan::Use,
        (false, true, false) => Plan::Start,
        (false, true, true) => Plan::Refuse("containerd is installed but does not run: systemctl enable --now containerd"),
        (false, false, _) => Plan::Refuse("containerd is not installed: apt-get install containerd runc"),
    }
}

/// A connection to the runtime, starting it if that is ours to do.
pub async fn ensure(socket: &str, host: &Host, pause_image: &str) -> anyhow::Result<Runtime> {
    let program = host::find_program("containerd");
    match plan(cri::is_listening(socket), host, program.is_some()) {
        Plan::Use => {}
        Plan::Refuse(why) => bail!("the container runtime does not answer at {socket}: {why}"),
        Plan::Start => {
            let program = program.context("containerd is on PATH")?;
            let config = if std::path::Path::new(USER_CONFIG).exists() {
                USER_CONFIG
            } else {
                let text = configuration(&cri::plain(socket), pause_image, !can_lower_oom_score());
                pki::Files::host().write(CONFIG, pki::files::PUBLIC, text)?;
                CONFIG
            };
            let args = vec!["--config".into(), config.into(), "--address".into(), cri::plain(socket)];
            supervise::start(&Unit { name: "containerd".into(), program, args, log: "/var/log/containerd.log".into() })?;
            let end = Instant::now() + START_TIMEOUT;
            while !cri::is_listening(socket) {
                if Instant::now() > end {
                    bail!(
                        "containerd was started but does not answer at {socket} after {START_TIMEOUT:?}: see /var/log/containerd.log"
                    );
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
    let runtime = Runtime::connect(socket).await?;
    let end = Instant::now() + START_TIMEOUT;
    loop {
        match runtime.version().await {
            Ok(version) => {
                tracing::debug!(name = version.runtime_name, version = version.runtime_version, "Container runtime answers");
                return Ok(runtime);
            }
            Err(error) if Instant::now() > end => {
                let why = format!("{error:#}");
                let hint = if why.contains("unknown service") {
                    "; its CRI plugin is off: remove \"cri\" from disabled_plugins in /etc/containerd/config.toml and restart containerd"
                } else {
                    ""
                };
                bail!("the container runtime at {socket} does not speak CRI v1: {why}{hint}");
            }
            // `unknown service` while plugins load passes; one that stays is caught above.
            Err(error) if format!("{error:#}").contains("unknown service") && cri_is_disabled() => {
                bail!(
                    "containerd's CRI plugin is off: remove \"cri\" from disabled_plugins in {USER_CONFIG} and restart containerd"
                )
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

fn cri_is_disabled() -> bool {
    std::fs::read_to_string(USER_CONFIG)
        .is_ok_and(|text| text.lines().any(|line| line.trim_start().starts_with("disabled_plugins") && line.contains("\"cri\"")))
}

/// Without CAP_SYS_RESOURCE runc cannot lower the score of sandboxes, and every pod would fail.
fn can_lower_oom_score() -> bool {
    const CAP_SYS_RESOURCE: u32 = 24;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective =
        status.lines().find_map(|line| line.strip_prefix("CapEff:")).and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    effective.is_none_or(|caps| caps & (1 << CAP_SYS_RESOURCE) != 0)
}

/// A configuration for containerd 1.6 and 1.7 (2.x reads version 2 as well). cgroupfs, because there is no systemd where we start it.
fn configuration(socket: &str, pause_image: &str, restrict_oom: bool) -> String {
    format!(
        r#"# Written by rkadm, for a host without systemd and without {USER_CONFIG}.
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"

[grpc]
  address = "{socket}"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause_image}"
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  restrict_oom_score_adj = {restrict_oom}
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runtime_is_used_started_or_asked_for() {
        let host = |systemd| Host { systemd, ..Default::default() };
        assert_eq!(plan(true, &host(true), false), Plan::Use);
        assert_eq!(plan(false, &host(false), true), Plan::Start);
        assert!(matches!(plan(false, &host(true), true), Plan::Refuse(why) if why.contains("systemctl")));
        assert!(matches!(plan(false, &host(false), false), Plan::Refuse(why) if why.contains("apt-get install containerd")));
    }
}

//! `rkadm supervise`: keeps one daemon running on hosts without systemd: restart with backoff, a log, pid files in /run/rk.
//!
//! One supervisor per daemon, detached from the terminal that started it. It reads its instructions from `/var/lib/rk/NAME.json` at every
//! start of the daemon, so that editing the kubelet's environment files and killing the kubelet is enough to change its flags.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

pub const RUN_DIR: &str = "/run/rk";
/// Instructions survive a reboot, so that `supervise boot` can go on with them.
pub const UNIT_DIR: &str = "/var/lib/rk";
/// First pause before a restart; doubles up to [`MAX_BACKOFF`].
const MIN_BACKOFF: Duration = Duration::from_millis(200);
/// As the kubelet's unit: RestartSec=10.
const MAX_BACKOFF: Duration = Duration::from_secs(10);
/// A daemon that ran this long has come up; its next end starts with the short pause again.
const STEADY: Duration = Duration::from_secs(10);
/// After SIGTERM a daemon has this long to end.
const STOP_GRACE: Duration = Duration::from_secs(15);
/// A log that has grown beyond this is moved to `.1` at the next start of the daemon, so that two of them bound the disk.
const MAX_LOG: u64 = 64 << 20;

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    pub name: String,
    pub program: PathBuf,
    /// Fixed arguments. The kubelet's are computed from its environment files instead.
    pub args: Vec<String>,
    pub log: PathBuf,
}

impl Unit {
    pub fn kubelet(program: PathBuf) -> Unit {
        Unit { name: "kubelet".into(), program, args: Vec::new(), log: "/var/log/kubelet.log".into() }
    }

    fn arguments(&self) -> Vec<String> {
        if self.name != "kubelet" {
            return self.args.clone();
        }
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let (flags, extra) = (read(crate::kubelet::ENV), read(crate::kubelet::EXTRA_ENV));
        crate::kubelet::arguments(&[&flags, &extra])
    }
}

fn unit_path(name: &str) -> PathBuf {
    Path::new(UNIT_DIR).join(format!("{name}.json"))
}

fn supervisor_pid_path(name: &str) -> PathBuf {
    Path::new(RUN_DIR).join(format!("{name}.supervisor.pid"))
}

fn pid_path(name: &str) -> PathBuf {
    Path::new(RUN_DIR).join(format!("{name}.pid"))
}

/// The pause before the next start.
fn backoff(previous: Duration, ran: Duration) -> Duration {
    if ran >= STEADY { MIN_BACKOFF } else { (previous * 2).clamp(MIN_BACKOFF, MAX_BACKOFF) }
}

/// Starts a supervisor for a unit, or makes the running one restart its daemon with the new instructions.
pub fn start(unit: &Unit) -> anyhow::Result<()> {
    std::fs::create_dir_all(RUN_DIR).with_context(|| format!("cannot make {RUN_DIR}"))?;
    // Known by the program that it was started from, which the new instructions may replace.
    let running = daemon(&unit.name);
    let text = serde_json::to_vec_pretty(unit)?;
    pki::Files::host().write(unit_path(&unit.name), pki::files::PUBLIC, text)?;
    if supervisor(&unit.name).is_some() {
        if let Some(pid) = running {
            let _ = kill(pid, Signal::SIGTERM);
        }
        return Ok(());
    }
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&unit.log)
        .with_context(|| format!("cannot open {}", unit.log.display()))?;
    let exe = std::env::current_exe().context("finding rkadm's own executable")?;
    // The supervisor leaves this session by itself (setsid) before anything else.
    std::process::Command::new(exe)
        .args(["supervise", &unit.name])
        .current_dir("/")
        .stdin(std::process::Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("cannot start the supervisor")?;
    Ok(())
}

/// `rkadm supervise boot`: after the power came back, everything that was supervised is again.
pub fn boot() -> anyhow::Result<()> {
    let entries = std::fs::read_dir(UNIT_DIR).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.file_name().to_string_lossy().strip_suffix(".json").map(str::to_string)).collect();
    // containerd before kubelet.
    names.sort();
    for name in names {
        let unit: Unit = serde_json::from_slice(&std::fs::read(unit_path(&name))?)
            .with_context(|| format!("{} is damaged", unit_path(&name).display()))?;
        start(&unit)?;
    }
    Ok(())
}

/// Stops a supervisor with its daemon. Says whether there was one.
pub fn stop(name: &str) -> anyhow::Result<bool> {
    let Some(pid) = supervisor(name) else {
        // A daemon whose supervisor died is ours to end as well.
        if let Some(pid) = daemon(name) {
            end(pid)?;
            forget(name);
            return Ok(true);
        }
        forget(name);
        return Ok(false);
    };
    kill(pid, Signal::SIGTERM).with_context(|| format!("cannot stop the supervisor of {name} (pid {pid})"))?;
    let end = std::time::Instant::now() + STOP_GRACE + Duration::from_secs(5);
    while is_alive(pid) {
        if std::time::Instant::now() > end {
            bail!("the supervisor of {name} (pid {pid}) does not end");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    forget(name);
    Ok(true)
}

fn forget(name: &str) {
    for path in [unit_path(name), pid_path(name), supervisor_pid_path(name)] {
        let _ = std::fs::remove_file(path);
    }
}

fn end(pid: Pid) -> anyhow::Result<()> {
    let _ = kill(pid, Signal::SIGTERM);
    let deadline = std::time::Instant::now() + STOP_GRACE;
    while is_alive(pid) {
        if std::time::Instant::now() > deadline {
            let _ = kill(pid, Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// The supervisor's pid, if it lives and is one.
pub fn supervisor(name: &str) -> Option<Pid> {
    living(&supervisor_pid_path(name), |command| command.windows(2).any(|pair| pair[0] == "supervise" && pair[1] == name))
}

/// The daemon's pid, if it lives and is the unit's program.
pub fn daemon(name: &str) -> Option<Pid> {
    let unit: Unit = serde_json::from_slice(&std::fs::read(unit_path(name)).ok()?).ok()?;
    living(&pid_path(name), |command| command.first().is_some_and(|program| Path::new(program) == unit.program))
}

/// Reads a pid file and makes sure that the process is what it should be: pids are used again.
fn living(path: &Path, is: impl Fn(&[String]) -> bool) -> Option<Pid> {
    let pid: i32 = std::fs::read_to_string(path).ok()?.trim().parse().ok()?;
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words: Vec<String> =
        command.split(|b| *b == 0).filter(|w| !w.is_empty()).map(|w| String::from_utf8_lossy(w).into_owned()).collect();
    is(&words).then(|| Pid::from_raw(pid))
}

/// Alive, and no zombie.
fn is_alive(pid: Pid) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X'])))
}

/// The supervisor itself. Returns after SIGTERM, with the daemon ended.
pub async fn run(name: &str) -> anyhow::Result<()> {
    // Fails only for a process that leads its group already, which has no terminal to lose either.
    let _ = nix::unistd::setsid();
    std::fs::create_dir_all(RUN_DIR)?;
    std::fs::write(supervisor_pid_path(name), format!("{}\n", std::process::id()))?;
    let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let mut hangup = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())?;
    let mut pause = Duration::ZERO;
    loop {
        let text = std::fs::read(unit_path(name)).with_context(|| format!("cannot read {}", unit_path(name).display()))?;
        let unit: Unit = serde_json::from_slice(&text)?;
        let started = std::time::Instant::now();
        match spawn(&unit) {
            Ok(mut child) => {
                let pid = child.id().map(|pid| Pid::from_raw(pid.cast_signed()));
                let _ = std::fs::write(pid_path(name), format!("{}\n", child.id().unwrap_or_default()));
                let status = loop {
                    tokio::select! {
                        status = child.wait() => break status,
                        _ = term.recv() => {
                            stop_child(&mut child, pid).await;
                            let _ = std::fs::remove_file(pid_path(name));
                            let _ = std::fs::remove_file(supervisor_pid_path(name));
                            return Ok(());
                        }
                        // A closed terminal is none of a daemon's business.
                        _ = hangup.recv() => {}
                    }
                };
                let _ = std::fs::remove_file(pid_path(name));
                tracing::warn!(unit = name, status = ?status.map(|s| s.to_string()), "Daemon ended, will restart");
            }
            Err(error) => tracing::error!(unit = name, err = %format!("{error:#}"), "Daemon cannot be started, will try again"),
        }
        pause = backoff(pause, started.elapsed());
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = term.recv() => {
                let _ = std::fs::remove_file(supervisor_pid_path(name));
                return Ok(());
            }
        }
    }
}

fn spawn(unit: &Unit) -> anyhow::Result<tokio::process::Child> {
    if std::fs::metadata(&unit.log).is_ok_and(|meta| meta.len() > MAX_LOG) {
        let mut old = unit.log.clone().into_os_string();
        old.push(".1");
        let _ = std::fs::rename(&unit.log, old);
    }
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&unit.log)
        .with_context(|| format!("cannot open {}", unit.log.display()))?;
    let mut command = tokio::process::Command::new(&unit.program);
    command
        .args(unit.arguments())
        .current_dir("/")
        .stdin(std::process::Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0);
    command.spawn().with_context(|| format!("cannot run {}", unit.program.display()))
}

async fn stop_child(child: &mut tokio::process::Child, pid: Option<Pid>) {
    if let Some(pid) = pid {
        let _ = kill(pid, Signal::SIGTERM);
    }
    if tokio::time::timeout(STOP_GRACE, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_start_over_after_a_steady_run() {
        let second = Duration::from_secs(1);
        let mut pause = Duration::ZERO;
        let pauses: Vec<u128> = (0..8)
            .map(|_| {
                pause = backoff(pause, Duration::ZERO);
                pause.as_millis()
            })
            .collect();
        assert_eq!(pauses, [200, 400, 800, 1600, 3200, 6400, 10000, 10000]);
        assert_eq!(backoff(pause, second * 20), MIN_BACKOFF);
    }

    #[test]
    fn a_pid_file_of_another_process_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.pid");
        std::fs::write(&path, format!("{}\n", std::process::id())).unwrap();
        assert!(living(&path, |_| true).is_some());
        assert!(living(&path, |command| command.iter().any(|word| word == "supervise")).is_none());
        std::fs::write(&path, "garbage").unwrap();
        assert!(living(&path, |_| true).is_none());
    }
}

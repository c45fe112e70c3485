//! A host from outside: boot, power cord, its processes.

use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill as send};
use nix::unistd::Pid;

use crate::layout::{Layout, Node, live_pid};
use crate::{cgroups, keeper, network};

/// Boots a host and waits until its container runtime answers.
///
/// # Errors
/// It did not come up; the text holds the end of its log.
pub fn boot(layout: &Layout, node: &Node) -> Result<()> {
    let keeper = keeper::pid(layout)?;
    let dir = layout.node_dir(&node.name);
    std::fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    cgroups::create(&layout.cgroup(&node.name))?;
    let log_path = dir.join("boot.log");
    let log = std::fs::File::create(&log_path)?;
    let child = Command::new(std::env::current_exe()?)
        .args(["lab", "--lab", &layout.lab, "boot", &node.name])
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("boot {}", node.name))?;
    std::fs::write(layout.node_pid_file(&node.name), child.id().to_string())?;
    let words = || std::fs::read_to_string(&log_path).unwrap_or_default().trim().to_owned();
    let outer = i32::try_from(child.id())?;
    let init = wait(&format!("{} to start", node.name), || Ok(init_of(outer))).with_context(words)?;
    network::plug(keeper, init, node)?;
    let socket = socket(init);
    wait(&format!("containerd on {}", node.name), || {
        if !PathBuf::from(format!("/proc/{init}")).exists() {
            bail!("{} went down", node.name);
        }
        Ok(UnixStream::connect(&socket).ok().map(|_| ()))
    })
    .with_context(words)
}

/// containerd's socket of a host, as this machine sees it.
fn socket(init: i32) -> PathBuf {
    PathBuf::from(format!("/proc/{init}/root/run/containerd/containerd.sock"))
}

fn wait<T>(what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if Instant::now() > deadline {
            bail!("waited 30 s for {what}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The first process of the host whose outer process is `outer`, once it is init (not yet `unshare`).
fn init_of(outer: i32) -> Option<i32> {
    let children = std::fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).ok()?;
    let child: i32 = children.split_whitespace().next()?.parse().ok()?;
    let command = std::fs::read(format!("/proc/{child}/cmdline")).ok()?;
    let text = String::from_utf8_lossy(&command).replace('\0', " ");
    (text.contains(" init ") && !text.starts_with("unshare")).then_some(child)
}

/// The pid of a running host's first process, as this machine sees it; `None` when it is off.
pub fn init_pid(layout: &Layout, node: &str) -> Option<i32> {
    init_of(live_pid(&layout.node_pid_file(node), "unshare")?)
}

/// Hidden command: becomes the outer process of a host.
///
/// # Errors
/// `unshare` is missing, or cgroups cannot be entered.
pub fn boot_here(layout: &Layout, node: &str) -> Result<()> {
    let _ = nix::unistd::setsid();
    cgroups::enter(&layout.cgroup(node))?;
    let exe = std::env::current_exe()?;
    let error = Command::new("unshare")
        .args([
            "--mount",
            "--uts",
            "--ipc",
            "--net",
            "--pid",
            "--cgroup",
            "--fork",
            "--kill-child",
            "--propagation",
            "private",
            "--",
        ])
        .arg(exe)
        .args(["lab", "--lab", &layout.lab, "init", node])
        .exec();
    Err(error).context("run unshare: not installed? On Debian: apt-get install util-linux")
}

/// Pulls the power cord: every process of the host dies at once.
///
/// # Errors
/// No such host, or it is off already.
pub fn kill(layout: &Layout, name: &str) -> Result<()> {
    let (_, node) = layout.node(name)?;
    let Some(init) = init_pid(layout, &node.name) else { bail!("{name} is off; rkadm lab start {name} boots it") };
    power_off(layout, name, init)?;
    println!("{name} is off");
    Ok(())
}

/// Kills the host's first process and waits until its cgroups are empty.
pub fn power_off(layout: &Layout, name: &str, init: i32) -> Result<()> {
    let _ = send(Pid::from_raw(init), Signal::SIGKILL);
    let cgroup = layout.cgroup(name);
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        // `enter` shells live in the host's cgroups but in this machine's process namespace.
        let left = cgroups::processes(&cgroup);
        if left.is_empty() {
            break;
        }
        if Instant::now() > deadline {
            bail!("processes of {name} would not die: {left:?}");
        }
        for pid in left {
            let _ = send(Pid::from_raw(pid), Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = std::fs::remove_file(layout.node_pid_file(name));
    let _ = cgroups::remove(&cgroup);
    Ok(())
}

/// Boots a host that is off; what runs there by itself (kubelet) comes back.
///
/// # Errors
/// No such host, or it runs already.
pub fn start(layout: &Layout, name: &str) -> Result<()> {
    let (_, node) = layout.node(name)?;
    if init_pid(layout, name).is_some() {
        bail!("{name} is on already");
    }
    boot(layout, &node)?;
    println!("{name} is on");
    Ok(())
}

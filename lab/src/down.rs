//! The end of a lab: nothing stays.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::layout::{Layout, live_pid};
use crate::{cgroups, node};

/// Removes the lab; succeeds also when there is none, or half of one.
///
/// # Errors
/// Something would not go; the text names it.
pub fn down(layout: &Layout) -> Result<()> {
    if !layout.dir().exists() {
        println!("lab {:?} is not up", layout.lab);
        return Ok(());
    }
    let mut problems = Vec::new();
    let nodes: Vec<String> = fs::read_dir(layout.dir().join("nodes"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    std::thread::scope(|scope| {
        let handles: Vec<_> = nodes.iter().map(|name| scope.spawn(move || stop_node(layout, name))).collect();
        for handle in handles {
            match handle.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => problems.push(format!("{error:#}")),
                Err(_) => problems.push("a host's shutdown panicked".to_owned()),
            }
        }
    });
    if let Some(pid) = live_pid(&layout.keeper_pid_file(), "keeper") {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        wait_gone(pid);
    }
    if !problems.is_empty() {
        bail!("lab {:?} is not wholly down: {}", layout.lab, problems.join("; "));
    }
    fs::remove_dir_all(layout.dir()).with_context(|| format!("remove {}", layout.dir().display()))?;
    // The directory of all labs goes with the last one.
    if let Some(parent) = layout.dir().parent() {
        let _ = fs::remove_dir(parent);
        let _ = parent.parent().map(fs::remove_dir);
    }
    println!("lab {:?} is down", layout.lab);
    Ok(())
}

fn stop_node(layout: &Layout, name: &str) -> Result<()> {
    if let Some(outer) = live_pid(&layout.node_pid_file(name), &layout.lab) {
        let init = node::init_pid(layout, name).unwrap_or(outer);
        node::power_off(layout, name, init)?;
        wait_gone(outer);
    }
    let cgroup = layout.cgroup(name);
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let left = cgroups::remove(&cgroup);
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("cgroups of {name} would not go: {left:?}");
        }
        for pid in cgroups::processes(&cgroup) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Until a killed process is gone (or a zombie of ours is reaped), at most 5 s.
fn wait_gone(pid: i32) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while Instant::now() < deadline {
        let _ = nix::sys::wait::waitpid(Pid::from_raw(pid), Some(nix::sys::wait::WaitPidFlag::WNOHANG));
        let state = fs::read_to_string(format!("/proc/{pid}/stat")).ok();
        if state.is_none_or(|stat| stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z'))) {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

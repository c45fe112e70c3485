//! The first process of a host: builds its view of the machine, then keeps containerd running and reaps orphans.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, chdir, pivot_root, sethostname};

use crate::layout::{Layout, State};
use crate::{cgroups, containerd};

/// Directories that survive a power cut; everything else of the root is fresh at each boot.
const DISKS: [&str; 11] = [
    "/etc/kubernetes",
    "/etc/cni/net.d",
    "/opt/cni/bin",
    "/root",
    "/usr/libexec/kubernetes",
    "/var/lib/cni",
    "/var/lib/containerd",
    "/var/lib/etcd",
    "/var/lib/kubelet",
    "/var/lib/rk",
    "/var/log",
];

/// Settings that a kubelet wants and that belong to the whole machine: the host sees files with the wanted values instead.
const SYSCTLS: [(&str, &str); 6] = [
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

/// The hosts of a lab share this machine's disk: a part of it that is free says nothing about a host, and images cannot be pulled again.
const KUBELET_FLAGS: &str = "KUBELET_EXTRA_ARGS=--eviction-hard=memory.available<100Mi,nodefs.available<1Gi,imagefs.available<1Gi \
    --image-gc-high-threshold=100 --image-gc-low-threshold=99\n";

const NONE: Option<&str> = None;

/// Is the host's first process.
///
/// # Errors
/// A mount fails; the host goes down with it.
pub fn run(layout: &Layout, name: &str) -> Result<()> {
    let (state, _) = layout.node(name)?;
    let hierarchies = cgroups::hierarchies()?;
    let root = build_root(layout, name, &state)?;
    mount_cgroups(&root, &hierarchies)?;
    chdir(root.as_path())?;
    pivot_root(".", ".").context("pivot_root")?;
    umount2(".", MntFlags::MNT_DETACH).context("let go of the old root")?;
    chdir("/")?;
    // Mounts that the kubelet makes must reach containers.
    mount(NONE, "/", NONE, MsFlags::MS_SHARED | MsFlags::MS_REC, NONE).context("share mounts")?;
    identity(&state, name)?;
    wait_for_network();
    supervise()
}

/// This machine's root with a private upper layer, the host's disks and our binaries in it.
fn build_root(layout: &Layout, name: &str, state: &State) -> Result<std::path::PathBuf> {
    let dir = layout.node_dir(name);
    let (scratch, root) = (dir.join("scratch"), dir.join("root"));
    for path in [&scratch, &root] {
        fs::create_dir_all(path)?;
    }
    mount(Some("tmpfs"), &scratch, Some("tmpfs"), MsFlags::empty(), Some("mode=0755")).context("mount the scratch layer")?;
    let (upper, work) = (scratch.join("upper"), scratch.join("work"));
    fs::create_dir(&upper)?;
    fs::create_dir(&work)?;
    let options = format!("lowerdir=/,upperdir={},workdir={}", upper.display(), work.display());
    mount(Some("overlay"), &root, Some("overlay"), MsFlags::empty(), Some(options.as_str())).context("mount the root overlay")?;

    let at = |path: &str| root.join(path.trim_start_matches('/'));
    let fresh = |path: &str, kind: &str, options: &str| -> Result<()> {
        fs::create_dir_all(at(path))?;
        let options = Some(options).filter(|options| !options.is_empty());
        mount(Some(kind), &at(path), Some(kind), MsFlags::empty(), options).with_context(|| format!("mount {kind} at {path}"))
    };
    fresh("/proc", "proc", "")?;
    fresh("/sys", "sysfs", "")?;
    bind(Path::new("/dev"), &at("/dev"), true)?;
    fresh("/dev/pts", "devpts", "newinstance,ptmxmode=0666,mode=0620,gid=5")?;
    // A devpts of its own needs its own ptmx.
    if fs::symlink_metadata("/dev/ptmx").is_ok_and(|meta| !meta.file_type().is_symlink()) {
        bind(&at("/dev/pts/ptmx"), &at("/dev/ptmx"), false)?;
    }
    fresh("/dev/shm", "tmpfs", "mode=1777")?;
    fresh("/run", "tmpfs", "mode=0755")?;
    fresh("/tmp", "tmpfs", "mode=1777")?;
    for path in DISKS {
        let disk = layout.disk(name, path);
        fs::create_dir_all(&disk)?;
        // What this machine has there is not the host's.
        fs::create_dir_all(at(path))?;
        bind(&disk, &at(path), false)?;
    }
    for (from, to) in [(&state.bins, "/opt/rk/bin"), (&state.images, "/usr/share/rk/images")] {
        fs::create_dir_all(at(to))?;
        bind(from, &at(to), false)?;
    }
    for entry in fs::read_dir(&state.bins)?.flatten() {
        let link = at("/usr/local/bin").join(entry.file_name());
        let _ = fs::remove_file(&link);
        let _ = fs::create_dir_all(at("/usr/local/bin"));
        symlink(Path::new("/opt/rk/bin").join(entry.file_name()), &link)?;
    }
    for (path, value) in SYSCTLS {
        let file = scratch.join(path.replace('/', "."));
        fs::write(&file, format!("{value}\n"))?;
        // A kernel without the setting needs no stand-in.
        let _ = bind(&file, &at("/proc/sys").join(path), false);
    }
    fs::create_dir_all(at("/etc/default"))?;
    fs::write(at("/etc/default/kubelet"), KUBELET_FLAGS)?;
    fs::create_dir_all(at("/etc/containerd"))?;
    fs::write(at("/etc/containerd/config.toml"), containerd::config(containerd::may_lower_oom()))?;
    Ok(root)
}

fn bind(from: &Path, to: &Path, recursive: bool) -> Result<()> {
    let flags = if recursive { MsFlags::MS_BIND | MsFlags::MS_REC } else { MsFlags::MS_BIND };
    mount(Some(from), to, NONE, flags, NONE).with_context(|| format!("bind {} to {}", from.display(), to.display()))
}

/// The hierarchies with the host's cgroup as their root.
fn mount_cgroups(root: &Path, hierarchies: &[cgroups::Hierarchy]) -> Result<()> {
    let base = root.join("sys/fs/cgroup");
    let pure_v2 = hierarchies.iter().any(|hierarchy| hierarchy.v2 && hierarchy.mount == Path::new("/sys/fs/cgroup"));
    if pure_v2 {
        mount(Some("cgroup2"), &base, Some("cgroup2"), MsFlags::empty(), NONE).context("mount cgroup2")?;
        // Processes may sit in a cgroup or below it, not both: the first process moves out of the way.
        fs::create_dir_all(base.join("init.scope"))?;
        fs::write(base.join("init.scope/cgroup.procs"), "1")?;
        let controllers = fs::read_to_string(base.join("cgroup.controllers"))?;
        for controller in controllers.split_whitespace() {
            fs::write(base.join("cgroup.subtree_control"), format!("+{controller}"))
                .with_context(|| format!("enable {controller}"))?;
        }
        return Ok(());
    }
    mount(Some("tmpfs"), &base, Some("tmpfs"), MsFlags::empty(), Some("mode=0755")).context("mount cgroup root")?;
    for hierarchy in hierarchies {
        let Ok(relative) = hierarchy.mount.strip_prefix("/sys/fs/cgroup") else { continue };
        let target = base.join(relative);
        fs::create_dir_all(&target)?;
        let kind = if hierarchy.v2 { "cgroup2" } else { "cgroup" };
        let options = Some(hierarchy.options.as_str()).filter(|options| !options.is_empty());
        mount(Some(kind), &target, Some(kind), MsFlags::empty(), options)
            .with_context(|| format!("mount cgroup {}", target.display()))?;
    }
    Ok(())
}

/// Name, hosts, no resolver, and a machine id that stays.
fn identity(state: &State, name: &str) -> Result<()> {
    sethostname(name)?;
    let write = |path: &str, text: String| -> Result<()> {
        let _ = fs::remove_file(path);
        fs::write(path, text).with_context(|| format!("write {path}"))
    };
    write("/etc/hostname", format!("{name}\n"))?;
    let hosts: String = state.nodes.iter().map(|node| format!("{} {}\n", node.address(), node.name)).collect();
    write("/etc/hosts", format!("127.0.0.1 localhost\n::1 localhost ip6-localhost\n{hosts}"))?;
    write("/etc/resolv.conf", "# The switch of a lab has no way out: there is no name server.\n".to_owned())?;
    let id_file = "/var/lib/rk/machine-id";
    if !Path::new(id_file).exists() {
        let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid")?.replace('-', "");
        fs::write(id_file, uuid)?;
    }
    write("/etc/machine-id", fs::read_to_string(id_file)?)?;
    fs::create_dir_all("/run/lock")?;
    Ok(())
}

/// Until the cable is in: address and route come from outside.
fn wait_for_network() {
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        // The default route is the last step of plugging in.
        let routes = fs::read_to_string("/proc/self/net/route").unwrap_or_default();
        if routes.lines().any(|line| line.starts_with("eth0\t00000000")) {
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn start_containerd() -> Result<Child> {
    let log = fs::OpenOptions::new().create(true).append(true).open("/var/log/containerd.log")?;
    Command::new("containerd")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("start containerd: not installed? On Debian: apt-get install containerd")
}

/// What a boot does where there is no systemd: everything that rkadm supervised runs again.
fn start_supervised() -> Result<()> {
    let log = fs::OpenOptions::new().create(true).append(true).open("/var/log/boot.log")?;
    Command::new("/opt/rk/bin/rkadm")
        .args(["supervise", "boot"])
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("start what was supervised")?;
    Ok(())
}

/// Keeps containerd running, brings a node's daemons back after a power cut, and reaps whatever is left to us.
fn supervise() -> Result<()> {
    let mut containerd = start_containerd()?;
    start_supervised()?;
    let mut failures = 0_u32;
    loop {
        match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::empty())) {
            Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..)) if pid.as_raw() == i32::try_from(containerd.id())? => {
                failures += 1;
                eprintln!("containerd ended ({failures}), starting it again");
                std::thread::sleep(Duration::from_millis(100 << failures.min(6)));
                containerd = start_containerd()?;
            }
            Ok(_) => {}
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

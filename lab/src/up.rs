//! From nothing to a cluster: boot hosts, `rkadm init` on the first, `rkadm join` on the others.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::layout::{Layout, Node, State};
use crate::{command, enter, keeper, node, status};

/// `rkadm lab up`.
#[derive(clap::Args, Clone, Debug)]
pub struct UpArgs {
    /// Worker hosts.
    #[arg(long, default_value_t = 1)]
    pub nodes: u8,
    /// Control-plane hosts.
    #[arg(long, default_value_t = 1)]
    pub control_planes: u8,
    /// Our binaries; by default where this program is.
    #[arg(long)]
    pub bins: Option<PathBuf>,
    /// The image archives.
    #[arg(long, env = "RK_IMAGES", default_value = "/usr/share/rk/images")]
    pub images: PathBuf,
    /// The loopback port that leads to the API server; 0 for a free one.
    #[arg(long, default_value_t = 0)]
    pub port: u16,
    /// Only boot the hosts; run `rkadm init` and `rkadm join` yourself.
    #[arg(long)]
    pub bare: bool,
    /// Further arguments for `rkadm init`.
    #[arg(last = true)]
    pub init: Vec<String>,
}

/// The pods' network in labs.
const POD_CIDR: &str = "10.244.0.0/16";

/// Boots the lab and makes the cluster; on an error, says what to look at and leaves it for that.
///
/// # Errors
/// As text for the user.
pub fn up(layout: &Layout, args: &UpArgs) -> Result<()> {
    let started = Instant::now();
    preflight(layout, args)?;
    let state =
        State { bins: bins(args)?, images: args.images.canonicalize()?, port: 0, nodes: hosts(args.control_planes, args.nodes) };
    fs::create_dir_all(layout.dir().join("nodes")).with_context(|| format!("make {}", layout.dir().display()))?;
    layout.save(&state)?;
    let (_, port) = keeper::spawn(layout, args.port)?;
    let state = State { port, ..state };
    layout.save(&state)?;
    let booted: Result<()> = std::thread::scope(|scope| {
        let boots: Vec<_> = state.nodes.iter().map(|host| scope.spawn(move || node::boot(layout, host))).collect();
        boots.into_iter().try_for_each(|boot| boot.join().unwrap_or_else(|_| bail!("a boot panicked")))
    });
    booted?;
    println!("[lab] {} hosts booted in {:.1} s: {}", state.nodes.len(), started.elapsed().as_secs_f32(), names(&state));
    let imported = Instant::now();
    load_images(layout, &state)?;
    println!("[lab] images imported in {:.1} s", imported.elapsed().as_secs_f32());
    if args.bare {
        println!("[lab] enter one with: rkadm lab enter {}", state.nodes[0].name);
        return Ok(());
    }
    make_cluster(layout, &state, args)?;
    println!("[lab] cluster up in {:.1} s", started.elapsed().as_secs_f32());
    let kubeconfig = layout.dir().join("kubeconfig");
    fs::write(&kubeconfig, status::kubeconfig_text(layout, &state)?)?;
    println!("[lab] use it with: export KUBECONFIG={}", kubeconfig.display());
    Ok(())
}

/// Gives every host every image archive, also those that a cluster does not need by itself: a lab cannot pull.
fn load_images(layout: &Layout, state: &State) -> Result<()> {
    let mut archives: Vec<String> = fs::read_dir(&state.images)?
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.ends_with(".tar"))
        .collect();
    archives.sort();
    std::thread::scope(|scope| {
        let hosts: Vec<_> = state
            .nodes
            .iter()
            .map(|host| {
                let archives = &archives;
                scope.spawn(move || {
                    archives.iter().try_for_each(|archive| {
                        let path = format!("/usr/share/rk/images/{archive}");
                        enter::output(layout, &host.name, &["ctr", "-n", "k8s.io", "images", "import", &path]).map(drop)
                    })
                })
            })
            .collect();
        hosts.into_iter().try_for_each(|host| host.join().unwrap_or_else(|_| bail!("an import panicked")))
    })
}

fn names(state: &State) -> String {
    state.nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>().join(" ")
}

/// `cp1 cp2 … node1 node2 …`
fn hosts(control_planes: u8, workers: u8) -> Vec<Node> {
    let control = (1..=control_planes).map(|n| (format!("cp{n}"), true));
    let workers = (1..=workers).map(|n| (format!("node{n}"), false));
    (1..).zip(control.chain(workers)).map(|(index, (name, control_plane))| Node { name, control_plane, index }).collect()
}

fn preflight(layout: &Layout, args: &UpArgs) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("a lab needs root: sudo rkadm lab up");
    }
    if args.control_planes == 0 || u16::from(args.control_planes) + u16::from(args.nodes) > 250 {
        bail!("1 to 250 hosts, at least one of them a control plane");
    }
    let missing: Vec<&str> = ["containerd", "ctr", "runc", "ip", "nsenter", "unshare", "iptables"]
        .into_iter()
        .filter(|tool| !command::exists(tool))
        .map(command::package)
        .collect();
    if !missing.is_empty() {
        bail!("missing on this machine: apt-get install {}", missing.join(" "));
    }
    if layout.dir().exists() {
        bail!("lab {:?} is up (or half up) already; rkadm lab down removes it", layout.lab);
    }
    if !args.images.is_dir() {
        bail!("no images at {}; `make images` builds them, --images or RK_IMAGES says where they are", args.images.display());
    }
    Ok(())
}

/// The directory of our binaries.
fn bins(args: &UpArgs) -> Result<PathBuf> {
    let dir = match &args.bins {
        Some(dir) => dir.canonicalize().with_context(|| format!("find {}", dir.display()))?,
        None => std::env::current_exe()?.parent().map(Path::to_owned).context("this program has no directory")?,
    };
    for name in ["rkadm", "kubelet"] {
        if !dir.join(name).exists() {
            bail!("no {name} in {}; say with --bins where our binaries are", dir.display());
        }
    }
    Ok(dir)
}

fn make_cluster(layout: &Layout, state: &State, args: &UpArgs) -> Result<()> {
    let first = &state.nodes[0];
    let address = first.address();
    let mut init = vec![
        "rkadm",
        "init",
        "--apiserver-advertise-address",
        &address,
        "--pod-network-cidr",
        POD_CIDR,
        "--node-name",
        &first.name,
        "--apiserver-cert-extra-sans",
        "127.0.0.1,localhost",
    ];
    let endpoint = format!("{address}:6443");
    if args.control_planes > 1 {
        init.extend(["--control-plane-endpoint", &endpoint, "--upload-certs"]);
    }
    init.extend(args.init.iter().map(String::as_str));
    narrate(layout, &first.name, &init)?;
    let printed = enter::output(layout, &first.name, &["rkadm", "token", "create", "--print-join-command"])?;
    let join: Vec<String> = printed.lines().last().unwrap_or_default().split_whitespace().map(str::to_owned).collect();
    if join.first().is_none_or(|word| !word.ends_with("adm")) {
        bail!("rkadm token create printed no join command but: {printed}");
    }
    for host in state.nodes[1..].iter().filter(|host| host.control_plane) {
        let address = host.address();
        let mut words: Vec<&str> = join.iter().map(String::as_str).collect();
        words.extend(["--control-plane", "--node-name", &host.name, "--apiserver-advertise-address", &address]);
        let key = enter::output(layout, &first.name, &["rkadm", "init", "phase", "upload-certs", "--upload-certs"])?;
        let key = key
            .lines()
            .rev()
            .map(str::trim)
            .find(|line| line.len() == 64 && line.bytes().all(|b| b.is_ascii_hexdigit()))
            .unwrap_or_default()
            .to_owned();
        words.extend(["--certificate-key", &key]);
        narrate(layout, &host.name, &words)?;
    }
    std::thread::scope(|scope| {
        let joins: Vec<_> = state.nodes[1..]
            .iter()
            .filter(|host| !host.control_plane)
            .map(|host| {
                let join = &join;
                scope.spawn(move || {
                    let mut words: Vec<&str> = join.iter().map(String::as_str).collect();
                    words.extend(["--node-name", &host.name]);
                    narrate(layout, &host.name, &words)
                })
            })
            .collect();
        joins.into_iter().try_for_each(|join| join.join().unwrap_or_else(|_| bail!("a join panicked")))
    })?;
    wait_ready(layout, state)
}

/// Runs a command on a host and prints its lines with the host's name in front.
fn narrate(layout: &Layout, host: &str, words: &[&str]) -> Result<()> {
    let mut command = enter::host_command(layout, host, words)?;
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let errors = child.stderr.take();
    let name = host.to_owned();
    let errors = std::thread::spawn(move || {
        for line in errors.into_iter().flat_map(|pipe| BufReader::new(pipe).lines()).map_while(Result::ok) {
            eprintln!("{name} | {line}");
        }
    });
    for line in child.stdout.take().into_iter().flat_map(|pipe| BufReader::new(pipe).lines()).map_while(Result::ok) {
        println!("{host} | {line}");
    }
    let _ = errors.join();
    if !child.wait()?.success() {
        bail!(
            "`{}` failed on {host}; look there with: rkadm lab --lab {} enter {host} (logs in /var/log)",
            words.join(" "),
            layout.lab
        );
    }
    Ok(())
}

/// Until every node is Ready.
fn wait_ready(layout: &Layout, state: &State) -> Result<()> {
    const LIMIT: Duration = Duration::from_secs(120);
    let first = &state.nodes[0].name;
    let template = r#"{range .items[*]}{.metadata.name}={.status.conditions[?(@.type=="Ready")].status} {end}"#;
    let started = Instant::now();
    let mut last = String::new();
    while started.elapsed() < LIMIT {
        let query =
            ["kubectl", "--kubeconfig", "/etc/kubernetes/admin.conf", "get", "nodes", "-o", &format!("jsonpath={template}")];
        if let Ok(text) = enter::output(layout, first, &query) {
            let ready = text.split_whitespace().filter(|word| word.ends_with("=True")).count();
            if ready == state.nodes.len() {
                return Ok(());
            }
            if text != last {
                println!("[lab] waiting for nodes: {text}");
                last = text;
            }
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    bail!("nodes are not Ready after {} s: {last}", LIMIT.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_named_by_role_and_numbered_through() {
        let hosts = hosts(2, 1);
        let rows: Vec<_> = hosts.iter().map(|node| (node.name.as_str(), node.address())).collect();
        assert_eq!(rows, [("cp1", "172.30.0.1".into()), ("cp2", "172.30.0.2".into()), ("node1", "172.30.0.3".into())]);
    }
}

//! `rkadm reset`: takes a node apart, as far as it got, and leaves the host as it was.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use pki::Files;

use crate::apply::Api;
use crate::config::types::ResetConfiguration;
use crate::cri::{self, Runtime};
use crate::host::{self, Host};
use crate::phase;
use crate::{kubelet, manifest, say, supervise};

/// Everything about one `reset`.
pub struct Reset {
    pub config: ResetConfiguration,
    pub host: Host,
    pub files: Files,
    pub kubeconfig: PathBuf,
    pub ignore: Vec<String>,
    /// etcd's data directory, as this host's manifest has it.
    etcd_data: PathBuf,
}

#[derive(Debug, Args)]
pub struct ResetArgs {
    /// The path to the directory where the certificates are stored
    #[arg(long, default_value = "/etc/kubernetes/pki")]
    cert_dir: String,
    /// Cleanup the "/etc/kubernetes/tmp" directory
    #[arg(long)]
    cleanup_tmp_dir: bool,
    /// Path to a kubeadm configuration file
    #[arg(long)]
    config: Option<String>,
    /// Path to the CRI socket to connect
    #[arg(long)]
    cri_socket: Option<String>,
    /// Don't apply any changes; just output what would be done
    #[arg(long)]
    dry_run: bool,
    /// Reset the node without prompting for confirmation
    #[arg(short, long)]
    force: bool,
    /// A list of checks whose errors will be shown as warnings
    #[arg(long, value_delimiter = ',')]
    ignore_preflight_errors: Vec<String>,
    /// The kubeconfig file to use when talking to the cluster
    #[arg(long, default_value = crate::node::ADMIN)]
    kubeconfig: PathBuf,
    /// List of phases to be skipped
    #[arg(long, value_delimiter = ',')]
    skip_phases: Vec<String>,
    #[command(subcommand)]
    phase: Option<ResetCommand>,
}

#[derive(Debug, clap::Subcommand)]
enum ResetCommand {
    /// Use this command to invoke single phase of the "reset" workflow
    #[command(after_help = phase::help(phase::RESET))]
    Phase {
        #[arg(required = true)]
        names: Vec<String>,
    },
}

pub async fn run(args: ResetArgs, rootfs: Option<PathBuf>) -> anyhow::Result<()> {
    let mut config = match &args.config {
        Some(path) => crate::config::load(path)?.reset.unwrap_or_default(),
        None => ResetConfiguration { certificates_dir: args.cert_dir, ..Default::default() },
    };
    if let Some(socket) = args.cri_socket {
        config.cri_socket = if socket.starts_with('/') { format!("unix://{socket}") } else { socket };
    }
    config.force |= args.force;
    config.dry_run |= args.dry_run;
    config.cleanup_tmp_dir |= args.cleanup_tmp_dir;
    if !args.skip_phases.is_empty() {
        config.skip_phases = args.skip_phases;
    }
    let mut ignore = config.ignore_preflight_errors.clone();
    ignore.extend(args.ignore_preflight_errors);
    let mut files = rootfs.map_or_else(Files::host, Files::below);
    if config.dry_run {
        files = files.dry();
    }
    let etcd_data = etcd_data_dir(&files);
    let mut reset = Reset { config, host: host::observe(), files, kubeconfig: args.kubeconfig, ignore, etcd_data };
    match args.phase {
        Some(ResetCommand::Phase { names }) => phase::run_one(phase::RESET, &mut reset, &names).await,
        None => {
            let skip = reset.config.skip_phases.clone();
            phase::run_all(phase::RESET, &mut reset, &skip).await
        }
    }
}

/// The data directory that the etcd of this host uses.
fn etcd_data_dir(files: &Files) -> PathBuf {
    let text = files.read(manifest::path("etcd")).ok().flatten().unwrap_or_default();
    let pod: serde_json::Value = serde_yaml::from_slice(&text).unwrap_or_default();
    let flags = pod["spec"]["containers"][0]["command"].as_array().cloned().unwrap_or_default();
    let dir = flags.iter().find_map(|flag| flag.as_str()?.strip_prefix("--data-dir=").map(PathBuf::from));
    dir.unwrap_or_else(|| "/var/lib/etcd".into())
}

/// Phase `preflight`: is it meant?
pub async fn preflight(reset: &mut Reset) -> anyhow::Result<()> {
    if !reset.host.root && !reset.config.dry_run {
        bail!("[ERROR IsPrivilegedUser]: user is not running as root: try sudo");
    }
    if reset.config.force || reset.config.dry_run {
        return Ok(());
    }
    say::warning("changes made to this host by 'rkadm init' or 'rkadm join' will be reverted");
    print!("[reset] Are you sure you want to proceed? [y/N]: ");
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    if !matches!(answer.trim().to_lowercase().as_str(), "y" | "yes") {
        bail!("aborted reset operation");
    }
    Ok(())
}

/// Phase `remove-etcd-member`: the others must not wait for a member that is gone.
pub async fn remove_etcd_member(reset: &mut Reset) -> anyhow::Result<()> {
    let Some(text) = reset.files.read(manifest::path("etcd"))? else { return Ok(()) };
    let pod: serde_json::Value = serde_yaml::from_slice(&text).unwrap_or_default();
    let flags: Vec<&str> =
        pod["spec"]["containers"][0]["command"].as_array().into_iter().flatten().filter_map(|f| f.as_str()).collect();
    let flag = |name: &str| flags.iter().find_map(|flag| flag.strip_prefix(name));
    let (Some(peer), Some(client)) = (flag("--initial-advertise-peer-urls="), flag("--advertise-client-urls=")) else {
        return Ok(());
    };
    if reset.config.dry_run {
        println!("[dryrun] Would remove the etcd member {peer} from the cluster");
        return Ok(());
    }
    match leave(reset, peer, client).await {
        Ok(true) => say::phase("reset", &format!("Removed the etcd member {peer} from the cluster")),
        Ok(false) => {}
        Err(error) if format!("{error:#}").contains("only member") => {
            say::phase("reset", "This host's etcd is the only member: the cluster's data goes with it");
        }
        Err(error) => say::warning(&format!(
            "the etcd member was not removed ({error:#}); if the cluster lives on, remove it there: etcdctl member list, etcdctl member remove ID"
        )),
    }
    Ok(())
}

async fn leave(reset: &Reset, peer: &str, own_client: &str) -> anyhow::Result<bool> {
    const PATIENCE: Duration = Duration::from_secs(5);
    let dir = PathBuf::from(&reset.config.certificates_dir);
    // The other members first: the own one may be dead already. The own one knows its fellows where the API server does not answer.
    let mut endpoints = Vec::new();
    if let Ok(api) = Api::connect(&reset.kubeconfig, Duration::from_secs(2)).await {
        let all = tokio::time::timeout(PATIENCE, crate::etcd::endpoints(&api, None)).await;
        endpoints = all.ok().and_then(Result::ok).unwrap_or_default();
        endpoints.retain(|url| url != own_client);
    }
    if endpoints.is_empty() {
        endpoints.push(own_client.to_string());
    }
    let mut client = crate::etcd::connect(&reset.files, &dir, &endpoints, PATIENCE).await?;
    tokio::time::timeout(PATIENCE * 4, crate::etcd::remove(&mut client, peer)).await.context("etcd does not answer")?
}

/// Phase `cleanup-node`. Goes on after failures and reports them all at the end.
pub async fn cleanup_node(reset: &mut Reset) -> anyhow::Result<()> {
    if reset.config.dry_run {
        println!("[dryrun] Would stop the kubelet, remove all pods, unmount below {}, and remove:", kubelet::DIR);
        doomed(reset).iter().for_each(|path| println!("\t{}", path.display()));
        return Ok(());
    }
    let mut problems = Vec::new();
    let mut note = |what: &str, result: anyhow::Result<()>| {
        if let Err(error) = result {
            problems.push(format!("{what}: {error:#}"));
        }
    };
    if reset.host.systemd {
        if crate::node::systemctl(&["is-active", "--quiet", "kubelet"]).await.is_ok() {
            note("stopping the kubelet", crate::node::systemctl(&["stop", "kubelet"]).await);
        }
    } else {
        note("stopping the kubelet", supervise::stop("kubelet").map(drop));
    }
    note("stopping the balancer", crate::balancer::remove(reset.host.systemd).await);
    say::phase("reset", "Stopped the kubelet");
    // Manifests first: nothing may start the pods again.
    note("removing the static pods", remove_contents(&reset.files.real(Path::new(manifest::DIR))));
    if cri::is_listening(&reset.config.cri_socket) {
        let removed = remove_pods(&reset.config.cri_socket).await;
        if let Ok(count) = &removed {
            say::phase("reset", &format!("Removed {count} pods"));
        }
        note("removing the pods", removed.map(drop));
    }
    note("removing network rules", remove_network().await);
    remove_kubelet_chains().await;
    note("unmounting", unmount_below(&reset.files.real(Path::new(kubelet::DIR))));
    for path in doomed(reset) {
        note("removing files", remove(&reset.files.real(&path)));
    }
    if reset.host.systemd {
        let unit = Path::new(kubelet::UNIT);
        if unit.exists() {
            let _ = crate::node::systemctl(&["disable", "kubelet"]).await;
            note("removing the unit", remove(unit).and_then(|()| remove(Path::new("/etc/systemd/system/kubelet.service.d"))));
            let _ = crate::node::systemctl(&["daemon-reload"]).await;
        }
    } else {
        note("stopping containerd", supervise::stop("containerd").map(drop));
    }
    let ignore_all = reset.ignore.iter().any(|name| name.eq_ignore_ascii_case("all"));
    if !problems.is_empty() && !ignore_all {
        bail!("the host is not clean yet:\n  - {}\nrun `rkadm reset` again when the causes are gone", problems.join("\n  - "));
    }
    problems.iter().for_each(|problem| say::warning(problem));
    say::phase("reset", "The host is clean. Kubeconfigs in home directories (~/.kube/config) are not touched");
    Ok(())
}

/// What is removed: directories that the node owns, and its kubeconfigs.
fn doomed(reset: &Reset) -> Vec<PathBuf> {
    let mut list: Vec<PathBuf> = vec![
        reset.config.certificates_dir.clone().into(),
        manifest::DIR.into(),
        kubelet::DIR.into(),
        "/var/lib/rk".into(),
        "/var/lib/dockershim".into(),
        "/var/run/kubernetes".into(),
        "/var/lib/cni".into(),
        "/opt/cni/bin/rk-cni".into(),
        "/etc/kubernetes/rk-held".into(),
        "/var/log/pods".into(),
        "/var/log/containers".into(),
        crate::preflight::SYSCTL_FILE.into(),
        reset.etcd_data.clone(),
    ];
    for name in ["admin", "super-admin", "kubelet", "bootstrap-kubelet", "controller-manager", "scheduler"] {
        list.push(format!("/etc/kubernetes/{name}.conf").into());
    }
    // The agent installs itself under both names; a loopback plugin of somebody else has another size.
    let size =
        |name: &str| std::fs::metadata(reset.files.real(&Path::new("/opt/cni/bin").join(name))).map(|meta| meta.len()).ok();
    if size("loopback").is_some() && size("loopback") == size("rk-cni") {
        list.push("/opt/cni/bin/loopback".into());
    }
    if reset.config.cleanup_tmp_dir {
        list.push("/etc/kubernetes/tmp".into());
    }
    list
}

async fn remove_pods(socket: &str) -> anyhow::Result<usize> {
    let runtime = Runtime::connect(socket).await?;
    let sandboxes = runtime.sandboxes().await?;
    let count = sandboxes.len();
    let mut left: Vec<String> = sandboxes.into_iter().map(|sandbox| sandbox.id).collect();
    let mut last = None;
    // A sandbox whose network plugin is busy or gone may take a second try.
    for _ in 0..3 {
        let results = futures::future::join_all(left.iter().map(|id| runtime.remove_sandbox(id))).await;
        let failed: Vec<_> =
            left.into_iter().zip(results).filter_map(|(id, result)| result.err().map(|error| (id, error))).collect();
        left = failed.iter().map(|(id, _)| id.clone()).collect();
        last = failed.into_iter().next().map(|(_, error)| error);
        if left.is_empty() {
            return Ok(count);
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    match last {
        Some(error) => Err(error.context(format!("{} of {count} pods could not be removed", left.len()))),
        None => Ok(count),
    }
}

/// Rules, devices and CNI configuration of our network components, by their own clean-up where they are at hand.
async fn remove_network() -> anyhow::Result<()> {
    for (program, args) in [("kube-proxy", &["--cleanup"][..]), ("rk-cni", &["cleanup"])] {
        let Some(path) =
            host::find_own(program).or_else(|| Some(PathBuf::from("/opt/cni/bin").join(program)).filter(|path| path.exists()))
        else {
            continue;
        };
        let output =
            tokio::process::Command::new(&path).args(args).output().await.with_context(|| format!("running {program}"))?;
        if !output.status.success() {
            bail!("{program} {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default());
        }
    }
    Ok(())
}

/// Chains that the kubelet keeps, in both families. What is not there is fine.
async fn remove_kubelet_chains() {
    const STEPS: [(&str, &[&str]); 7] = [
        ("filter", &["-D", "INPUT", "-j", "KUBE-FIREWALL"]),
        ("filter", &["-D", "OUTPUT", "-j", "KUBE-FIREWALL"]),
        ("filter", &["-F", "KUBE-FIREWALL"]),
        ("filter", &["-X", "KUBE-FIREWALL"]),
        ("mangle", &["-X", "KUBE-IPTABLES-HINT"]),
        ("mangle", &["-X", "KUBE-KUBELET-CANARY"]),
        ("nat", &["-X", "KUBE-KUBELET-CANARY"]),
    ];
    for program in ["iptables", "ip6tables"] {
        let Some(path) = host::find_program(program) else { continue };
        for (table, args) in STEPS {
            let _ = tokio::process::Command::new(&path).args(["-w", "-t", table]).args(args).output().await;
        }
    }
}

/// Unmounts everything below a directory, deepest first. Upstream: unmountKubeletDirectory.
fn unmount_below(dir: &Path) -> anyhow::Result<()> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").context("cannot read the mounts")?;
    let mut failed = Vec::new();
    for path in mounts_below(&mounts, dir) {
        if let Err(error) = nix::mount::umount2(&path, nix::mount::MntFlags::empty()) {
            // Somebody holds it: it goes when they let go of it, and is out of the way at once.
            if nix::mount::umount2(&path, nix::mount::MntFlags::MNT_DETACH).is_err() {
                failed.push(format!("{}: {error}", path.display()));
            }
        }
    }
    if failed.is_empty() { Ok(()) } else { bail!("{}", failed.join(", ")) }
}

/// Mount points strictly below `dir`, in the order in which they can be unmounted.
fn mounts_below(mountinfo: &str, dir: &Path) -> Vec<PathBuf> {
    let points =
        mountinfo.lines().filter_map(|line| line.split(' ').nth(4)).map(|point| PathBuf::from(point.replace("\\040", " ")));
    let mut below: Vec<PathBuf> = points.filter(|point| point.starts_with(dir) && point != dir).collect();
    // Later mounts lie over earlier ones.
    below.reverse();
    below.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
    below
}

/// Removes a file or a directory with what it holds; a directory that is a mount point is only emptied.
fn remove(path: &Path) -> anyhow::Result<()> {
    let meta = match std::fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("cannot look at {}", path.display())),
    };
    if !meta.is_dir() {
        return std::fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()));
    }
    remove_contents(path)?;
    match std::fs::remove_dir(path) {
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok(()),
        other => other.with_context(|| format!("cannot remove {}", path.display())),
    }
}

/// Empties a directory; one that is not there is empty.
fn remove_contents(dir: &Path) -> anyhow::Result<()> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", dir.display())),
    };
    for entry in entries {
        let path = entry?.path();
        let result =
            if path.is_dir() && !path.is_symlink() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        match result {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_taken_from_the_deepest() {
        let info = "1 0 0:1 / / rw - ext4 x rw\n\
                    2 1 0:2 / /var/lib/kubelet rw - ext4 x rw\n\
                    3 1 0:3 / /var/lib/kubelet/pods/a/volumes/t rw - tmpfs x rw\n\
                    4 1 0:4 / /var/lib/kubelet/pods/a/volumes/t/sub rw - tmpfs x rw\n\
                    5 1 0:5 / /var/lib/kubelet2 rw - tmpfs x rw\n";
        let below = mounts_below(info, Path::new("/var/lib/kubelet"));
        assert_eq!(below, [PathBuf::from("/var/lib/kubelet/pods/a/volumes/t/sub"), "/var/lib/kubelet/pods/a/volumes/t".into()]);
    }

    #[test]
    fn removing_twice_is_fine_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (keep, gone) = (dir.path().join("keep"), dir.path().join("gone"));
        std::fs::create_dir_all(gone.join("a/b")).unwrap();
        std::fs::create_dir(&keep).unwrap();
        std::fs::write(keep.join("file"), "x").unwrap();
        std::os::unix::fs::symlink(&keep, gone.join("link")).unwrap();
        remove(&gone).unwrap();
        remove(&gone).unwrap();
        assert!(!gone.exists() && keep.join("file").exists());
    }
}

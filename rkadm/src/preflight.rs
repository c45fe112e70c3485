//! Whether this host can become a node. Observed facts in, findings out; names are kubeadm's, for `--ignore-preflight-errors`.
//! Upstream: cmd/kubeadm/app/preflight/checks.go.

use crate::host::Host;

/// What the checks look at besides the host.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub host: Host,
    /// Ports of ours that somebody holds already.
    pub ports_in_use: Vec<u16>,
    /// Files and non-empty directories that must not be there.
    pub occupied: Vec<String>,
    /// Programs that are needed and missing.
    pub missing_programs: Vec<&'static str>,
    /// The kubelet's binary is here.
    pub kubelet_installed: bool,
    /// The configuration lets the kubelet run with swap.
    pub swap_allowed: bool,
    pub node_name: String,
    /// What the runtime's plan refuses, in words.
    pub runtime_problem: Option<String>,
    /// The address to advertise is one of this host's.
    pub advertise_is_local: bool,
    pub advertise_address: String,
    pub control_plane: bool,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// kubeadm's name of the check.
    pub check: String,
    pub message: String,
    /// A warning does not stop anything.
    pub fatal: bool,
}

fn error(check: impl Into<String>, message: impl Into<String>) -> Finding {
    Finding { check: check.into(), message: message.into(), fatal: true }
}

fn warning(check: impl Into<String>, message: impl Into<String>) -> Finding {
    Finding { check: check.into(), message: message.into(), fatal: false }
}

/// Where the settings that a node needs are kept over a reboot.
pub const SYSCTL_FILE: &str = "/etc/sysctl.d/99-rk.conf";

/// What can be put right without asking is put right, and said: a node without forwarding is of no use to anybody.
pub fn prepare(facts: &mut Facts, dry: bool) {
    if facts.host.ipv4_forwarding || dry || !facts.host.root {
        return;
    }
    if std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").is_ok() {
        facts.host.ipv4_forwarding = true;
        let kept = pki::Files::host()
            .write(SYSCTL_FILE, pki::files::PUBLIC, "# Written by rkadm: pods on other nodes.\nnet.ipv4.ip_forward = 1\n")
            .is_ok();
        let kept = if kept { format!(", kept in {SYSCTL_FILE}") } else { String::new() };
        crate::say::phase("preflight", &format!("Switched on net.ipv4.ip_forward{kept}"));
    }
}

/// Smallest host for a control plane. kubeadm asks for 2 processors and 1700 MB; rk's control plane needs a tenth of upstream's memory.
pub const MIN_CPUS: usize = 2;
pub const MIN_MEMORY_MIB: u64 = 900;

/// All checks.
pub fn check(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    let host = &facts.host;
    if !host.root {
        found.push(error("IsPrivilegedUser", "user is not running as root: try sudo"));
    }
    if facts.control_plane {
        if host.cpus < MIN_CPUS {
            found.push(error(
                "NumCPU",
                format!("the number of available CPUs {} is less than the required {MIN_CPUS}", host.cpus),
            ));
        }
        if host.memory_mib < MIN_MEMORY_MIB {
            let message = format!("the system RAM ({} MB) is less than the minimum {MIN_MEMORY_MIB} MB", host.memory_mib);
            found.push(error("Mem", message));
        }
    }
    for port in &facts.ports_in_use {
        let message = format!(
            "Port {port} is in use: see who holds it with `ss -ltnp sport = :{port}`; if it is an earlier cluster, run `rkadm reset`"
        );
        found.push(error(format!("Port-{port}"), message));
    }
    for path in &facts.occupied {
        let name = path.trim_end_matches('/').replace('/', "-");
        if path.ends_with('/') {
            let path = path.trim_end_matches('/');
            found.push(error(
                format!("DirAvailable-{name}"),
                format!("{path} is not empty: it belongs to an earlier cluster; `rkadm reset` removes it"),
            ));
        } else {
            found.push(error(
                format!("FileAvailable-{name}"),
                format!("{path} already exists: this host is initialised; `rkadm reset` takes it back"),
            ));
        }
    }
    if !host.ipv4_forwarding {
        let message = "/proc/sys/net/ipv4/ip_forward contents are not set to 1: pods could not reach other nodes; \
                       sysctl -w net.ipv4.ip_forward=1 (and put it into /etc/sysctl.d/99-kubernetes.conf to keep it)";
        found.push(error("FileContent--proc-sys-net-ipv4-ip_forward", message));
    }
    if host.swap_on && !facts.swap_allowed {
        let message = "running with swap on is not supported by the kubelet as configured: swapoff -a (and remove it from /etc/fstab), or allow \
                       it with failSwapOn: false in a KubeletConfiguration";
        found.push(error("Swap", message));
    }
    for program in &facts.missing_programs {
        let message = format!("{program} not found in system path: apt-get install {}", package_of(program));
        found.push(error(format!("FileExisting-{program}"), message));
    }
    if !facts.kubelet_installed {
        found.push(error(
            "FileExisting-kubelet",
            "the kubelet is neither beside rkadm nor in the system path: install it from the same release",
        ));
    }
    if !crate::config::validate::is_subdomain(&facts.node_name) {
        let message = format!("{:?} cannot be a node's name: choose one with --node-name", facts.node_name);
        found.push(error("Hostname", message));
    } else if facts.node_name != host.hostname {
        tracing::debug!(node = facts.node_name, hostname = host.hostname, "The node's name is not the host's");
    }
    if let Some(problem) = &facts.runtime_problem {
        found.push(error("CRI", problem.clone()));
    }
    if facts.control_plane && !facts.advertise_is_local {
        let message = format!(
            "{} is not an address of this host: nothing could listen there; choose one of `ip -brief address` with --apiserver-advertise-address",
            facts.advertise_address
        );
        found.push(error("AdvertiseAddress", message));
    }
    if !host.cgroup_v2 {
        found.push(warning("SystemVerification", "cgroups v1 support is in maintenance mode, please migrate to cgroups v2"));
    }
    found
}

fn package_of(program: &str) -> &str {
    match program {
        "mount" | "nsenter" => "util-linux",
        "tc" | "ip" => "iproute2",
        other => other,
    }
}

/// Findings as they count: ignored errors become warnings. `all` ignores everything; names are compared without case.
pub fn sort(findings: Vec<Finding>, ignore: &[String]) -> (Vec<Finding>, Vec<Finding>) {
    let ignored = |check: &str| ignore.iter().any(|name| name.eq_ignore_ascii_case("all") || name.eq_ignore_ascii_case(check));
    let (errors, warnings): (Vec<_>, Vec<_>) =
        findings.into_iter().partition(|finding| finding.fatal && !ignored(&finding.check));
    (errors, warnings)
}

/// Prints warnings and fails with all errors at once.
pub fn judge(findings: Vec<Finding>, ignore: &[String]) -> anyhow::Result<()> {
    let (errors, warnings) = sort(findings, ignore);
    for warning in warnings {
        crate::say::warning(&format!("[{}]: {}", warning.check, warning.message));
    }
    if errors.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = errors.iter().map(|error| format!("\t[ERROR {}]: {}", error.check, error.message)).collect();
    anyhow::bail!(
        "[preflight] Some fatal errors occurred:\n{}\n[preflight] If you know what you are doing, you can make a check non-fatal with \
         `--ignore-preflight-errors={}`",
        lines.join("\n"),
        errors.iter().map(|error| error.check.as_str()).collect::<Vec<_>>().join(",")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Facts {
        Facts {
            host: Host {
                hostname: "n1".into(),
                root: true,
                cpus: 2,
                memory_mib: 2000,
                ipv4_forwarding: true,
                cgroup_v2: true,
                ..Default::default()
            },
            kubelet_installed: true,
            node_name: "n1".into(),
            advertise_is_local: true,
            control_plane: true,
            ..Default::default()
        }
    }

    #[test]
    fn every_fault_is_found_by_its_kubeadm_name_with_a_remedy() {
        assert_eq!(check(&good()), []);
        type Spoil = fn(&mut Facts);
        let cases: &[(Spoil, &str, &str)] = &[
            (|f| f.host.root = false, "IsPrivilegedUser", "sudo"),
            (|f| f.host.cpus = 1, "NumCPU", "required 2"),
            (|f| f.host.memory_mib = 500, "Mem", "900 MB"),
            (|f| f.ports_in_use = vec![6443], "Port-6443", "ss -ltnp"),
            (
                |f| f.occupied = vec!["/etc/kubernetes/manifests/etcd.yaml".into()],
                "FileAvailable--etc-kubernetes-manifests-etcd.yaml",
                "rkadm reset",
            ),
            (|f| f.occupied = vec!["/var/lib/etcd/".into()], "DirAvailable--var-lib-etcd", "rkadm reset"),
            (|f| f.host.ipv4_forwarding = false, "FileContent--proc-sys-net-ipv4-ip_forward", "sysctl -w"),
            (|f| f.host.swap_on = true, "Swap", "swapoff -a"),
            (|f| f.missing_programs = vec!["nsenter"], "FileExisting-nsenter", "apt-get install util-linux"),
            (|f| f.kubelet_installed = false, "FileExisting-kubelet", "same release"),
            (|f| f.node_name = "Node_1".into(), "Hostname", "--node-name"),
            (|f| f.runtime_problem = Some("containerd is not installed: apt-get install containerd".into()), "CRI", "apt-get"),
            (|f| f.advertise_is_local = false, "AdvertiseAddress", "--apiserver-advertise-address"),
        ];
        for (spoil, name, remedy) in cases {
            let mut facts = good();
            spoil(&mut facts);
            let found = check(&facts);
            assert_eq!(found.len(), 1, "{name}: {found:?}");
            assert_eq!(found[0].check, *name);
            assert!(found[0].message.contains(remedy), "{name}: {}", found[0].message);
            let ignore = [name.to_lowercase()];
            assert!(judge(found.clone(), &ignore).is_ok(), "{name} can be ignored");
            let error = judge(found, &[]).unwrap_err().to_string();
            assert!(error.contains(&format!("[ERROR {name}]")), "{error}");
        }
        let mut worker = good();
        worker.control_plane = false;
        worker.host.cpus = 1;
        assert_eq!(check(&worker), [], "a worker may be small");
        let mut swap = good();
        swap.host.swap_on = true;
        swap.swap_allowed = true;
        assert_eq!(check(&swap), []);
    }

    #[test]
    fn all_ignores_everything() {
        let mut facts = good();
        facts.host.root = false;
        facts.ports_in_use = vec![1, 2];
        assert!(judge(check(&facts), &["all".into()]).is_ok());
        assert_eq!(sort(check(&facts), &["Port-1".into()]).0.len(), 2);
    }
}

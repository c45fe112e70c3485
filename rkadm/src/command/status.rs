//! `rkadm status`: one page about this host and its cluster, ending with what is wrong and what to do. Ours: kubeadm has no such command.
//!
//! Every source may be silent (a worker has no etcd, a dead API server answers nothing): silence is shown, never an error.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::Args;
use pki::{Files, expiration};
use serde_json::Value;

use crate::apply::Api;
use crate::cri::{DEFAULT_SOCKET, Runtime};
use crate::https::{self, Trust};
use crate::node::{ADMIN, KUBERNETES};
use crate::{kubelet, manifest};

/// No source may hold up the page for longer.
const PATIENCE: Duration = Duration::from_secs(3);
/// Certificates that end sooner are a problem.
const SOON: Duration = Duration::from_secs(30 * 86400);
/// etcd refuses writes at its quota, 2 GiB by default: said before that.
const ETCD_LARGE: i64 = 1_600_000_000;

#[derive(Debug, Clone, Args)]
pub struct StatusArgs {
    /// The kubeconfig file to use when talking to the cluster
    #[arg(long, default_value = ADMIN)]
    kubeconfig: PathBuf,
    /// The path where the certificates are
    #[arg(long, default_value = "/etc/kubernetes/pki")]
    cert_dir: PathBuf,
    /// Path to the CRI socket to connect
    #[arg(long, default_value = DEFAULT_SOCKET)]
    pub(super) cri_socket: String,
}

/// What was seen; `None` where nobody answered.
#[derive(Debug, Default)]
struct Observed {
    /// kubelet.conf is here: this host is a node.
    node: bool,
    kubelet: bool,
    runtime: Option<String>,
    /// Static pods of this host: name, running, healthy.
    components: Vec<(String, bool, bool)>,
    /// Name, version, ready, schedulable.
    nodes: Option<Vec<(String, String, bool, bool)>>,
    /// Pods of kube-system that are neither running nor done: name and phase.
    pods: Vec<(String, String)>,
    etcd: Option<Etcd>,
    /// Name and time left.
    certificates: Vec<(String, Duration)>,
}

#[derive(Debug, Default)]
struct Etcd {
    version: String,
    size: i64,
    /// Name (empty: never started).
    members: Vec<String>,
    errors: Vec<String>,
}

/// Prints the page; the exit code says whether something is wrong.
pub async fn run(args: StatusArgs, rootfs: Option<PathBuf>) -> anyhow::Result<()> {
    let files = rootfs.map_or_else(Files::host, Files::below);
    let observed = observe(&args, &files).await;
    let problems = judge(&observed);
    print!("{}", render(&observed, &problems));
    if problems.is_empty() { Ok(()) } else { anyhow::bail!("{} problems", problems.len()) }
}

/// The page and its problems, for `doctor`.
pub(super) async fn page(args: &StatusArgs, files: &Files) -> (String, Vec<String>) {
    let observed = observe(args, files).await;
    let problems = judge(&observed);
    (render(&observed, &problems), problems)
}

async fn observe(args: &StatusArgs, files: &Files) -> Observed {
    let mut seen = Observed { node: files.exists(kubelet::KUBECONFIG), ..Default::default() };
    let ok = |answer: anyhow::Result<https::Answer>| answer.is_ok_and(|answer| matches!(answer.status, 200 | 401 | 403));
    seen.kubelet = ok(https::get_plain("127.0.0.1:10248", "/healthz", PATIENCE).await);
    let runtime = tokio::time::timeout(PATIENCE, Runtime::connect(&args.cri_socket)).await.ok().and_then(Result::ok);
    let mut containers = Vec::new();
    if let Some(runtime) = &runtime {
        seen.runtime =
            runtime.version().await.ok().map(|version| format!("{} {}", version.runtime_name, version.runtime_version));
        containers = runtime.containers().await.unwrap_or_default();
    }
    for component in manifest::COMPONENTS {
        // A control plane without its scheduler's manifest is a control plane with something missing.
        let expected = component != "etcd" && files.exists(manifest::path("kube-apiserver"));
        if !files.exists(manifest::path(component)) && !expected {
            continue;
        }
        let running = containers.iter().any(|container| container.name() == component && container.is_running());
        let well = match component {
            "etcd" => ok(https::get_plain("127.0.0.1:2381", "/health", PATIENCE).await),
            "kube-apiserver" => ok(https::get(&api_address(files), "/readyz", &Trust::Anybody, None, PATIENCE).await),
            "kube-controller-manager" => ok(https::get("127.0.0.1:10257", "/healthz", &Trust::Anybody, None, PATIENCE).await),
            _ => ok(https::get("127.0.0.1:10259", "/livez", &Trust::Anybody, None, PATIENCE).await),
        };
        seen.components.push((component.to_string(), running, well));
    }
    // A worker's own credentials may read Nodes, its own at least.
    let kubeconfig =
        if files.exists(&args.kubeconfig) { files.real(&args.kubeconfig) } else { files.real(Path::new(kubelet::KUBECONFIG)) };
    if let Ok(Ok(api)) = tokio::time::timeout(PATIENCE, Api::connect(&kubeconfig, Duration::ZERO)).await {
        match tokio::time::timeout(PATIENCE, api.get("/api/v1/nodes")).await {
            Ok(Ok(list)) => seen.nodes = Some(list["items"].as_array().into_iter().flatten().map(node_of).collect()),
            // A node's own credentials may read that Node alone.
            Ok(Err(error)) if client::is_code(&error, 403) => {
                let own = format!("/api/v1/nodes/{}", crate::upgrade::node_name(files).unwrap_or_default());
                if let Ok(Ok(node)) = tokio::time::timeout(PATIENCE, api.get(&own)).await {
                    seen.nodes = Some(vec![node_of(&node)]);
                }
            }
            _ => {}
        }
        if let Ok(Ok(list)) = tokio::time::timeout(PATIENCE, api.get("/api/v1/namespaces/kube-system/pods")).await {
            seen.pods = list["items"].as_array().into_iter().flatten().filter_map(troubled).collect();
        }
    }
    if files.exists(manifest::path("etcd")) {
        seen.etcd = tokio::time::timeout(PATIENCE * 2, etcd(files, &args.cert_dir)).await.ok().and_then(Result::ok);
    }
    let now = SystemTime::now();
    let list = expiration::list(files, Path::new(KUBERNETES), &args.cert_dir).unwrap_or_default();
    seen.certificates =
        list.into_iter().filter(|line| line.not_after.is_some()).map(|line| (line.name.clone(), line.residual(now))).collect();
    seen
}

fn api_address(files: &Files) -> String {
    let text = files.read(manifest::path("kube-apiserver")).ok().flatten().unwrap_or_default();
    let pod: Value = serde_yaml::from_slice(&text).unwrap_or_default();
    let said = &pod["metadata"]["annotations"]["kubeadm.kubernetes.io/kube-apiserver.advertise-address.endpoint"];
    said.as_str().unwrap_or("127.0.0.1:6443").to_string()
}

async fn etcd(files: &Files, cert_dir: &Path) -> anyhow::Result<Etcd> {
    let mut client = crate::etcd::connect(files, cert_dir, &["https://127.0.0.1:2379".to_string()], PATIENCE).await?;
    let status = client.status().await?;
    let members = client.member_list().await?.members().iter().map(|member| member.name().to_string()).collect();
    Ok(Etcd { version: status.version().to_string(), size: status.db_size(), members, errors: status.errors().to_vec() })
}

fn node_of(node: &Value) -> (String, String, bool, bool) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    let ready = node["status"]["conditions"]
        .as_array()
        .is_some_and(|all| all.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"));
    let schedulable = node["spec"]["unschedulable"] != true;
    (text(&node["metadata"]["name"]), text(&node["status"]["nodeInfo"]["kubeletVersion"]), ready, schedulable)
}

/// A pod that is not well: its phase, or the reason why a container waits.
fn troubled(pod: &Value) -> Option<(String, String)> {
    let phase = pod["status"]["phase"].as_str().unwrap_or("Unknown");
    let waiting = pod["status"]["containerStatuses"]
        .as_array()
        .into_iter()
        .flatten()
        .find_map(|status| status["state"]["waiting"]["reason"].as_str())
        .filter(|reason| !["ContainerCreating", "PodInitializing"].contains(reason));
    let name = pod["metadata"]["name"].as_str().unwrap_or_default().to_string();
    match (phase, waiting) {
        (_, Some(reason)) => Some((name, reason.to_string())),
        ("Running" | "Succeeded", None) => None,
        (phase, None) => Some((name, phase.to_string())),
    }
}

/// What is wrong, with what to do. Pure.
fn judge(seen: &Observed) -> Vec<String> {
    let mut problems = Vec::new();
    if !seen.node && seen.components.is_empty() {
        return vec!["this host is no node: `rkadm init` or `rkadm join`".into()];
    }
    if seen.runtime.is_none() {
        problems.push("the container runtime does not answer: systemctl status containerd, or /var/log/containerd.log".into());
    }
    if !seen.kubelet {
        problems.push("the kubelet is not healthy: journalctl -xeu kubelet, or /var/log/kubelet.log".into());
    }
    for (name, running, well) in &seen.components {
        match (running, well) {
            (_, true) => {}
            (false, false) => problems.push(format!("{name} does not run: see /var/log/pods/kube-system_{name}-*")),
            (true, false) => problems.push(format!("{name} runs but is not healthy: see /var/log/pods/kube-system_{name}-*")),
        }
    }
    match &seen.nodes {
        None => problems.push("the API server does not answer".into()),
        Some(nodes) => {
            for (name, ..) in nodes.iter().filter(|(_, _, ready, _)| !ready) {
                problems.push(format!(
                    "node {name} is not Ready: kubectl describe node {name}; is its kubelet running, is the network up?"
                ));
            }
        }
    }
    for (name, phase) in &seen.pods {
        problems.push(format!("pod kube-system/{name} is {phase}: kubectl -n kube-system describe pod {name}"));
    }
    if let Some(etcd) = &seen.etcd {
        for error in &etcd.errors {
            problems.push(format!("etcd says: {error}"));
        }
        if etcd.size > ETCD_LARGE {
            problems.push("etcd's database nears its quota of 2 GiB, where writes stop: rkadm etcd defrag".into());
        }
        let silent = etcd.members.iter().filter(|name| name.is_empty()).count();
        if silent > 0 {
            problems.push(format!(
                "{silent} etcd members were added and never started: rkadm etcd member list, then start or remove them"
            ));
        }
    }
    for (name, left) in &seen.certificates {
        if left.is_zero() {
            problems.push(format!("certificate {name} is expired: rkadm certs renew {name}"));
        } else if *left < SOON {
            problems.push(format!("certificate {name} ends in {} days: rkadm certs renew {name}", left.as_secs() / 86400));
        }
    }
    problems
}

fn render(seen: &Observed, problems: &[String]) -> String {
    let word = |good: bool, yes: &str, no: &str| if good { yes.to_string() } else { no.to_string() };
    let mut rows: Vec<Vec<String>> = vec![
        vec!["kubelet".into(), word(seen.kubelet, "healthy", "NOT HEALTHY")],
        vec!["runtime".into(), seen.runtime.clone().unwrap_or_else(|| "DOES NOT ANSWER".into())],
    ];
    for (name, running, well) in &seen.components {
        let state = if *well {
            "healthy"
        } else if *running {
            "RUNNING, NOT HEALTHY"
        } else {
            "NOT RUNNING"
        };
        rows.push(vec![name.clone(), state.into()]);
    }
    if let Some(etcd) = &seen.etcd {
        let members = format!("{} members, version {}, {:.1} MB", etcd.members.len(), etcd.version, etcd.size as f64 / 1e6);
        rows.push(vec!["etcd cluster".into(), members]);
    }
    if let Some((name, left)) = seen.certificates.iter().min_by_key(|(_, left)| *left) {
        rows.push(vec![
            "certificates".into(),
            format!("{} here, the first to end is {name} in {} days", seen.certificates.len(), left.as_secs() / 86400),
        ]);
    }
    let mut out = format!("rkadm {}\n\nThis host\n{}", component::version::current(), indent(&super::token::table(rows)));
    if let Some(nodes) = &seen.nodes {
        let rows = nodes
            .iter()
            .map(|(name, version, ready, schedulable)| {
                vec![name.clone(), word(*ready, "Ready", "NOT READY"), word(*schedulable, "", "cordoned"), version.clone()]
            })
            .collect();
        out.push_str(&format!("\nNodes\n{}", indent(&super::token::table(rows))));
    }
    if problems.is_empty() {
        out.push_str("\nNothing is wrong.\n");
    } else {
        out.push_str("\nWhat is wrong, and what to do\n");
        problems.iter().for_each(|problem| out.push_str(&format!("  - {problem}\n")));
    }
    out
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn good() -> Observed {
        Observed {
            node: true,
            kubelet: true,
            runtime: Some("containerd 1.6.20".into()),
            components: vec![("etcd".into(), true, true)],
            nodes: Some(vec![("cp1".into(), "v1.36.0".into(), true, true)]),
            pods: vec![],
            etcd: Some(Etcd { version: "3.4.23".into(), size: 1_000_000, members: vec!["cp1".into()], errors: vec![] }),
            certificates: vec![("apiserver".into(), Duration::from_secs(364 * 86400))],
        }
    }

    #[test]
    fn every_fault_has_its_remedy() {
        assert!(judge(&good()).is_empty() && render(&good(), &[]).contains("Nothing is wrong"));
        type Spoil = fn(&mut Observed);
        let cases: &[(Spoil, &str)] = &[
            (|s| s.kubelet = false, "journalctl"),
            (|s| s.runtime = None, "containerd"),
            (|s| s.components[0] = ("etcd".into(), false, false), "does not run"),
            (|s| s.components[0] = ("etcd".into(), true, false), "not healthy"),
            (|s| s.nodes = None, "API server does not answer"),
            (|s| s.nodes = Some(vec![("n".into(), String::new(), false, true)]), "describe node n"),
            (|s| s.pods = vec![("p".into(), "CrashLoopBackOff".into())], "describe pod p"),
            (|s| s.etcd.as_mut().unwrap().errors = vec!["alarm NOSPACE".into()], "NOSPACE"),
            (|s| s.etcd.as_mut().unwrap().size = 1_900_000_000, "defrag"),
            (|s| s.etcd.as_mut().unwrap().members = vec![String::new()], "never started"),
            (|s| s.certificates[0].1 = Duration::ZERO, "expired: rkadm certs renew apiserver"),
            (|s| s.certificates[0].1 = Duration::from_secs(86400 * 5), "ends in 5 days"),
        ];
        for (spoil, wanted) in cases {
            let mut seen = good();
            spoil(&mut seen);
            let problems = judge(&seen);
            assert_eq!(problems.len(), 1, "{wanted}: {problems:?}");
            assert!(problems[0].contains(wanted), "{wanted}: {problems:?}");
            assert!(render(&seen, &problems).contains("what to do"));
        }
        assert!(judge(&Observed::default())[0].contains("rkadm init"));
    }

    #[test]
    fn pods_in_trouble_are_told_from_those_on_their_way() {
        let pod = |phase: &str, reason: Option<&str>| {
            let state = reason.map_or(json!({"running": {}}), |reason| json!({"waiting": {"reason": reason}}));
            json!({"metadata": {"name": "p"}, "status": {"phase": phase, "containerStatuses": [{"state": state}]}})
        };
        assert_eq!(troubled(&pod("Running", None)), None);
        assert_eq!(troubled(&pod("Running", Some("CrashLoopBackOff"))), Some(("p".into(), "CrashLoopBackOff".into())));
        assert_eq!(troubled(&pod("Pending", None)), Some(("p".into(), "Pending".into())));
        assert_eq!(troubled(&pod("Succeeded", None)), None);
    }
}

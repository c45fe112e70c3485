//! Phases: what `init`, `join`, `reset` and `upgrade` consist of. The tables are the manual; a new phase is a file and a line.

pub mod addon;
pub mod bootstrap_token;
pub mod certs;
pub mod control_plane;
pub mod etcd;
pub mod join_control_plane;
pub mod join_kubelet;
pub mod join_preflight;
pub mod kubeconfig;
pub mod kubelet_finalize;
pub mod kubelet_start;
pub mod mark_control_plane;
pub mod preflight;
pub mod show_join_command;
pub mod upload_certs;
pub mod upload_config;
pub mod wait_control_plane;

use std::future::Future;
use std::pin::Pin;

use anyhow::bail;

use crate::init::Init;
use crate::join::Join;
use crate::reset::{self, Reset};

/// What a phase's function returns.
pub type Running<'a> = Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send + 'a>>;

/// One phase. `C` is what the phases of a command act on.
pub struct Phase<C: 'static> {
    pub name: &'static str,
    pub about: &'static str,
    pub run: Option<for<'a> fn(&'a mut C) -> Running<'a>>,
    pub phases: &'static [Phase<C>],
}

/// A phase that does something itself.
#[macro_export]
macro_rules! phase {
    ($name:literal, $about:literal, $run:path) => {
        $crate::phase::Phase { name: $name, about: $about, run: Some(|c| Box::pin($run(c))), phases: &[] }
    };
}

pub use phase;

/// A phase that consists of others.
pub const fn group<C>(name: &'static str, about: &'static str, phases: &'static [Phase<C>]) -> Phase<C> {
    Phase { name, about, run: None, phases }
}

/// The phases of `init`, in order.
pub const INIT: &[Phase<Init>] = &[
    phase!("preflight", "Run pre-flight checks", preflight::run),
    group(
        "certs",
        "Certificate generation",
        &[
            phase!(
                "ca",
                "Generate the self-signed Kubernetes CA to provision identities for other Kubernetes components",
                certs::ca
            ),
            phase!("apiserver", "Generate the certificate for serving the Kubernetes API", certs::apiserver),
            phase!(
                "apiserver-kubelet-client",
                "Generate the certificate for the API server to connect to kubelet",
                certs::apiserver_kubelet_client
            ),
            phase!(
                "front-proxy-ca",
                "Generate the self-signed CA to provision identities for front proxy",
                certs::front_proxy_ca
            ),
            phase!("front-proxy-client", "Generate the certificate for the front proxy client", certs::front_proxy_client),
            phase!("etcd-ca", "Generate the self-signed CA to provision identities for etcd", certs::etcd_ca),
            phase!("etcd-server", "Generate the certificate for serving etcd", certs::etcd_server),
            phase!("etcd-peer", "Generate the certificate for etcd nodes to communicate with each other", certs::etcd_peer),
            phase!(
                "etcd-healthcheck-client",
                "Generate the certificate for liveness probes to healthcheck etcd",
                certs::etcd_healthcheck_client
            ),
            phase!(
                "apiserver-etcd-client",
                "Generate the certificate the apiserver uses to access etcd",
                certs::apiserver_etcd_client
            ),
            phase!("sa", "Generate a private key for signing service account tokens along with its public key", certs::sa),
        ],
    ),
    group(
        "kubeconfig",
        "Generate all kubeconfig files necessary to establish the control plane and the admin kubeconfig file",
        &[
            phase!("admin", "Generate a kubeconfig file for the admin to use and for rkadm itself", kubeconfig::admin),
            phase!("super-admin", "Generate a kubeconfig file for the super-admin", kubeconfig::super_admin),
            phase!(
                "kubelet",
                "Generate a kubeconfig file for the kubelet to use *only* for cluster bootstrapping purposes",
                kubeconfig::kubelet
            ),
            phase!(
                "controller-manager",
                "Generate a kubeconfig file for the controller manager to use",
                kubeconfig::controller_manager
            ),
            phase!("scheduler", "Generate a kubeconfig file for the scheduler to use", kubeconfig::scheduler),
        ],
    ),
    group(
        "etcd",
        "Generate static Pod manifest file for local etcd",
        &[phase!("local", "Generate the static Pod manifest file for a local, single-node local etcd instance", etcd::local)],
    ),
    group(
        "control-plane",
        "Generate all static Pod manifest files necessary to establish the control plane",
        &[
            phase!("apiserver", "Generates the kube-apiserver static Pod manifest", control_plane::apiserver),
            phase!(
                "controller-manager",
                "Generates the kube-controller-manager static Pod manifest",
                control_plane::controller_manager
            ),
            phase!("scheduler", "Generates the kube-scheduler static Pod manifest", control_plane::scheduler),
        ],
    ),
    phase!("kubelet-start", "Write kubelet settings and (re)start the kubelet", kubelet_start::run),
    phase!("wait-control-plane", "Wait for the control plane to start", wait_control_plane::run),
    group(
        "upload-config",
        "Upload the kubeadm and kubelet configuration to a ConfigMap",
        &[
            phase!("kubeadm", "Upload the kubeadm ClusterConfiguration to a ConfigMap", upload_config::kubeadm),
            phase!("kubelet", "Upload the kubelet component config to a ConfigMap", upload_config::kubelet),
        ],
    ),
    phase!("upload-certs", "Upload certificates to kubeadm-certs", upload_certs::run),
    phase!("mark-control-plane", "Mark a node as a control-plane", mark_control_plane::run),
    phase!("bootstrap-token", "Generates bootstrap tokens used to join a node to a cluster", bootstrap_token::run),
    group(
        "kubelet-finalize",
        "Updates settings relevant to the kubelet after TLS bootstrap",
        &[phase!("enable-client-cert-rotation", "Enable kubelet client certificate rotation", kubelet_finalize::run)],
    ),
    group(
        "addon",
        "Install required addons for passing conformance tests",
        &[
            phase!("rk-cni", "Install the pod network of rk", addon::rk_cni),
            phase!("coredns", "Install the cluster DNS under the names of the CoreDNS addon", addon::coredns),
            phase!("kube-proxy", "Install the kube-proxy addon to a Kubernetes cluster", addon::kube_proxy),
            phase!("metrics", "Switch on the metrics API of rk, for kubectl top and autoscalers", addon::metrics),
            phase!("ingress", "Install the Ingress controller of rk (only when named)", addon::ingress),
            phase!("node-local-dns", "Install a DNS cache on every node (only when named)", addon::node_local_dns),
        ],
    ),
    phase!("show-join-command", "Show the join command for control-plane and worker node", show_join_command::run),
];

/// The phases of `join`, in order.
pub const JOIN: &[Phase<Join>] = &[
    phase!("preflight", "Run join pre-flight checks", join_preflight::run),
    group(
        "control-plane-prepare",
        "Prepare the machine for serving a control plane",
        &[
            phase!(
                "download-certs",
                "Download certificates shared among control-plane nodes from the kubeadm-certs Secret",
                join_control_plane::download_certs
            ),
            phase!("certs", "Generate the certificates for the new control plane components", join_control_plane::certs),
            phase!("kubeconfig", "Generate the kubeconfig for the new control plane components", join_control_plane::kubeconfig),
            phase!("control-plane", "Generate the manifests for the new control plane components", join_control_plane::manifests),
        ],
    ),
    phase!("kubelet-start", "Write kubelet settings, certificates and (re)start the kubelet", join_kubelet::start),
    phase!("etcd-join", "Join etcd for control plane nodes", join_control_plane::etcd_join),
    phase!("kubelet-wait-bootstrap", "Wait for the kubelet to bootstrap itself", join_kubelet::wait),
    group(
        "control-plane-join",
        "Join a machine as a control plane instance",
        &[phase!("mark-control-plane", "Mark a node as a control-plane", join_control_plane::mark)],
    ),
    phase!("wait-control-plane", "Wait for the control plane to start", join_control_plane::wait),
];

/// The phases of `reset`, in order.
pub const RESET: &[Phase<Reset>] = &[
    phase!("preflight", "Run reset pre-flight checks", reset::preflight),
    phase!("remove-etcd-member", "Remove a local etcd member.", reset::remove_etcd_member),
    phase!("cleanup-node", "Run cleanup node.", reset::cleanup_node),
];

/// What runs only when it is named: a cluster works without.
const OPTIONAL: &[&str] = &["addon/ingress", "addon/node-local-dns"];

/// Runs a whole table but what is skipped (`addon`, `addon/coredns`).
pub async fn run_all<C>(table: &'static [Phase<C>], context: &mut C, skip: &[String]) -> anyhow::Result<()> {
    check_names(table, skip)?;
    for phase in table {
        if !skip.iter().any(|name| name == phase.name) {
            run_phase(phase, context, phase.name, skip).await?;
        }
    }
    Ok(())
}

/// Runs one phase by its words: `certs`, `certs all`, `certs apiserver`.
pub async fn run_one<C>(table: &'static [Phase<C>], context: &mut C, words: &[String]) -> anyhow::Result<()> {
    let phase = select(table, words)?;
    run_phase(phase, context, phase.name, &[]).await
}

async fn run_phase<C>(phase: &'static Phase<C>, context: &mut C, path: &str, skip: &[String]) -> anyhow::Result<()> {
    use anyhow::Context as _;
    if let Some(run) = phase.run {
        tracing::debug!(phase = path, "Phase starts");
        run(context).await.with_context(|| format!("error execution phase {path}"))?;
    }
    for sub in phase.phases {
        let path = format!("{path}/{}", sub.name);
        if skip.contains(&path) || OPTIONAL.contains(&path.as_str()) {
            continue;
        }
        // Two levels are all there is, so this does not recurse deeper.
        if let Some(run) = sub.run {
            tracing::debug!(phase = path, "Phase starts");
            run(context).await.with_context(|| format!("error execution phase {path}"))?;
        }
    }
    Ok(())
}

fn select<C>(table: &'static [Phase<C>], words: &[String]) -> anyhow::Result<&'static Phase<C>> {
    let names = |table: &'static [Phase<C>]| table.iter().map(|phase| phase.name).collect::<Vec<_>>().join(", ");
    // `certs/apiserver` is the same as `certs apiserver`.
    let words: Vec<&str> = words.iter().flat_map(|word| word.split('/')).collect();
    let (first, rest) = match words.as_slice() {
        [] => bail!("name a phase: {}", names(table)),
        [first, rest @ ..] => (*first, rest),
    };
    let Some(phase) = table.iter().find(|phase| phase.name == first) else {
        bail!("there is no phase {first:?}: {}", names(table));
    };
    match rest {
        [] => Ok(phase),
        ["all"] if !phase.phases.is_empty() => Ok(phase),
        [sub] => match phase.phases.iter().find(|phase| phase.name == *sub) {
            Some(phase) => Ok(phase),
            None => bail!("phase {first} has no part {sub:?}: all, {}", names(phase.phases)),
        },
        more => bail!("too many words after {first}: {}", more.join(" ")),
    }
}

/// Refuses names in `--skip-phases` that no phase has.
fn check_names<C>(table: &'static [Phase<C>], skip: &[String]) -> anyhow::Result<()> {
    for name in skip {
        let known = table.iter().any(|phase| {
            phase.name == name
                || phase
                    .phases
                    .iter()
                    .any(|sub| name.strip_prefix(phase.name).and_then(|r| r.strip_prefix('/')) == Some(sub.name))
        });
        if !known {
            bail!("--skip-phases: there is no phase {name:?}; --help lists them");
        }
    }
    Ok(())
}

/// The table as help text.
pub fn help<C>(table: &'static [Phase<C>]) -> String {
    let mut out = String::from("The command executes the following phases:\n");
    for phase in table {
        out.push_str(&format!("  {:<29} {}\n", phase.name, phase.about));
        for sub in phase.phases {
            out.push_str(&format!("    /{:<26} {}\n", sub.name, sub.about));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_string).collect()
    }

    #[test]
    fn phases_are_selected_by_words() {
        assert_eq!(select(INIT, &words("certs apiserver")).unwrap().name, "apiserver");
        assert_eq!(select(INIT, &words("certs/apiserver")).unwrap().name, "apiserver");
        assert_eq!(select(INIT, &words("certs all")).unwrap().name, "certs");
        assert_eq!(select(INIT, &words("kubelet-start")).unwrap().name, "kubelet-start");
        for wrong in ["", "nonsense", "certs nonsense", "certs apiserver more", "kubelet-start all"] {
            assert!(select(INIT, &words(wrong)).is_err(), "{wrong}");
        }
        assert!(check_names(INIT, &words("addon addon/coredns")).is_ok());
        assert!(check_names(INIT, &words("addons")).is_err());
    }

    #[test]
    fn the_phases_are_kubeadms_in_its_order() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/reference/kubeadm/flags-and-phases.txt");
        let Ok(text) = std::fs::read_to_string(&path) else {
            eprintln!("SKIPPED: no reference data at {}", path.display());
            return;
        };
        let wanted = |command: &str| -> Vec<String> {
            let part = text.split(&format!("## kubeadm {command}\n")).nth(1).unwrap().split("\n## ").next().unwrap();
            part.lines()
                .filter(|line| !line.starts_with('-'))
                .map(|line| line.split_whitespace().next().unwrap().to_string())
                .collect()
        };
        assert_eq!(names(INIT), wanted("init"));
        assert_eq!(names(JOIN), wanted("join"));
        assert_eq!(names(RESET), wanted("reset"));
        assert_eq!(names(crate::upgrade::phases::APPLY), wanted("upgrade apply"));
        assert_eq!(names(crate::upgrade::phases::NODE), wanted("upgrade node"));
    }

    fn names<C>(table: &'static [Phase<C>]) -> Vec<String> {
        let mut ours = Vec::new();
        for phase in table {
            ours.push(phase.name.to_string());
            // These are ours alone.
            ours.extend(
                phase
                    .phases
                    .iter()
                    .filter(|sub| !["rk-cni", "metrics", "ingress", "node-local-dns"].contains(&sub.name))
                    .map(|sub| format!("/{}", sub.name)),
            );
        }
        ours
    }
}

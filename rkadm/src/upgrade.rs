//! `rkadm upgrade plan|apply|node|diff`: another release, component by component, with a way back.
//!
//! Whether a component has come up is judged from the runtime and the component's own health endpoint, never only through the API server
//! that is being replaced. Upstream: cmd/kubeadm/app/phases/upgrade.

pub mod diff;
pub mod policy;
pub mod replace;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{ArgAction, Args, Subcommand};
use pki::{Files, KeyPool, Kubeconfig};
use serde_json::Value;

use crate::apply::{Api, readable};
use crate::config::types::{ApiEndpoint, ClusterConfiguration, NodeRegistration, Timeouts};
use crate::images::{self, Images};
use crate::node::{ADMIN, Node};
use crate::{addons, host, kubelet, manifest, objects, say, version};

#[derive(Debug, Args)]
pub struct UpgradeArgs {
    #[command(subcommand)]
    command: UpgradeCommand,
}

#[derive(Debug, Subcommand)]
enum UpgradeCommand {
    /// Check which versions are available to upgrade to and validate whether your current cluster is upgradeable
    Plan {
        /// The version to plan for [default: the newest of this rkadm and the bundle]
        version: Option<String>,
        #[command(flatten)]
        flags: Common,
    },
    /// Upgrade your Kubernetes cluster to the specified version
    Apply {
        version: String,
        #[command(flatten)]
        flags: Common,
        /// Force upgrading although some requirements might not be met. This also implies non-interactive mode
        #[arg(short, long)]
        force: bool,
        /// Perform the upgrade and do not prompt for confirmation (non-interactive mode)
        #[arg(short, long)]
        yes: bool,
    },
    /// Upgrade commands for a node in the cluster
    Node {
        /// `config` and `phase …` are accepted for old notes: the whole node is upgraded in any case
        words: Vec<String>,
        /// Accepted for old notes: the kubelet runs in the version of its binary
        #[arg(long)]
        kubelet_version: Option<String>,
        #[command(flatten)]
        flags: Common,
    },
    /// Show what differences would be applied to existing static pod manifests
    Diff {
        version: Option<String>,
        /// How many lines of context in the diff
        #[arg(short, long, default_value_t = 3)]
        context_lines: usize,
        #[command(flatten)]
        flags: Common,
    },
}

#[derive(Debug, Args)]
struct Common {
    /// Show unstable versions of Kubernetes as an upgrade alternative (accepted)
    #[arg(long, hide = true)]
    allow_experimental_upgrades: bool,
    #[arg(long, hide = true)]
    allow_release_candidate_upgrades: bool,
    /// Perform the renewal of certificates used by component changed during upgrades
    #[arg(long, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    certificate_renewal: bool,
    /// Path to a kubeadm configuration file
    #[arg(long)]
    config: Option<String>,
    /// Do not change any state, just output what actions would be performed
    #[arg(long)]
    dry_run: bool,
    /// Perform the upgrade of etcd
    #[arg(long, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    etcd_upgrade: bool,
    /// A list of checks whose errors will be shown as warnings
    #[arg(long, value_delimiter = ',')]
    ignore_preflight_errors: Vec<String>,
    /// Directory with the image archives (*.tar) of the new release
    #[arg(long)]
    image_bundle: Option<PathBuf>,
    /// The kubeconfig file to use when talking to the cluster
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// Path to a directory that contains files named "target[suffix][+patchtype].extension"
    #[arg(long)]
    patches: Option<PathBuf>,
    /// How long a component may take to come up
    #[arg(long, value_parser = component::duration::parse, default_value = "2m0s")]
    component_timeout: Duration,
}

/// Everything about one upgrade of this host.
pub struct Upgrade {
    pub node: Node,
    pub api: Api,
    pub current: String,
    pub target: String,
    pub renew: bool,
    pub etcd: bool,
    pub timeout: Duration,
}

pub async fn run(args: UpgradeArgs, rootfs: Option<PathBuf>) -> anyhow::Result<()> {
    match args.command {
        UpgradeCommand::Plan { version, flags } => {
            let upgrade = observe(flags, version, rootfs).await?;
            print!("{}", plan(&upgrade).await?);
            Ok(())
        }
        UpgradeCommand::Apply { version, flags, force, yes } => {
            let mut upgrade = observe(flags, Some(version), rootfs).await?;
            apply(&mut upgrade, force, yes).await
        }
        UpgradeCommand::Node { words, kubelet_version, flags } => {
            tracing::debug!(?words, ?kubelet_version, "Upgrading the whole node");
            let mut upgrade = observe(flags, None, rootfs).await?;
            upgrade.target = upgrade.current.clone();
            node(&mut upgrade).await
        }
        UpgradeCommand::Diff { version, context_lines, flags } => {
            let upgrade = observe(flags, version, rootfs).await?;
            for (component, (old, new)) in replace::manifests(&upgrade)? {
                print!("{}", diff::unified(&manifest::path(&component), &old, &new, context_lines));
            }
            Ok(())
        }
    }
}

/// What the cluster and this host say, before anything is decided.
async fn observe(flags: Common, version: Option<String>, rootfs: Option<PathBuf>) -> anyhow::Result<Upgrade> {
    let host = host::observe();
    if !host.root && !flags.dry_run {
        bail!("user is not running as root: try sudo");
    }
    let files = rootfs.map_or_else(Files::host, Files::below);
    // A worker has no admin.conf: its own credentials may read what is needed.
    let kubeconfig =
        flags.kubeconfig.unwrap_or_else(|| if files.exists(ADMIN) { ADMIN.into() } else { kubelet::KUBECONFIG.into() });
    let api = Api::connect(&kubeconfig, Duration::from_secs(10)).await?;
    let mut cluster = match &flags.config {
        Some(path) => crate::config::load(path)?.cluster.context("the configuration file holds no ClusterConfiguration")?,
        None => crate::command::cluster_configuration(&api).await?,
    };
    let current = images::component_version(&cluster.kubernetes_version);
    let bundle = images::bundle_dir(flags.image_bundle.as_deref());
    let target = match version.filter(|version| !version.starts_with("stable")) {
        Some(version) => images::component_version(&version),
        None => newest(&cluster.image_repository, &images::bundle_tags(&bundle)),
    };
    version::parse(&target).with_context(|| format!("{target:?} is not a version like v1.36.1"))?;
    cluster.kubernetes_version = target.clone();
    let endpoint = local_endpoint(&files).unwrap_or_default();
    let name = node_name(&files).unwrap_or_else(|| host.hostname.clone());
    let registration = NodeRegistration { name, ..Default::default() };
    let etcd = crate::init::known_etcd(&registration.cri_socket, &bundle, &cluster).await;
    let node = Node {
        images: Images::of(&cluster, &etcd),
        registration,
        endpoint,
        timeouts: Timeouts::default(),
        patches: flags.patches,
        host,
        keys: KeyPool::lazy(cluster.encryption_algorithm.parse()?),
        bundle,
        ignore: flags.ignore_preflight_errors,
        dry_run: flags.dry_run,
        kubeconfig,
        runtime: None,
        api: Some(api.clone()),
        balanced: if crate::balancer::is_installed(&files) { crate::balancer::ask(&api).await } else { Vec::new() },
        files,
        cluster,
    };
    Ok(Upgrade {
        node,
        api,
        current,
        target,
        renew: flags.certificate_renewal,
        etcd: flags.etcd_upgrade,
        timeout: flags.component_timeout,
    })
}

/// The newest of this rkadm's version and the bundle's.
fn newest(repository: &str, tags: &[String]) -> String {
    let prefix = format!("{repository}/kube-apiserver:");
    let offered = tags.iter().filter_map(|tag| tag.strip_prefix(&prefix)).chain(std::iter::once(component::version::current()));
    let newest = offered.filter_map(version::parse).max_by(|a, b| a.order().cmp(&b.order()));
    newest.map_or_else(|| component::version::current().to_string(), |version| version.to_string())
}

/// Where this host's API server listens, from its manifest.
fn local_endpoint(files: &Files) -> Option<ApiEndpoint> {
    let text = files.read(manifest::path("kube-apiserver")).ok()??;
    let pod: Value = serde_yaml::from_slice(&text).ok()?;
    let said = pod["metadata"]["annotations"]["kubeadm.kubernetes.io/kube-apiserver.advertise-address.endpoint"].as_str()?;
    let endpoint = crate::endpoint::parse(said)?;
    Some(ApiEndpoint { advertise_address: endpoint.host, bind_port: endpoint.port? })
}

/// This node's name, from the certificate that its kubelet uses.
pub fn node_name(files: &Files) -> Option<String> {
    let of = |certificate: pki::Certificate| certificate.subject().common_name.strip_prefix("system:node:").map(str::to_string);
    let rotated = files.read(kubelet::CLIENT_CERTIFICATE).ok().flatten().and_then(|text| pki::Certificate::from_pem(&text).ok());
    rotated.and_then(of).or_else(|| {
        let text = files.read(kubelet::KUBECONFIG).ok()??;
        of(Kubeconfig::parse(&text).ok()?.certificate().ok()??)
    })
}

/// Versions of the kubelets by node.
async fn kubelets(api: &Api) -> anyhow::Result<BTreeMap<String, (String, bool)>> {
    let nodes = api.get("/api/v1/nodes").await.map_err(readable).context("cannot list the nodes")?;
    let of = |node: &Value| {
        let version = node["status"]["nodeInfo"]["kubeletVersion"].as_str()?.to_string();
        let ready = node["status"]["conditions"].as_array()?.iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
        Some((node["metadata"]["name"].as_str()?.to_string(), (version, ready)))
    };
    Ok(nodes["items"].as_array().into_iter().flatten().filter_map(of).collect())
}

async fn plan(upgrade: &Upgrade) -> anyhow::Result<String> {
    let kubelets = kubelets(&upgrade.api).await?;
    let mut out = format!(
        "[upgrade/versions] Cluster version: {}\n[upgrade/versions] rkadm version: {}\n",
        upgrade.current,
        component::version::current()
    );
    if upgrade.current == upgrade.target {
        out.push_str(&format!(
            "[upgrade/versions] The cluster is at the newest version at hand, {}; a newer bundle comes with --image-bundle\n",
            upgrade.target
        ));
        return Ok(out);
    }
    let problems = policy::check(
        &upgrade.current,
        &upgrade.target,
        component::version::current(),
        kubelets.values().map(|(version, _)| version.as_str()),
    );
    let row = |cells: [&str; 4]| cells.map(str::to_string).to_vec();
    let mut rows = vec![row(["COMPONENT", "NODE", "CURRENT", "TARGET"])];
    for (node, (version, _)) in &kubelets {
        rows.push(row(["kubelet", node, version, &upgrade.target]));
    }
    out.push_str(
        "\nComponents that must be upgraded manually after you have upgraded the control plane with 'rkadm upgrade apply':\n",
    );
    out.push_str(&crate::command::token::table(rows));
    let mut rows = vec![row(["COMPONENT", "NODE", "CURRENT", "TARGET"])];
    for component in ["kube-apiserver", "kube-controller-manager", "kube-scheduler"] {
        rows.push(row([component, upgrade.node.name(), &upgrade.current, &upgrade.target]));
    }
    for component in ["kube-proxy", "rk-cni", "rk-dns"] {
        rows.push(row([component, "", &upgrade.current, &upgrade.target]));
    }
    if let Some(image) = upgrade.node.images.etcd() {
        let tag = |image: &str| image.rsplit_once(':').map(|(_, tag)| tag.to_string()).unwrap_or_default();
        let now = replace::image_of(&upgrade.node.files, "etcd").map(|image| tag(&image)).unwrap_or_default();
        rows.push(row(["etcd", upgrade.node.name(), &now, &tag(image)]));
    }
    out.push_str("\nUpgrade to the version at hand:\n\n");
    out.push_str(&crate::command::token::table(rows));
    if problems.is_empty() {
        out.push_str(&format!(
            "\nYou can now apply the upgrade by executing the following command:\n\n\trkadm upgrade apply {}\n",
            upgrade.target
        ));
    } else {
        out.push_str(&format!("\nThis upgrade is not possible:\n  - {}\n", problems.join("\n  - ")));
    }
    Ok(out)
}

async fn apply(upgrade: &mut Upgrade, force: bool, yes: bool) -> anyhow::Result<()> {
    let started = std::time::Instant::now();
    let kubelets = kubelets(&upgrade.api).await?;
    let mut problems = policy::check(
        &upgrade.current,
        &upgrade.target,
        component::version::current(),
        kubelets.values().map(|(version, _)| version.as_str()),
    );
    let sick: Vec<&str> = kubelets.iter().filter(|(_, (_, ready))| !ready).map(|(name, _)| name.as_str()).collect();
    if !sick.is_empty() {
        problems.push(format!("these nodes are not Ready: {} (kubectl describe node says why)", sick.join(", ")));
    }
    if local_endpoint(&upgrade.node.files).is_none() {
        bail!(
            "this host runs no control plane: run `rkadm upgrade apply` on a control-plane node, and `rkadm upgrade node` here afterwards"
        );
    }
    if !problems.is_empty() {
        if !force {
            bail!(
                "[upgrade/version] the upgrade is not possible:\n  - {}\n--force goes on nevertheless",
                problems.join("\n  - ")
            );
        }
        problems.iter().for_each(|problem| say::warning(problem));
    }
    say::phase("upgrade", &format!("Upgrading the control plane from {} to {}", upgrade.current, upgrade.target));
    if !yes && !force && !upgrade.node.dry_run {
        ask()?;
    }
    if upgrade.node.dry_run {
        for (component, (old, new)) in replace::manifests(upgrade)? {
            print!("{}", diff::unified(&manifest::path(&component), &old, &new, 3));
        }
        println!("[dryrun] Would replace the manifests above one by one, then upload the configuration and apply the add-ons");
        return Ok(());
    }
    let imported = crate::phase::preflight::bring_images(&mut upgrade.node, true).await?;
    say::phase("upgrade/prepull", &format!("The images of {} are here ({imported} archives imported)", upgrade.target));
    replace::control_plane(upgrade).await?;
    let cluster = upgrade.node.cluster.clone();
    upgrade.node.apply(&objects::kubeadm_config(&cluster)?).await?;
    say::phase("upload-config", "The configuration says the new version");
    kubelet_config(upgrade).await?;
    let ca = pki::tree::authority_certificate(&upgrade.node.files, &upgrade.node.pki_dir(), "ca")?;
    let info = objects::cluster_info_kubeconfig(&upgrade.node.server(), ca.to_pem().as_bytes())?;
    // cluster-info carries signatures that must stay: its rules only.
    let rules: Vec<Value> = objects::bootstrap_rules(&info).into_iter().filter(|object| object["kind"] != "ConfigMap").collect();
    upgrade.node.apply(&rules).await?;
    if !upgrade.node.balanced.is_empty() {
        upgrade.node.apply(&objects::balancer_rules()).await?;
    }
    add_ons(upgrade).await?;
    println!(
        "\n[upgrade] SUCCESS! A control plane node of your cluster was upgraded to \"{}\" {}.\n",
        upgrade.target,
        say::took(started)
    );
    println!(
        "[upgrade] Now please proceed with upgrading the rest of the nodes by following the right order: `rkadm upgrade node` on the other"
    );
    println!(
        "control-plane nodes, then, node by node: kubectl drain NODE --ignore-daemonsets; the new kubelet and `rkadm upgrade node`; kubectl uncordon NODE"
    );
    Ok(())
}

fn ask() -> anyhow::Result<()> {
    use std::io::Write as _;
    print!("[upgrade] Are you sure you want to proceed? [y/N]: ");
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    if !matches!(answer.trim().to_lowercase().as_str(), "y" | "yes") {
        bail!("won't proceed; the user didn't answer (Y|y) in order to continue");
    }
    Ok(())
}

/// The control plane of this host, if it has one, then the kubelet's configuration.
async fn node(upgrade: &mut Upgrade) -> anyhow::Result<()> {
    let control_plane = local_endpoint(&upgrade.node.files).is_some();
    if upgrade.node.dry_run {
        println!(
            "[dryrun] Would upgrade this {} to {}",
            if control_plane { "control-plane node" } else { "node" },
            upgrade.target
        );
        return Ok(());
    }
    crate::phase::preflight::bring_images(&mut upgrade.node, control_plane).await?;
    if control_plane {
        replace::control_plane(upgrade).await?;
    }
    kubelet_config(upgrade).await?;
    println!("[upgrade] The configuration for this node was successfully upgraded!");
    println!("[upgrade] Now you should go ahead and upgrade the kubelet package using your package manager.");
    Ok(())
}

/// config.yaml anew from the cluster's kubelet-config.
async fn kubelet_config(upgrade: &mut Upgrade) -> anyhow::Result<()> {
    let path = "/api/v1/namespaces/kube-system/configmaps/kubelet-config";
    let map = upgrade.api.get(path).await.map_err(readable).context("cannot get the ConfigMap kubelet-config")?;
    let config: Value = serde_yaml::from_str(map["data"]["kubelet"].as_str().context("kubelet-config holds no configuration")?)?;
    let node = &mut upgrade.node;
    if let Some(old) = node.files.read(kubelet::CONFIG)? {
        node.files.write(Path::new("/etc/kubernetes/tmp/kubelet-config.yaml"), pki::files::SECRET, old)?;
    }
    // The runtime's socket is this host's own, whatever its name here.
    if let Some(text) = node.files.read(kubelet::INSTANCE_CONFIG)?
        && let Ok(instance) = serde_yaml::from_slice::<Value>(&text)
        && let Some(socket) = instance["containerRuntimeEndpoint"].as_str()
    {
        node.registration.cri_socket = socket.to_string();
    }
    let mut config = kubelet::node_configuration(&config, &node.host, &node.registration);
    node.patch("kubeletconfiguration", &mut config)?;
    node.files.write(kubelet::CONFIG, pki::files::PUBLIC, crate::config::yaml(&config)?)?;
    say::phase("kubelet-config", &format!("{} is written anew", kubelet::CONFIG));
    Ok(())
}

async fn add_ons(upgrade: &mut Upgrade) -> anyhow::Result<()> {
    // The user's own changes to kube-proxy's configuration stay.
    let known = upgrade.api.find("/api/v1/namespaces/kube-system/configmaps/kube-proxy").await?;
    let text = known.and_then(|map| map["data"]["config.conf"].as_str().map(str::to_string)).unwrap_or_default();
    let proxy: Value = serde_yaml::from_str(&text).unwrap_or_default();
    let server = upgrade.node.addon_server();
    for addon in addons::ADDONS {
        if addon.is_disabled(&upgrade.node.cluster) {
            continue;
        }
        // A metrics server that somebody installed stays.
        if addon.phase == "metrics" {
            let found = upgrade.api.find("/apis/apiregistration.k8s.io/v1/apiservices/v1beta1.metrics.k8s.io").await?;
            if found.is_some_and(|service| service["spec"]["service"].is_object()) {
                continue;
            }
        }
        let objects = addon.objects(&upgrade.node.cluster, &server, &proxy)?;
        upgrade.node.apply(&objects).await?;
        say::phase("addons", &format!("Applied essential addon: {}", addon.name));
    }
    Ok(())
}

/// For tests of others: the cluster as an upgrade sees it.
pub fn cluster(upgrade: &Upgrade) -> &ClusterConfiguration {
    &upgrade.node.cluster
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_at_hand_is_planned() {
        let tags = [
            "registry.k8s.io/kube-apiserver:v1.36.9",
            "registry.k8s.io/kube-apiserver:v1.36.10",
            "registry.k8s.io/kube-proxy:v1.36.11",
        ];
        assert_eq!(newest("registry.k8s.io", &tags.map(String::from)), "v1.36.10");
        assert_eq!(newest("registry.k8s.io", &[]), component::version::current());
    }
}

//! `rkadm upgrade plan|apply|node|diff`: another release, component by component, with a way back.
//!
//! Whether a component has come up is judged from the runtime and the component's own health endpoint, never only through the API server
//! that is being replaced. Upstream: cmd/kubeadm/app/phases/upgrade.

pub mod diff;
pub mod phases;
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
use crate::config::types::{ApiEndpoint, ClusterConfiguration, NodeRegistration, Timeouts, UpgradeConfiguration};
use crate::images::{self, Images};
use crate::node::{ADMIN, Node};
use crate::{host, kubelet, manifest, say, version};

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
        /// text, json or yaml
        #[arg(short, long, default_value = "text")]
        output: String,
        #[command(flatten)]
        template: crate::command::Template,
    },
    /// Upgrade your Kubernetes cluster to the specified version
    #[command(after_help = crate::phase::help(phases::APPLY))]
    Apply {
        /// The version, or `phase NAME …` for one phase
        #[arg(required = true, num_args = 1..)]
        words: Vec<String>,
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
    #[command(after_help = crate::phase::help(phases::NODE))]
    Node {
        /// Nothing for the whole node, `phase NAME …` for one phase, `config` (as in old notes) for the kubelet's configuration
        words: Vec<String>,
        /// Accepted for old notes: the kubelet runs in the version of its binary
        #[arg(long)]
        kubelet_version: Option<String>,
        #[command(flatten)]
        flags: Common,
    },
    /// Go back to the state before an upgrade that was interrupted
    Rollback {
        /// How long a component may take to come up
        #[arg(long, value_parser = component::duration::parse, default_value = "2m0s")]
        component_timeout: Duration,
    },
    /// Restart this node's kubelet with the program of this release (drain the node first)
    Kubelet {
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
    /// Show unstable versions of Kubernetes as an upgrade alternative
    #[arg(long)]
    allow_experimental_upgrades: bool,
    /// Show release candidate versions of Kubernetes as an upgrade alternative
    #[arg(long)]
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
    /// Specifies whether the configuration file that will be used in the upgrade should be printed or not
    #[arg(long)]
    print_config: bool,
    /// List of phases to be skipped
    #[arg(long, value_delimiter = ',')]
    skip_phases: Vec<String>,
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
    /// Go on although something speaks against it.
    pub force: bool,
    /// Do not ask.
    pub yes: bool,
    /// As asked for by flags and configuration.
    pub skip: Vec<String>,
}

pub async fn run(args: UpgradeArgs, rootfs: Option<PathBuf>) -> anyhow::Result<()> {
    match args.command {
        UpgradeCommand::Plan { version, flags, output, template: _ } => {
            let upgrade = observe(flags, version, rootfs, Which::Plan).await?;
            print!("{}", plan(&upgrade, &output).await?);
            Ok(())
        }
        UpgradeCommand::Apply { mut words, flags, force, yes } => {
            if words.first().is_some_and(|word| word == "phase") {
                words.remove(0);
                // `upgrade apply phase control-plane v1.36.1`: the version may follow the phase's words.
                let version = words.pop_if(|word| version::parse(word).is_some());
                let mut upgrade = observe(flags, version, rootfs, Which::Apply).await?;
                (upgrade.force, upgrade.yes) = (upgrade.force || force, true);
                return crate::phase::run_one(phases::APPLY, &mut upgrade, &words).await;
            }
            if words.len() > 1 {
                bail!("one version, not {}", words.join(" "));
            }
            let mut upgrade = observe(flags, words.pop(), rootfs, Which::Apply).await?;
            (upgrade.force, upgrade.yes) = (upgrade.force || force, yes);
            let skip = upgrade.skip.clone();
            apply(&mut upgrade, &skip).await
        }
        UpgradeCommand::Node { mut words, kubelet_version, flags } => {
            let mut upgrade = observe(flags, None, rootfs, Which::Node).await?;
            upgrade.target = upgrade.current.clone();
            match words.first().map(String::as_str) {
                None => {
                    let skip = upgrade.skip.clone();
                    node(&mut upgrade, &skip).await
                }
                Some("phase") => {
                    words.remove(0);
                    crate::phase::run_one(phases::NODE, &mut upgrade, &words).await
                }
                // kubeadm up to 1.16: `upgrade node config --kubelet-version v1.16.0`.
                Some("config") => {
                    tracing::debug!(?kubelet_version, "The kubelet runs in the version of its program");
                    node(&mut upgrade, &["control-plane".to_string(), "addon".to_string()]).await
                }
                Some(other) => bail!("unknown command {other:?} for \"rkadm upgrade node\": phase, or nothing"),
            }
        }
        UpgradeCommand::Rollback { component_timeout } => {
            let mut files = rootfs.map_or_else(Files::host, Files::below);
            let Some(journal) = replace::Journal::load(&files) else { bail!("no upgrade was interrupted on this host") };
            go_back(&mut files, &journal, component_timeout).await
        }
        UpgradeCommand::Kubelet { flags } => {
            let mut upgrade = observe(flags, None, rootfs, Which::Node).await?;
            upgrade_kubelet(&mut upgrade).await
        }
        UpgradeCommand::Diff { version, context_lines, flags } => {
            let upgrade = observe(flags, version, rootfs, Which::Diff).await?;
            for (component, (old, new)) in replace::manifests(&upgrade)? {
                print!("{}", diff::unified(&manifest::path(&component), &old, &new, context_lines));
            }
            Ok(())
        }
    }
}

/// Which part of an UpgradeConfiguration speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    Plan,
    Apply,
    Node,
    Diff,
}

/// The UpgradeConfiguration's part laid under the flags: a flag that differs from its default wins.
fn lay_under(flags: &mut Common, version: &mut Option<String>, which: Which, config: UpgradeConfiguration) {
    let (chosen, patches) = match which {
        Which::Plan => (config.plan.kubernetes_version, None),
        Which::Apply => (config.apply.kubernetes_version, config.apply.patches.clone()),
        Which::Diff => (config.diff.kubernetes_version, None),
        Which::Node => (String::new(), config.node.patches.clone()),
    };
    if version.is_none() && !chosen.is_empty() {
        *version = Some(chosen);
    }
    if flags.patches.is_none() {
        flags.patches = patches.map(|patches| patches.directory.into());
    }
    let (renewal, etcd, dry, ignore, skip) = match which {
        Which::Apply => (
            config.apply.certificate_renewal,
            config.apply.etcd_upgrade,
            config.apply.dry_run,
            config.apply.ignore_preflight_errors,
            config.apply.skip_phases,
        ),
        Which::Node => (
            config.node.certificate_renewal,
            config.node.etcd_upgrade,
            config.node.dry_run,
            config.node.ignore_preflight_errors,
            config.node.skip_phases,
        ),
        Which::Plan => (true, config.plan.etcd_upgrade, config.plan.dry_run, config.plan.ignore_preflight_errors, Vec::new()),
        Which::Diff => (true, true, false, Vec::new(), Vec::new()),
    };
    flags.certificate_renewal &= renewal;
    flags.etcd_upgrade &= etcd;
    flags.dry_run |= dry;
    flags.ignore_preflight_errors.extend(ignore);
    if flags.skip_phases.is_empty() {
        flags.skip_phases = skip;
    }
}

/// What the cluster and this host say, before anything is decided.
async fn observe(
    mut flags: Common,
    mut version: Option<String>,
    rootfs: Option<PathBuf>,
    which: Which,
) -> anyhow::Result<Upgrade> {
    let host = host::observe();
    let documents = match &flags.config {
        Some(path) => crate::config::load(path)?,
        None => crate::config::Documents::default(),
    };
    let mut force = false;
    if let Some(config) = documents.upgrade {
        force = which == Which::Apply && config.apply.force_upgrade;
        lay_under(&mut flags, &mut version, which, config);
    }
    if !host.root && !flags.dry_run {
        bail!("user is not running as root: try sudo");
    }
    let mut files = rootfs.map_or_else(Files::host, Files::below);
    after_power_cut(&mut files, flags.dry_run, flags.component_timeout).await?;
    // A worker has no admin.conf: its own credentials may read what is needed.
    let kubeconfig =
        flags.kubeconfig.unwrap_or_else(|| if files.exists(ADMIN) { ADMIN.into() } else { kubelet::KUBECONFIG.into() });
    let api = Api::connect(&kubeconfig, Duration::from_secs(10)).await?;
    let mut cluster = match documents.cluster {
        Some(cluster) => cluster,
        None => crate::command::cluster_configuration(&api).await?,
    };
    if flags.print_config {
        print!("{}", crate::config::render("ClusterConfiguration", &cluster)?);
    }
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
        force,
        yes: false,
        skip: flags.skip_phases,
    })
}

/// An upgrade was interrupted, and the control plane is not up: back to what worked, before anything else.
async fn after_power_cut(files: &mut Files, dry_run: bool, timeout: Duration) -> anyhow::Result<()> {
    let Some(journal) = replace::Journal::load(files).filter(|_| !dry_run) else { return Ok(()) };
    say::phase("upgrade", &format!("An upgrade from {} to {} was interrupted", journal.current, journal.target));
    let started = std::time::Instant::now();
    while started.elapsed() < timeout {
        let endpoint = journal.server.trim_start_matches("https://");
        let answer = crate::https::get(endpoint, "/readyz", &crate::https::Trust::Anybody, None, Duration::from_secs(3)).await;
        if answer.is_ok_and(|answer| answer.status == 200) {
            return Ok(());
        }
        tokio::time::sleep(crate::node::POLL * 4).await;
    }
    say::warning(&format!("the API server has not come up for {timeout:?}: going back to {}", journal.current));
    go_back(files, &journal, timeout).await
}

async fn go_back(files: &mut Files, journal: &replace::Journal, timeout: Duration) -> anyhow::Result<()> {
    let runtime = crate::cri::Runtime::connect(crate::cri::DEFAULT_SOCKET).await?;
    replace::roll_back(files, &runtime, timeout, journal).await?;
    say::phase("upgrade/rollback", &format!("The control plane runs {} as before", journal.current));
    Ok(())
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

async fn plan(upgrade: &Upgrade, output: &str) -> anyhow::Result<String> {
    let kubelets = kubelets(&upgrade.api).await?;
    if output != "text" {
        return plan_document(upgrade, &kubelets, output);
    }
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

/// `plan -o json|yaml`. Upstream: cmd/kubeadm/app/apis/output, UpgradePlan.
fn plan_document(upgrade: &Upgrade, kubelets: &BTreeMap<String, (String, bool)>, output: &str) -> anyhow::Result<String> {
    let component = |name: &str, node: &str, current: &str, new: &str| {
        let mut entry = serde_json::json!({"name": name, "currentVersion": current, "newVersion": new});
        if !node.is_empty() {
            entry["nodeName"] = node.into();
        }
        entry
    };
    let mut components: Vec<Value> =
        kubelets.iter().map(|(node, (version, _))| component("kubelet", node, version, &upgrade.target)).collect();
    for name in ["kube-apiserver", "kube-controller-manager", "kube-scheduler"] {
        components.push(component(name, upgrade.node.name(), &upgrade.current, &upgrade.target));
    }
    for name in ["kube-proxy", "rk-cni", "rk-dns"] {
        components.push(component(name, "", &upgrade.current, &upgrade.target));
    }
    let available = if upgrade.current == upgrade.target {
        Vec::new()
    } else {
        vec![serde_json::json!({"description": "version at hand", "components": components})]
    };
    let plan = serde_json::json!({
        "apiVersion": "output.kubeadm.k8s.io/v1alpha3", "kind": "UpgradePlan", "availableUpgrades": available, "configVersions": [],
    });
    match output {
        "json" => Ok(serde_json::to_string_pretty(&plan)? + "\n"),
        "yaml" => crate::config::yaml(&plan),
        other => bail!("--output {other}: text, json or yaml"),
    }
}

async fn apply(upgrade: &mut Upgrade, skip: &[String]) -> anyhow::Result<()> {
    let started = std::time::Instant::now();
    crate::phase::run_all(phases::APPLY, upgrade, skip).await?;
    if upgrade.node.dry_run {
        return Ok(());
    }
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
async fn node(upgrade: &mut Upgrade, skip: &[String]) -> anyhow::Result<()> {
    crate::phase::run_all(phases::NODE, upgrade, skip).await?;
    if !upgrade.node.dry_run {
        println!("[upgrade] The configuration for this node was successfully upgraded!");
        println!("[upgrade] Now you should go ahead and upgrade the kubelet package using your package manager.");
    }
    Ok(())
}

/// The kubelet and what else runs beside it, from this rkadm's release. The containers of the node go on.
async fn upgrade_kubelet(upgrade: &mut Upgrade) -> anyhow::Result<()> {
    let started = std::time::Instant::now();
    let own = component::version::current();
    if version::parse(own).zip(version::parse(&upgrade.current)).is_some_and(|(own, cluster)| own.order() > cluster.order()) {
        bail!(
            "the control plane is at {}: run `rkadm upgrade apply {own}` first, a kubelet must not be newer than the API server",
            upgrade.current
        );
    }
    upgrade.node.start_kubelet().await?;
    if upgrade.node.dry_run {
        return Ok(());
    }
    upgrade.node.wait_for_kubelet().await?;
    let path = format!("/api/v1/nodes/{}", upgrade.node.name());
    loop {
        let node = upgrade.api.find(&path).await?.context("this node is not in the cluster")?;
        if node["status"]["nodeInfo"]["kubeletVersion"] == own {
            say::phase("upgrade/kubelet", &format!("The kubelet of {} runs {own} {}", upgrade.node.name(), say::took(started)));
            return Ok(());
        }
        if started.elapsed() > upgrade.timeout {
            bail!("the kubelet still reports {}: see its log", node["status"]["nodeInfo"]["kubeletVersion"]);
        }
        tokio::time::sleep(crate::node::POLL * 4).await;
    }
}

/// config.yaml anew from the cluster's kubelet-config.
pub(crate) async fn kubelet_config(upgrade: &mut Upgrade) -> anyhow::Result<()> {
    let path = "/api/v1/namespaces/kube-system/configmaps/kubelet-config";
    let map = upgrade.api.get(path).await.map_err(readable).context("cannot get the ConfigMap kubelet-config")?;
    if upgrade.node.dry_run {
        println!("[dryrun] Would write {} anew", kubelet::CONFIG);
        return Ok(());
    }
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

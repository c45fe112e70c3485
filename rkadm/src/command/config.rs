//! `rkadm config`: defaults, checks and migration of configuration files, and the list of images.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use serde_json::Value;

use crate::config::types::*;
use crate::config::{self, render, validate};
use crate::images::{self, Images};
use crate::init::known_etcd;

#[derive(Debug, Args)]
pub struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
    /// The kubeconfig file to use when talking to the cluster
    #[arg(long, global = true, default_value = crate::node::ADMIN)]
    kubeconfig: PathBuf,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print configuration
    #[command(subcommand)]
    Print(PrintCommand),
    /// Interact with container images used by rkadm
    #[command(subcommand)]
    Images(ImagesCommand),
    /// Read an older version of the kubeadm configuration API types from a file, and output the similar config object for the newer version
    Migrate {
        #[arg(long)]
        old_config: String,
        #[arg(long)]
        new_config: Option<PathBuf>,
        #[arg(long, hide = true)]
        allow_experimental_api: bool,
    },
    /// Read a file containing the kubeadm configuration API and report any warnings or errors
    Validate {
        #[arg(long)]
        config: String,
        #[arg(long, hide = true)]
        allow_experimental_api: bool,
    },
}

#[derive(Debug, Subcommand)]
#[allow(clippy::enum_variant_names)] // the words of the command line
enum PrintCommand {
    /// Print default init configuration, that can be used for 'rkadm init'
    InitDefaults {
        #[arg(long, value_delimiter = ',')]
        component_configs: Vec<String>,
    },
    /// Print default join configuration, that can be used for 'rkadm join'
    JoinDefaults,
    /// Print default reset configuration, that can be used for 'rkadm reset'
    ResetDefaults,
    /// Print default upgrade configuration, that can be used for 'rkadm upgrade'
    UpgradeDefaults,
}

#[derive(Debug, Subcommand)]
enum ImagesCommand {
    /// Print a list of images rkadm will use
    List(ImagesFlags),
    /// Import the images of the bundle into containerd (nothing is pulled)
    Pull(ImagesFlags),
}

#[derive(Debug, Args)]
struct ImagesFlags {
    #[arg(long)]
    config: Option<String>,
    #[arg(long, default_value = "registry.k8s.io")]
    image_repository: String,
    #[arg(long)]
    kubernetes_version: Option<String>,
    #[arg(long)]
    feature_gates: Option<String>,
    #[arg(long)]
    cri_socket: Option<String>,
    /// Directory with the image archives (*.tar) of this release
    #[arg(long)]
    image_bundle: Option<PathBuf>,
    /// text or json
    #[arg(short, long, default_value = "text")]
    output: String,
}

pub async fn run(args: ConfigArgs) -> anyhow::Result<()> {
    match args.command {
        ConfigCommand::Print(print) => {
            print!("{}", printed(&print)?);
            Ok(())
        }
        ConfigCommand::Images(ImagesCommand::List(flags)) => {
            let (images, ..) = images_of(&flags).await?;
            let list = images.control_plane();
            match flags.output.as_str() {
                "text" => list.iter().for_each(|image| println!("{image}")),
                "json" => println!("{}", serde_json::to_string_pretty(&serde_json::json!({"kind": "Images", "images": list}))?),
                other => bail!("--output {other}: text or json"),
            }
            Ok(())
        }
        ConfigCommand::Images(ImagesCommand::Pull(flags)) => {
            let (images, socket, bundle) = images_of(&flags).await?;
            let runtime = crate::cri::Runtime::connect(&socket).await?;
            let wanted = images.control_plane();
            images::ensure(&runtime, &socket, &wanted, &bundle).await?;
            wanted.iter().for_each(|image| println!("[config/images] Present: {image}"));
            Ok(())
        }
        ConfigCommand::Migrate { old_config, new_config, .. } => {
            let text = migrated(config::load(&old_config)?)?;
            match new_config {
                None => print!("{text}"),
                Some(path) => std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?,
            }
            Ok(())
        }
        ConfigCommand::Validate { config: path, .. } => {
            let mut documents = config::load(&path)?;
            let host = crate::host::observe();
            if documents.init.is_some() || documents.cluster.is_some() {
                let (mut init, mut cluster) =
                    (documents.init.take().unwrap_or_default(), documents.cluster.take().unwrap_or_default());
                crate::init::defaults(&mut init, &mut cluster, &host);
                for token in init.bootstrap_tokens.iter_mut().filter(|token| token.token.is_empty()) {
                    token.token = crate::token::generate();
                }
                validate::init(&init, &cluster).into_result()?;
            }
            if let Some(mut join) = documents.join.take() {
                if join.node_registration.name.is_empty() {
                    join.node_registration.name = host.hostname.clone();
                }
                validate::join(&join).into_result()?;
            }
            if documents.old {
                crate::say::warning("the file is v1beta3: `rkadm config migrate` writes v1beta4");
            }
            println!("ok");
            Ok(())
        }
    }
}

async fn images_of(flags: &ImagesFlags) -> anyhow::Result<(Images, String, PathBuf)> {
    let documents = match &flags.config {
        Some(path) => config::load(path)?,
        None => config::Documents::default(),
    };
    let mut cluster = documents.cluster.unwrap_or_default();
    if flags.config.is_none() {
        cluster.image_repository = flags.image_repository.clone();
    }
    if let Some(version) = flags.kubernetes_version.as_ref().filter(|version| !version.starts_with("stable")) {
        crate::version::parse(version).with_context(|| format!("{version:?} is not a version like v1.36.0"))?;
        cluster.kubernetes_version = version.clone();
    }
    let socket = flags.cri_socket.clone().unwrap_or_else(|| {
        documents.init.map_or_else(|| DEFAULT_CRI_SOCKET.to_string(), |init| init.node_registration.cri_socket)
    });
    let bundle = images::bundle_dir(flags.image_bundle.as_deref());
    let etcd = known_etcd(&socket, &bundle, &cluster).await;
    Ok((Images::of(&cluster, &etcd), socket, bundle))
}

fn printed(print: &PrintCommand) -> anyhow::Result<String> {
    let host = crate::host::hostname();
    let join = |kinds: &[&str], node: &str| -> anyhow::Result<String> {
        Ok(kinds.iter().map(|kind| defaults_of(kind, node)).collect::<anyhow::Result<Vec<_>>>()?.join("---\n"))
    };
    match print {
        PrintCommand::InitDefaults { component_configs } => {
            let mut text = join(&["InitConfiguration", "ClusterConfiguration"], "node")?;
            for kind in component_configs {
                text.push_str("---\n");
                text.push_str(&match kind.as_str() {
                    "KubeletConfiguration" => {
                        let host = crate::host::observe();
                        config::yaml(&crate::kubelet::configuration(&ClusterConfiguration::default(), &host, &Value::Null))?
                    }
                    "KubeProxyConfiguration" => proxy_defaults()?,
                    other => bail!("--component-configs {other}: KubeletConfiguration or KubeProxyConfiguration"),
                });
            }
            Ok(text)
        }
        PrintCommand::JoinDefaults => join(&["JoinConfiguration"], &host),
        PrintCommand::ResetDefaults => join(&["ResetConfiguration"], &host),
        PrintCommand::UpgradeDefaults => join(&["UpgradeConfiguration"], &host),
    }
}

/// The KubeProxyConfiguration that the add-on holds.
fn proxy_defaults() -> anyhow::Result<String> {
    let addon = crate::addons::ADDONS.iter().find(|addon| addon.phase == "kube-proxy").context("an add-on of the table")?;
    let objects = addon.objects(&ClusterConfiguration::default(), "", &Value::Null)?;
    let text =
        objects.iter().find_map(|object| object["data"]["config.conf"].as_str()).context("the add-on has a configuration")?;
    config::yaml(&serde_yaml::from_str(text)?)
}

/// One kind with placeholders, as kubeadm prints them. Upstream: the Static…Defaulting functions.
pub fn defaults_of(kind: &str, node: &str) -> anyhow::Result<String> {
    let token = "abcdef.0123456789abcdef";
    match kind {
        "InitConfiguration" => render(
            kind,
            &InitConfiguration {
                bootstrap_tokens: vec![BootstrapToken { token: token.into(), ..Default::default() }],
                local_api_endpoint: ApiEndpoint { advertise_address: "1.2.3.4".into(), bind_port: 6443 },
                node_registration: NodeRegistration { name: node.into(), ..Default::default() },
                ..Default::default()
            },
        ),
        "ClusterConfiguration" => {
            let version = component::version::current().trim_start_matches('v').to_string();
            render(kind, &ClusterConfiguration { kubernetes_version: version, ..Default::default() })
        }
        "JoinConfiguration" => render(
            kind,
            &JoinConfiguration {
                discovery: Discovery {
                    bootstrap_token: Some(BootstrapTokenDiscovery {
                        api_server_endpoint: "kube-apiserver:6443".into(),
                        token: token.into(),
                        unsafe_skip_ca_verification: true,
                        ..Default::default()
                    }),
                    file: None,
                    tls_bootstrap_token: token.into(),
                },
                node_registration: NodeRegistration { name: node.into(), ..Default::default() },
                ..Default::default()
            },
        ),
        "ResetConfiguration" => render(kind, &ResetConfiguration::default()),
        "UpgradeConfiguration" => render(kind, &UpgradeConfiguration::default()),
        other => bail!("there is no kind {other}"),
    }
}

/// All documents of a file in the newest version.
fn migrated(documents: config::Documents) -> anyhow::Result<String> {
    let mut out = Vec::new();
    if let Some(init) = &documents.init {
        out.push(render("InitConfiguration", init)?);
    }
    if let Some(cluster) = &documents.cluster {
        out.push(render("ClusterConfiguration", cluster)?);
    }
    if let Some(join) = &documents.join {
        out.push(render("JoinConfiguration", join)?);
    }
    if let Some(reset) = &documents.reset {
        out.push(render("ResetConfiguration", reset)?);
    }
    if let Some(upgrade) = &documents.upgrade {
        out.push(render("UpgradeConfiguration", upgrade)?);
    }
    for other in [&documents.kubelet, &documents.proxy].into_iter().flatten() {
        out.push(config::yaml(other)?);
    }
    Ok(out.join("---\n"))
}

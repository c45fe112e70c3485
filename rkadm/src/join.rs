//! `rkadm join`: a host becomes a node of a cluster that exists, as a worker or as one more control plane.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use pki::{Files, KeyPool, Kubeconfig};
use serde_json::Value;

use crate::apply::{Api, readable};
use crate::config::types::{
    ApiEndpoint, BootstrapTokenDiscovery, ClusterConfiguration, FileDiscovery, JoinConfiguration, JoinControlPlane,
};
use crate::config::{self, validate};
use crate::images::{self, Images};
use crate::node::Node;
use crate::{discovery, host, phase};

/// Everything about one `join`.
pub struct Join {
    pub node: Node,
    pub join: JoinConfiguration,
    /// How long discovery tries.
    pub patience: Duration,
    /// Believed after discovery.
    pub cluster_info: Option<Kubeconfig>,
    /// kubelet-config of the cluster.
    pub kubelet: Value,
    /// The API server with the bootstrap token.
    pub bootstrap: Option<Api>,
    /// This host is to run an etcd member and no other part of a control plane.
    pub witness: bool,
    /// What its certificates are decrypted with.
    pub witness_key: String,
    /// All phases run, so that one may leave something to a later one.
    pub whole: bool,
}

#[derive(Debug, Args)]
pub struct JoinArgs {
    /// The API server's HOST:PORT
    endpoint: Option<String>,
    #[command(flatten)]
    flags: JoinFlags,
    #[command(subcommand)]
    phase: Option<JoinCommand>,
}

#[derive(Debug, clap::Subcommand)]
enum JoinCommand {
    /// Use this command to invoke single phase of the "join" workflow
    #[command(after_help = phase::help(phase::JOIN))]
    Phase {
        /// The phase and, where it has parts, the part, then HOST:PORT where discovery needs it
        #[arg(required = true)]
        names: Vec<String>,
        #[command(flatten)]
        flags: Box<JoinFlags>,
    },
}

#[derive(Debug, Args, Clone)]
struct JoinFlags {
    /// If the node should host a new control plane instance, the IP address the API Server will advertise it's listening on
    #[arg(long)]
    apiserver_advertise_address: Option<String>,
    /// If the node should host a new control plane instance, the port for the API Server to bind to
    #[arg(long)]
    apiserver_bind_port: Option<u16>,
    /// Use this key to decrypt the certificate secrets uploaded by init
    #[arg(long)]
    certificate_key: Option<String>,
    /// Path to a kubeadm configuration file
    #[arg(long)]
    config: Option<String>,
    /// Create a new control plane instance on this node
    #[arg(long)]
    control_plane: bool,
    /// Path to the CRI socket to connect
    #[arg(long)]
    cri_socket: Option<String>,
    /// For file-based discovery, a file from which to load cluster information
    #[arg(long)]
    discovery_file: Option<String>,
    /// How long to try to reach and verify the cluster
    #[arg(long, value_parser = component::duration::parse)]
    discovery_timeout: Option<Duration>,
    /// For token-based discovery, the token used to validate cluster information fetched from the API server
    #[arg(long)]
    discovery_token: Option<String>,
    /// For token-based discovery, validate that the root CA public key matches this hash (format: "<type>:<value>")
    #[arg(long, value_delimiter = ',')]
    discovery_token_ca_cert_hash: Vec<String>,
    /// For token-based discovery, allow joining without --discovery-token-ca-cert-hash pinning
    #[arg(long)]
    discovery_token_unsafe_skip_ca_verification: bool,
    /// Don't apply any changes; just output what would be done
    #[arg(long)]
    dry_run: bool,
    /// Run an etcd member on this node and no other part of a control plane: the third vote beside two control planes
    #[arg(long, conflicts_with = "control_plane")]
    etcd_witness: bool,
    /// A list of checks whose errors will be shown as warnings. Example: 'Swap'. Value 'all' ignores errors from all checks
    #[arg(long, value_delimiter = ',')]
    ignore_preflight_errors: Vec<String>,
    /// Directory with the image archives (*.tar) of this release
    #[arg(long)]
    image_bundle: Option<PathBuf>,
    /// Specify the node name
    #[arg(long)]
    node_name: Option<String>,
    /// Path to a directory that contains files named "target[suffix][+patchtype].extension"
    #[arg(long)]
    patches: Option<PathBuf>,
    /// List of phases to be skipped
    #[arg(long, value_delimiter = ',')]
    skip_phases: Vec<String>,
    /// Specify the token used to temporarily authenticate with the Kubernetes Control Plane while joining the node
    #[arg(long)]
    tls_bootstrap_token: Option<String>,
    /// Use this token for both discovery-token and tls-bootstrap-token when those values are not provided
    #[arg(long)]
    token: Option<String>,
}

/// Runs `join` or one of its phases.
pub async fn run(args: JoinArgs, rootfs: Option<PathBuf>) -> anyhow::Result<()> {
    let (flags, mut words) = match args.phase {
        Some(JoinCommand::Phase { names, flags }) => (*flags, Some(names)),
        None => (args.flags, None),
    };
    let mut endpoint = args.endpoint;
    if let Some(words) = &mut words
        // `join phase kubelet-start 10.0.0.1:6443 --token …`: the endpoint comes after the phase's words.
        && let Some(at) = words.iter().position(|word| word.contains(':'))
    {
        endpoint = Some(words.remove(at));
    }
    let mut join = resolve(flags, endpoint, rootfs)?;
    match words {
        None => {
            let skip = join.join.skip_phases.clone();
            join.whole = true;
            let result = phase::run_all(phase::JOIN, &mut join, &skip).await;
            if let Err(error) = result {
                phase::join_kubelet::take_back(&mut join);
                let half = join.node.files.exists(crate::kubelet::KUBECONFIG) && !format!("{error:#}").contains("rkadm reset");
                return Err(if half {
                    error.context("the host has joined only in part: `rkadm reset` on it, then join again")
                } else {
                    error
                });
            }
            crate::unfinished::end(&join.node.files, "join")?;
            conclude(&join);
        }
        Some(words) => phase::run_one(phase::JOIN, &mut join, &words).await?,
    }
    if join.node.dry_run {
        crate::node::show_files(&join.node.files);
    }
    Ok(())
}

fn conclude(join: &Join) {
    if join.node.dry_run {
        return;
    }
    if join.join.control_plane.is_some() {
        println!("\nThis node has joined the cluster and a new control plane instance was created:\n");
        println!("* Certificate signing request was sent to apiserver and approval was received.");
        println!("* The Kubelet was informed of the new secure connection details.");
        println!("* Control plane label and taint were applied to the new node.");
        println!("* The Kubernetes control plane instances scaled up.");
        if join.node.cluster.etcd.local.is_some() {
            println!("* A new etcd member was added to the local/stacked etcd cluster.");
        }
        println!("\nTo start administering your cluster from this node, you need to run the following as a regular user:\n");
        println!(
            "\tmkdir -p $HOME/.kube\n\tsudo cp -i /etc/kubernetes/admin.conf $HOME/.kube/config\n\tsudo chown $(id -u):$(id -g) $HOME/.kube/config\n"
        );
    } else {
        println!("\nThis node has joined the cluster:");
        println!("* Certificate signing request was sent to apiserver and a response was received.");
        println!("* The Kubelet was informed of the new secure connection details.\n");
    }
    println!("Run 'kubectl get nodes' on the control-plane to see this node join the cluster.\n");
}

fn resolve(flags: JoinFlags, endpoint: Option<String>, rootfs: Option<PathBuf>) -> anyhow::Result<Join> {
    let JoinFlags {
        apiserver_advertise_address,
        apiserver_bind_port,
        certificate_key,
        config: file,
        control_plane,
        cri_socket,
        discovery_file,
        discovery_timeout,
        discovery_token,
        discovery_token_ca_cert_hash,
        discovery_token_unsafe_skip_ca_verification,
        dry_run,
        etcd_witness,
        ignore_preflight_errors,
        image_bundle,
        node_name,
        patches,
        skip_phases,
        tls_bootstrap_token,
        token,
    } = flags;
    let documents = match &file {
        Some(path) => config::load(path)?,
        None => config::Documents::default(),
    };
    if file.is_some() && documents.join.is_none() {
        bail!("the configuration file holds no JoinConfiguration");
    }
    let host = host::observe();
    let mut join = documents.join.unwrap_or_default();
    if let Some(name) = node_name {
        join.node_registration.name = name;
    }
    if join.node_registration.name.is_empty() {
        join.node_registration.name = host.hostname.clone();
    }
    if let Some(socket) = cri_socket {
        join.node_registration.cri_socket = if socket.starts_with('/') { format!("unix://{socket}") } else { socket };
    }
    if let Some(path) = discovery_file {
        join.discovery.file = Some(FileDiscovery { kube_config_path: path });
    }
    let own = discovery_token.or_else(|| token.clone());
    if endpoint.is_some() || own.is_some() && join.discovery.file.is_none() {
        let known = join.discovery.bootstrap_token.get_or_insert_with(BootstrapTokenDiscovery::default);
        if let Some(endpoint) = endpoint {
            known.api_server_endpoint = endpoint.trim_start_matches("https://").trim_end_matches('/').to_string();
        }
        if let Some(token) = own {
            known.token = token;
        }
    }
    if let Some(known) = &mut join.discovery.bootstrap_token {
        if !discovery_token_ca_cert_hash.is_empty() {
            known.ca_cert_hashes = discovery_token_ca_cert_hash;
        }
        known.unsafe_skip_ca_verification |= discovery_token_unsafe_skip_ca_verification;
    }
    if let Some(token) = tls_bootstrap_token.or(token) {
        join.discovery.tls_bootstrap_token = token;
    } else if join.discovery.tls_bootstrap_token.is_empty()
        && let Some(known) = &join.discovery.bootstrap_token
    {
        join.discovery.tls_bootstrap_token = known.token.clone();
    }
    if control_plane {
        join.control_plane.get_or_insert_with(JoinControlPlane::default);
    }
    let mut witness_endpoint = ApiEndpoint::default();
    if etcd_witness {
        if certificate_key.is_none() {
            bail!("--etcd-witness needs --certificate-key: the member's certificates are signed by the cluster's etcd authority");
        }
        witness_endpoint.advertise_address = apiserver_advertise_address
            .clone()
            .or_else(|| host.default_address.map(|ip| ip.to_string()))
            .context("this host has no address: give --apiserver-advertise-address")?;
    }
    let witness_key = certificate_key.clone().filter(|_| etcd_witness).unwrap_or_default();
    match &mut join.control_plane {
        Some(wanted) => {
            if let Some(address) = apiserver_advertise_address {
                wanted.local_api_endpoint.advertise_address = address;
            }
            if let Some(port) = apiserver_bind_port {
                wanted.local_api_endpoint.bind_port = port;
            }
            if let Some(key) = certificate_key {
                wanted.certificate_key = key;
            }
            if wanted.local_api_endpoint.advertise_address.is_empty() {
                wanted.local_api_endpoint.advertise_address = host.default_address.map(|ip| ip.to_string()).unwrap_or_default();
            }
        }
        None if certificate_key.is_some() && !etcd_witness => bail!("--certificate-key has a meaning only with --control-plane"),
        None => {}
    }
    if !skip_phases.is_empty() {
        join.skip_phases = skip_phases;
    }
    join.dry_run |= dry_run;
    validate::join(&join).into_result()?;
    let mut files = rootfs.map_or_else(Files::host, Files::below);
    if join.dry_run {
        files = files.dry();
    }
    let mut ignore = join.node_registration.ignore_preflight_errors.clone();
    ignore.extend(ignore_preflight_errors);
    let bundle = images::bundle_dir(image_bundle.as_deref());
    // Replaced by the cluster's own configuration once that is known.
    let cluster = ClusterConfiguration::default();
    let default = config::types::Timeouts::default().discovery;
    let patience = discovery_timeout.unwrap_or(if join.timeouts.discovery == default {
        discovery::DEFAULT_PATIENCE
    } else {
        join.timeouts.discovery
    });
    let node = Node {
        images: Images::of(&cluster, "0"),
        registration: join.node_registration.clone(),
        endpoint: join.control_plane.as_ref().map_or(witness_endpoint, |wanted| wanted.local_api_endpoint.clone()),
        timeouts: join.timeouts.clone(),
        patches: patches.or_else(|| join.patches.as_ref().map(|patches| patches.directory.clone().into())),
        host,
        files,
        keys: KeyPool::lazy(pki::Algorithm::default()),
        bundle,
        ignore,
        dry_run: join.dry_run,
        kubeconfig: crate::node::ADMIN.into(),
        runtime: None,
        api: None,
        balanced: Vec::new(),
        cluster,
    };
    Ok(Join {
        node,
        join,
        patience,
        cluster_info: None,
        kubelet: Value::Null,
        bootstrap: None,
        witness: etcd_witness,
        witness_key,
        whole: false,
    })
}

impl Join {
    /// Discovers the cluster and reads its configuration, once.
    pub async fn learn(&mut self) -> anyhow::Result<()> {
        if self.cluster_info.is_some() {
            return Ok(());
        }
        let mut info = discovery::discover(&self.join.discovery, self.patience).await?;
        if let Some(known) = &self.join.discovery.bootstrap_token
            && !answers(&info.server).await
        {
            // The host that the cluster is known by is down, another one answered: the authority is the same.
            info.server = format!("https://{}", known.api_server_endpoint);
        }
        let client = token_client(&info, &self.join.discovery.tls_bootstrap_token).await?;
        // Short: an expired token is told at once, not after a minute of trying.
        let api = Api::new(client, Duration::from_secs(3));
        let map = read_map(&api, "kubeadm-config").await?;
        let text =
            map["data"]["ClusterConfiguration"].as_str().context("the ConfigMap kubeadm-config holds no ClusterConfiguration")?;
        let documents = config::parse(text).context("in the ConfigMap kubeadm-config")?;
        self.node.cluster = documents.cluster.context("the ConfigMap kubeadm-config holds no ClusterConfiguration")?;
        let map = read_map(&api, "kubelet-config").await?;
        let text = map["data"]["kubelet"].as_str().context("the ConfigMap kubelet-config holds no configuration")?;
        self.kubelet = serde_yaml::from_str(text).context("in the ConfigMap kubelet-config")?;
        let algorithm = self.node.cluster.encryption_algorithm.parse()?;
        self.node.keys = KeyPool::lazy(algorithm);
        if self.join.control_plane.is_some() && !self.node.files.exists(self.node.pki_dir().join("apiserver.crt")) {
            self.node.keys = KeyPool::start(algorithm, 10);
        }
        let etcd = crate::init::known_etcd(&self.node.registration.cri_socket, &self.node.bundle, &self.node.cluster).await;
        self.node.images = Images::of(&self.node.cluster, &etcd);
        // A cluster with one server for good has no rule that lets a token ask, and nothing to balance.
        let shared = !self.node.cluster.control_plane_endpoint.is_empty();
        let mut servers = if shared { crate::balancer::ask(&api).await } else { Vec::new() };
        let found: Vec<_> = servers.iter().filter_map(|server| crate::endpoint::parse(server)?.host.parse().ok()).collect();
        if crate::balancer::is_wanted(&self.node.cluster.control_plane_endpoint, &found) {
            // The one that answered just now first.
            let answered = info.server.trim_start_matches("https://").to_string();
            servers.retain(|server| *server != answered);
            servers.insert(0, answered);
            self.node.balanced = servers;
        }
        self.bootstrap = Some(api);
        self.cluster_info = Some(info);
        Ok(())
    }

    /// The cluster with the administrator's credentials, at the server that discovery found: this host's own comes up last.
    pub async fn admin(&mut self) -> anyhow::Result<Api> {
        if self.node.api.is_none() {
            let server = self.server()?.to_string();
            let path = self.node.files.real(&self.node.kubeconfig);
            self.node.api = Some(Api::connect_to(&path, &server, self.node.timeouts.kubernetes_api_call).await?);
        }
        self.node.api().await
    }

    /// The API server's URL as discovery gave it.
    pub fn server(&self) -> anyhow::Result<&str> {
        Ok(self.cluster_info.as_ref().context("discovery has run")?.server.as_str())
    }
}

/// Whether a connection to a server's URL can be made.
async fn answers(server: &str) -> bool {
    let Some(endpoint) = crate::endpoint::parse(server) else { return false };
    let connect = tokio::net::TcpStream::connect((endpoint.host.as_str(), endpoint.port.unwrap_or(6443)));
    matches!(tokio::time::timeout(Duration::from_secs(2), connect).await, Ok(Ok(_)))
}

async fn read_map(api: &Api, name: &str) -> anyhow::Result<Value> {
    match api.get(&format!("/api/v1/namespaces/kube-system/configmaps/{name}")).await {
        Ok(map) => Ok(map),
        Err(error) if client::is_code(&error, 401) => {
            bail!(
                "the cluster does not accept the token for authentication: it may be expired; `rkadm token create --print-join-command` on a control-plane node makes a new one"
            )
        }
        Err(error) if client::is_code(&error, 403) => {
            bail!("the token may not read the ConfigMap {name}: it lacks the group {}", crate::objects::BOOTSTRAPPERS)
        }
        Err(error) => Err(readable(error)).with_context(|| format!("cannot read the ConfigMap {name}")),
    }
}

/// A client that is whoever the bootstrap token says.
async fn token_client(info: &Kubeconfig, token: &str) -> anyhow::Result<kube::Client> {
    let text = Kubeconfig {
        cluster: "kubernetes".into(),
        user: "tls-bootstrap-token-user".into(),
        credentials: pki::kubeconfig::Credentials::Token(token.to_string()),
        ..info.clone()
    }
    .to_yaml()?;
    let parsed = kube::config::Kubeconfig::from_yaml(&text).context("a kubeconfig of our own")?;
    let config = kube::Config::from_custom_kubeconfig(parsed, &Default::default()).await.context("a kubeconfig of our own")?;
    Ok(client::connect::build(config, "rkadm")?)
}

/// Where the kubelet's first credentials are.
pub fn bootstrap_path() -> &'static Path {
    Path::new(crate::kubelet::BOOTSTRAP_KUBECONFIG)
}

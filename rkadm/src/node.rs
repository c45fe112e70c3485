//! What `init` and `join` act on: one host, its configuration, and the ways to reach its files, its runtime and the API server.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use pki::{Files, KeyPool, tree};
use serde_json::Value;

use crate::apply::Api;
use crate::config::types::{ApiEndpoint, ClusterConfiguration, NodeRegistration, Taint, Timeouts};
use crate::cri::Runtime;
use crate::host::Host;
use crate::images::Images;
use crate::supervise::{self, Unit};
use crate::{balancer, endpoint, kubelet, manifest, say};

pub const KUBERNETES: &str = "/etc/kubernetes";
pub const ADMIN: &str = "/etc/kubernetes/admin.conf";
pub const SUPER_ADMIN: &str = "/etc/kubernetes/super-admin.conf";

/// Labels of control-plane nodes.
pub const CONTROL_PLANE_LABELS: [&str; 2] =
    ["node-role.kubernetes.io/control-plane", "node.kubernetes.io/exclude-from-external-load-balancers"];

/// One host that becomes a node.
pub struct Node {
    pub cluster: ClusterConfiguration,
    pub registration: NodeRegistration,
    /// Where this host's API server listens; on workers only a default.
    pub endpoint: ApiEndpoint,
    pub timeouts: Timeouts,
    pub patches: Option<PathBuf>,
    pub host: Host,
    pub files: Files,
    pub keys: KeyPool,
    pub images: Images,
    pub bundle: PathBuf,
    pub ignore: Vec<String>,
    pub dry_run: bool,
    pub kubeconfig: PathBuf,
    pub runtime: Option<Runtime>,
    pub api: Option<Api>,
    /// API servers that this node's own balancer starts with; empty where nodes reach the control plane directly.
    pub balanced: Vec<String>,
}

impl Node {
    pub fn name(&self) -> &str {
        &self.registration.name
    }

    /// The address to advertise. Validation has made sure that it is one.
    pub fn address(&self) -> IpAddr {
        self.endpoint.advertise_address.parse().unwrap_or(IpAddr::from([0, 0, 0, 0]))
    }

    /// `https://` of the control plane: the endpoint that all nodes share, or this host's.
    pub fn server(&self) -> String {
        match endpoint::parse(&self.cluster.control_plane_endpoint) {
            Some(shared) => format!("https://{}", endpoint::join(&shared.host, shared.port.unwrap_or(self.endpoint.bind_port))),
            None => self.local_server(),
        }
    }

    /// `https://` of this host's API server.
    pub fn local_server(&self) -> String {
        format!("https://{}", endpoint::join(&self.address().to_string(), self.endpoint.bind_port))
    }

    /// What the kubeconfigs of add-ons say, which run on every node.
    pub fn addon_server(&self) -> String {
        if self.balanced.is_empty() { self.server() } else { balancer::URL.to_string() }
    }

    pub fn pki_dir(&self) -> PathBuf {
        PathBuf::from(&self.cluster.certificates_dir)
    }

    /// What the certificates depend on.
    pub fn pki_cluster(&self) -> anyhow::Result<tree::Cluster> {
        pki_cluster(&self.cluster, self.name(), &self.endpoint)
    }

    pub fn ensure_certificate(&mut self, item: &'static tree::Item) -> anyhow::Result<tree::Outcome> {
        let (cluster, dir) = (self.pki_cluster()?, self.pki_dir());
        Ok(tree::ensure(&mut self.files, &dir, item, &cluster, &self.keys)?)
    }

    pub fn ensure_kubeconfig(&mut self, phase: &str, always_local: bool) -> anyhow::Result<tree::Outcome> {
        let config = tree::KUBECONFIGS.iter().find(|config| config.phase == phase).context("a kubeconfig of the table")?;
        let (cluster, dir) = (self.pki_cluster()?, self.pki_dir());
        let balanced = !self.balanced.is_empty();
        // Without a load balancer, an administrator on this host must not depend on another one.
        let server = match phase {
            "kubelet" if balanced => balancer::URL.to_string(),
            _ if config.local || always_local || balanced => self.local_server(),
            _ => self.server(),
        };
        let name = self.cluster.cluster_name.clone();
        let kubernetes = Path::new(KUBERNETES);
        let outcome = tree::ensure_kubeconfig(&mut self.files, kubernetes, &dir, config, &cluster, &name, &server, &self.keys)?;
        if outcome == tree::Outcome::Created
            && server == balancer::URL
            && let Some(text) = self.files.read(kubernetes.join(config.file))?
        {
            let mut made = pki::Kubeconfig::parse(&text)?;
            made.tls_server_name = Some(balancer::SERVER_NAME.into());
            self.files.write(kubernetes.join(config.file), pki::files::SECRET, made.to_yaml()?)?;
        }
        Ok(outcome)
    }

    /// The manifest of a component as it should be on this host, patches applied.
    pub fn manifest(&self, component: &str, etcd_members: &[(String, String)]) -> anyhow::Result<Option<Value>> {
        let ca_dirs: Vec<&'static str> =
            manifest::CA_DIRS.into_iter().filter(|dir| self.files.real(Path::new(dir)).is_dir()).collect();
        let facts = manifest::Facts {
            cluster: &self.cluster,
            images: &self.images,
            node_name: self.name(),
            advertise_address: self.address(),
            bind_port: self.endpoint.bind_port,
            ca_dirs: &ca_dirs,
            etcd_members,
            etcd_existing: !etcd_members.is_empty(),
        };
        let Some(mut pod) = manifest::of(component, &facts) else { return Ok(None) };
        self.patch(component, &mut pod)?;
        Ok(Some(pod))
    }

    pub fn write_manifest(&mut self, component: &str, etcd_members: &[(String, String)]) -> anyhow::Result<()> {
        if let Some(pod) = self.manifest(component, etcd_members)? {
            self.files.write(manifest::path(component), pki::files::SECRET, crate::config::yaml(&pod)?)?;
        }
        Ok(())
    }

    /// Applies `--patches` for a target.
    pub fn patch(&self, target: &str, document: &mut Value) -> anyhow::Result<()> {
        match &self.patches {
            Some(dir) => crate::patches::apply(dir, target, document),
            None => Ok(()),
        }
    }

    /// The runtime, started if need be. Not to be called in a dry run.
    pub async fn runtime(&mut self) -> anyhow::Result<Runtime> {
        if let Some(runtime) = &self.runtime {
            return Ok(runtime.clone());
        }
        let runtime = crate::runtime::ensure(&self.registration.cri_socket, &self.host, &self.images.pause()).await?;
        self.runtime = Some(runtime.clone());
        Ok(runtime)
    }

    /// The API server with the administrator's credentials.
    pub async fn api(&mut self) -> anyhow::Result<Api> {
        if let Some(api) = &self.api {
            return Ok(api.clone());
        }
        let path = self.files.real(&self.kubeconfig);
        let api = Api::connect(&path, self.timeouts.kubernetes_api_call).await?;
        self.api = Some(api.clone());
        Ok(api)
    }

    /// Gives the server these objects, or shows them in a dry run.
    pub async fn apply(&mut self, objects: &[Value]) -> anyhow::Result<()> {
        if self.dry_run {
            for object in objects {
                show(object)?;
            }
            return Ok(());
        }
        self.api().await?.apply_all(objects).await
    }

    /// The taints that this node should have.
    pub fn taints(&self) -> Vec<Taint> {
        self.registration.taints.clone().unwrap_or_else(|| vec![kubelet::control_plane_taint()])
    }

    /// Writes the kubelet's files: configuration, instance configuration, flags, and the unit where systemd runs.
    pub fn write_kubelet_files(&mut self, cluster_wide: &Value, register_taints: &[Taint]) -> anyhow::Result<()> {
        let mut config = kubelet::node_configuration(cluster_wide, &self.host, &self.registration);
        self.patch("kubeletconfiguration", &mut config)?;
        let instance = kubelet::instance_configuration(&self.registration);
        self.files.write(kubelet::INSTANCE_CONFIG, pki::files::PUBLIC, crate::config::yaml(&instance)?)?;
        self.files.write(kubelet::CONFIG, pki::files::PUBLIC, crate::config::yaml(&config)?)?;
        let env = kubelet::flags_env(&self.registration, &self.host, register_taints);
        self.files.write(kubelet::ENV, pki::files::PUBLIC, env)?;
        Ok(())
    }

    /// (Re)starts the kubelet as this host does such things.
    pub async fn start_kubelet(&mut self) -> anyhow::Result<()> {
        if !self.balanced.is_empty() {
            let servers = self.balanced.clone();
            balancer::install(self, &servers).await?;
        }
        if self.dry_run {
            println!("[dryrun] Would (re)start the kubelet");
            return Ok(());
        }
        let program = crate::host::find_own("kubelet")
            .context("the kubelet is neither beside rkadm nor on PATH: install it from the same release")?;
        if !self.host.systemd {
            return supervise::start(&Unit::kubelet(program));
        }
        let text = program.display().to_string();
        let packaged = ["/usr/lib/systemd/system/kubelet.service", "/lib/systemd/system/kubelet.service"];
        if !packaged.iter().any(|path| Path::new(path).exists()) {
            self.files.write(kubelet::UNIT, pki::files::PUBLIC, kubelet::unit(&text))?;
        }
        if !Path::new("/usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf").exists() {
            self.files.write(kubelet::DROP_IN, pki::files::PUBLIC, kubelet::drop_in(&text))?;
        }
        for args in [&["daemon-reload"][..], &["enable", "kubelet"], &["restart", "kubelet"]] {
            systemctl(args).await?;
        }
        Ok(())
    }

    /// Polls until the kubelet says that it is well.
    pub async fn wait_for_kubelet(&self) -> anyhow::Result<Duration> {
        let timeout = self.timeouts.kubelet_health_check;
        let started = std::time::Instant::now();
        let mut hinted = false;
        loop {
            if let Ok(answer) = crate::https::get_plain("127.0.0.1:10248", "/healthz", Duration::from_secs(2)).await
                && answer.status == 200
            {
                return Ok(started.elapsed());
            }
            if started.elapsed() > timeout {
                let log = if self.host.systemd {
                    "journalctl -xeu kubelet".into()
                } else {
                    crate::diagnose::tail("/var/log/kubelet.log", 15)
                };
                anyhow::bail!("the kubelet is not healthy after {timeout:?} (http://127.0.0.1:10248/healthz). Its log:\n{log}");
            }
            if !hinted && started.elapsed() > HINT_AFTER {
                hinted = true;
                let last = if self.host.systemd {
                    "see journalctl -xeu kubelet".into()
                } else {
                    crate::diagnose::tail("/var/log/kubelet.log", 1)
                };
                say::phase("kubelet", &format!("The kubelet is not healthy yet; the end of its log: {}", last.trim()));
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

/// A wait that takes this long says what it waits for.
pub const HINT_AFTER: Duration = Duration::from_secs(10);

/// What the certificates of a node depend on.
pub fn pki_cluster(cluster: &ClusterConfiguration, name: &str, endpoint: &ApiEndpoint) -> anyhow::Result<tree::Cluster> {
    let local = cluster.etcd.local.clone().unwrap_or_default();
    Ok(tree::Cluster {
        node_name: name.to_string(),
        advertise_address: endpoint.advertise_address.parse().context("the address to advertise")?,
        service_addresses: kubelet::service_addresses(cluster, 1),
        dns_domain: cluster.networking.dns_domain.clone(),
        control_plane_host: endpoint::parse(&cluster.control_plane_endpoint).map(|endpoint| endpoint.host),
        apiserver_sans: cluster.api_server.cert_sans.clone(),
        etcd_server_sans: local.server_cert_sans,
        etcd_peer_sans: local.peer_cert_sans,
        external_etcd: cluster.etcd.external.is_some(),
        algorithm: cluster.encryption_algorithm.parse()?,
        validity: cluster.certificate_validity_period,
        ca_validity: cluster.ca_certificate_validity_period,
        now: SystemTime::now(),
    })
}

/// Between two looks at something that is coming up.
pub const POLL: Duration = Duration::from_millis(50);

/// Shows an object in a dry run; secrets stay secret.
pub fn show(object: &Value) -> anyhow::Result<()> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    let (kind, name) = (text(&object["kind"]), text(&object["metadata"]["name"]));
    println!("[dryrun] Would create or update {kind} {name:?} with content:");
    let mut shown = object.clone();
    if kind == "Secret" {
        for value in shown["data"].as_object_mut().into_iter().flat_map(|data| data.values_mut()) {
            *value = Value::String("…".into());
        }
    }
    print!("{}", crate::config::yaml(&shown)?);
    Ok(())
}

/// Shows the files of a dry run: names and modes of secrets, the content of everything else.
pub fn show_files(files: &Files) {
    for (path, written) in files.written() {
        let path = path.display().to_string();
        let secret = path.contains("/pki/") || path.ends_with(".conf") && path.starts_with(KUBERNETES);
        if secret {
            println!("[dryrun] Would write file {path:?} (mode {:o}, {} bytes)", written.mode, written.content.len());
        } else {
            println!(
                "[dryrun] Would write file {path:?} with content:\n{}",
                String::from_utf8_lossy(&written.content).trim_end()
            );
        }
    }
}

pub async fn systemctl(args: &[&str]) -> anyhow::Result<()> {
    let output = tokio::process::Command::new("systemctl").args(args).output().await.context("running systemctl")?;
    if !output.status.success() {
        anyhow::bail!("systemctl {} failed: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// `true` when the outcome means that something was written.
pub fn created(outcome: tree::Outcome) -> bool {
    outcome == tree::Outcome::Created
}

/// A line like `[certs] 10 generated, 2 reused (0.40s)`.
pub fn report(phase: &str, made: usize, reused: usize, what: &str, since: std::time::Instant) {
    let reused = if reused == 0 { String::new() } else { format!(", using {reused} existing") };
    say::phase(phase, &format!("Generated {made} {what}{reused} {}", say::took(since)));
}

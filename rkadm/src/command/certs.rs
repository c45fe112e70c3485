//! `rkadm certs`: expiry, renewal, requests for an external CA, a key for uploaded certificates.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use pki::expiration::{self, Expiration, Renewed};
use pki::tree::{self, CERTIFICATES, KUBECONFIGS};
use pki::{Files, KeyPool};
use serde_json::json;

use crate::apply::Api;
use crate::config::types::ClusterConfiguration;
use crate::node::{ADMIN, KUBERNETES};
use crate::say;

#[derive(Debug, Args)]
pub struct CertsArgs {
    #[command(subcommand)]
    command: CertsCommand,
}

#[derive(Debug, Subcommand)]
enum CertsCommand {
    /// Check certificates expiration for a Kubernetes cluster
    CheckExpiration {
        #[command(flatten)]
        place: Place,
        /// text, json or yaml
        #[arg(short, long, default_value = "text")]
        output: String,
        #[command(flatten)]
        template: super::Template,
    },
    /// Renew certificates for a Kubernetes cluster
    Renew {
        /// `all`, or kubeadm's name of a certificate: apiserver, admin.conf, etcd-server …
        name: String,
        #[command(flatten)]
        place: Place,
    },
    /// Generate keys and certificate signing requests, for an external CA
    GenerateCsr {
        #[command(flatten)]
        place: Place,
        /// The path where to save the kubeconfig files
        #[arg(long, default_value = KUBERNETES)]
        kubeconfig_dir: PathBuf,
    },
    /// Generate certificate keys
    CertificateKey,
    /// Bring a control plane back whose certificates have ended: renew what has ended or soon will, and have it used
    Recover {
        #[command(flatten)]
        place: Place,
        /// Renew what ends within this time (e.g. 720h)
        #[arg(long, value_parser = component::duration::parse, default_value = "720h")]
        within: Duration,
    },
    /// Renew what ends soon, once or for ever (a timer of this host runs it)
    AutoRenew {
        #[command(flatten)]
        place: Place,
        /// Renew what ends within this time
        #[arg(long, value_parser = component::duration::parse, default_value = "1440h")]
        within: Duration,
        /// Look again after this time, for ever
        #[arg(long, value_parser = component::duration::parse)]
        every: Option<Duration>,
    },
}

#[derive(Debug, Args)]
struct Place {
    /// The path where the certificates are
    #[arg(long, default_value = "/etc/kubernetes/pki")]
    cert_dir: PathBuf,
    /// Path to a kubeadm configuration file
    #[arg(long)]
    config: Option<String>,
    /// The kubeconfig file to use when talking to the cluster
    #[arg(long, default_value = ADMIN)]
    kubeconfig: PathBuf,
}

pub async fn run(args: CertsArgs, rootfs: Option<PathBuf>) -> anyhow::Result<()> {
    let mut files = rootfs.map_or_else(Files::host, Files::below);
    match args.command {
        CertsCommand::CertificateKey => {
            println!("{}", crate::phase::upload_certs::new_key());
            Ok(())
        }
        CertsCommand::CheckExpiration { place, output, template: _ } => {
            let list = expiration::list(&files, Path::new(KUBERNETES), &place.cert_dir)?;
            print!("{}", render(&list, &output, SystemTime::now())?);
            Ok(())
        }
        CertsCommand::Renew { name, place } => {
            let cluster = configuration(&place).await?;
            let keys = KeyPool::lazy(cluster.encryption_algorithm.parse()?);
            let names: Vec<&str> = if name == "all" { expiration::names().collect() } else { vec![name.as_str()] };
            renew(&mut files, &place.cert_dir, &names, name != "all", cluster.certificate_validity_period, &keys)?;
            println!(
                "\nDone renewing certificates. You must restart the kube-apiserver, kube-controller-manager, kube-scheduler and etcd, so that they \
                 can use the new certificates."
            );
            Ok(())
        }
        CertsCommand::Recover { place, within } => recover(&mut files, &place, within).await,
        CertsCommand::AutoRenew { place, within, every } => loop {
            if renew_ending(&mut files, &place, within).await? > 0 {
                restart_control_plane().await?;
            }
            let Some(every) = every else { return Ok(()) };
            tokio::time::sleep(every).await;
        },
        CertsCommand::GenerateCsr { place, kubeconfig_dir } => generate_requests(&mut files, &place, &kubeconfig_dir).await,
    }
}

/// The cluster's configuration: a file, the cluster itself, or defaults where neither answers.
async fn configuration(place: &Place) -> anyhow::Result<ClusterConfiguration> {
    if let Some(path) = &place.config {
        return Ok(crate::config::load(path)?.cluster.unwrap_or_default());
    }
    let from_cluster = async {
        let api = Api::connect(&place.kubeconfig, Duration::from_secs(2)).await?;
        super::cluster_configuration(&api).await
    };
    match tokio::time::timeout(Duration::from_secs(5), from_cluster).await {
        Ok(Ok(cluster)) => Ok(cluster),
        // Exactly the command for a cluster whose certificates are expired: it must work without it.
        _ => {
            say::warning("the cluster does not answer: going on with the default configuration");
            Ok(ClusterConfiguration::default())
        }
    }
}

/// Renews what has ended or ends within a time, says each, and counts them.
async fn renew_ending(files: &mut Files, place: &Place, within: Duration) -> anyhow::Result<usize> {
    let now = SystemTime::now();
    let list = expiration::list(files, Path::new(KUBERNETES), &place.cert_dir)?;
    let ending: Vec<&Expiration> = list.iter().filter(|line| line.not_after.is_some() && line.residual(now) < within).collect();
    for line in ending.iter().filter(|line| line.authority.is_none()) {
        say::warning(&format!(
            "the authority {} ends in {}: it is not renewed, it has to be replaced",
            line.name,
            residual(line.residual(now))
        ));
    }
    let names: Vec<&str> = ending.iter().filter(|line| line.authority.is_some()).map(|line| line.name.as_str()).collect();
    if names.is_empty() {
        println!("No certificate ends within {} hours", within.as_secs() / 3600);
        return Ok(0);
    }
    let cluster = configuration(place).await?;
    let keys = KeyPool::lazy(cluster.encryption_algorithm.parse()?);
    renew(files, &place.cert_dir, &names, false, cluster.certificate_validity_period, &keys)?;
    Ok(names.len())
}

/// One command after certificates have ended: renew, the kubelet's own as well, and restart what holds the old ones.
async fn recover(files: &mut Files, place: &Place, within: Duration) -> anyhow::Result<()> {
    let renewed = renew_ending(files, place, within).await?;
    let kubelet = recover_kubelet(files, &place.cert_dir)?;
    if renewed == 0 && !kubelet {
        return Ok(());
    }
    if kubelet {
        restart_kubelet().await?;
    }
    restart_control_plane().await?;
    let endpoint = local_api(files);
    let started = std::time::Instant::now();
    loop {
        let answer = crate::https::get(&endpoint, "/readyz", &crate::https::Trust::Anybody, None, Duration::from_secs(3)).await;
        if answer.is_ok_and(|answer| answer.status == 200) {
            say::phase("certs", &format!("The API server is ready {}", say::took(started)));
            return Ok(());
        }
        if started.elapsed() > Duration::from_secs(180) {
            let runtime = crate::cri::Runtime::connect(crate::cri::DEFAULT_SOCKET).await.ok();
            bail!("the API server does not come up: {}", crate::diagnose::component(runtime.as_ref(), "kube-apiserver").await);
        }
        tokio::time::sleep(crate::node::POLL * 4).await;
    }
}

/// `host:port` of this host's API server, by its manifest.
fn local_api(files: &Files) -> String {
    let text = files.read(crate::manifest::path("kube-apiserver")).ok().flatten().unwrap_or_default();
    let pod: serde_json::Value = serde_yaml::from_slice(&text).unwrap_or_default();
    let said = &pod["metadata"]["annotations"]["kubeadm.kubernetes.io/kube-apiserver.advertise-address.endpoint"];
    said.as_str().unwrap_or("127.0.0.1:6443").to_string()
}

/// As the controller manager signs kubelets' certificates.
const YEAR: Duration = Duration::from_secs(365 * 86400);

/// A kubelet whose client certificate has ended cannot ask for another one: here, where the authority's key is, it gets one. Says whether.
fn recover_kubelet(files: &mut Files, dir: &Path) -> anyhow::Result<bool> {
    let path = crate::kubelet::CLIENT_CERTIFICATE;
    let Some(text) = files.read(path)? else { return Ok(false) };
    let old = pki::Certificate::from_pem(&text).with_context(|| format!("in {path}"))?;
    if old.not_after() > SystemTime::now() {
        return Ok(false);
    }
    let authority = tree::load_authority(files, dir, "ca").context(
        "the kubelet's certificate has ended and the authority's key is not here: give it a new bootstrap-kubelet.conf (`rkadm reset` and join \
         again on a worker)",
    )?;
    let key = pki::PrivateKey::generate(pki::Algorithm::EcdsaP256)?;
    let profile = pki::Profile::leaf(old.subject().clone(), &[pki::Usage::ClientAuth], SystemTime::now(), YEAR);
    let new = authority.issue(&profile, &key)?;
    // The link is followed: the kubelet's own file is replaced, as its rotation would.
    let real = std::fs::canonicalize(files.real(Path::new(path))).unwrap_or_else(|_| files.real(Path::new(path)));
    Files::host().write(&real, pki::files::SECRET, format!("{}{}", new.to_pem(), key.to_pem()?))?;
    println!("the kubelet's client certificate renewed");
    Ok(true)
}

async fn restart_kubelet() -> anyhow::Result<()> {
    if crate::host::observe().systemd {
        return crate::node::systemctl(&["restart", "kubelet"]).await;
    }
    let program = crate::host::find_own("kubelet").context("the kubelet is not installed")?;
    crate::supervise::start(&crate::supervise::Unit::kubelet(program))
}

/// Ends the containers of the control plane, so that the kubelet starts them with what is in their files now. Upstream leaves this to the user.
async fn restart_control_plane() -> anyhow::Result<()> {
    let runtime = crate::cri::Runtime::connect(crate::cri::DEFAULT_SOCKET).await?;
    for component in crate::manifest::COMPONENTS {
        for container in runtime.containers().await?.into_iter().filter(|one| one.is_running() && one.name() == component) {
            runtime.stop_container(&container.id).await.with_context(|| format!("cannot stop {component}"))?;
            println!("{component} restarts");
        }
    }
    Ok(())
}

/// Renews by names; `strict`: a missing certificate is an error.
pub fn renew(
    files: &mut Files,
    dir: &Path,
    names: &[&str],
    strict: bool,
    validity: Duration,
    keys: &KeyPool,
) -> anyhow::Result<()> {
    let now = SystemTime::now();
    for name in names {
        let long = long_name(name);
        match expiration::renew(files, Path::new(KUBERNETES), dir, name, now, validity, keys)? {
            Renewed::Yes => println!("{long} renewed"),
            Renewed::Absent if strict => bail!("there is no {name} on this host"),
            Renewed::Absent => println!("MISSING! {long}"),
            Renewed::External if strict => {
                bail!("{name} is signed by an external CA: renew it there (rkadm certs generate-csr makes a request)")
            }
            Renewed::External => println!("EXTERNALLY MANAGED: {long}"),
        }
    }
    Ok(())
}

fn long_name(name: &str) -> &'static str {
    tree::item(name)
        .map(|item| item.long_name)
        .or_else(|| KUBECONFIGS.iter().find(|config| config.file == name).map(|config| config.long_name))
        .unwrap_or("certificate")
}

fn residual(left: Duration) -> String {
    let days = left.as_secs() / 86400;
    match (left.is_zero(), days) {
        (true, _) => "<invalid>".into(),
        (_, 0) => format!("{}h", left.as_secs() / 3600),
        (_, days) if days >= 2 * 365 => format!("{}y", days / 365),
        (_, days) => format!("{days}d"),
    }
}

fn render(list: &[Expiration], output: &str, now: SystemTime) -> anyhow::Result<String> {
    let (leaves, authorities): (Vec<_>, Vec<_>) = list.iter().partition(|line| line.authority.is_some());
    let external = |line: &Expiration| if line.external { "yes" } else { "no" }.to_string();
    match output {
        "text" => {
            let head = |names: &[&str]| names.iter().map(|name| (*name).to_string()).collect::<Vec<_>>();
            let mut first =
                vec![head(&["CERTIFICATE", "EXPIRES", "RESIDUAL TIME", "CERTIFICATE AUTHORITY", "EXTERNALLY MANAGED"])];
            let mut second = vec![head(&["CERTIFICATE AUTHORITY", "EXPIRES", "RESIDUAL TIME", "EXTERNALLY MANAGED"])];
            for line in leaves {
                first.push(match line.not_after {
                    None => head(&[&format!("!MISSING! {}", line.name)]),
                    Some(end) => vec![
                        line.name.clone(),
                        expiration::stamp(end),
                        residual(line.residual(now)),
                        line.authority.unwrap_or_default().to_string(),
                        external(line),
                    ],
                });
            }
            for line in authorities {
                second.push(match line.not_after {
                    None => head(&[&format!("!MISSING! {}", line.name)]),
                    Some(end) => vec![line.name.clone(), expiration::stamp(end), residual(line.residual(now)), external(line)],
                });
            }
            Ok(format!("{}\n{}", super::token::table(first), super::token::table(second)))
        }
        "json" | "yaml" => {
            let entry = |line: &&Expiration| {
                let at = line.not_after.map(|end| jiff::Timestamp::try_from(end).map(|at| at.to_string()).unwrap_or_default());
                json!({
                    "name": line.name, "expirationDate": at, "residualTime": line.residual(now).as_secs(),
                    "externallyManaged": line.external, "missing": line.not_after.is_none(), "caName": line.authority,
                })
            };
            let all = json!({
                "apiVersion": "output.kubeadm.k8s.io/v1alpha3",
                "kind": "CertificateExpirationInfo",
                "certificates": leaves.iter().map(entry).collect::<Vec<_>>(),
                "certificateAuthorities": authorities.iter().map(entry).collect::<Vec<_>>(),
            });
            if output == "json" { Ok(serde_json::to_string_pretty(&all)? + "\n") } else { crate::config::yaml(&all) }
        }
        other => bail!("--output {other}: text, json or yaml"),
    }
}

/// A key and a request for every certificate and kubeconfig of a control-plane node; existing files are kept.
async fn generate_requests(files: &mut Files, place: &Place, kubeconfig_dir: &Path) -> anyhow::Result<()> {
    let documents = match &place.config {
        Some(path) => crate::config::load(path)?,
        None => Default::default(),
    };
    let (mut init, mut cluster) = (documents.init.unwrap_or_default(), documents.cluster.unwrap_or_default());
    crate::init::defaults(&mut init, &mut cluster, &crate::host::observe());
    let cluster = crate::node::pki_cluster(&cluster, &init.node_registration.name, &init.local_api_endpoint)?;
    let mut write = |base: PathBuf, subject: &pki::Subject, sans: &[pki::San]| -> anyhow::Result<()> {
        let (key_path, request_path) = (base.with_extension("key"), base.with_extension("csr"));
        let key_path = if base.extension().is_some_and(|e| e == "conf") {
            PathBuf::from(format!("{}.key", base.display()))
        } else {
            key_path
        };
        let request_path = if base.extension().is_some_and(|e| e == "conf") {
            PathBuf::from(format!("{}.csr", base.display()))
        } else {
            request_path
        };
        let key = match files.read(&key_path)? {
            Some(text) => pki::PrivateKey::from_pem(&text).with_context(|| format!("cannot use {}", key_path.display()))?,
            None => pki::PrivateKey::generate(cluster.algorithm)?,
        };
        let request = pki::Request::generate(&key, subject, sans)?;
        files.write(&key_path, pki::files::SECRET, key.to_pem()?)?;
        files.write(&request_path, pki::files::PUBLIC, request.to_pem())?;
        println!("Generated {} and {}", key_path.display(), request_path.display());
        Ok(())
    };
    for item in CERTIFICATES.iter().filter(|item| item.authority.is_some()) {
        let profile = item.profile(&cluster);
        write(place.cert_dir.join(format!("{}.x", item.base)), &profile.subject, &profile.sans)?;
    }
    for config in KUBECONFIGS {
        write(kubeconfig_dir.join(config.file), &(config.subject)(&cluster), &[])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expiry_is_listed_as_kubeadm_lists_it() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_000_000);
        let line = |name: &str, authority, days: Option<u64>| Expiration {
            name: name.into(),
            path: PathBuf::new(),
            not_after: days.map(|days| now + Duration::from_secs(days * 86400 + 60)),
            authority,
            external: false,
        };
        let list = [line("admin.conf", Some("ca"), Some(364)), line("apiserver", Some("ca"), None), line("ca", None, Some(3649))];
        let text = render(&list, "text", now).unwrap();
        assert!(text.starts_with("CERTIFICATE   "), "{text}");
        assert!(text.contains("364d") && text.contains("!MISSING! apiserver") && text.contains("9y"), "{text}");
        let json = render(&list, "json", now).unwrap();
        assert!(json.contains("CertificateExpirationInfo"));
        assert_eq!(residual(Duration::ZERO), "<invalid>");
        assert_eq!(residual(Duration::from_secs(7200)), "2h");
    }
}

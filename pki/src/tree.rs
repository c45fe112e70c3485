//! The tree of files below `/etc/kubernetes`: which certificates, keys and kubeconfigs there are, and how one comes to be.
//!
//! [`CERTIFICATES`] and [`KUBECONFIGS`] are the tables; a new certificate is a new line. What exists and is good is reused; what exists
//! and is expired, foreign, unreadable or for other names is refused, never overwritten.
//! Upstream: cmd/kubeadm/app/phases/certs, cmd/kubeadm/app/phases/kubeconfig.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::files::{PUBLIC, SECRET};
use crate::kubeconfig::Credentials;
use crate::{
    Algorithm, Authority, Certificate, Error, Files, KeyPool, Kubeconfig, PrivateKey, Profile, San, Subject, Usage, key, name,
};

/// What the names in the certificates depend on.
#[derive(Debug, Clone)]
pub struct Cluster {
    pub node_name: String,
    pub advertise_address: IpAddr,
    /// First address of every service range: the address of the `kubernetes` Service.
    pub service_addresses: Vec<IpAddr>,
    pub dns_domain: String,
    /// Host of `controlPlaneEndpoint`, without port.
    pub control_plane_host: Option<String>,
    pub apiserver_sans: Vec<String>,
    pub etcd_server_sans: Vec<String>,
    pub etcd_peer_sans: Vec<String>,
    /// etcd is somebody else's: no etcd certificates.
    pub external_etcd: bool,
    pub algorithm: Algorithm,
    pub validity: Duration,
    pub ca_validity: Duration,
    pub now: SystemTime,
}

/// One certificate of the tree.
#[derive(Debug)]
pub struct Item {
    /// kubeadm's name, as in `certs renew NAME` and the phase's name.
    pub name: &'static str,
    pub long_name: &'static str,
    /// Path below the certificates directory, without `.crt`/`.key`.
    pub base: &'static str,
    pub common_name: fn(&Cluster) -> String,
    pub organizations: &'static [&'static str],
    /// The authority's name, `None` for an authority.
    pub authority: Option<&'static str>,
    pub usages: &'static [Usage],
    pub sans: fn(&Cluster) -> Vec<San>,
    /// Part of the etcd PKI, absent with external etcd.
    pub etcd: bool,
}

const fn authority(
    name: &'static str,
    long_name: &'static str,
    base: &'static str,
    cn: fn(&Cluster) -> String,
    etcd: bool,
) -> Item {
    Item { name, long_name, base, common_name: cn, organizations: &[], authority: None, usages: &[], sans: no_sans, etcd }
}

/// kubeadm's certificates in the order of its phases.
pub const CERTIFICATES: &[Item] = &[
    authority(
        "ca",
        "self-signed Kubernetes CA to provision identities for other Kubernetes components",
        "ca",
        |_| "kubernetes".into(),
        false,
    ),
    Item {
        name: "apiserver",
        long_name: "certificate for serving the Kubernetes API",
        base: "apiserver",
        common_name: |_| "kube-apiserver".into(),
        organizations: &[],
        authority: Some("ca"),
        usages: &[Usage::ServerAuth],
        sans: apiserver_sans,
        etcd: false,
    },
    Item {
        name: "apiserver-kubelet-client",
        long_name: "certificate for the API server to connect to kubelet",
        base: "apiserver-kubelet-client",
        common_name: |_| "kube-apiserver-kubelet-client".into(),
        organizations: &[],
        authority: Some("ca"),
        usages: &[Usage::ClientAuth],
        sans: no_sans,
        etcd: false,
    },
    authority(
        "front-proxy-ca",
        "self-signed CA to provision identities for front proxy",
        "front-proxy-ca",
        |_| "front-proxy-ca".into(),
        false,
    ),
    Item {
        name: "front-proxy-client",
        long_name: "certificate for the front proxy client",
        base: "front-proxy-client",
        common_name: |_| "front-proxy-client".into(),
        organizations: &[],
        authority: Some("front-proxy-ca"),
        usages: &[Usage::ClientAuth],
        sans: no_sans,
        etcd: false,
    },
    authority("etcd-ca", "self-signed CA to provision identities for etcd", "etcd/ca", |_| "etcd-ca".into(), true),
    Item {
        name: "etcd-server",
        long_name: "certificate for serving etcd",
        base: "etcd/server",
        common_name: |cluster| cluster.node_name.clone(),
        organizations: &[],
        authority: Some("etcd-ca"),
        usages: &[Usage::ServerAuth, Usage::ClientAuth],
        sans: |cluster| etcd_sans(cluster, &cluster.etcd_server_sans),
        etcd: true,
    },
    Item {
        name: "etcd-peer",
        long_name: "certificate for etcd nodes to communicate with each other",
        base: "etcd/peer",
        common_name: |cluster| cluster.node_name.clone(),
        organizations: &[],
        authority: Some("etcd-ca"),
        usages: &[Usage::ServerAuth, Usage::ClientAuth],
        sans: |cluster| etcd_sans(cluster, &cluster.etcd_peer_sans),
        etcd: true,
    },
    Item {
        name: "etcd-healthcheck-client",
        long_name: "certificate for liveness probes to healthcheck etcd",
        base: "etcd/healthcheck-client",
        common_name: |_| "kube-etcd-healthcheck-client".into(),
        organizations: &[],
        authority: Some("etcd-ca"),
        usages: &[Usage::ClientAuth],
        sans: no_sans,
        etcd: true,
    },
    Item {
        name: "apiserver-etcd-client",
        long_name: "certificate the apiserver uses to access etcd",
        base: "apiserver-etcd-client",
        common_name: |_| "kube-apiserver-etcd-client".into(),
        organizations: &[],
        authority: Some("etcd-ca"),
        usages: &[Usage::ClientAuth],
        sans: no_sans,
        etcd: true,
    },
];

/// One kubeconfig of the tree.
#[derive(Debug)]
pub struct Config {
    /// kubeadm's phase name.
    pub phase: &'static str,
    pub file: &'static str,
    pub long_name: &'static str,
    pub subject: fn(&Cluster) -> Subject,
    /// Talks to the API server of this very host rather than to the control plane endpoint.
    pub local: bool,
}

pub const KUBECONFIGS: &[Config] = &[
    Config {
        phase: "admin",
        file: "admin.conf",
        long_name: "certificate embedded in the kubeconfig file for the admin to use and for kubeadm itself",
        subject: |_| Subject::new("kubernetes-admin").organization("kubeadm:cluster-admins"),
        local: false,
    },
    Config {
        phase: "super-admin",
        file: "super-admin.conf",
        long_name: "certificate embedded in the kubeconfig file for the super-admin",
        subject: |_| Subject::new("kubernetes-super-admin").organization("system:masters"),
        local: false,
    },
    Config {
        phase: "kubelet",
        file: "kubelet.conf",
        long_name: "certificate embedded in the kubeconfig file for the kubelet to use for cluster bootstrapping",
        subject: |cluster| Subject::new(format!("system:node:{}", cluster.node_name)).organization("system:nodes"),
        local: false,
    },
    Config {
        phase: "controller-manager",
        file: "controller-manager.conf",
        long_name: "certificate embedded in the kubeconfig file for the controller manager to use",
        subject: |_| Subject::new("system:kube-controller-manager"),
        local: true,
    },
    Config {
        phase: "scheduler",
        file: "scheduler.conf",
        long_name: "certificate embedded in the kubeconfig file for the scheduler manager to use",
        subject: |_| Subject::new("system:kube-scheduler"),
        local: true,
    },
];

/// What [`ensure`] and its sisters did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Created,
    /// A good file was there already.
    Reused,
    /// The authority's certificate is there without its key: somebody else signs, and our files must be there too.
    External,
}

pub fn item(name: &str) -> Option<&'static Item> {
    CERTIFICATES.iter().find(|item| item.name == name)
}

impl Item {
    pub fn certificate_path(&self, dir: &Path) -> PathBuf {
        dir.join(format!("{}.crt", self.base))
    }

    pub fn key_path(&self, dir: &Path) -> PathBuf {
        dir.join(format!("{}.key", self.base))
    }

    /// What the certificate of this item says for a cluster.
    pub fn profile(&self, cluster: &Cluster) -> Profile {
        let mut subject = Subject::new((self.common_name)(cluster));
        subject.organizations = self.organizations.iter().map(|o| (*o).to_string()).collect();
        Profile::leaf(subject, self.usages, cluster.now, cluster.validity).sans((self.sans)(cluster))
    }
}

/// The number of keys that a fresh tree takes: see [`KeyPool::start`].
pub fn key_count(cluster: &Cluster) -> usize {
    CERTIFICATES.iter().filter(|item| !(item.etcd && cluster.external_etcd)).count() + 1 + KUBECONFIGS.len()
}

/// Every certificate, the service account keys, and every kubeconfig of a first control-plane node.
/// `kubernetes` is usually `/etc/kubernetes`, `server` the control plane endpoint and `local_server` this host's API server.
pub fn ensure_all(
    files: &mut Files,
    kubernetes: &Path,
    cluster: &Cluster,
    server: &str,
    local_server: &str,
    keys: &KeyPool,
) -> Result<(), Error> {
    let dir = kubernetes.join("pki");
    for item in CERTIFICATES.iter().filter(|item| !(item.etcd && cluster.external_etcd)) {
        ensure(files, &dir, item, cluster, keys)?;
    }
    ensure_service_account(files, &dir, keys)?;
    for config in KUBECONFIGS {
        let server = if config.local { local_server } else { server };
        ensure_kubeconfig(files, kubernetes, &dir, config, cluster, "kubernetes", server, keys)?;
    }
    Ok(())
}

/// Makes one certificate and its key, unless good ones are there.
pub fn ensure(files: &mut Files, dir: &Path, item: &Item, cluster: &Cluster, keys: &KeyPool) -> Result<Outcome, Error> {
    match item.authority {
        None => ensure_authority(files, dir, item, cluster, keys),
        Some(name) => ensure_leaf(files, dir, item, name, cluster, keys),
    }
}

fn ensure_authority(files: &mut Files, dir: &Path, item: &Item, cluster: &Cluster, keys: &KeyPool) -> Result<Outcome, Error> {
    let (certificate_path, key_path) = (item.certificate_path(dir), item.key_path(dir));
    if let Some(certificate) = load_certificate(files, &certificate_path)? {
        check_dates(&certificate, &certificate_path, cluster.now, "replace the authority and everything that it signed")?;
        if !certificate.is_authority() {
            return Err(refused(
                &certificate_path,
                "is not the certificate of an authority",
                "put the CA's certificate there or remove it",
            ));
        }
        return match load_key(files, &key_path)? {
            None => Ok(Outcome::External),
            Some(key) => {
                check_pair(&certificate, &key, &key_path)?;
                Ok(Outcome::Reused)
            }
        };
    }
    if files.exists(&key_path) {
        return Err(refused(
            &key_path,
            "is there without its certificate",
            &format!("restore {} or remove the key", certificate_path.display()),
        ));
    }
    let authority = Authority::generate(&(item.common_name)(cluster), keys.take()?, cluster.now, cluster.ca_validity)?;
    // The key first: a certificate without key would mean an external authority to the next try.
    files.write(&key_path, SECRET, authority.key().to_pem()?)?;
    files.write(&certificate_path, PUBLIC, authority.certificate().to_pem())?;
    Ok(Outcome::Created)
}

fn ensure_leaf(
    files: &mut Files,
    dir: &Path,
    item: &Item,
    authority: &str,
    cluster: &Cluster,
    keys: &KeyPool,
) -> Result<Outcome, Error> {
    let (certificate_path, key_path) = (item.certificate_path(dir), item.key_path(dir));
    let profile = item.profile(cluster);
    let renew = format!("renew it (certs renew {}) or remove it and its key", item.name);
    if let Some(certificate) = load_certificate(files, &certificate_path)? {
        let ca = authority_certificate(files, dir, authority)?;
        check_dates(&certificate, &certificate_path, cluster.now, &renew)?;
        if !certificate.is_signed_by(&ca) {
            let problem = format!("is not signed by the authority in {}", self::item_path(dir, authority).display());
            return Err(refused(&certificate_path, &problem, "remove it and its key, or restore the authority that signed it"));
        }
        if let Some(missing) = profile.sans.iter().find(|san| !certificate.covers(san)) {
            return Err(refused(
                &certificate_path,
                &format!("does not cover {missing}"),
                "remove it and its key to have it made anew",
            ));
        }
        let Some(key) = load_key(files, &key_path)? else {
            return Err(refused(
                &key_path,
                "is missing while its certificate is there",
                "restore the key or remove the certificate",
            ));
        };
        check_pair(&certificate, &key, &key_path)?;
        return Ok(Outcome::Reused);
    }
    let ca = load_authority(files, dir, authority)?;
    // A key without certificate is what an interrupted run leaves (or an operator who brings keys of their own): use it.
    let key = match load_key(files, &key_path)? {
        Some(key) => key,
        None => keys.take()?,
    };
    let certificate = ca.issue(&profile, &key)?;
    files.write(&key_path, SECRET, key.to_pem()?)?;
    files.write(&certificate_path, PUBLIC, certificate.to_pem())?;
    Ok(Outcome::Created)
}

/// The key pair that signs service account tokens: `sa.key` and `sa.pub`.
pub fn ensure_service_account(files: &mut Files, dir: &Path, keys: &KeyPool) -> Result<Outcome, Error> {
    let (key_path, public_path) = (dir.join("sa.key"), dir.join("sa.pub"));
    if let Some(key) = load_key(files, &key_path)? {
        match files.read(&public_path)? {
            Some(public) => {
                let blocks = crate::pem::parse(&public)
                    .map_err(|e| refused(&public_path, &e.to_string(), "remove it to have it derived from sa.key"))?;
                let own = key.public_der()?;
                if !blocks.iter().any(|block| block.der == own) {
                    return Err(refused(
                        &public_path,
                        "holds no public key of sa.key",
                        "remove it to have it derived from sa.key",
                    ));
                }
            }
            None => files.write(&public_path, SECRET, key.public_pem()?)?,
        }
        return Ok(Outcome::Reused);
    }
    if files.exists(&public_path) {
        return Err(refused(&public_path, "is there without sa.key", "restore sa.key or remove sa.pub"));
    }
    let key = keys.take()?;
    files.write(&key_path, SECRET, key.to_pem()?)?;
    files.write(&public_path, SECRET, key.public_pem()?)?;
    Ok(Outcome::Created)
}

/// Makes one kubeconfig in `kubernetes`, unless a good one is there.
#[allow(clippy::too_many_arguments)] // a flat list of facts; a struct would be used once
pub fn ensure_kubeconfig(
    files: &mut Files,
    kubernetes: &Path,
    pki_dir: &Path,
    config: &Config,
    cluster: &Cluster,
    cluster_name: &str,
    server: &str,
    keys: &KeyPool,
) -> Result<Outcome, Error> {
    let path = kubernetes.join(config.file);
    let ca = authority_certificate(files, pki_dir, "ca")?;
    if let Some(text) = files.read(&path)? {
        check_kubeconfig(&text, &path, &ca, server, cluster.now)?;
        return Ok(Outcome::Reused);
    }
    let authority = load_authority(files, pki_dir, "ca")?;
    let made = user_kubeconfig(&authority, (config.subject)(cluster), cluster_name, server, cluster.now, cluster.validity, keys)?;
    files.write(&path, SECRET, made.to_yaml()?)?;
    Ok(Outcome::Created)
}

/// A kubeconfig for anybody, with a fresh client certificate.
pub fn user_kubeconfig(
    authority: &Authority,
    subject: Subject,
    cluster_name: &str,
    server: &str,
    now: SystemTime,
    validity: Duration,
    keys: &KeyPool,
) -> Result<Kubeconfig, Error> {
    let user = subject.common_name.clone();
    let key = keys.take()?;
    let certificate = authority.issue(&Profile::leaf(subject, &[Usage::ClientAuth], now, validity), &key)?;
    Kubeconfig::embed(cluster_name, &user, server, authority.certificate(), &certificate, &key)
}

/// Refuses a kubeconfig that would not work: another server, another authority, an expired or foreign certificate.
pub fn check_kubeconfig(text: &[u8], path: &Path, ca: &Certificate, server: &str, now: SystemTime) -> Result<(), Error> {
    let again = "remove it to have it made anew";
    let known = Kubeconfig::parse(text).map_err(|e| refused(path, &e.chain(), again))?;
    if known.server != server {
        return Err(refused(path, &format!("points to {:?} instead of {server:?}", known.server), again));
    }
    let authorities = Certificate::chain_from_pem(&known.certificate_authority).map_err(|e| refused(path, &e.chain(), again))?;
    if !authorities.iter().any(|authority| authority.der() == ca.der()) {
        return Err(refused(path, "trusts another cluster authority than ca.crt", again));
    }
    if let Some(certificate) = known.certificate().map_err(|e| refused(path, &e.chain(), again))? {
        check_dates(&certificate, path, now, again)?;
        if !certificate.is_signed_by(ca) {
            return Err(refused(path, "holds a client certificate that ca.crt did not sign", again));
        }
    }
    Ok(())
}

/// The certificate of an authority of the tree.
pub fn authority_certificate(files: &Files, dir: &Path, name: &str) -> Result<Certificate, Error> {
    let path = item_path(dir, name);
    load_certificate(files, &path)?
        .ok_or_else(|| refused(&path, "the authority's certificate is missing", &format!("make it first (phase certs {name})")))
}

/// An authority of the tree with its key.
pub fn load_authority(files: &Files, dir: &Path, name: &str) -> Result<Authority, Error> {
    let certificate = authority_certificate(files, dir, name)?;
    let key_path = item_path(dir, name).with_extension("key");
    let Some(key) = load_key(files, &key_path)? else {
        let remedy = "bring the missing certificates signed by your external CA, or restore the CA key";
        return Err(refused(&key_path, "the authority's key is missing, so nothing new can be signed", remedy));
    };
    check_pair(&certificate, &key, &key_path)?;
    Authority::new(certificate, key)
}

pub(crate) fn load_certificate(files: &Files, path: &Path) -> Result<Option<Certificate>, Error> {
    let Some(text) = files.read(path)? else { return Ok(None) };
    Certificate::from_pem(&text)
        .map(Some)
        .map_err(|e| refused(path, &e.chain(), "restore it from a backup or remove it and its key to have it made anew"))
}

pub(crate) fn load_key(files: &Files, path: &Path) -> Result<Option<PrivateKey>, Error> {
    let Some(text) = files.read(path)? else { return Ok(None) };
    PrivateKey::from_pem(&text)
        .map(Some)
        .map_err(|e| refused(path, &e.chain(), "restore it from a backup or remove it and its certificate to have it made anew"))
}

fn check_pair(certificate: &Certificate, key: &PrivateKey, key_path: &Path) -> Result<(), Error> {
    if key::matches(key, certificate.public_der()) {
        return Ok(());
    }
    Err(refused(key_path, "does not belong to the certificate beside it", "restore the matching pair or remove both"))
}

fn check_dates(certificate: &Certificate, path: &Path, now: SystemTime, remedy: &str) -> Result<(), Error> {
    if certificate.is_expired(now) {
        return Err(refused(path, &format!("expired at {}", crate::expiration::stamp(certificate.not_after())), remedy));
    }
    if certificate.is_not_yet_valid(now) {
        let problem = format!("is valid only from {}", crate::expiration::stamp(certificate.not_before()));
        return Err(refused(path, &problem, "set this host's clock right"));
    }
    Ok(())
}

pub(crate) fn refused(path: &Path, problem: &str, remedy: &str) -> Error {
    Error::Refused { path: path.to_path_buf(), problem: problem.to_string(), remedy: remedy.to_string() }
}

fn item_path(dir: &Path, name: &str) -> PathBuf {
    match item(name) {
        Some(item) => item.certificate_path(dir),
        None => dir.join(format!("{name}.crt")),
    }
}

fn no_sans(_: &Cluster) -> Vec<San> {
    Vec::new()
}

fn apiserver_sans(cluster: &Cluster) -> Vec<San> {
    let mut sans = vec![
        San::Dns(cluster.node_name.clone()),
        San::Dns("kubernetes".into()),
        San::Dns("kubernetes.default".into()),
        San::Dns("kubernetes.default.svc".into()),
        San::Dns(format!("kubernetes.default.svc.{}", cluster.dns_domain)),
    ];
    sans.extend(cluster.service_addresses.iter().copied().map(San::Ip));
    sans.push(San::Ip(cluster.advertise_address));
    sans.extend(cluster.control_plane_host.as_deref().map(San::guess));
    sans.extend(cluster.apiserver_sans.iter().map(|san| San::guess(san)));
    name::normalize(sans)
}

fn etcd_sans(cluster: &Cluster, more: &[String]) -> Vec<San> {
    let mut sans = vec![
        San::Dns(cluster.node_name.clone()),
        San::Dns("localhost".into()),
        San::Ip(cluster.advertise_address),
        San::Ip(IpAddr::from([127, 0, 0, 1])),
        San::Ip(IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])),
    ];
    sans.extend(more.iter().map(|san| San::guess(san)));
    name::normalize(sans)
}

/// Whether a kubeconfig's embedded credentials are ours to renew.
pub(crate) fn embedded(config: &Kubeconfig) -> bool {
    matches!(config.credentials, Credentials::Embedded { .. })
}

#[cfg(test)]
mod tests;

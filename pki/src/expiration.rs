//! When certificates end, and how they are renewed: the same names, a new key, another year.
//! Upstream: cmd/kubeadm/app/phases/certs/renewal.

use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::files::{PUBLIC, SECRET};
use crate::tree::{self, CERTIFICATES, KUBECONFIGS};
use crate::{Authority, Certificate, Error, Files, KeyPool, Kubeconfig, Profile, Usage};

/// One line of `certs check-expiration`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expiration {
    /// kubeadm's name: `apiserver`, `admin.conf`, `etcd-ca`.
    pub name: String,
    pub path: std::path::PathBuf,
    /// `None`: the file is missing.
    pub not_after: Option<SystemTime>,
    /// The authority's name, `None` for authorities.
    pub authority: Option<&'static str>,
    /// Signed by an authority whose key is not here.
    pub external: bool,
}

impl Expiration {
    /// Time left, zero when it is over or the file is missing.
    pub fn residual(&self, now: SystemTime) -> Duration {
        self.not_after.and_then(|end| end.duration_since(now).ok()).unwrap_or_default()
    }
}

/// Kubeconfigs that hold a renewable certificate, in kubeadm's listing order. `kubelet.conf` rotates by itself.
pub fn renewable_kubeconfigs() -> impl Iterator<Item = &'static tree::Config> {
    KUBECONFIGS.iter().filter(|config| config.phase != "kubelet")
}

/// Every certificate of the tree: leaves and kubeconfigs by name, authorities after them.
pub fn list(files: &Files, kubernetes: &Path, dir: &Path) -> Result<Vec<Expiration>, Error> {
    let external = |name: &str| {
        tree::item(name)
            .is_some_and(|authority| files.exists(authority.certificate_path(dir)) && !files.exists(authority.key_path(dir)))
    };
    let mut leaves = Vec::new();
    let mut authorities = Vec::new();
    for item in CERTIFICATES {
        let path = item.certificate_path(dir);
        let not_after = tree::load_certificate(files, &path)?.map(|certificate| certificate.not_after());
        let external = external(item.authority.unwrap_or(item.name));
        let line = Expiration { name: item.name.to_string(), path, not_after, authority: item.authority, external };
        if item.authority.is_some() { leaves.push(line) } else { authorities.push(line) }
    }
    for config in renewable_kubeconfigs() {
        let path = kubernetes.join(config.file);
        let not_after = match files.read(&path)? {
            Some(text) => {
                let known = Kubeconfig::parse(&text).map_err(|e| tree::refused(&path, &e.chain(), "restore or remove it"))?;
                known.certificate()?.map(|certificate| certificate.not_after())
            }
            None => None,
        };
        leaves.push(Expiration {
            name: config.file.to_string(),
            path,
            not_after,
            authority: Some("ca"),
            external: external("ca"),
        });
    }
    leaves.sort_by(|a, b| a.name.cmp(&b.name));
    leaves.extend(authorities);
    Ok(leaves)
}

/// What [`renew`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewed {
    Yes,
    /// There is no such file here (a worker has no `apiserver.crt`).
    Absent,
    /// The authority's key is elsewhere.
    External,
}

/// Renews one certificate or kubeconfig by kubeadm's name. The new one says what the old one says (names, organizations), whatever the
/// configuration is by now; even an expired one is renewed, as long as its authority stands.
pub fn renew(
    files: &mut Files,
    kubernetes: &Path,
    dir: &Path,
    name: &str,
    now: SystemTime,
    validity: Duration,
    keys: &KeyPool,
) -> Result<Renewed, Error> {
    if let Some(config) = renewable_kubeconfigs().find(|config| config.file == name) {
        let path = kubernetes.join(config.file);
        let Some(text) = files.read(&path)? else { return Ok(Renewed::Absent) };
        let mut known = Kubeconfig::parse(&text).map_err(|e| tree::refused(&path, &e.chain(), "restore or remove it"))?;
        let Some(authority) = usable_authority(files, dir, "ca", now)? else { return Ok(Renewed::External) };
        let old = match known.certificate()? {
            Some(old) if tree::embedded(&known) => old,
            _ => {
                return Err(tree::refused(
                    &path,
                    "holds no client certificate",
                    "remove it and make it anew (init phase kubeconfig)",
                ));
            }
        };
        let key = keys.take()?;
        let new = authority.issue(&again(&old, &[Usage::ClientAuth], now, validity), &key)?;
        known = Kubeconfig::embed(&known.cluster, &known.user, &known.server, authority.certificate(), &new, &key)?;
        files.write(&path, SECRET, known.to_yaml()?)?;
        return Ok(Renewed::Yes);
    }
    let item = tree::item(name).filter(|item| item.authority.is_some());
    let Some((item, authority)) = item.and_then(|item| Some((item, item.authority?))) else {
        let known: Vec<_> = names().collect();
        return Err(Error::malformed("certificate name", format!("{name:?} is none of {}", known.join(", "))));
    };
    let path = item.certificate_path(dir);
    let Some(old) = tree::load_certificate(files, &path)? else { return Ok(Renewed::Absent) };
    let Some(authority) = usable_authority(files, dir, authority, now)? else { return Ok(Renewed::External) };
    let key = keys.take()?;
    let new = authority.issue(&again(&old, item.usages, now, validity), &key)?;
    files.write(item.key_path(dir), SECRET, key.to_pem()?)?;
    files.write(&path, PUBLIC, new.to_pem())?;
    Ok(Renewed::Yes)
}

/// Everything that [`renew`] takes.
pub fn names() -> impl Iterator<Item = &'static str> {
    CERTIFICATES
        .iter()
        .filter(|item| item.authority.is_some())
        .map(|item| item.name)
        .chain(renewable_kubeconfigs().map(|config| config.file))
}

fn again(old: &Certificate, usages: &[Usage], now: SystemTime, validity: Duration) -> Profile {
    Profile::leaf(old.subject().clone(), usages, now, validity).sans(old.sans().iter().cloned())
}

fn usable_authority(files: &Files, dir: &Path, name: &str, now: SystemTime) -> Result<Option<Authority>, Error> {
    let Some(item) = tree::item(name) else { return Ok(None) };
    if !files.exists(item.key_path(dir)) && files.exists(item.certificate_path(dir)) {
        return Ok(None);
    }
    let authority = tree::load_authority(files, dir, name)?;
    if authority.certificate().is_expired(now) {
        let problem = format!("the authority expired at {}", stamp(authority.certificate().not_after()));
        return Err(tree::refused(
            &item.certificate_path(dir),
            &problem,
            "a new authority is needed before anything can be renewed",
        ));
    }
    Ok(Some(authority))
}

/// `Nov 20, 2026 20:21 UTC`: how kubeadm prints expiry.
pub fn stamp(at: SystemTime) -> String {
    let format = time::macros::format_description!("[month repr:short] [day], [year] [hour]:[minute] UTC");
    time::OffsetDateTime::from(at).format(format).unwrap_or_default()
}

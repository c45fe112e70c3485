//! Certificates by request to the API server: the first one with a bootstrap token, later ones before the old one ends.
//!
//! Upstream: pkg/kubelet/certificate, client-go/util/certificate

use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use component::tls::Serving;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use kube::Api;
use kube::api::PostParams;
use sha2::{Digest, Sha256};

use crate::kubelet::Shared;
use crate::objects::message;

/// Upstream: the wait for a bootstrap certificate.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// What is asked for.
pub struct Wanted<'a> {
    /// `kubernetes.io/kube-apiserver-client-kubelet` or `kubernetes.io/kubelet-serving`.
    pub signer: &'a str,
    /// `client auth` or `server auth`.
    pub usage: &'a str,
    /// Node's name.
    pub node: &'a str,
    /// Names and addresses in it (serving only).
    pub names: Vec<String>,
    /// Whether the request's name follows from the key, so that a restart finds its own request again.
    pub bootstrap: bool,
}

/// A key as PEM and its chain as PEM.
pub struct Issued {
    /// PKCS#8.
    pub key: String,
    /// Leaf first.
    pub chain: String,
}

/// Asks for a certificate for `key` (made where `None`) and waits until it is signed.
///
/// # Errors
/// Denied, failed, or not signed in time.
pub async fn request(api: &kube::Client, wanted: &Wanted<'_>, key: Option<String>) -> anyhow::Result<Issued> {
    let key = match key {
        Some(pem) => rcgen::KeyPair::from_pem(&pem).context("bad private key")?,
        None => rcgen::KeyPair::generate().context("failed to make a key")?,
    };
    let mut params = rcgen::CertificateParams::new(wanted.names.clone()).context("bad name for a certificate")?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:nodes");
    params.distinguished_name.push(rcgen::DnType::CommonName, format!("system:node:{}", wanted.node));
    let pem = params.serialize_request(&key).and_then(|csr| csr.pem()).context("failed to make a certificate request")?;
    let mut csr = CertificateSigningRequest {
        spec: CertificateSigningRequestSpec {
            request: ByteString(pem.into_bytes()),
            signer_name: wanted.signer.to_owned(),
            usages: Some(vec!["digital signature".into(), wanted.usage.into()]),
            ..Default::default()
        },
        ..Default::default()
    };
    if wanted.bootstrap {
        let digest = Sha256::digest(key.public_key_raw());
        csr.metadata.name = Some(format!("node-csr-{}", hex::encode(&digest[..16])));
    } else {
        csr.metadata.generate_name = Some("csr-".into());
    }
    let requests = Api::<CertificateSigningRequest>::all(api.clone());
    let name = match requests.create(&PostParams::default(), &csr).await {
        Ok(made) => made.metadata.name.unwrap_or_default(),
        Err(kube::Error::Api(status)) if status.code == 409 && wanted.bootstrap => csr.metadata.name.clone().unwrap_or_default(),
        Err(error) => bail!("cannot create certificate signing request: {}", message(&error)),
    };
    tracing::info!(csr = name, signer = wanted.signer, "Waiting for the certificate to be signed");
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut wait = Duration::from_millis(50);
    loop {
        match requests.get(&name).await {
            Ok(csr) => {
                let status = csr.status.unwrap_or_default();
                for condition in status.conditions.iter().flatten() {
                    if matches!(condition.type_.as_str(), "Denied" | "Failed") {
                        bail!(
                            "certificate signing request {name} was {}: {}",
                            condition.type_.to_lowercase(),
                            condition.message.clone().unwrap_or_default()
                        );
                    }
                }
                if let Some(chain) = status.certificate.filter(|chain| !chain.0.is_empty()) {
                    let chain = String::from_utf8(chain.0).context("the certificate is not PEM")?;
                    return Ok(Issued { key: key.serialize_pem(), chain });
                }
            }
            Err(error) => tracing::debug!(err = message(&error), "Failed to look at certificate signing request"),
        }
        if tokio::time::Instant::now() > deadline {
            bail!("certificate signing request {name} was neither approved nor denied in time");
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(Duration::from_secs(2));
    }
}

/// `<dir>/<prefix>-current.pem`.
pub fn current(dir: &Path, prefix: &str) -> PathBuf {
    dir.join(format!("{prefix}-current.pem"))
}

/// Writes a dated file with chain and key and turns `<prefix>-current.pem` to it.
///
/// # Errors
/// The directory is not writable.
pub fn store(dir: &Path, prefix: &str, issued: &Issued) -> anyhow::Result<()> {
    std::fs::create_dir_all(dir)?;
    let dated = dir.join(format!("{prefix}-{}.pem", Timestamp::now().strftime("%Y-%m-%d-%H-%M-%S")));
    write_private(&dated, &format!("{}{}", with_newline(&issued.chain), issued.key))?;
    let link = current(dir, prefix);
    let updated = dir.join(format!("{prefix}-updated.pem"));
    let _ = std::fs::remove_file(&updated);
    symlink(&dated, &updated)?;
    std::fs::rename(&updated, &link)?;
    Ok(())
}

fn with_newline(text: &str) -> String {
    if text.ends_with('\n') { text.to_owned() } else { format!("{text}\n") }
}

/// The self-made serving certificate: `kubelet.crt` and `kubelet.key` in `dir`, made where they are absent, unusable or about to
/// expire. Clients that were told to trust it keep doing so across restarts.
///
/// # Errors
/// The directory is not writable.
pub fn self_made(dir: &Path, node: &str, names: &[String]) -> anyhow::Result<rustls::sign::CertifiedKey> {
    let (cert, key) = (dir.join("kubelet.crt"), dir.join("kubelet.key"));
    const DAY: i64 = 86_400;
    let now = Timestamp::now().as_second();
    let good = std::fs::read_to_string(&cert).ok().and_then(|pem| validity(&pem)).is_some_and(|(_, ends)| ends > now + 30 * DAY);
    if good && let Ok(pair) = component::tls::key_pair(&cert, &key) {
        return Ok(pair);
    }
    let pair = rcgen::KeyPair::generate().context("failed to make a key")?;
    let mut params = rcgen::CertificateParams::new(names.to_vec()).context("bad name for a certificate")?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, format!("{node}@{now}"));
    let time = |second: i64| std::time::UNIX_EPOCH + Duration::from_secs(u64::try_from(second).unwrap_or(0));
    params.not_before = time(now - 3600).into();
    params.not_after = time(now + 365 * DAY).into();
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let made = params.self_signed(&pair).context("failed to make a serving certificate")?;
    std::fs::create_dir_all(dir)?;
    write_private(&key, &pair.serialize_pem())?;
    std::fs::write(&cert, made.pem())?;
    component::tls::key_pair(&cert, &key).context("the certificate just made")
}

/// Writes a file that only its owner reads, whole or not at all.
///
/// # Errors
/// The directory is not writable.
pub fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write;
    let tmp = path.with_extension("tmp");
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&tmp)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&tmp, path)
}

/// When the first certificate of a PEM text begins and ends, seconds since 1970.
pub fn validity(pem: &str) -> Option<(i64, i64)> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok()?;
    let certificate = pem.parse_x509().ok()?;
    let validity = certificate.validity();
    Some((validity.not_before.timestamp(), validity.not_after.timestamp()))
}

/// When to renew: after 70 to 90 % of its life. Upstream: jitteryDuration.
fn renew_at(begins: i64, ends: i64) -> i64 {
    let share = 0.7 + 0.2 * f64::from(rand::random::<u16>()) / f64::from(u16::MAX);
    begins + ((ends - begins) as f64 * share) as i64
}

/// Keeps the client certificate fresh. The client reads the file again when it changes.
pub fn rotate_client(api: kube::Client, dir: PathBuf, node: String, tasks: &component::tasks::Tasks) {
    let stop = tasks.token();
    tasks.spawn("client-certificate", async move {
        let work = async {
            loop {
                let text = std::fs::read_to_string(current(&dir, "kubelet-client")).unwrap_or_default();
                let Some((begins, ends)) = validity(&text) else { return };
                wait_until(renew_at(begins, ends)).await;
                let wanted = Wanted {
                    signer: "kubernetes.io/kube-apiserver-client-kubelet",
                    usage: "client auth",
                    node: &node,
                    names: Vec::new(),
                    bootstrap: false,
                };
                match request(&api, &wanted, None).await.and_then(|issued| store(&dir, "kubelet-client", &issued)) {
                    Ok(()) => tracing::info!("Rotated the client certificate"),
                    Err(error) => {
                        tracing::warn!(err = format!("{error:#}"), "Failed to rotate the client certificate");
                        tokio::time::sleep(Duration::from_secs(60)).await;
                    }
                }
            }
        };
        stop.run_until_cancelled(work).await;
    });
}

async fn wait_until(second: i64) {
    loop {
        let left = second - Timestamp::now().as_second();
        if left <= 0 {
            return;
        }
        // In pieces: clocks are set.
        tokio::time::sleep(Duration::from_secs(u64::try_from(left).unwrap_or(1).min(60))).await;
    }
}

/// Gets the serving certificate signed and keeps it fresh (`serverTLSBootstrap`); until the first is signed, the self-made one serves.
pub fn rotate_serving(kubelet: &Shared, serving: Arc<Serving>) {
    let Some(api) = kubelet.api.clone() else { return };
    let kubelet = kubelet.clone();
    let (tasks, stop) = (kubelet.tasks.clone(), kubelet.tasks.token());
    tasks.spawn("serving-certificate", async move {
        let work = async {
            let dir = kubelet.config.cert_dir.clone();
            let file = current(&dir, "kubelet-server");
            loop {
                let text = std::fs::read_to_string(&file).unwrap_or_default();
                match (component::tls::key_pair(&file, &file), validity(&text)) {
                    (Ok(pair), Some((begins, ends))) if ends > Timestamp::now().as_second() => {
                        serving.replace(pair);
                        wait_until(renew_at(begins, ends)).await;
                    }
                    _ => {}
                }
                let mut names = vec![kubelet.config.node_name.clone()];
                names.extend(kubelet.node.ip_texts());
                let wanted = Wanted {
                    signer: "kubernetes.io/kubelet-serving",
                    usage: "server auth",
                    node: &kubelet.config.node_name,
                    names,
                    bootstrap: false,
                };
                match request(&api, &wanted, None).await.and_then(|issued| store(&dir, "kubelet-server", &issued)) {
                    Ok(()) => tracing::info!("Rotated the serving certificate"),
                    Err(error) => {
                        tracing::warn!(err = format!("{error:#}"), "Failed to get a serving certificate");
                        tokio::time::sleep(Duration::from_secs(60)).await;
                    }
                }
            }
        };
        stop.run_until_cancelled(work).await;
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_stored_behind_a_link_and_renewed_in_time() {
        let temp = tempfile::tempdir().unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let cert = rcgen::CertificateParams::new(vec!["n".to_owned()]).unwrap().self_signed(&key).unwrap();
        let issued = Issued { key: key.serialize_pem(), chain: cert.pem() };
        store(temp.path(), "kubelet-client", &issued).unwrap();
        let file = current(temp.path(), "kubelet-client");
        assert!(file.is_symlink());
        component::install_crypto();
        assert!(component::tls::key_pair(&file, &file).is_ok());
        let (begins, ends) = validity(&std::fs::read_to_string(&file).unwrap()).unwrap();
        let at = renew_at(begins, ends);
        assert!(at > begins + (ends - begins) * 69 / 100 && at < begins + (ends - begins) * 91 / 100);
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

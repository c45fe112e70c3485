//! Server certificates that follow their files, and self-signed ones where no files are given.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::tasks::Tasks;

/// What can go wrong with key material on disk.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be read or is not PEM.
    #[error("failed to read {path}: {why}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The key does not fit, or the material is unusable.
    #[error("unusable key pair {path}: {why}")]
    Unusable {
        /// The certificate's file.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

/// All certificates of a PEM file, in order.
///
/// # Errors
/// The file cannot be read, or holds none.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = |why: String| TlsError::Read { path: path.to_owned(), why };
    let certs: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(|error| read(error.to_string()))?.collect();
    let certs = certs.map_err(|error| read(error.to_string()))?;
    if certs.is_empty() { Err(read("no certificate in it".to_owned())) } else { Ok(certs) }
}

/// Reads a certificate chain and its key (PKCS#1, SEC1 or PKCS#8).
///
/// # Errors
/// A file is missing or malformed, or the key does not belong to the certificate.
pub fn key_pair(cert: &Path, key: &Path) -> Result<CertifiedKey, TlsError> {
    let chain = certificates(cert)?;
    let key =
        PrivateKeyDer::from_pem_file(key).map_err(|error| TlsError::Read { path: key.to_owned(), why: error.to_string() })?;
    let unusable = |why: String| TlsError::Unusable { path: cert.to_owned(), why };
    let signer = any_supported_type(&key).map_err(|error| unusable(error.to_string()))?;
    let pair = CertifiedKey::new(chain, signer);
    pair.keys_match().map_err(|error| unusable(error.to_string()))?;
    Ok(pair)
}

/// A self-signed serving certificate for `names` (DNS names or IPs), valid a year from yesterday.
///
/// # Errors
/// A name is not a DNS name or IP.
pub fn self_signed(names: Vec<String>) -> Result<CertifiedKey, TlsError> {
    let unusable = |why: String| TlsError::Unusable { path: PathBuf::from("(self-signed)"), why };
    let now = SystemTime::now();
    let mut params = rcgen::CertificateParams::new(names).map_err(|error| unusable(error.to_string()))?;
    params.not_before = (now - Duration::from_secs(86_400)).into();
    params.not_after = (now + Duration::from_secs(365 * 86_400)).into();
    let key = rcgen::KeyPair::generate().map_err(|error| unusable(error.to_string()))?;
    let cert = params.self_signed(&key).map_err(|error| unusable(error.to_string()))?;
    let der = PrivateKeyDer::try_from(key.serialize_der()).map_err(|why| unusable(why.to_owned()))?;
    let signer = any_supported_type(&der).map_err(|error| unusable(error.to_string()))?;
    Ok(CertifiedKey::new(vec![cert.der().clone()], signer))
}

/// The current serving certificate; new handshakes see a replacement at once.
#[derive(Debug)]
pub struct Serving(ArcSwap<CertifiedKey>);

impl Serving {
    /// A fixed certificate that [`Serving::replace`] may change.
    pub fn new(pair: CertifiedKey) -> Arc<Self> {
        Arc::new(Self(ArcSwap::from_pointee(pair)))
    }

    /// Serves from files and follows them: a change is picked up within 10 s; an unreadable replacement keeps the old one.
    ///
    /// # Errors
    /// The files cannot be used at start.
    pub fn follow(tasks: &Tasks, cert: &Path, key: &Path) -> Result<Arc<Self>, TlsError> {
        let serving = Self::new(key_pair(cert, key)?);
        let (cert, key, this, stop) = (cert.to_owned(), key.to_owned(), serving.clone(), tasks.token());
        tasks.spawn("serving-certificate", async move {
            let mut seen = stamp(&cert, &key);
            while stop.run_until_cancelled(tokio::time::sleep(Duration::from_secs(10))).await.is_some() {
                let now = stamp(&cert, &key);
                if now == seen {
                    continue;
                }
                match key_pair(&cert, &key) {
                    Ok(pair) => {
                        this.replace(pair);
                        seen = now;
                        tracing::info!(file = %cert.display(), "Reloaded serving certificate");
                    }
                    Err(error) => tracing::warn!(err = %error, "Kept the old serving certificate"),
                }
            }
        });
        Ok(serving)
    }

    /// Serves `pair` from now on.
    pub fn replace(&self, pair: CertifiedKey) {
        self.0.store(Arc::new(pair));
    }

    /// The certificate being served.
    pub fn current(&self) -> Arc<CertifiedKey> {
        self.0.load_full()
    }
}

/// Modification times: what tells that a file was replaced.
fn stamp(cert: &Path, key: &Path) -> [Option<SystemTime>; 2] {
    [cert, key].map(|path| std::fs::metadata(path).and_then(|meta| meta.modified()).ok())
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

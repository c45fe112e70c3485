//! Certificates from Secrets, chosen by the name in the client's hello.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use k8s_openapi::api::core::v1::Secret;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::table::Table;

/// The name in the certificate for hosts that have none, as ingress-nginx's.
const FAKE: &str = "ingress.local";

/// The pair in a Secret of type kubernetes.io/tls.
///
/// # Errors
/// What is wrong with it.
pub fn of_secret(secret: &Secret) -> Result<Arc<CertifiedKey>, String> {
    let part = |key: &str| {
        let found = secret.data.as_ref().and_then(|data| data.get(key));
        found.map(|bytes| bytes.0.as_slice()).ok_or_else(|| format!("it has no {key}"))
    };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(part("tls.crt")?)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("tls.crt: {error}"))?;
    if chain.is_empty() {
        return Err("tls.crt holds no certificate".to_owned());
    }
    let key = PrivateKeyDer::from_pem_slice(part("tls.key")?).map_err(|error| format!("tls.key: {error}"))?;
    let signer = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).map_err(|error| format!("tls.key: {error}"))?;
    let pair = CertifiedKey::new(chain, signer);
    pair.keys_match().map_err(|error| format!("tls.crt and tls.key do not belong together: {error}"))?;
    Ok(Arc::new(pair))
}

/// Chooses by SNI from the current table.
pub struct Resolver {
    table: Arc<ArcSwap<Table>>,
    fake: Arc<CertifiedKey>,
}

impl Resolver {
    /// With a certificate of its own for hosts that have none.
    ///
    /// # Errors
    /// No key could be made.
    pub fn new(table: Arc<ArcSwap<Table>>) -> Result<Self, component::tls::TlsError> {
        Ok(Self { table, fake: Arc::new(component::tls::self_signed(vec![FAKE.to_owned()])?) })
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resolver")
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let table = self.table.load();
        let chosen = hello.server_name().and_then(|name| table.certificate(name)).or(table.certificate.as_ref());
        Some(chosen.unwrap_or(&self.fake).clone())
    }
}

//! Client certificates: common name is the user, organizations are the groups.
//!
//! The TLS layer asks for a certificate but does not judge it ([`any_client_cert`]): a wrong one must end in 401, not in a broken
//! handshake. It hands the chain over as [`Peer`], which remembers the verdict for as long as the connection lives.
//!
//! Upstream: apiserver/pkg/authentication/request/x509

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use jiff::Timestamp;
use parking_lot::Mutex;
use rustls::RootCertStore;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::authn::{Answer, Identity};
use crate::user::User;

/// The object identifier of the subject attribute that carries a user's uid.
const UID_ATTRIBUTE: &str = "1.3.6.1.4.1.57683.2";
static GENERATIONS: AtomicU64 = AtomicU64::new(1);

/// A bundle of certificate authorities that follows its file.
pub struct Bundle {
    path: PathBuf,
    current: ArcSwapOption<Loaded>,
}

struct Loaded {
    pem: Vec<u8>,
    generation: u64,
    verifier: Arc<dyn ClientCertVerifier>,
}

impl Bundle {
    /// Loads a PEM file.
    ///
    /// # Errors
    /// An unreadable file, or one without a usable certificate.
    pub fn load(path: &Path) -> Result<Self, String> {
        let bundle = Self { path: path.to_owned(), current: ArcSwapOption::empty() };
        bundle.reload()?;
        Ok(bundle)
    }

    /// Reads the file again where it has changed; what is loaded stays on any error.
    ///
    /// # Errors
    /// As [`Bundle::load`].
    pub fn reload(&self) -> Result<(), String> {
        let at = self.path.display();
        let pem = std::fs::read(&self.path).map_err(|error| format!("failed to read {at}: {error}"))?;
        if self.current.load().as_ref().is_some_and(|loaded| loaded.pem == pem) {
            return Ok(());
        }
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let certificate = certificate.map_err(|error| format!("{at}: {error}"))?;
            roots.add(certificate).map_err(|error| format!("{at}: {error}"))?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| format!("{at}: {error}"))?;
        let generation = GENERATIONS.fetch_add(1, Ordering::Relaxed);
        self.current.store(Some(Arc::new(Loaded { pem, generation, verifier })));
        Ok(())
    }

    /// The bundle as PEM, as the `extension-apiserver-authentication` ConfigMap publishes it.
    pub fn pem(&self) -> String {
        self.current.load().as_ref().map_or_else(String::new, |loaded| String::from_utf8_lossy(&loaded.pem).into_owned())
    }

    /// The names that a TLS server offers to clients as acceptable issuers.
    pub fn subjects(&self) -> Vec<DistinguishedName> {
        self.current.load().as_ref().map_or_else(Vec::new, |loaded| loaded.verifier.root_hint_subjects().to_vec())
    }
}

/// The client's side of one connection: its certificate chain and what was found out about it.
#[derive(Default)]
pub struct Peer {
    chain: Vec<CertificateDer<'static>>,
    /// Verdicts by bundle generation; at most one per bundle in use.
    verdicts: Mutex<Vec<Verdict>>,
}

#[derive(Clone)]
struct Verdict {
    generation: u64,
    /// Until when (seconds since 1970) the verdict needs no second look.
    until: i64,
    answer: Result<Arc<User>, String>,
}

/// Most verdicts kept per connection: one per bundle, and room for a reload of each.
const MAX_VERDICTS: usize = 4;

impl Peer {
    /// A peer with this chain, leaf first; empty where it showed no certificate.
    pub fn new(chain: Vec<CertificateDer<'static>>) -> Self {
        Self { chain, verdicts: Mutex::default() }
    }

    /// Whether the client showed no certificate.
    pub fn is_empty(&self) -> bool {
        self.chain.is_empty()
    }

    /// The identity in the certificate, if the bundle vouches for it.
    pub fn authenticate(&self, bundle: &Bundle, now: Timestamp) -> Answer {
        Ok(self.verified(bundle, now)?.map(|user| Identity { user, audiences: Vec::new() }))
    }

    /// The user named by the certificate; `None` without a certificate.
    ///
    /// # Errors
    /// The certificate does not verify; the text says why.
    pub fn verified(&self, bundle: &Bundle, now: Timestamp) -> Result<Option<Arc<User>>, String> {
        let (Some(leaf), Some(loaded)) = (self.chain.first(), bundle.current.load_full()) else { return Ok(None) };
        let seconds = now.as_second();
        let mut verdicts = self.verdicts.lock();
        if let Some(known) = verdicts.iter().find(|verdict| verdict.generation == loaded.generation && seconds < verdict.until) {
            return known.answer.clone().map(Some);
        }
        let (answer, until) = match verify(leaf, &self.chain[1..], loaded.verifier.as_ref(), seconds) {
            Ok((user, not_after)) => (Ok(Arc::new(user)), not_after),
            Err(error) => (Err(error), seconds + 60),
        };
        verdicts.retain(|verdict| verdict.generation != loaded.generation);
        if verdicts.len() >= MAX_VERDICTS {
            verdicts.remove(0);
        }
        verdicts.push(Verdict { generation: loaded.generation, until, answer: answer.clone() });
        answer.map(Some)
    }
}

fn verify(
    leaf: &CertificateDer<'_>,
    rest: &[CertificateDer<'_>],
    verifier: &dyn ClientCertVerifier,
    seconds: i64,
) -> Result<(User, i64), String> {
    let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds.max(0).unsigned_abs()));
    let parsed = X509Certificate::from_der(leaf).map_err(|error| format!("x509: malformed certificate: {error}"))?.1;
    if let Err(error) = verifier.verify_client_cert(leaf, rest, at) {
        return Err(format!("verifying certificate SN={}, SKID=, AKID= failed: x509: {error}", parsed.tbs_certificate.serial));
    }
    let subject = parsed.subject();
    let name = subject.iter_common_name().next().and_then(|name| name.as_str().ok()).unwrap_or("");
    if name.is_empty() {
        return Err("x509: the subject has no common name".to_owned());
    }
    let groups = subject.iter_organization().filter_map(|group| group.as_str().ok()).map(str::to_owned).collect();
    let uid = subject.iter_attributes().find(|attribute| attribute.attr_type().to_id_string() == UID_ATTRIBUTE);
    let mut user = User {
        name: name.to_owned(),
        uid: uid.and_then(|uid| uid.as_str().ok()).unwrap_or("").to_owned(),
        groups,
        ..User::default()
    };
    let digest: String = Sha256::digest(leaf).iter().map(|byte| format!("{byte:02x}")).collect();
    user.extra.insert("authentication.kubernetes.io/credential-id".to_owned(), vec![format!("X509SHA256={digest}")]);
    Ok((user, parsed.validity().not_after.timestamp()))
}

/// A TLS verifier that asks for a client certificate, accepts none or any, and proves only that the client holds its key.
/// `hints` are the issuers offered to the client (see [`Bundle::subjects`]).
pub fn any_client_cert(hints: Vec<DistinguishedName>) -> Arc<dyn ClientCertVerifier> {
    Arc::new(AnyPeer { hints, provider: rustls::crypto::aws_lc_rs::default_provider() })
}

/// A TLS verifier that accepts any server, and proves only that it holds its key: for kubelets without an authority, and for pods.
pub fn any_server_cert() -> Arc<dyn ServerCertVerifier> {
    Arc::new(AnyPeer { hints: Vec::new(), provider: rustls::crypto::aws_lc_rs::default_provider() })
}

/// Judges no certificate, but checks the handshake's signature by it.
#[derive(Debug)]
struct AnyPeer {
    hints: Vec<DistinguishedName>,
    provider: CryptoProvider,
}

/// What a proven signature looks like, or why it is none.
type Proof = Result<HandshakeSignatureValid, rustls::Error>;

impl AnyPeer {
    fn tls12(&self, message: &[u8], cert: &CertificateDer<'_>, dss: &DigitallySignedStruct) -> Proof {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn tls13(&self, message: &[u8], cert: &CertificateDer<'_>, dss: &DigitallySignedStruct) -> Proof {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for AnyPeer {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _rest: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(&self, message: &[u8], cert: &CertificateDer<'_>, dss: &DigitallySignedStruct) -> Proof {
        self.tls12(message, cert, dss)
    }

    fn verify_tls13_signature(&self, message: &[u8], cert: &CertificateDer<'_>, dss: &DigitallySignedStruct) -> Proof {
        self.tls13(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

impl ServerCertVerifier for AnyPeer {
    fn verify_server_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _rest: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(&self, message: &[u8], cert: &CertificateDer<'_>, dss: &DigitallySignedStruct) -> Proof {
        self.tls12(message, cert, dss)
    }

    fn verify_tls13_signature(&self, message: &[u8], cert: &CertificateDer<'_>, dss: &DigitallySignedStruct) -> Proof {
        self.tls13(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

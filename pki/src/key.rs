//! Private keys: RSA as kubeadm's default, ECDSA on request; PKCS#1 / SEC1 PEM as kubeadm writes, PKCS#8 read as well.

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, sync_channel};

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256,
};
use x509_cert::der::asn1::{AnyRef, ObjectIdentifier, OctetStringRef};
use x509_cert::der::{Decode as _, Encode as _, Reader as _};
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};

use crate::{Error, pem};

/// What kind of key to make. The names are those of kubeadm's `encryptionAlgorithm`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Algorithm {
    #[default]
    Rsa2048,
    Rsa3072,
    Rsa4096,
    EcdsaP256,
    EcdsaP384,
}

impl Algorithm {
    pub const fn name(self) -> &'static str {
        match self {
            Algorithm::Rsa2048 => "RSA-2048",
            Algorithm::Rsa3072 => "RSA-3072",
            Algorithm::Rsa4096 => "RSA-4096",
            Algorithm::EcdsaP256 => "ECDSA-P256",
            Algorithm::EcdsaP384 => "ECDSA-P384",
        }
    }
}

impl std::str::FromStr for Algorithm {
    type Err = Error;

    fn from_str(text: &str) -> Result<Algorithm, Error> {
        use Algorithm::*;
        [Rsa2048, Rsa3072, Rsa4096, EcdsaP256, EcdsaP384]
            .into_iter()
            .find(|algorithm| algorithm.name() == text)
            .ok_or_else(|| Error::Algorithm(text.to_string()))
    }
}

/// A private key that can sign. Its `Debug` never shows the secret.
pub struct PrivateKey(Inner);

enum Inner {
    Rsa(RsaKeyPair),
    EcdsaP256(EcdsaKeyPair),
    EcdsaP384(EcdsaKeyPair),
}

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0 {
            Inner::Rsa(_) => "PrivateKey(RSA)",
            Inner::EcdsaP256(_) => "PrivateKey(ECDSA-P256)",
            Inner::EcdsaP384(_) => "PrivateKey(ECDSA-P384)",
        })
    }
}

const SHA256_WITH_RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.11");
const ECDSA_WITH_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
const ECDSA_WITH_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.3");

impl PrivateKey {
    /// A fresh key from the operating system's randomness. RSA takes tens of milliseconds and more: see [`KeyPool`].
    pub fn generate(algorithm: Algorithm) -> Result<PrivateKey, Error> {
        let rsa = |size| RsaKeyPair::generate(size).map(Inner::Rsa);
        let made = match algorithm {
            Algorithm::Rsa2048 => rsa(KeySize::Rsa2048),
            Algorithm::Rsa3072 => rsa(KeySize::Rsa3072),
            Algorithm::Rsa4096 => rsa(KeySize::Rsa4096),
            Algorithm::EcdsaP256 => EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map(Inner::EcdsaP256),
            Algorithm::EcdsaP384 => EcdsaKeyPair::generate(&ECDSA_P384_SHA384_ASN1_SIGNING).map(Inner::EcdsaP384),
        };
        made.map(PrivateKey).map_err(|_| Error::Generate(algorithm.name()))
    }

    /// The first private key of a PEM text: `RSA PRIVATE KEY`, `EC PRIVATE KEY` or `PRIVATE KEY` (PKCS#8).
    pub fn from_pem(text: &[u8]) -> Result<PrivateKey, Error> {
        for block in pem::parse(text)? {
            let der = &block.der;
            let read = match block.label.as_str() {
                "RSA PRIVATE KEY" => RsaKeyPair::from_der(der).map(Inner::Rsa),
                "EC PRIVATE KEY" => EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_ASN1_SIGNING, der)
                    .map(Inner::EcdsaP256)
                    .or_else(|_| EcdsaKeyPair::from_private_key_der(&ECDSA_P384_SHA384_ASN1_SIGNING, der).map(Inner::EcdsaP384)),
                "PRIVATE KEY" => RsaKeyPair::from_pkcs8(der)
                    .map(Inner::Rsa)
                    .or_else(|_| EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der).map(Inner::EcdsaP256))
                    .or_else(|_| EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_ASN1_SIGNING, der).map(Inner::EcdsaP384)),
                _ => continue,
            };
            return read.map(PrivateKey).map_err(|e| {
                Error::malformed("private key", format!("{e} (RSA of at least 2048 bits, ECDSA P-256 or P-384 is needed)"))
            });
        }
        Err(Error::malformed("private key", "no PRIVATE KEY block found"))
    }

    /// kubeadm's form: PKCS#1 `RSA PRIVATE KEY`, or SEC1 `EC PRIVATE KEY`.
    pub fn to_pem(&self) -> Result<String, Error> {
        match &self.0 {
            Inner::Rsa(pair) => {
                let pkcs8 = pair.as_der().map_err(|_| Error::encode("private key", "no PKCS#8 form"))?;
                Ok(pem::encode("RSA PRIVATE KEY", &pkcs1_of_pkcs8(pkcs8.as_ref())?))
            }
            Inner::EcdsaP256(pair) | Inner::EcdsaP384(pair) => {
                let sec1 = pair.private_key().as_der().map_err(|_| Error::encode("private key", "no SEC1 form"))?;
                Ok(pem::encode("EC PRIVATE KEY", sec1.as_ref()))
            }
        }
    }

    /// The public key as `SubjectPublicKeyInfo` DER.
    pub fn public_der(&self) -> Result<Vec<u8>, Error> {
        let der = match &self.0 {
            Inner::Rsa(pair) => pair.public_key().as_der(),
            Inner::EcdsaP256(pair) | Inner::EcdsaP384(pair) => pair.public_key().as_der(),
        };
        der.map(|der| der.as_ref().to_vec()).map_err(|_| Error::encode("public key", "no SubjectPublicKeyInfo form"))
    }

    /// The public key as a `PUBLIC KEY` PEM block, the form of `sa.pub`.
    pub fn public_pem(&self) -> Result<String, Error> {
        Ok(pem::encode("PUBLIC KEY", &self.public_der()?))
    }

    pub fn is_rsa(&self) -> bool {
        matches!(self.0, Inner::Rsa(_))
    }

    pub(crate) fn public_info(&self) -> Result<SubjectPublicKeyInfoOwned, Error> {
        SubjectPublicKeyInfoOwned::from_der(&self.public_der()?).map_err(|e| Error::encode("public key", e))
    }

    pub(crate) fn signature_algorithm(&self) -> AlgorithmIdentifierOwned {
        match self.0 {
            Inner::Rsa(_) => AlgorithmIdentifierOwned { oid: SHA256_WITH_RSA, parameters: Some(AnyRef::NULL.into()) },
            Inner::EcdsaP256(_) => AlgorithmIdentifierOwned { oid: ECDSA_WITH_SHA256, parameters: None },
            Inner::EcdsaP384(_) => AlgorithmIdentifierOwned { oid: ECDSA_WITH_SHA384, parameters: None },
        }
    }

    /// Signs with what [`Self::signature_algorithm`] names.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let random = SystemRandom::new();
        match &self.0 {
            Inner::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).map_err(|_| Error::Sign)?;
                Ok(signature)
            }
            Inner::EcdsaP256(pair) | Inner::EcdsaP384(pair) => {
                pair.sign(&random, message).map(|signature| signature.as_ref().to_vec()).map_err(|_| Error::Sign)
            }
        }
    }
}

/// PKCS#8 is `SEQUENCE { version, algorithm, OCTET STRING { the PKCS#1 key } }`.
fn pkcs1_of_pkcs8(pkcs8: &[u8]) -> Result<Vec<u8>, Error> {
    let read = || -> x509_cert::der::Result<Vec<u8>> {
        let mut reader = x509_cert::der::SliceReader::new(pkcs8)?;
        reader.sequence(|inner| {
            AnyRef::decode(inner)?;
            AnyRef::decode(inner)?;
            let key = OctetStringRef::decode(inner)?.as_bytes().to_vec();
            while !inner.is_finished() {
                AnyRef::decode(inner)?; // attributes, the public key of version 2
            }
            Ok(key)
        })
    };
    read().map_err(|e| Error::encode("private key", e))
}

/// Makes keys on other threads while the caller does something else: sixteen RSA keys are most of the time of writing a cluster's PKI.
pub struct KeyPool {
    algorithm: Algorithm,
    ready: Option<Mutex<Receiver<PrivateKey>>>,
}

impl KeyPool {
    /// Starts making `count` keys on as many threads as there are processors. Dropping the pool stops them after the key at hand.
    pub fn start(algorithm: Algorithm, count: usize) -> KeyPool {
        if count == 0 {
            return KeyPool::lazy(algorithm);
        }
        // Bounded by the number of keys that are ever made, so senders never wait.
        let (sender, receiver) = sync_channel(count);
        let left = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(count));
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get()).min(count);
        for _ in 0..threads {
            let (sender, left) = (sender.clone(), left.clone());
            let claim = move || {
                use std::sync::atomic::Ordering::Relaxed;
                left.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1)).is_ok()
            };
            // A thread that cannot start, or a key that cannot be made, only means that `take` makes keys itself.
            let _ = std::thread::Builder::new().name("keys".into()).spawn(move || {
                while claim() {
                    let Ok(key) = PrivateKey::generate(algorithm) else { return };
                    if sender.send(key).is_err() {
                        return;
                    }
                }
            });
        }
        KeyPool { algorithm, ready: Some(Mutex::new(receiver)) }
    }

    /// A pool that makes each key when it is asked for.
    pub fn lazy(algorithm: Algorithm) -> KeyPool {
        KeyPool { algorithm, ready: None }
    }

    /// The next key: a ready one, or a new one when the pool has run dry.
    pub fn take(&self) -> Result<PrivateKey, Error> {
        if let Some(ready) = &self.ready {
            let ready = ready.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if let Ok(key) = ready.recv() {
                return Ok(key);
            }
        }
        PrivateKey::generate(self.algorithm)
    }

    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

/// Whether a public key (`SubjectPublicKeyInfo` DER) belongs to `key`.
pub fn matches(key: &PrivateKey, public_der: &[u8]) -> bool {
    key.public_info().ok().and_then(|info| info.to_der().ok()).is_some_and(|der| der == public_der)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_algorithm_survives_pem_in_kubeadms_form() {
        for (algorithm, label) in [
            (Algorithm::Rsa2048, "-----BEGIN RSA PRIVATE KEY-----"),
            (Algorithm::EcdsaP256, "-----BEGIN EC PRIVATE KEY-----"),
            (Algorithm::EcdsaP384, "-----BEGIN EC PRIVATE KEY-----"),
        ] {
            let key = PrivateKey::generate(algorithm).unwrap();
            let text = key.to_pem().unwrap();
            assert!(text.starts_with(label), "{text}");
            let again = PrivateKey::from_pem(text.as_bytes()).unwrap();
            assert_eq!(key.public_der().unwrap(), again.public_der().unwrap());
            assert_eq!(algorithm.name().parse::<Algorithm>().unwrap(), algorithm);
        }
        assert!("RSA-1024".parse::<Algorithm>().is_err());
    }

    #[test]
    fn a_pool_gives_more_keys_than_it_made() {
        let pool = KeyPool::start(Algorithm::EcdsaP256, 2);
        let keys: Vec<_> = (0..4).map(|_| pool.take().unwrap().public_der().unwrap()).collect();
        let distinct: std::collections::BTreeSet<_> = keys.iter().collect();
        assert_eq!(distinct.len(), 4);
    }

    #[test]
    fn the_secret_is_not_in_debug() {
        assert_eq!(format!("{:?}", PrivateKey::generate(Algorithm::EcdsaP256).unwrap()), "PrivateKey(ECDSA-P256)");
    }
}

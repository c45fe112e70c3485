//! Keys of service-account tokens, and the public documents about them.
//!
//! Key ids are upstream's: base64url of the SHA-256 of the public key's PKIX form.
//!
//! Upstream: pkg/serviceaccount/{keys,openidmetadata}.go

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, crypto};
use rcgen::PublicKeyData as _;
use rustls_pki_types::pem::{PemObject as _, SectionKind};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, SubjectPublicKeyInfo, X509Certificate};
use x509_parser::public_key::PublicKey;

/// A key that verifies tokens.
pub struct VerifyingKey {
    /// The `kid` of the tokens it verifies.
    pub id: String,
    algorithms: &'static [Algorithm],
    key: DecodingKey,
    jwk: Value,
}

/// The keys of `--service-account-key-file`, any number of files with any number of keys, followed as they change.
pub struct KeySet {
    files: Vec<PathBuf>,
    loaded: ArcSwap<Loaded>,
}

#[derive(Default)]
struct Loaded {
    pem: Vec<Vec<u8>>,
    generation: u64,
    keys: Arc<Vec<VerifyingKey>>,
}

impl KeySet {
    /// Loads all files.
    ///
    /// # Errors
    /// A file that cannot be read or holds no key.
    pub fn load(files: Vec<PathBuf>) -> Result<Self, String> {
        let set = Self { files, loaded: ArcSwap::default() };
        set.reload()?;
        Ok(set)
    }

    /// Reads the files again where they have changed; what is loaded stays on any error.
    ///
    /// # Errors
    /// As [`KeySet::load`].
    pub fn reload(&self) -> Result<(), String> {
        let mut pem = Vec::new();
        for file in &self.files {
            pem.push(std::fs::read(file).map_err(|error| format!("failed to read {}: {error}", file.display()))?);
        }
        let current = self.loaded.load();
        if current.pem == pem {
            return Ok(());
        }
        let mut keys: Vec<VerifyingKey> = Vec::new();
        for (file, text) in self.files.iter().zip(&pem) {
            let found = verifying_keys(text).map_err(|error| format!("{}: {error}", file.display()))?;
            for key in found {
                if !keys.iter().any(|known| known.id == key.id) {
                    keys.push(key);
                }
            }
        }
        self.loaded.store(Arc::new(Loaded { pem, generation: current.generation + 1, keys: Arc::new(keys) }));
        Ok(())
    }

    /// The keys now, and a number that changes with them.
    pub fn keys(&self) -> (u64, Arc<Vec<VerifyingKey>>) {
        let loaded = self.loaded.load();
        (loaded.generation, loaded.keys.clone())
    }

    /// `/openid/v1/jwks`.
    pub fn jwks(&self) -> Value {
        let keys: Vec<Value> = self.loaded.load().keys.iter().map(|key| key.jwk.clone()).collect();
        json!({ "keys": keys })
    }

    /// `/.well-known/openid-configuration`.
    pub fn openid_configuration(&self, issuer: &str, jwks_uri: &str) -> Value {
        let mut algorithms: Vec<&str> = Vec::new();
        for key in self.loaded.load().keys.iter() {
            let name = key.jwk["alg"].as_str().unwrap_or("RS256");
            let known = ["RS256", "ES256", "ES384", "ES512"].into_iter().find(|known| *known == name).unwrap_or("RS256");
            if !algorithms.contains(&known) {
                algorithms.push(known);
            }
        }
        json!({
            "issuer": issuer,
            "jwks_uri": jwks_uri,
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": algorithms,
        })
    }
}

impl VerifyingKey {
    /// Whether the signature (base64url) is this key's, over `message`.
    pub fn verifies(&self, algorithm: Algorithm, message: &str, signature: &str) -> bool {
        self.algorithms.contains(&algorithm)
            && crypto::verify(signature, message.as_bytes(), &self.key, algorithm).unwrap_or(false)
    }

    fn from_spki(der: &[u8]) -> Result<Self, String> {
        let (_, spki) = SubjectPublicKeyInfo::from_der(der).map_err(|error| format!("malformed public key: {error}"))?;
        let id = URL_SAFE_NO_PAD.encode(Sha256::digest(der));
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match spki.parsed().map_err(|error| format!("malformed public key: {error}"))? {
            PublicKey::RSA(rsa) => {
                let modulus = without_leading_zeros(rsa.modulus);
                let exponent = without_leading_zeros(rsa.exponent);
                let jwk = json!({
                    "use": "sig", "kty": "RSA", "kid": id, "alg": "RS256", "n": encode(modulus), "e": encode(exponent),
                });
                let key = DecodingKey::from_rsa_raw_components(modulus, exponent);
                Ok(Self { id, algorithms: &[Algorithm::RS256, Algorithm::RS384, Algorithm::RS512], key, jwk })
            }
            PublicKey::EC(point) => {
                let bytes = point.data();
                let (curve, name, algorithms): (_, _, &[Algorithm]) = match bytes.len() {
                    65 => ("P-256", "ES256", &[Algorithm::ES256]),
                    97 => ("P-384", "ES384", &[Algorithm::ES384]),
                    length => return Err(format!("unsupported elliptic curve point of {length} bytes, use P-256 or P-384")),
                };
                let (x, y) = bytes[1..].split_at((bytes.len() - 1) / 2);
                let (x, y) = (encode(x), encode(y));
                let key = DecodingKey::from_ec_components(&x, &y).map_err(|error| error.to_string())?;
                let jwk = json!({"use": "sig", "kty": "EC", "kid": id, "crv": curve, "alg": name, "x": x, "y": y});
                Ok(Self { id, algorithms, key, jwk })
            }
            _ => Err("unknown public key type, must be RSA or ECDSA".to_owned()),
        }
    }
}

fn without_leading_zeros(bytes: &[u8]) -> &[u8] {
    &bytes[bytes.iter().take_while(|byte| **byte == 0).count()..]
}

/// All keys of a PEM text: public keys, certificates, and private keys for their public half.
fn verifying_keys(pem: &[u8]) -> Result<Vec<VerifyingKey>, String> {
    let mut keys = Vec::new();
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem) {
        let (kind, der) = section.map_err(|error| format!("malformed PEM: {error}"))?;
        let spki = match kind {
            SectionKind::PublicKey => der,
            SectionKind::Certificate => {
                let (_, certificate) =
                    X509Certificate::from_der(&der).map_err(|error| format!("malformed certificate: {error}"))?;
                certificate.public_key().raw.to_vec()
            }
            SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey | SectionKind::PrivateKey => {
                let pair = rcgen::KeyPair::try_from(der.as_slice()).map_err(|error| format!("malformed private key: {error}"))?;
                pair.subject_public_key_info()
            }
            _ => continue,
        };
        keys.push(VerifyingKey::from_spki(&spki)?);
    }
    if keys.is_empty() { Err("data does not contain any valid RSA or ECDSA public keys".to_owned()) } else { Ok(keys) }
}

/// The key of `--service-account-signing-key-file`.
pub struct SigningKey {
    id: String,
    algorithm: Algorithm,
    key: EncodingKey,
}

impl SigningKey {
    /// Reads a private key, RSA or ECDSA, as PKCS#1, SEC1 or PKCS#8.
    ///
    /// # Errors
    /// Text that is no such key.
    pub fn from_pem(pem: &str) -> Result<Self, String> {
        let pair = rcgen::KeyPair::from_pem(pem).map_err(|error| format!("malformed private key: {error}"))?;
        let public = VerifyingKey::from_spki(&pair.subject_public_key_info())?;
        let algorithm = public.algorithms[0];
        let key = if algorithm == Algorithm::RS256 {
            EncodingKey::from_rsa_pem(pem.as_bytes())
        } else {
            EncodingKey::from_ec_pem(pem.as_bytes()).or_else(|_| EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()))
        };
        Ok(Self { id: public.id, algorithm, key: key.map_err(|error| error.to_string())? })
    }

    /// The claims as a signed token.
    ///
    /// # Errors
    /// The key does not sign (it is malformed in a way that only signing finds).
    pub fn sign(&self, claims: &impl serde::Serialize) -> Result<String, String> {
        let header = json!({"alg": format!("{:?}", self.algorithm), "kid": self.id}).to_string();
        let claims = serde_json::to_vec(claims).map_err(|error| error.to_string())?;
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = crypto::sign(message.as_bytes(), &self.key, self.algorithm).map_err(|error| error.to_string())?;
        Ok(format!("{message}.{signature}"))
    }
}

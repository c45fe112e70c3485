//! A serving certificate for a daemon that was given none.

use std::time::{Duration, SystemTime};

use crate::{Algorithm, Authority, Certificate, Error, LEAF_VALIDITY, PrivateKey, Profile, San, Subject, Usage};

/// A throw-away authority and a leaf that it signed for `host`; the returned chain is leaf then authority, as Go's
/// `GenerateSelfSignedCertKey` writes it, so that a client may pin the authority. ECDSA, because a daemon should not wait for RSA at start.
pub fn self_signed(host: &str, sans: &[San], now: SystemTime) -> Result<(Vec<Certificate>, PrivateKey), Error> {
    let stamp = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let ca_key = PrivateKey::generate(Algorithm::EcdsaP256)?;
    let authority = Authority::generate(&format!("{host}-ca@{stamp}"), ca_key, now, LEAF_VALIDITY)?;
    let key = PrivateKey::generate(Algorithm::EcdsaP256)?;
    let profile = Profile::leaf(Subject::new(format!("{host}@{stamp}")), &[Usage::ServerAuth], now, LEAF_VALIDITY)
        .sans(std::iter::once(San::guess(host)).chain(sans.iter().cloned()));
    let leaf = authority.issue(&profile, &key)?;
    Ok((vec![leaf, authority.certificate().clone()], key))
}

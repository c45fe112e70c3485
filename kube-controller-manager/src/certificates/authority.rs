//! A certificate authority: issues what a request asks for, as far as the usages go that the API object names.
//!
//! The certificate is put together by hand, because the subject must come out as it came in: several `O` are several groups.
//! Upstream: pkg/controller/certificates/authority

use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use rustls::SignatureScheme;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use x509_cert::Certificate;
use x509_cert::certificate::{TbsCertificate, Version};
use x509_cert::der::asn1::{Any, BitString, GeneralizedTime, Null, OctetString, UtcTime};
use x509_cert::der::flagset::FlagSet;
use x509_cert::der::oid::{AssociatedOid, ObjectIdentifier};
use x509_cert::der::pem::LineEnding;
use x509_cert::der::{Decode, Encode, EncodePem};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::{
    AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, KeyUsages, SubjectAltName, SubjectKeyIdentifier,
};
use x509_cert::request::CertReq;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::AlgorithmIdentifierOwned;
use x509_cert::time::{Time, Validity};

/// Certificates start this long ago, for clocks that are behind. Upstream: Backdate.
const BACKDATE: Duration = Duration::from_secs(5 * 60);

/// Certificates that live no longer than this are given their full time from now on. Upstream: Short.
const SHORT: Duration = Duration::from_secs(8 * 3600);

/// Shortest life, whatever is asked. Upstream: signer.duration, twice the backdating.
const SHORTEST: Duration = Duration::from_secs(10 * 60);

/// A certificate with its key.
pub struct Authority {
    certificate: Certificate,
    signer: Box<dyn rustls::sign::Signer>,
    algorithm: AlgorithmIdentifierOwned,
}

impl Authority {
    /// Reads the pair of PEM files.
    ///
    /// # Errors
    /// They cannot be read, or the key is of an unknown kind.
    pub fn load(certificate: &Path, key: &Path) -> anyhow::Result<Authority> {
        let pem = std::fs::read(certificate).with_context(|| format!("error reading CA cert file {certificate:?}"))?;
        let der =
            super::request::first_certificate(&pem).with_context(|| format!("error parsing CA cert file {certificate:?}"))?;
        let key = PrivateKeyDer::from_pem_file(key).with_context(|| format!("error reading CA key file {key:?}"))?;
        Authority::new(&der, &key)
    }

    /// From DER.
    ///
    /// # Errors
    /// As [`Authority::load`].
    pub fn new(certificate: &[u8], key: &PrivateKeyDer<'_>) -> anyhow::Result<Authority> {
        let signing = any_supported_type(key).context("error parsing CA key")?;
        let schemes = [
            SignatureScheme::RSA_PKCS1_SHA256,
            SignatureScheme::ECDSA_NISTP256_SHA256,
            SignatureScheme::ECDSA_NISTP384_SHA384,
            SignatureScheme::ED25519,
        ];
        let signer =
            schemes.iter().find_map(|scheme| signing.choose_scheme(&[*scheme])).context("CA key is of an unsupported kind")?;
        let algorithm = algorithm(signer.scheme())?;
        Ok(Authority {
            certificate: Certificate::from_der(certificate).context("error parsing CA certificate")?,
            signer,
            algorithm,
        })
    }

    /// A certificate, PEM, for a checked request.
    ///
    /// # Errors
    /// A usage is unknown, or the authority has run out.
    pub fn issue(&self, request: &[u8], usages: &[String], lifetime: Duration, now: SystemTime) -> anyhow::Result<String> {
        let request = CertReq::from_der(request).context("unable to parse csr")?;
        let authority = &self.certificate.tbs_certificate;
        let (from, until) = validity(lifetime, now);
        let expiry = authority.validity.not_after.to_system_time();
        anyhow::ensure!(
            now < expiry,
            "refusing to sign a certificate that expired in the past: NotAfter {}",
            authority.validity.not_after
        );
        let tbs = TbsCertificate {
            version: Version::V3,
            serial_number: serial()?,
            signature: self.algorithm.clone(),
            issuer: authority.subject.clone(),
            validity: Validity { not_before: time(from)?, not_after: time(until.min(expiry))? },
            subject: request.info.subject.clone(),
            subject_public_key_info: request.info.public_key.clone(),
            issuer_unique_id: None,
            subject_unique_id: None,
            extensions: Some(self.extensions(&request, usages)?),
        };
        let signature = self.signer.sign(&tbs.to_der()?).context("failed to sign")?;
        let certificate = Certificate {
            tbs_certificate: tbs,
            signature_algorithm: self.algorithm.clone(),
            signature: BitString::from_bytes(&signature)?,
        };
        Ok(certificate.to_pem(LineEnding::LF)?)
    }

    fn extensions(&self, request: &CertReq, usages: &[String]) -> anyhow::Result<Vec<Extension>> {
        let (key_usage, extended) = purposes(usages)?;
        let mut extensions = Vec::new();
        if !key_usage.is_empty() {
            extensions.push(extension(true, &KeyUsage(key_usage))?);
        }
        if !extended.is_empty() {
            extensions.push(extension(false, &ExtendedKeyUsage(extended))?);
        }
        extensions.push(extension(true, &BasicConstraints { ca: false, path_len_constraint: None })?);
        if let Some((_, id)) = self.certificate.tbs_certificate.get::<SubjectKeyIdentifier>()? {
            let id = AuthorityKeyIdentifier { key_identifier: Some(id.0), ..AuthorityKeyIdentifier::default() };
            extensions.push(extension(false, &id)?);
        }
        if let Some(names) = alternative_names(request)? {
            extensions.push(extension(request.info.subject.is_empty(), &names)?);
        }
        Ok(extensions)
    }
}

fn extension<T: Encode + AssociatedOid>(critical: bool, value: &T) -> anyhow::Result<Extension> {
    Ok(Extension { extn_id: T::OID, critical, extn_value: OctetString::new(value.to_der()?)? })
}

/// The alternative names that the request asks for.
fn alternative_names(request: &CertReq) -> anyhow::Result<Option<SubjectAltName>> {
    const EXTENSION_REQUEST: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.14");
    for attribute in request.info.attributes.iter().filter(|attribute| attribute.oid == EXTENSION_REQUEST) {
        for value in attribute.values.iter() {
            let extensions: Vec<Extension> = value.decode_as()?;
            if let Some(found) = extensions.iter().find(|extension| extension.extn_id == SubjectAltName::OID) {
                return Ok(Some(SubjectAltName::from_der(found.extn_value.as_bytes())?));
            }
        }
    }
    Ok(None)
}

/// The lifetime that a request gets: what it asks for, between ten minutes and the signer's default.
pub fn lifetime(asked_seconds: Option<i32>, default: Duration) -> Duration {
    match asked_seconds {
        None => default,
        Some(seconds) => Duration::from_secs(u64::from(seconds.max(0).unsigned_abs())).max(SHORTEST).min(default),
    }
}

fn validity(lifetime: Duration, now: SystemTime) -> (SystemTime, SystemTime) {
    let from = now - BACKDATE;
    if lifetime <= SHORT { (from, now + lifetime) } else { (from, from + lifetime) }
}

fn time(at: SystemTime) -> anyhow::Result<Time> {
    let at = at.duration_since(SystemTime::UNIX_EPOCH).context("time before 1970")?;
    // RFC 5280: UTCTime up to 2049.
    let at = Duration::from_secs(at.as_secs());
    match UtcTime::from_unix_duration(at) {
        Ok(time) => Ok(Time::UtcTime(time)),
        Err(_) => Ok(Time::GeneralTime(GeneralizedTime::from_unix_duration(at)?)),
    }
}

/// 127 random bits: positive, and never empty.
fn serial() -> anyhow::Result<SerialNumber> {
    let mut bytes: [u8; 16] = rand::random();
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    Ok(SerialNumber::new(&bytes)?)
}

fn algorithm(scheme: SignatureScheme) -> anyhow::Result<AlgorithmIdentifierOwned> {
    let (oid, parameters) = match scheme {
        SignatureScheme::RSA_PKCS1_SHA256 => ("1.2.840.113549.1.1.11", Some(Any::encode_from(&Null)?)),
        SignatureScheme::ECDSA_NISTP256_SHA256 => ("1.2.840.10045.4.3.2", None),
        SignatureScheme::ECDSA_NISTP384_SHA384 => ("1.2.840.10045.4.3.3", None),
        SignatureScheme::ED25519 => ("1.3.101.112", None),
        other => anyhow::bail!("CA key of unsupported kind {other:?}"),
    };
    Ok(AlgorithmIdentifierOwned { oid: ObjectIdentifier::new_unwrap(oid), parameters })
}

/// The API's words for usages. Upstream: keyUsageDict, extKeyUsageDict.
fn purposes(usages: &[String]) -> anyhow::Result<(FlagSet<KeyUsages>, Vec<ObjectIdentifier>)> {
    let mut key_usage = FlagSet::<KeyUsages>::default();
    let mut extended = Vec::new();
    for usage in usages {
        let flag = match usage.as_str() {
            "signing" | "digital signature" => Some(KeyUsages::DigitalSignature),
            "content commitment" => Some(KeyUsages::NonRepudiation),
            "key encipherment" => Some(KeyUsages::KeyEncipherment),
            "key agreement" => Some(KeyUsages::KeyAgreement),
            "data encipherment" => Some(KeyUsages::DataEncipherment),
            "cert sign" => Some(KeyUsages::KeyCertSign),
            "crl sign" => Some(KeyUsages::CRLSign),
            "encipher only" => Some(KeyUsages::EncipherOnly),
            "decipher only" => Some(KeyUsages::DecipherOnly),
            _ => None,
        };
        let purpose = match usage.as_str() {
            "any" => Some("2.5.29.37.0"),
            "server auth" => Some("1.3.6.1.5.5.7.3.1"),
            "client auth" => Some("1.3.6.1.5.5.7.3.2"),
            "code signing" => Some("1.3.6.1.5.5.7.3.3"),
            "email protection" | "s/mime" => Some("1.3.6.1.5.5.7.3.4"),
            "ipsec end system" => Some("1.3.6.1.5.5.7.3.5"),
            "ipsec tunnel" => Some("1.3.6.1.5.5.7.3.6"),
            "ipsec user" => Some("1.3.6.1.5.5.7.3.7"),
            "timestamping" => Some("1.3.6.1.5.5.7.3.8"),
            "ocsp signing" => Some("1.3.6.1.5.5.7.3.9"),
            "microsoft sgc" => Some("1.3.6.1.4.1.311.10.3.3"),
            "netscape sgc" => Some("2.16.840.1.113730.4.1"),
            _ => None,
        };
        match (flag, purpose) {
            (Some(flag), _) => key_usage |= flag,
            (_, Some(purpose)) => extended.push(ObjectIdentifier::new_unwrap(purpose)),
            _ => anyhow::bail!("unrecognized usage values: [{usage}]"),
        }
    }
    Ok((key_usage, extended))
}

#[cfg(test)]
mod tests {
    use super::*;
    use x509_parser::prelude::FromDer;

    #[test]
    fn a_certificate_keeps_every_organization_and_name_and_verifies() {
        let ca_key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "kubernetes");
        let ca = params.self_signed(&ca_key).unwrap();
        let authority = Authority::new(ca.der(), &PrivateKeyDer::try_from(ca_key.serialize_der()).unwrap()).unwrap();

        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["host.example".to_owned(), "10.1.2.3".to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "jane");
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "one");
        let request = params.serialize_request(&key).unwrap();
        // A second O, which rcgen cannot write: patch the parsed subject and check only what issuing does with it.
        let mut parsed = CertReq::from_der(request.der()).unwrap();
        let extra: x509_cert::name::RdnSequence = "O=two".parse().unwrap();
        parsed.info.subject.0.push(extra.0[0].clone());
        let usages = ["digital signature".to_owned(), "client auth".to_owned()];
        let pem = authority.issue(&parsed.to_der().unwrap(), &usages, Duration::from_secs(3600), SystemTime::now()).unwrap();

        let der = super::super::request::first_certificate(pem.as_bytes()).unwrap();
        let (_, issued) = x509_parser::certificate::X509Certificate::from_der(&der).unwrap();
        let groups: Vec<_> = issued.subject().iter_organization().map(|o| o.as_str().unwrap()).collect();
        assert_eq!(groups, ["one", "two"]);
        let names = issued.subject_alternative_name().unwrap().unwrap().value.general_names.len();
        assert_eq!(names, 2);
        assert!(issued.extended_key_usage().unwrap().unwrap().value.client_auth && !issued.is_ca());
        let (_, ca) = x509_parser::certificate::X509Certificate::from_der(ca.der()).unwrap();
        issued.verify_signature(Some(ca.public_key())).unwrap();
        assert!(authority.issue(&parsed.to_der().unwrap(), &["nope".to_owned()], SHORT, SystemTime::now()).is_err());
    }

    #[test]
    fn lifetimes_are_what_was_asked_within_bounds() {
        let year = Duration::from_secs(365 * 86400);
        assert_eq!(lifetime(None, year), year);
        assert_eq!(lifetime(Some(3600), year), Duration::from_secs(3600));
        assert_eq!(lifetime(Some(1), year), SHORTEST);
        assert_eq!(lifetime(Some(i32::MAX), year), year);
        let now = SystemTime::now();
        assert_eq!(validity(Duration::from_secs(60), now), (now - BACKDATE, now + Duration::from_secs(60)));
        assert_eq!(validity(year, now).1, now - BACKDATE + year);
    }
}

//! A certificate authority: signs what it is told, decides nothing.

use std::time::{Duration, SystemTime};

use sha2::Digest as _;
use x509_cert::der::asn1::{BitString, GeneralizedTime, OctetString, UtcTime};
use x509_cert::der::oid::AssociatedOid;
use x509_cert::der::{Decode as _, Encode};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::{AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectKeyIdentifier};
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::SubjectPublicKeyInfoOwned;
use x509_cert::time::{Time, Validity};
use x509_cert::{TbsCertificate, Version};

use crate::{BACKDATE, Certificate, Error, PrivateKey, Request, San, Subject, Usage, key, name, usage};

/// What to put into a certificate besides the key.
#[derive(Debug, Clone)]
pub struct Profile {
    pub subject: Subject,
    pub sans: Vec<San>,
    pub usages: Vec<Usage>,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
}

impl Profile {
    /// Digital signature and key encipherment (the latter for RSA keys only, see [`Authority::issue`]) plus `extended`, valid from a little
    /// before `now` for `validity`.
    pub fn leaf(subject: Subject, extended: &[Usage], now: SystemTime, validity: Duration) -> Profile {
        let mut usages = vec![Usage::DigitalSignature, Usage::KeyEncipherment];
        usages.extend_from_slice(extended);
        Profile { subject, sans: Vec::new(), usages, not_before: now - BACKDATE, not_after: now + validity }
    }

    pub fn sans(mut self, sans: impl IntoIterator<Item = San>) -> Profile {
        self.sans = name::normalize(sans);
        self
    }
}

/// A CA certificate with its key.
#[derive(Debug)]
pub struct Authority {
    certificate: Certificate,
    key: PrivateKey,
}

impl Authority {
    /// A new self-signed authority, as kubeadm writes them: the common name also as DNS name, key usages for signing certificates.
    pub fn generate(common_name: &str, key: PrivateKey, now: SystemTime, validity: Duration) -> Result<Authority, Error> {
        let subject = Subject::new(common_name);
        let mut usages = vec![Usage::DigitalSignature, Usage::CertSign];
        if key.is_rsa() {
            usages.push(Usage::KeyEncipherment);
        }
        let subject_name = subject.to_name()?;
        let info = key.public_info()?;
        let id = key_id(&info);
        let certificate = sign(
            &key,
            Body {
                issuer: subject_name.clone(),
                subject: subject_name,
                info,
                sans: &[San::Dns(common_name.to_string())],
                usages: &usages,
                not_before: now - BACKDATE,
                not_after: now + validity,
                authority: true,
                subject_key_id: Some(id),
                issuer_key_id: None,
            },
        )?;
        Ok(Authority { certificate, key })
    }

    /// An authority from its two files' contents. The key must be the certificate's and the certificate an authority's.
    pub fn from_pem(certificate: &[u8], key: &[u8]) -> Result<Authority, Error> {
        Authority::new(Certificate::from_pem(certificate)?, PrivateKey::from_pem(key)?)
    }

    pub fn new(certificate: Certificate, key: PrivateKey) -> Result<Authority, Error> {
        if !certificate.is_authority() {
            return Err(Error::malformed("CA certificate", "it is not marked as an authority (basicConstraints CA:TRUE)"));
        }
        if !key::matches(&key, certificate.public_der()) {
            return Err(Error::malformed("CA key", "it does not belong to the CA certificate"));
        }
        Ok(Authority { certificate, key })
    }

    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    pub fn key(&self) -> &PrivateKey {
        &self.key
    }

    /// Signs a leaf for `key`. Key encipherment is dropped for keys that cannot encipher (ECDSA). The leaf may not outlive the authority:
    /// its end is cut, as clients would refuse it anyway.
    pub fn issue(&self, profile: &Profile, key: &PrivateKey) -> Result<Certificate, Error> {
        let mut usages = profile.usages.clone();
        if !key.is_rsa() {
            usages.retain(|usage| *usage != Usage::KeyEncipherment);
        }
        self.issue_for(
            profile.subject.to_name()?,
            key.public_info()?,
            &profile.sans,
            &usages,
            profile.not_before,
            profile.not_after,
        )
    }

    /// Signs a request that [`Request::from_pem`] has verified: subject (every relative name, repeated organizations too), alternative
    /// names and public key are the request's; usages and times are the signer's. Other requested extensions are ignored.
    pub fn sign_request(
        &self,
        request: &Request,
        usages: &[Usage],
        not_before: SystemTime,
        not_after: SystemTime,
    ) -> Result<Certificate, Error> {
        let subject = Name::from_der(request.subject_der()).map_err(|e| Error::encode("subject", e))?;
        let info = SubjectPublicKeyInfoOwned::from_der(request.public_der()).map_err(|e| Error::encode("public key", e))?;
        self.issue_for(subject, info, request.sans(), usages, not_before, not_after)
    }

    fn issue_for(
        &self,
        subject: Name,
        info: SubjectPublicKeyInfoOwned,
        sans: &[San],
        usages: &[Usage],
        not_before: SystemTime,
        not_after: SystemTime,
    ) -> Result<Certificate, Error> {
        let issuer = Name::from_der(self.certificate.subject_der()).map_err(|e| Error::encode("issuer", e))?;
        sign(
            &self.key,
            Body {
                issuer,
                subject,
                info,
                sans,
                usages,
                not_before,
                not_after: not_after.min(self.certificate.not_after()),
                authority: false,
                subject_key_id: None,
                issuer_key_id: self.certificate.key_id().map(<[u8]>::to_vec),
            },
        )
    }
}

/// Everything that goes into a certificate, resolved.
pub(crate) struct Body<'a> {
    pub(crate) issuer: Name,
    pub(crate) subject: Name,
    pub(crate) info: SubjectPublicKeyInfoOwned,
    pub(crate) sans: &'a [San],
    pub(crate) usages: &'a [Usage],
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    pub(crate) authority: bool,
    pub(crate) subject_key_id: Option<Vec<u8>>,
    pub(crate) issuer_key_id: Option<Vec<u8>>,
}

/// RFC 7093 method 1: the leftmost 160 bits of the SHA-256 of the key's bits. Go's crypto/x509 does the same since 1.25.
pub(crate) fn key_id(info: &SubjectPublicKeyInfoOwned) -> Vec<u8> {
    sha2::Sha256::digest(info.subject_public_key.raw_bytes())[..20].to_vec()
}

/// Encodes and signs. The only place where a certificate comes into being.
pub(crate) fn sign(key: &PrivateKey, body: Body<'_>) -> Result<Certificate, Error> {
    let bad = |e: x509_cert::der::Error| Error::encode("certificate", e);
    let (bits, extended) = usage::split(body.usages);
    let mut extensions = Vec::new();
    if !bits.is_empty() {
        extensions.push(extension(true, &KeyUsage(bits))?);
    }
    if !extended.is_empty() {
        extensions.push(extension(false, &ExtendedKeyUsage(extended))?);
    }
    extensions.push(extension(true, &BasicConstraints { ca: body.authority, path_len_constraint: None })?);
    if let Some(id) = body.subject_key_id {
        extensions.push(extension(false, &SubjectKeyIdentifier(OctetString::new(id).map_err(bad)?))?);
    }
    if let Some(id) = body.issuer_key_id {
        let key_identifier = Some(OctetString::new(id).map_err(bad)?);
        extensions.push(extension(
            false,
            &AuthorityKeyIdentifier { key_identifier, authority_cert_issuer: None, authority_cert_serial_number: None },
        )?);
    }
    if !body.sans.is_empty() {
        // RFC 5280: critical when there is no subject to go by.
        extensions.push(extension(body.subject.0.is_empty(), &name::to_extension(body.sans)?)?);
    }
    let algorithm = key.signature_algorithm();
    let tbs_certificate = TbsCertificate {
        version: Version::V3,
        serial_number: serial()?,
        signature: algorithm.clone(),
        issuer: body.issuer,
        validity: Validity { not_before: time(body.not_before)?, not_after: time(body.not_after)? },
        subject: body.subject,
        subject_public_key_info: body.info,
        issuer_unique_id: None,
        subject_unique_id: None,
        extensions: Some(extensions),
    };
    let signature = BitString::from_bytes(&key.sign(&tbs_certificate.to_der().map_err(bad)?)?).map_err(bad)?;
    let certificate = x509_cert::Certificate { tbs_certificate, signature_algorithm: algorithm, signature };
    Certificate::from_der(&certificate.to_der().map_err(bad)?)
}

pub(crate) fn extension<T: Encode + AssociatedOid>(critical: bool, value: &T) -> Result<Extension, Error> {
    let bad = |e: x509_cert::der::Error| Error::encode("extension", e);
    Ok(Extension { extn_id: T::OID, critical, extn_value: OctetString::new(value.to_der().map_err(bad)?).map_err(bad)? })
}

/// 63 random bits, never zero: positive in DER, unpredictable, as kubeadm's.
fn serial() -> Result<SerialNumber, Error> {
    let number = rand::random_range(1..=i64::MAX as u64);
    SerialNumber::new(&number.to_be_bytes()).map_err(|e| Error::encode("serial number", e))
}

/// UTCTime up to 2049, GeneralizedTime from 2050 (RFC 5280), whole seconds.
fn time(at: SystemTime) -> Result<Time, Error> {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).map_err(|e| Error::encode("time", e))?;
    let since = Duration::from_secs(since.as_secs());
    match UtcTime::from_unix_duration(since) {
        Ok(time) => Ok(Time::UtcTime(time)),
        Err(_) => GeneralizedTime::from_unix_duration(since).map(Time::GeneralTime).map_err(|e| Error::encode("time", e)),
    }
}

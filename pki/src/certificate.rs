//! One certificate: its DER and what Kubernetes looks at.

use std::time::{Duration, SystemTime};

use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::{Error, San, Subject, name, pem};

/// A parsed certificate. Cheap to clone, never changed after parsing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    der: Vec<u8>,
    subject: Subject,
    issuer: Subject,
    subject_der: Vec<u8>,
    issuer_der: Vec<u8>,
    public_der: Vec<u8>,
    key_id: Option<Vec<u8>>,
    sans: Vec<San>,
    not_before: SystemTime,
    not_after: SystemTime,
    authority: bool,
    serial: String,
}

impl Certificate {
    pub fn from_der(der: &[u8]) -> Result<Certificate, Error> {
        let bad = |e: &dyn std::fmt::Display| Error::malformed("certificate", e.to_string());
        let (rest, parsed) = X509Certificate::from_der(der).map_err(|e| bad(&e))?;
        if !rest.is_empty() {
            return Err(Error::malformed("certificate", "bytes follow its end"));
        }
        let mut sans = Vec::new();
        let mut key_id = None;
        for extension in parsed.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::SubjectAlternativeName(names) => sans = name::from_extension(names),
                ParsedExtension::SubjectKeyIdentifier(id) => key_id = Some(id.0.to_vec()),
                _ => {}
            }
        }
        Ok(Certificate {
            der: der.to_vec(),
            subject: Subject::of(parsed.subject()),
            issuer: Subject::of(parsed.issuer()),
            subject_der: parsed.subject().as_raw().to_vec(),
            issuer_der: parsed.issuer().as_raw().to_vec(),
            public_der: parsed.public_key().raw.to_vec(),
            key_id,
            sans,
            not_before: system_time(parsed.validity().not_before.timestamp()),
            not_after: system_time(parsed.validity().not_after.timestamp()),
            authority: parsed.is_ca(),
            serial: parsed.tbs_certificate.raw_serial_as_string(),
        })
    }

    /// The first certificate of a PEM text.
    pub fn from_pem(text: &[u8]) -> Result<Certificate, Error> {
        Certificate::chain_from_pem(text)?
            .into_iter()
            .next()
            .ok_or_else(|| Error::malformed("certificate", "no CERTIFICATE block found"))
    }

    /// Every certificate of a PEM text, in order.
    pub fn chain_from_pem(text: &[u8]) -> Result<Vec<Certificate>, Error> {
        let blocks = pem::parse(text)?;
        blocks.iter().filter(|block| block.label == "CERTIFICATE").map(|block| Certificate::from_der(&block.der)).collect()
    }

    pub fn to_pem(&self) -> String {
        pem::encode("CERTIFICATE", &self.der)
    }

    pub fn der(&self) -> &[u8] {
        &self.der
    }

    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    pub fn issuer(&self) -> &Subject {
        &self.issuer
    }

    pub(crate) fn subject_der(&self) -> &[u8] {
        &self.subject_der
    }

    /// The public key as `SubjectPublicKeyInfo` DER.
    pub fn public_der(&self) -> &[u8] {
        &self.public_der
    }

    pub(crate) fn key_id(&self) -> Option<&[u8]> {
        self.key_id.as_deref()
    }

    pub fn sans(&self) -> &[San] {
        &self.sans
    }

    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    pub fn is_authority(&self) -> bool {
        self.authority
    }

    /// The serial number in hexadecimal, colon-separated.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    pub fn is_expired(&self, now: SystemTime) -> bool {
        now > self.not_after
    }

    pub fn is_not_yet_valid(&self, now: SystemTime) -> bool {
        now < self.not_before
    }

    /// Whether `issuer` signed this certificate (name and signature; not its validity).
    pub fn is_signed_by(&self, issuer: &Certificate) -> bool {
        if self.issuer_der != issuer.subject_der {
            return false;
        }
        let (Ok((_, this)), Ok((_, issuer))) = (X509Certificate::from_der(&self.der), X509Certificate::from_der(&issuer.der))
        else {
            return false;
        };
        this.verify_signature(Some(issuer.public_key())).is_ok()
    }

    /// kubeadm's discovery pin: `sha256:` and the hex digest of the public key (`SubjectPublicKeyInfo`).
    pub fn public_key_pin(&self) -> String {
        use sha2::Digest as _;
        format!("sha256:{}", hex::encode(sha2::Sha256::digest(&self.public_der)))
    }

    /// Whether a name or address is covered, wildcards as in RFC 6125 (one leftmost label).
    pub fn covers(&self, wanted: &San) -> bool {
        let San::Dns(host) = wanted else { return self.sans.contains(wanted) };
        self.sans.iter().any(|san| match san {
            San::Dns(name) => {
                name.eq_ignore_ascii_case(host)
                    || name.strip_prefix("*.").is_some_and(|suffix| {
                        host.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest.eq_ignore_ascii_case(suffix))
                    })
            }
            _ => false,
        })
    }
}

/// Seconds since 1970 as a time; what lies before 1970 becomes 1970.
fn system_time(unix: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(unix).unwrap_or(0))
}

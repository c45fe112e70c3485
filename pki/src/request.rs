//! Certificate signing requests (PKCS#10): made for kubelets and users, read for the signer. Several organizations are kept.

use x509_cert::der::asn1::{BitString, SetOfVec};
use x509_cert::der::{Any, Encode as _};
use x509_cert::ext::Extensions;
use x509_cert::request::{CertReq, CertReqInfo, Version};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer as _;

use crate::{Error, PrivateKey, San, Subject, authority, name, pem};

/// A parsed request whose signature has been checked: whoever made it holds the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    der: Vec<u8>,
    subject: Subject,
    subject_der: Vec<u8>,
    public_der: Vec<u8>,
    sans: Vec<San>,
}

/// PKCS#9 extensionRequest.
const EXTENSION_REQUEST: x509_cert::der::asn1::ObjectIdentifier =
    x509_cert::der::asn1::ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.14");

impl Request {
    /// A new request for `key`.
    pub fn generate(key: &PrivateKey, subject: &Subject, sans: &[San]) -> Result<Request, Error> {
        let bad = |e: x509_cert::der::Error| Error::encode("certificate request", e);
        let mut attributes = SetOfVec::new();
        if !sans.is_empty() {
            let extensions: Extensions = vec![authority::extension(false, &name::to_extension(sans)?)?];
            let mut values = SetOfVec::new();
            values.insert(Any::encode_from(&extensions).map_err(bad)?).map_err(bad)?;
            attributes.insert(x509_cert::attr::Attribute { oid: EXTENSION_REQUEST, values }).map_err(bad)?;
        }
        let info = CertReqInfo { version: Version::V1, subject: subject.to_name()?, public_key: key.public_info()?, attributes };
        let signature = BitString::from_bytes(&key.sign(&info.to_der().map_err(bad)?)?).map_err(bad)?;
        let request = CertReq { info, algorithm: key.signature_algorithm(), signature };
        Request::from_der(&request.to_der().map_err(bad)?)
    }

    /// Parses and verifies.
    pub fn from_der(der: &[u8]) -> Result<Request, Error> {
        let bad = |e: &dyn std::fmt::Display| Error::malformed("certificate request", e.to_string());
        let (rest, parsed) = X509CertificationRequest::from_der(der).map_err(|e| bad(&e))?;
        if !rest.is_empty() {
            return Err(Error::malformed("certificate request", "bytes follow its end"));
        }
        parsed.verify_signature().map_err(|_| Error::RequestSignature)?;
        let info = &parsed.certification_request_info;
        let sans = parsed
            .requested_extensions()
            .into_iter()
            .flatten()
            .find_map(|extension| match extension {
                ParsedExtension::SubjectAlternativeName(names) => Some(name::from_extension(names)),
                _ => None,
            })
            .unwrap_or_default();
        Ok(Request {
            der: der.to_vec(),
            subject: Subject::of(&info.subject),
            subject_der: info.subject.as_raw().to_vec(),
            public_der: info.subject_pki.raw.to_vec(),
            sans,
        })
    }

    /// The first request of a PEM text (`CERTIFICATE REQUEST` or `NEW CERTIFICATE REQUEST`).
    pub fn from_pem(text: &[u8]) -> Result<Request, Error> {
        let blocks = pem::parse(text)?;
        let block = blocks.iter().find(|block| matches!(block.label.as_str(), "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST"));
        Request::from_der(
            &block.ok_or_else(|| Error::malformed("certificate request", "no CERTIFICATE REQUEST block found"))?.der,
        )
    }

    pub fn to_pem(&self) -> String {
        pem::encode("CERTIFICATE REQUEST", &self.der)
    }

    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    pub fn sans(&self) -> &[San] {
        &self.sans
    }

    pub(crate) fn subject_der(&self) -> &[u8] {
        &self.subject_der
    }

    /// The public key as `SubjectPublicKeyInfo` DER.
    pub fn public_der(&self) -> &[u8] {
        &self.public_der
    }
}

//! What a certificate request asks for, and whether a signer may give it.
//!
//! Upstream: pkg/apis/certificates/helpers.go

use std::collections::BTreeSet;
use std::net::IpAddr;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

/// The facts of a PKCS#10 request.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Request {
    /// The request itself, DER.
    pub der: Vec<u8>,
    pub common_name: String,
    pub organizations: Vec<String>,
    pub dns_names: Vec<String>,
    pub ips: Vec<IpAddr>,
    pub emails: Vec<String>,
    pub uris: Vec<String>,
}

/// Why a request is not fit for its signer; the message goes into the `Failed` condition.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum RequestError {
    #[error("PEM block type must be CERTIFICATE REQUEST")]
    NotPem,
    #[error("unable to parse csr: {0}")]
    Malformed(String),
    #[error("CSR signature is invalid")]
    Signature,
    #[error("subject organization is not system:nodes")]
    Organization,
    #[error("subject common name does not begin with system:node: ")]
    CommonName,
    #[error("DNS or IP subjectAltName is required")]
    NameRequired,
    #[error("DNS subjectAltNames are not allowed")]
    DnsNames,
    #[error("IP subjectAltNames are not allowed")]
    Ips,
    #[error("Email subjectAltNames are not allowed")]
    Emails,
    #[error("URI subjectAltNames are not allowed")]
    Uris,
    #[error("usages did not match {0}")]
    Usages(&'static str),
}

/// Reads the PEM of `spec.request` and checks that the requestor holds the key.
///
/// # Errors
/// It is not a request, or its signature does not fit.
pub fn parse(pem: &[u8]) -> Result<Request, RequestError> {
    let der = CertificateSigningRequestDer::from_pem_slice(pem).map_err(|_| RequestError::NotPem)?.to_vec();
    let (_, csr) = X509CertificationRequest::from_der(&der).map_err(|error| RequestError::Malformed(error.to_string()))?;
    csr.verify_signature().map_err(|_| RequestError::Signature)?;
    let subject = &csr.certification_request_info.subject;
    let text = |value: &x509_parser::x509::AttributeTypeAndValue<'_>| value.as_str().map(str::to_owned).unwrap_or_default();
    let mut request = Request {
        common_name: subject.iter_common_name().next().map(text).unwrap_or_default(),
        organizations: subject.iter_organization().map(text).collect(),
        ..Request::default()
    };
    for extension in csr.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
        for name in &names.general_names {
            match name {
                GeneralName::DNSName(name) => request.dns_names.push((*name).to_owned()),
                GeneralName::RFC822Name(email) => request.emails.push((*email).to_owned()),
                GeneralName::URI(uri) => request.uris.push((*uri).to_owned()),
                GeneralName::IPAddress(bytes) => match (<[u8; 4]>::try_from(*bytes), <[u8; 16]>::try_from(*bytes)) {
                    (Ok(v4), _) => request.ips.push(v4.into()),
                    (_, Ok(v6)) => request.ips.push(v6.into()),
                    _ => return Err(RequestError::Malformed("IP address of odd length".to_owned())),
                },
                _ => {}
            }
        }
    }
    drop(csr);
    request.der = der;
    Ok(request)
}

/// The first certificate of a PEM file, DER.
pub fn first_certificate(pem: &[u8]) -> Option<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem).next()?.ok()
}

/// A node's client certificate: `O=system:nodes`, `CN=system:node:<name>`, no names, client use only.
///
/// # Errors
/// Says what is wrong.
pub fn check_kubelet_client(request: &Request, usages: &[String]) -> Result<(), RequestError> {
    if request.organizations != ["system:nodes"] {
        return Err(RequestError::Organization);
    }
    if !request.dns_names.is_empty() {
        return Err(RequestError::DnsNames);
    }
    if !request.emails.is_empty() {
        return Err(RequestError::Emails);
    }
    if !request.ips.is_empty() {
        return Err(RequestError::Ips);
    }
    if !request.uris.is_empty() {
        return Err(RequestError::Uris);
    }
    if !request.common_name.starts_with("system:node:") {
        return Err(RequestError::CommonName);
    }
    check_usages(usages, "client auth", "[client auth digital signature] or [client auth digital signature key encipherment]")
}

/// A node's serving certificate: as above, but with DNS names or addresses, and for serving.
///
/// # Errors
/// Says what is wrong.
pub fn check_kubelet_serving(request: &Request, usages: &[String]) -> Result<(), RequestError> {
    if request.organizations != ["system:nodes"] {
        return Err(RequestError::Organization);
    }
    if request.dns_names.is_empty() && request.ips.is_empty() {
        return Err(RequestError::NameRequired);
    }
    if !request.emails.is_empty() {
        return Err(RequestError::Emails);
    }
    if !request.uris.is_empty() {
        return Err(RequestError::Uris);
    }
    if !request.common_name.starts_with("system:node:") {
        return Err(RequestError::CommonName);
    }
    check_usages(usages, "server auth", "[digital signature server auth] or [digital signature key encipherment server auth]")
}

/// A client certificate for the API server: client use, and nothing but.
///
/// # Errors
/// Another usage is asked for.
pub fn check_client_usages(usages: &[String]) -> Result<(), RequestError> {
    let fine = usages.iter().all(|usage| matches!(usage.as_str(), "digital signature" | "key encipherment" | "client auth"));
    let client = usages.iter().any(|usage| usage == "client auth");
    if fine && client { Ok(()) } else { Err(RequestError::Usages("[client auth digital signature key encipherment]")) }
}

fn check_usages(usages: &[String], purpose: &str, expected: &'static str) -> Result<(), RequestError> {
    let mut given: BTreeSet<&str> = usages.iter().map(String::as_str).collect();
    given.remove("key encipherment");
    if given == BTreeSet::from(["digital signature", purpose]) { Ok(()) } else { Err(RequestError::Usages(expected)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| (*s).to_owned()).collect()
    }

    #[test]
    fn node_requests_must_be_what_they_say() {
        let client =
            Request { common_name: "system:node:n1".into(), organizations: strings(&["system:nodes"]), ..Request::default() };
        let usages = strings(&["digital signature", "client auth"]);
        assert_eq!(check_kubelet_client(&client, &usages), Ok(()));
        assert_eq!(
            check_kubelet_client(&client, &strings(&["server auth"])).unwrap_err().to_string().split(' ').next(),
            Some("usages")
        );
        let masters = Request { organizations: strings(&["system:masters"]), ..client.clone() };
        assert_eq!(check_kubelet_client(&masters, &usages), Err(RequestError::Organization));
        let two = Request { organizations: strings(&["system:nodes", "system:masters"]), ..client.clone() };
        assert_eq!(check_kubelet_client(&two, &usages), Err(RequestError::Organization));
        let named = Request { dns_names: strings(&["n1"]), ..client.clone() };
        assert_eq!(check_kubelet_client(&named, &usages), Err(RequestError::DnsNames));
        let serving = strings(&["digital signature", "key encipherment", "server auth"]);
        assert_eq!(check_kubelet_serving(&named, &serving), Ok(()));
        assert_eq!(check_kubelet_serving(&client, &serving), Err(RequestError::NameRequired));
    }

    #[test]
    fn requests_are_parsed_and_their_signature_is_checked() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(strings(&["n1", "10.0.0.7"])).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "system:node:n1");
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:nodes");
        let pem = params.serialize_request(&key).unwrap().pem().unwrap();
        let request = parse(pem.as_bytes()).unwrap();
        assert_eq!(request.common_name, "system:node:n1");
        assert_eq!(request.organizations, ["system:nodes"]);
        assert_eq!(
            (request.dns_names.as_slice(), request.ips.as_slice()),
            (&strings(&["n1"])[..], &["10.0.0.7".parse().unwrap()][..])
        );
        assert_eq!(parse(b"nonsense"), Err(RequestError::NotPem));
    }
}

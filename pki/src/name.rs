//! Subjects and alternative names.

use std::net::IpAddr;

use x509_cert::attr::AttributeTypeAndValue;
use x509_cert::der::asn1::{Any, Ia5String, ObjectIdentifier, OctetString, PrintableStringRef, SetOfVec, Utf8StringRef};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::name::{Name, RdnSequence, RelativeDistinguishedName};

use crate::Error;

/// Who a certificate is for: to Kubernetes the common name is the user and every organization a group.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Subject {
    pub common_name: String,
    pub organizations: Vec<String>,
}

const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
const ORGANIZATION: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.10");

impl Subject {
    pub fn new(common_name: impl Into<String>) -> Subject {
        Subject { common_name: common_name.into(), organizations: Vec::new() }
    }

    pub fn organization(mut self, organization: impl Into<String>) -> Subject {
        self.organizations.push(organization.into());
        self
    }

    /// The organizations in one relative name (a set), then the common name: what Go's crypto/x509 writes.
    pub(crate) fn to_name(&self) -> Result<Name, Error> {
        let mut sequence = Vec::new();
        let mut organizations = SetOfVec::new();
        for organization in &self.organizations {
            // A repeated organization says nothing new, and a set cannot hold it twice.
            let _ = organizations.insert(attribute(ORGANIZATION, organization)?);
        }
        if !organizations.is_empty() {
            sequence.push(RelativeDistinguishedName(organizations));
        }
        if !self.common_name.is_empty() {
            let mut set = SetOfVec::new();
            set.insert(attribute(COMMON_NAME, &self.common_name)?).map_err(|e| Error::encode("subject", e))?;
            sequence.push(RelativeDistinguishedName(set));
        }
        Ok(RdnSequence(sequence))
    }

    /// The common name and organizations of a parsed name; several of each are kept in order (the last common name wins, as in Go).
    pub(crate) fn of(name: &x509_parser::x509::X509Name<'_>) -> Subject {
        Subject {
            common_name: name.iter_common_name().last().and_then(|cn| cn.as_str().ok()).unwrap_or_default().to_string(),
            organizations: name.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_string).collect(),
        }
    }
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for organization in &self.organizations {
            write!(f, "O = {organization}, ")?;
        }
        write!(f, "CN = {}", self.common_name)
    }
}

fn attribute(oid: ObjectIdentifier, text: &str) -> Result<AttributeTypeAndValue, Error> {
    let value = match PrintableStringRef::new(text) {
        Ok(printable) => Any::encode_from(&printable),
        Err(_) => Utf8StringRef::new(text).and_then(|text| Any::encode_from(&text)),
    };
    let value = value.map_err(|e| Error::encode("subject", e))?;
    Ok(AttributeTypeAndValue { oid, value })
}

/// One subject alternative name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum San {
    Dns(String),
    Ip(IpAddr),
    Email(String),
    Uri(String),
}

impl San {
    /// An address when it reads as one, a DNS name otherwise.
    pub fn guess(text: &str) -> San {
        match text.parse() {
            Ok(ip) => San::Ip(ip),
            Err(_) => San::Dns(text.to_string()),
        }
    }
}

impl std::fmt::Display for San {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            San::Dns(name) => write!(f, "DNS:{name}"),
            San::Ip(ip) => write!(f, "IP:{ip}"),
            San::Email(email) => write!(f, "email:{email}"),
            San::Uri(uri) => write!(f, "URI:{uri}"),
        }
    }
}

/// DNS names sorted and without repetition, then addresses in the order given, without repetition. Upstream: RemoveDuplicateAltNames.
pub fn normalize(sans: impl IntoIterator<Item = San>) -> Vec<San> {
    let mut dns = std::collections::BTreeSet::new();
    let mut others = Vec::new();
    for san in sans {
        match san {
            San::Dns(name) => {
                dns.insert(name);
            }
            other if !others.contains(&other) => others.push(other),
            _ => {}
        }
    }
    dns.into_iter().map(San::Dns).chain(others).collect()
}

pub(crate) fn to_extension(sans: &[San]) -> Result<SubjectAltName, Error> {
    let ia5 = |text: &str| Ia5String::new(text).map_err(|e| Error::encode("alternative name", format!("{text}: {e}")));
    let names = sans.iter().map(|san| {
        Ok(match san {
            San::Dns(name) => GeneralName::DnsName(ia5(name)?),
            San::Email(email) => GeneralName::Rfc822Name(ia5(email)?),
            San::Uri(uri) => GeneralName::UniformResourceIdentifier(ia5(uri)?),
            San::Ip(ip) => {
                let octets = match ip {
                    IpAddr::V4(ip) => ip.octets().to_vec(),
                    IpAddr::V6(ip) => ip.octets().to_vec(),
                };
                GeneralName::IpAddress(OctetString::new(octets).map_err(|e| Error::encode("alternative name", e))?)
            }
        })
    });
    Ok(SubjectAltName(names.collect::<Result<_, Error>>()?))
}

pub(crate) fn from_extension(sans: &x509_parser::extensions::SubjectAlternativeName<'_>) -> Vec<San> {
    use x509_parser::extensions::GeneralName as G;
    let read = |name: &G<'_>| match name {
        G::DNSName(name) => Some(San::Dns((*name).to_string())),
        G::RFC822Name(name) => Some(San::Email((*name).to_string())),
        G::URI(uri) => Some(San::Uri((*uri).to_string())),
        G::IPAddress(octets) => match octets.len() {
            4 => <[u8; 4]>::try_from(*octets).ok().map(|o| San::Ip(IpAddr::from(o))),
            16 => <[u8; 16]>::try_from(*octets).ok().map(|o| San::Ip(IpAddr::from(o))),
            _ => None,
        },
        _ => None,
    };
    sans.general_names.iter().filter_map(read).collect()
}

//! What a certificate may be used for, by the names of `certificates.k8s.io/v1` (`spec.usages` of a CertificateSigningRequest).

use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::der::flagset::FlagSet;
use x509_cert::ext::pkix::KeyUsages;

/// One usage; either a bit of the key usage or an extended key usage. Upstream: certificates.KeyUsage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Usage {
    Signing,
    DigitalSignature,
    ContentCommitment,
    KeyEncipherment,
    KeyAgreement,
    DataEncipherment,
    CertSign,
    CrlSign,
    EncipherOnly,
    DecipherOnly,
    Any,
    ServerAuth,
    ClientAuth,
    CodeSigning,
    EmailProtection,
    Smime,
    IpsecEndSystem,
    IpsecTunnel,
    IpsecUser,
    Timestamping,
    OcspSigning,
    MicrosoftSgc,
    NetscapeSgc,
}

enum Meaning {
    Bit(KeyUsages),
    Extended(&'static str),
}

/// The table: usage, its name at the wire, what it sets in a certificate.
const USAGES: &[(Usage, &str, Meaning)] = &[
    (Usage::Signing, "signing", Meaning::Bit(KeyUsages::DigitalSignature)),
    (Usage::DigitalSignature, "digital signature", Meaning::Bit(KeyUsages::DigitalSignature)),
    (Usage::ContentCommitment, "content commitment", Meaning::Bit(KeyUsages::NonRepudiation)),
    (Usage::KeyEncipherment, "key encipherment", Meaning::Bit(KeyUsages::KeyEncipherment)),
    (Usage::KeyAgreement, "key agreement", Meaning::Bit(KeyUsages::KeyAgreement)),
    (Usage::DataEncipherment, "data encipherment", Meaning::Bit(KeyUsages::DataEncipherment)),
    (Usage::CertSign, "cert sign", Meaning::Bit(KeyUsages::KeyCertSign)),
    (Usage::CrlSign, "crl sign", Meaning::Bit(KeyUsages::CRLSign)),
    (Usage::EncipherOnly, "encipher only", Meaning::Bit(KeyUsages::EncipherOnly)),
    (Usage::DecipherOnly, "decipher only", Meaning::Bit(KeyUsages::DecipherOnly)),
    (Usage::Any, "any", Meaning::Extended("2.5.29.37.0")),
    (Usage::ServerAuth, "server auth", Meaning::Extended("1.3.6.1.5.5.7.3.1")),
    (Usage::ClientAuth, "client auth", Meaning::Extended("1.3.6.1.5.5.7.3.2")),
    (Usage::CodeSigning, "code signing", Meaning::Extended("1.3.6.1.5.5.7.3.3")),
    (Usage::EmailProtection, "email protection", Meaning::Extended("1.3.6.1.5.5.7.3.4")),
    (Usage::Smime, "s/mime", Meaning::Extended("1.3.6.1.5.5.7.3.4")),
    (Usage::IpsecEndSystem, "ipsec end system", Meaning::Extended("1.3.6.1.5.5.7.3.5")),
    (Usage::IpsecTunnel, "ipsec tunnel", Meaning::Extended("1.3.6.1.5.5.7.3.6")),
    (Usage::IpsecUser, "ipsec user", Meaning::Extended("1.3.6.1.5.5.7.3.7")),
    (Usage::Timestamping, "timestamping", Meaning::Extended("1.3.6.1.5.5.7.3.8")),
    (Usage::OcspSigning, "ocsp signing", Meaning::Extended("1.3.6.1.5.5.7.3.9")),
    (Usage::MicrosoftSgc, "microsoft sgc", Meaning::Extended("1.3.6.1.4.1.311.10.3.3")),
    (Usage::NetscapeSgc, "netscape sgc", Meaning::Extended("2.16.840.1.113730.4.1")),
];

impl Usage {
    /// The usage of a name at the wire, `None` for a name that upstream does not know.
    pub fn parse(name: &str) -> Option<Usage> {
        USAGES.iter().find(|(_, known, _)| *known == name).map(|(usage, ..)| *usage)
    }

    pub fn name(self) -> &'static str {
        USAGES.iter().find(|(usage, ..)| *usage == self).map_or("", |(_, name, _)| name)
    }
}

/// The key-usage bits and extended-usage identifiers of a list, each once, in table order.
pub(crate) fn split(usages: &[Usage]) -> (FlagSet<KeyUsages>, Vec<ObjectIdentifier>) {
    let mut bits = FlagSet::default();
    let mut extended = Vec::new();
    for (usage, _, meaning) in USAGES {
        if !usages.contains(usage) {
            continue;
        }
        match meaning {
            Meaning::Bit(bit) => bits |= *bit,
            Meaning::Extended(oid) => {
                let oid = ObjectIdentifier::new_unwrap(oid);
                if !extended.contains(&oid) {
                    extended.push(oid);
                }
            }
        }
    }
    (bits, extended)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways_and_unknown_ones_are_refused() {
        for (usage, name, _) in USAGES {
            assert_eq!(Usage::parse(name), Some(*usage));
            assert_eq!(usage.name(), *name);
        }
        assert_eq!(Usage::parse("Client Auth"), None);
    }

    #[test]
    fn usages_are_split_into_bits_and_identifiers() {
        let (bits, extended) = split(&[Usage::ClientAuth, Usage::DigitalSignature, Usage::Signing, Usage::ServerAuth]);
        assert_eq!(bits, FlagSet::from(KeyUsages::DigitalSignature));
        assert_eq!(extended.len(), 2, "server auth and client auth");
    }
}

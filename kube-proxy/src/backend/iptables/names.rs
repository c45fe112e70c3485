//! Names of chains, the same as upstream's for the same Service and endpoint.
//!
//! Upstream: pkg/proxy/iptables/proxier.go portProtoHash, servicePortEndpointChainName

use std::net::SocketAddr;

use sha2::{Digest, Sha256};

use crate::service::ServicePort;

/// Characters of the hash that fit beside the prefix: chain names have at most 28.
const HASH_LENGTH: usize = 16;
/// Prefixes of chains that belong to a Service or endpoint, and go with it.
const PER_SERVICE: [&str; 5] = ["KUBE-SVC-", "KUBE-SVL-", "KUBE-EXT-", "KUBE-FW-", "KUBE-SEP-"];

/// RFC 4648, upper case; only whole 5-byte groups are needed for 16 characters.
pub fn base32(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let mut out = String::new();
    for group in bytes.chunks(5) {
        let mut bits = 0_u64;
        for index in 0..5 {
            bits = bits << 8 | u64::from(group.get(index).copied().unwrap_or(0));
        }
        for position in 0..8 {
            let index = usize::try_from(bits >> (35 - 5 * position) & 31).unwrap_or(0);
            out.push(char::from(ALPHABET[index]));
        }
    }
    out
}

fn hash(text: &str) -> String {
    base32(&Sha256::digest(text.as_bytes())[..10])[..HASH_LENGTH].to_owned()
}

/// The hash that all chains of a service port share.
pub fn service_hash(port: &ServicePort) -> String {
    hash(&format!("{port}{}", port.protocol.lower()))
}

/// The chain of one endpoint of a service port.
pub fn endpoint(port: &ServicePort, endpoint: SocketAddr) -> String {
    format!("KUBE-SEP-{}", hash(&format!("{port}{}{endpoint}", port.protocol.lower())))
}

/// Whether a chain belongs to a Service or endpoint.
pub fn is_per_service(chain: &str) -> bool {
    PER_SERVICE.iter().any(|prefix| chain.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base32_is_rfc_4648() {
        assert_eq!(base32(b"fooba"), "MZXW6YTB");
        assert_eq!(base32(b"foobafooba"), "MZXW6YTBMZXW6YTB");
    }

    #[test]
    fn names_are_those_of_every_kubernetes_cluster() {
        // `iptables-save` of any cluster shows these for the API server's and the DNS Service.
        assert_eq!(hash("default/kubernetes:httpstcp"), "NPX46M4PTMTKRN6Y");
        assert_eq!(hash("kube-system/kube-dns:dnsudp"), "TCOU7JCQXEZGVUNU");
        assert_eq!(hash("kube-system/kube-dns:dns-tcptcp"), "ERIFXISQEP7F7OF4");
    }
}

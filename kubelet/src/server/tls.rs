//! The serving certificate and the check of client certificates.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use component::tls::{self, Serving};
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig, SupportedCipherSuite, SupportedProtocolVersion};

use crate::kubelet::Shared;

/// The server's TLS configuration.
///
/// # Errors
/// The files named cannot be used.
pub fn config(kubelet: &Shared) -> anyhow::Result<Arc<ServerConfig>> {
    let config = &kubelet.config.kubelet;
    let serving = if !config.tls_cert_file.is_empty() && !config.tls_private_key_file.is_empty() {
        Serving::follow(&kubelet.tasks, Path::new(&config.tls_cert_file), Path::new(&config.tls_private_key_file))?
    } else {
        let mut names = vec![kubelet.config.node_name.clone(), "localhost".to_owned()];
        names.extend(kubelet.node.ip_texts());
        let pair = match crate::certificate::self_made(&kubelet.config.cert_dir, &kubelet.config.node_name, &names) {
            Ok(pair) => pair,
            // A disk that cannot be written does not keep the node from serving.
            Err(error) => {
                tracing::warn!(err = format!("{error:#}"), "The self-signed serving certificate is not kept");
                tls::self_signed(names).context("failed to make a serving certificate")?
            }
        };
        let serving = Serving::new(pair);
        if config.server_tls_bootstrap {
            crate::certificate::rotate_serving(kubelet, serving.clone());
        }
        serving
    };
    let verifier = match config.authentication.x509.client_ca_file.as_str() {
        "" => None,
        file => {
            let mut roots = RootCertStore::empty();
            for certificate in
                tls::certificates(Path::new(file)).with_context(|| format!("unable to load client CA file {file}"))?
            {
                roots.add(certificate).with_context(|| format!("unable to load client CA file {file}"))?;
            }
            Some(WebPkiClientVerifier::builder(Arc::new(roots)).allow_unauthenticated().build().context("client CA")?)
        }
    };
    let verifier = verifier.map(|verifier| verifier as Arc<dyn rustls::server::danger::ClientCertVerifier>);
    let offer = offer(&config.tls_cipher_suites, &config.tls_min_version).map_err(anyhow::Error::msg)?;
    let builder = ServerConfig::builder_with_provider(Arc::new(offer.provider))
        .with_protocol_versions(&offer.versions)
        .context("tlsCipherSuites and tlsMinVersion leave nothing")?;
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(serving);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// What clients may choose from.
struct Offer {
    provider: CryptoProvider,
    versions: Vec<&'static SupportedProtocolVersion>,
}

/// `tlsCipherSuites` (for TLS 1.2; those of 1.3 are always offered, as Go does) and `tlsMinVersion`, in Go's words.
fn offer(suites: &[String], least: &str) -> Result<Offer, String> {
    let versions = match least {
        "" | "VersionTLS10" | "VersionTLS11" | "VersionTLS12" => vec![&TLS12, &TLS13],
        "VersionTLS13" => vec![&TLS13],
        other => {
            let known = "VersionTLS10, VersionTLS11, VersionTLS12, VersionTLS13";
            return Err(format!(
                "invalid configuration: tlsMinVersion (--tls-min-version) unknown tls version {other:?}: one of {known}"
            ));
        }
    };
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    if suites.is_empty() {
        return Ok(Offer { provider, versions });
    }
    let is = |suite: &SupportedCipherSuite, name: &str| {
        let own = suite.suite().as_str().unwrap_or_default().to_owned();
        own == name || own.strip_suffix("_SHA256") == Some(name) || own.replacen("TLS13_", "TLS_", 1) == name
    };
    for name in suites {
        // Go knows more than are safe to offer: those are left out with a word, a name that is none is an error.
        if !name.starts_with("TLS_") {
            return Err(format!(
                "invalid configuration: tlsCipherSuites (--tls-cipher-suites) cipher suite {name} not supported or doesn't exist"
            ));
        }
        if !provider.cipher_suites.iter().any(|suite| is(suite, name)) {
            tracing::warn!(suite = name, "A cipher suite is not offered: it is weak or unknown");
        }
    }
    provider.cipher_suites.retain(|suite| suite.tls13().is_some() || suites.iter().any(|name| is(suite, name)));
    Ok(Offer { provider, versions })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_and_versions_are_gos() {
        let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let got =
            offer(&names(&["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "TLS_RSA_WITH_AES_128_CBC_SHA"]), "VersionTLS12").unwrap();
        let old: Vec<_> = got.provider.cipher_suites.iter().filter(|suite| suite.tls13().is_none()).collect();
        assert_eq!((old.len(), got.versions.len()), (1, 2));
        assert_eq!(offer(&[], "VersionTLS13").unwrap().versions.len(), 1);
        assert!(offer(&[], "TLS9").is_err() && offer(&names(&["nonsense"]), "").is_err());
        let short = offer(&names(&["TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305"]), "").unwrap();
        assert_eq!(short.provider.cipher_suites.iter().filter(|suite| suite.tls13().is_none()).count(), 1);
    }
}

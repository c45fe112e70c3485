//! What the listener's TLS offers: versions, cipher suites, key exchanges, and the certificate for the name that a client asks for.
//!
//! Upstream: apiserver/pkg/server/options/serving.go, component-base/cli/flag/{ciphersuites,namedcertkey}_flag.go

use std::path::{Path, PathBuf};
use std::sync::Arc;

use component::tasks::Tasks;
use component::tls::{Serving, certificates};
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ProtocolVersion, SupportedProtocolVersion};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// The `--tls-*` flags, checked.
#[derive(Debug)]
pub struct Settings {
    /// Suites and key exchanges.
    pub provider: Arc<CryptoProvider>,
    /// TLS 1.2 and 1.3, or 1.3 alone.
    pub versions: Vec<&'static SupportedProtocolVersion>,
    /// `--tls-sni-cert-key`.
    pub named: Vec<Named>,
}

/// One `--tls-sni-cert-key`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// For these names; empty: the certificate's own.
    pub names: Vec<String>,
}

impl Settings {
    /// Checks the flags' values.
    ///
    /// # Errors
    /// A value that is not known, or not possible here, by its name.
    pub fn new(suites: &[String], least: Option<&str>, curves: &[u16], named: &[String]) -> Result<Self, String> {
        let versions: Vec<&'static SupportedProtocolVersion> = match least {
            None | Some("" | "VersionTLS12") => vec![&rustls::version::TLS13, &rustls::version::TLS12],
            Some("VersionTLS13") => vec![&rustls::version::TLS13],
            Some(old @ ("VersionTLS10" | "VersionTLS11")) => {
                return Err(format!("--tls-min-version={old} is not supported: TLS 1.2 is the oldest version that rk speaks"));
            }
            Some(other) => {
                return Err(format!(
                    "unknown tls version {other:?}, possible values: VersionTLS10, VersionTLS11, VersionTLS12, VersionTLS13"
                ));
            }
        };
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        if !suites.is_empty() {
            let known: Vec<String> = provider.cipher_suites.iter().map(go_name).collect();
            for wanted in suites {
                if !known.contains(&modern(wanted)) {
                    let possible = known.join(",");
                    return Err(format!(
                        "--tls-cipher-suites: cipher suite {wanted} is not supported, possible values: {possible}"
                    ));
                }
            }
            // As in Go: those of TLS 1.3 cannot be chosen.
            provider.cipher_suites.retain(|suite| {
                suite.version().version == ProtocolVersion::TLSv1_3
                    || suites.iter().any(|wanted| modern(wanted) == go_name(suite))
            });
        }
        if !curves.is_empty() {
            let mut groups = Vec::new();
            for wanted in curves {
                let found = provider.kx_groups.iter().find(|group| u16::from(group.name()) == *wanted);
                groups.push(*found.ok_or_else(|| format!("--tls-curve-preferences: curve {wanted} is not supported"))?);
            }
            provider.kx_groups = groups;
        }
        let named = named.iter().map(|text| parse_named(text)).collect::<Result<_, _>>()?;
        Ok(Self { provider: Arc::new(provider), versions, named })
    }

    /// The resolver of certificates: `default`, and the named ones, which follow their files.
    ///
    /// # Errors
    /// Unusable files.
    pub fn resolver(&self, tasks: &Tasks, default: Arc<Serving>) -> anyhow::Result<Arc<dyn ResolvesServerCert>> {
        if self.named.is_empty() {
            return Ok(default);
        }
        let mut rows = Vec::new();
        for Named { cert, key, names } in &self.named {
            let explicit = !names.is_empty();
            let names = if explicit { names.clone() } else { own_names(cert)? };
            rows.push(Row { names, explicit, serving: Serving::follow(tasks, cert, key)? });
        }
        Ok(Arc::new(ByName { rows, default }))
    }
}

/// A suite's name as Go has it: those of TLS 1.3 are `TLS_…` there.
fn go_name(suite: &rustls::SupportedCipherSuite) -> String {
    format!("{:?}", suite.suite()).replace("TLS13_", "TLS_")
}

/// Two suites have an older name in Go.
fn modern(name: &str) -> String {
    if name.ends_with("CHACHA20_POLY1305") { format!("{name}_SHA256") } else { name.to_owned() }
}

/// `cert,key[:name,…]`
fn parse_named(text: &str) -> Result<Named, String> {
    let (files, names) = text.split_once(':').unwrap_or((text, ""));
    let Some((cert, key)) = files.split_once(',') else {
        return Err("--tls-sni-cert-key: expected comma separated certificate and key file paths".to_owned());
    };
    let names = names.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect();
    Ok(Named { cert: cert.trim().into(), key: key.trim().into(), names })
}

/// The DNS names that a certificate is for.
fn own_names(cert: &Path) -> anyhow::Result<Vec<String>> {
    let chain = certificates(cert)?;
    let Some(leaf) = chain.first() else { return Ok(Vec::new()) };
    let (_, parsed) = X509Certificate::from_der(leaf)?;
    let mut names: Vec<String> =
        parsed.subject().iter_common_name().filter_map(|name| name.as_str().ok()).map(str::to_owned).collect();
    if let Ok(Some(alternatives)) = parsed.subject_alternative_name() {
        names.extend(alternatives.value.general_names.iter().filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        }));
    }
    Ok(names)
}

#[derive(Debug)]
struct Row {
    names: Vec<String>,
    explicit: bool,
    serving: Arc<Serving>,
}

#[derive(Debug)]
struct ByName {
    rows: Vec<Row>,
    default: Arc<Serving>,
}

/// How well a pattern fits a name: whole names before wildcards; 0: not at all.
fn fit(pattern: &str, name: &str) -> u8 {
    if pattern.eq_ignore_ascii_case(name) {
        return 2;
    }
    let wild =
        pattern.strip_prefix("*.").zip(name.split_once('.')).is_some_and(|(rest, (_, own))| rest.eq_ignore_ascii_case(own));
    u8::from(wild)
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().unwrap_or("");
        // Explicit names before those read from certificates; the first row of the best wins.
        let scored = self.rows.iter().enumerate().filter_map(|(at, row)| {
            let best = row.names.iter().map(|pattern| fit(pattern, name)).max().filter(|fit| *fit > 0)?;
            Some(((best, row.explicit, std::cmp::Reverse(at)), row))
        });
        match scored.max_by_key(|(score, _)| *score) {
            Some((_, row)) => row.serving.resolve(hello),
            None => self.default.resolve(hello),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(suites: &[&str], least: Option<&str>, curves: &[u16], named: &[&str]) -> Result<Settings, String> {
        let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        Settings::new(&owned(suites), least, curves, &owned(named))
    }

    #[test]
    fn suites_versions_and_curves_are_chosen_by_name() {
        let chosen = settings(&["TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"], Some("VersionTLS12"), &[29, 23], &[]).unwrap();
        let old: Vec<String> = chosen
            .provider
            .cipher_suites
            .iter()
            .filter(|suite| suite.version().version == ProtocolVersion::TLSv1_2)
            .map(go_name)
            .collect();
        assert_eq!(old, ["TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"]);
        assert_eq!(chosen.provider.kx_groups.len(), 2);
        assert_eq!(settings(&[], Some("VersionTLS13"), &[], &[]).unwrap().versions.len(), 1);
        assert!(settings(&["TLS_AES_128_GCM_SHA256", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305"], None, &[], &[]).is_ok());
        for (suites, least, curves) in [
            (&["TLS_RSA_WITH_RC4_128_SHA"][..], None, &[][..]),
            (&[], Some("VersionTLS10"), &[]),
            (&[], Some("TLS1.3"), &[]),
            (&[], None, &[7]),
        ] {
            assert!(settings(suites, least, curves, &[]).is_err());
        }
        assert!(settings(&[], None, &[], &["only-one"]).is_err());
        let named = settings(&[], None, &[], &["/a,/b:foo.example.com,*.x"]).unwrap().named;
        assert_eq!(named[0].names, ["foo.example.com", "*.x"]);
    }

    #[test]
    fn whole_names_fit_better_than_wildcards() {
        assert_eq!((fit("a.b", "A.b"), fit("*.b", "a.b"), fit("*.b", "x.a.b"), fit("*.b", "b")), (2, 1, 0, 0));
    }
}

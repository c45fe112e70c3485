//! The serving certificate and the check of client certificates.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use component::tls::{self, Serving};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

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
        let serving = Serving::new(tls::self_signed(names).context("failed to make a serving certificate")?);
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
    Ok(component::serve::tls_config(serving, verifier))
}

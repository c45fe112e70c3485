//! Certificates and the service account key pair below /etc/kubernetes/pki.

use pki::tree::{self, Outcome};

use crate::init::Init;
use crate::say;

/// One function per certificate of the table, for `init phase certs NAME`.
macro_rules! certificate {
    ($($function:ident = $name:literal),* $(,)?) => {$(
        pub async fn $function(init: &mut Init) -> anyhow::Result<()> {
            one(init, $name)
        }
    )*};
}

certificate! {
    ca = "ca",
    apiserver = "apiserver",
    apiserver_kubelet_client = "apiserver-kubelet-client",
    front_proxy_ca = "front-proxy-ca",
    front_proxy_client = "front-proxy-client",
    etcd_ca = "etcd-ca",
    etcd_server = "etcd-server",
    etcd_peer = "etcd-peer",
    etcd_healthcheck_client = "etcd-healthcheck-client",
    apiserver_etcd_client = "apiserver-etcd-client",
}

fn one(init: &mut Init, name: &str) -> anyhow::Result<()> {
    let Some(item) = tree::item(name) else { anyhow::bail!("there is no certificate {name:?}") };
    if item.etcd && init.node.cluster.etcd.external.is_some() {
        return Ok(());
    }
    let outcome = init.node.ensure_certificate(item)?;
    tell(init, "certs", &format!("{name} certificate and key"), outcome);
    Ok(())
}

pub async fn sa(init: &mut Init) -> anyhow::Result<()> {
    let dir = init.node.pki_dir();
    let outcome = tree::ensure_service_account(&mut init.node.files, &dir, &init.node.keys)?;
    tell(init, "certs", "service account signing keys", outcome);
    let text = format!("Certificates and keys are in {}", dir.display());
    say::phase("certs", &text);
    Ok(())
}

/// Reuse is worth a line, creation only in detail.
pub fn tell(_init: &Init, phase: &str, what: &str, outcome: Outcome) {
    match outcome {
        Outcome::Created => tracing::debug!(phase, what, "Generated"),
        Outcome::Reused => say::phase(phase, &format!("Using existing {what}")),
        Outcome::External => say::phase(phase, &format!("Using the external authority of {what}: nothing is signed here")),
    }
}

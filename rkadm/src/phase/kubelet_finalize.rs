//! Points kubelet.conf to the certificate that the kubelet rotates, instead of the embedded one that would expire.

use pki::Kubeconfig;
use pki::kubeconfig::Credentials;

use crate::init::Init;
use crate::{kubelet, say};

pub async fn run(init: &mut Init) -> anyhow::Result<()> {
    let files = &mut init.node.files;
    if files.is_dry() {
        println!("[dryrun] Would point {} to {}", kubelet::KUBECONFIG, kubelet::CLIENT_CERTIFICATE);
        return Ok(());
    }
    if !files.exists(kubelet::CLIENT_CERTIFICATE) {
        // The kubelet has not rotated yet; it keeps the embedded certificate until it does.
        tracing::debug!(path = kubelet::CLIENT_CERTIFICATE, "No rotated certificate yet");
        return Ok(());
    }
    let Some(text) = files.read(kubelet::KUBECONFIG)? else { return Ok(()) };
    let mut config = Kubeconfig::parse(&text)?;
    let rotated = Credentials::Files { certificate: kubelet::CLIENT_CERTIFICATE.into(), key: kubelet::CLIENT_CERTIFICATE.into() };
    if config.credentials != rotated {
        config.credentials = rotated;
        files.write(kubelet::KUBECONFIG, pki::files::SECRET, config.to_yaml()?)?;
        say::phase("kubelet-finalize", &format!("{} uses the rotating certificate", kubelet::KUBECONFIG));
    }
    Ok(())
}

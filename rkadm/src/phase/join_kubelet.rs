//! The kubelet of a joining node: first credentials, start, TLS bootstrap.

use std::time::Instant;

use anyhow::{Context as _, bail};
use pki::Kubeconfig;
use pki::kubeconfig::Credentials;

use crate::join::Join;
use crate::node::POLL;
use crate::{diagnose, kubelet, say, supervise};

/// Writes the token as the kubelet's first credentials, its files, and starts it.
pub async fn start(join: &mut Join) -> anyhow::Result<()> {
    join.learn().await?;
    let info = join.cluster_info.clone().context("discovery has run")?;
    let mut bootstrap = Kubeconfig {
        cluster: join.node.cluster.cluster_name.clone(),
        user: "tls-bootstrap-token-user".into(),
        credentials: Credentials::Token(join.join.discovery.tls_bootstrap_token.clone()),
        ..info.clone()
    };
    if !join.node.balanced.is_empty() {
        bootstrap.server = crate::balancer::URL.into();
        bootstrap.tls_server_name = Some(crate::balancer::SERVER_NAME.into());
    }
    let node = &mut join.node;
    node.files.write(kubelet::BOOTSTRAP_KUBECONFIG, pki::files::SECRET, bootstrap.to_yaml()?)?;
    node.files.write(&join.join.ca_cert_path, pki::files::PUBLIC, &info.certificate_authority)?;
    let taints = match (&node.registration.taints, &join.join.control_plane) {
        (Some(taints), _) => taints.clone(),
        (None, _) if join.witness => vec![witness_taint()],
        (None, _) => Vec::new(),
    };
    let mut cluster_wide = join.kubelet.clone();
    if let Some(path) = cluster_wide.pointer_mut("/authentication/x509/clientCAFile") {
        *path = serde_json::json!(join.join.ca_cert_path);
    }
    node.write_kubelet_files(&cluster_wide, &taints)?;
    node.start_kubelet().await?;
    if !node.dry_run {
        say::phase("kubelet-start", "Started the kubelet with the token's credentials");
    }
    Ok(())
}

/// A host that holds the third vote may be small: nothing else is put there without asking.
fn witness_taint() -> crate::config::types::Taint {
    crate::config::types::Taint { effect: "NoSchedule".into(), key: "node-role.kubernetes.io/etcd".into(), ..Default::default() }
}

/// Until the kubelet has a certificate of its own.
pub async fn wait(join: &mut Join) -> anyhow::Result<()> {
    let node = &mut join.node;
    if node.dry_run {
        println!("[dryrun] Would wait for the kubelet to bootstrap itself");
        return Ok(());
    }
    let started = Instant::now();
    let timeout = node.timeouts.tls_bootstrap;
    // kubelet.conf appears when the certificate has been signed.
    while !node.files.exists(kubelet::KUBECONFIG) {
        if started.elapsed() > timeout {
            let log =
                if node.host.systemd { "see journalctl -xeu kubelet".into() } else { diagnose::tail("/var/log/kubelet.log", 15) };
            bail!(
                "the kubelet got no certificate within {timeout:?}: is a controller manager running that approves and signs \
                 (kubectl get csr)? The kubelet's log:\n{log}"
            );
        }
        if !node.host.systemd && started.elapsed().as_secs() > 2 && supervise::supervisor("kubelet").is_none() {
            bail!("the kubelet's supervisor is gone; its log:\n{}", diagnose::tail("/var/log/kubelet.log", 15));
        }
        tokio::time::sleep(POLL).await;
    }
    node.wait_for_kubelet().await?;
    // The token has done its work on this host.
    node.files.remove(kubelet::BOOTSTRAP_KUBECONFIG)?;
    say::phase("kubelet-wait-bootstrap", &format!("The kubelet has its certificate {}", say::took(started)));
    Ok(())
}

/// After a failure before the node has a certificate: nothing of it stays, so that the next try starts clean.
pub fn take_back(join: &mut Join) {
    let node = &mut join.node;
    if node.dry_run || node.files.exists(kubelet::KUBECONFIG) || !node.files.exists(kubelet::BOOTSTRAP_KUBECONFIG) {
        return;
    }
    if !node.host.systemd {
        let _ = supervise::stop("kubelet");
    }
    let _ = node.files.remove(kubelet::BOOTSTRAP_KUBECONFIG);
    if join.join.control_plane.is_none() {
        let _ = node.files.remove(&join.join.ca_cert_path);
    }
}

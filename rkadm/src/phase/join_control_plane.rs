//! One more control plane: shared certificates, own certificates, static pods, an etcd member.

use std::time::Instant;

use anyhow::{Context as _, bail};
use pki::tree::{self, CERTIFICATES};

use crate::join::Join;
use crate::node::POLL;
use crate::{etcd, say};

fn wanted(join: &Join) -> bool {
    join.join.control_plane.is_some()
}

/// Certificates that all control planes share, from the Secret kubeadm-certs.
pub async fn download_certs(join: &mut Join) -> anyhow::Result<()> {
    if join.witness {
        join.learn().await?;
        let api = join.bootstrap.clone().context("discovery has run")?;
        let key = join.witness_key.clone();
        let written = super::upload_certs::download(&mut join.node, &api, &key, &["etcd-ca.crt", "etcd-ca.key"]).await?;
        say::phase("download-certs", &format!("Downloaded {written} files of etcd's authority"));
        return Ok(());
    }
    let key = match &join.join.control_plane {
        Some(control_plane) if !control_plane.certificate_key.is_empty() => control_plane.certificate_key.clone(),
        _ => return Ok(()),
    };
    join.learn().await?;
    let api = join.bootstrap.clone().context("discovery has run")?;
    let written = super::upload_certs::download(&mut join.node, &api, &key, &[]).await?;
    say::phase("download-certs", &format!("Downloaded {written} shared certificates and keys"));
    Ok(())
}

/// This node's own certificates, signed by the shared authorities.
pub async fn certs(join: &mut Join) -> anyhow::Result<()> {
    if join.witness {
        join.learn().await?;
        for name in ["etcd-server", "etcd-peer", "etcd-healthcheck-client"] {
            join.node.ensure_certificate(tree::item(name).context("a certificate of the tree")?)?;
        }
        return Ok(());
    }
    if !wanted(join) {
        return Ok(());
    }
    join.learn().await?;
    let started = Instant::now();
    let dir = join.node.pki_dir();
    let external = join.node.cluster.etcd.external.is_some();
    let needed = CERTIFICATES.iter().filter(|item| !(item.etcd && external));
    let mut missing: Vec<String> = Vec::new();
    for item in needed.clone().filter(|item| item.authority.is_none()) {
        if !join.node.files.exists(item.certificate_path(&dir)) {
            missing.push(item.certificate_path(&dir).display().to_string());
        }
    }
    if !join.node.files.exists(dir.join("sa.key")) {
        missing.push(dir.join("sa.key").display().to_string());
    }
    if !missing.is_empty() {
        bail!(
            "a control plane needs the cluster's authorities, and {} missing here: give --certificate-key (`rkadm init phase upload-certs \
             --upload-certs` on a control-plane node prints one), or copy them from there",
            if missing.len() == 1 { format!("{} is", missing[0]) } else { format!("{} are", missing.join(", ")) }
        );
    }
    let ca = tree::authority_certificate(&join.node.files, &dir, "ca")?;
    let info = join.cluster_info.as_ref().context("discovery has run")?;
    if !pki::Certificate::chain_from_pem(&info.certificate_authority)?.iter().any(|known| known.der() == ca.der()) {
        bail!(
            "{} is not the CA of the cluster at {}: remove it (`rkadm reset`) and join again",
            dir.join("ca.crt").display(),
            info.server
        );
    }
    let mut made = 0;
    for item in needed {
        made += usize::from(crate::node::created(join.node.ensure_certificate(item)?));
    }
    say::phase("certs", &format!("Generated {made} certificates in {} {}", dir.display(), say::took(started)));
    Ok(())
}

pub async fn kubeconfig(join: &mut Join) -> anyhow::Result<()> {
    if !wanted(join) {
        return Ok(());
    }
    join.learn().await?;
    for phase in ["admin", "controller-manager", "scheduler"] {
        join.node.ensure_kubeconfig(phase, false)?;
    }
    say::phase("kubeconfig", "Kubeconfigs are in /etc/kubernetes");
    Ok(())
}

pub async fn manifests(join: &mut Join) -> anyhow::Result<()> {
    if !wanted(join) {
        return Ok(());
    }
    join.learn().await?;
    // An API server beside an etcd that is still a learner would read an old state: it follows the member's promotion.
    let later =
        join.whole && join.node.cluster.etcd.local.is_some() && !join.join.skip_phases.iter().any(|name| name == "etcd-join");
    for component in ["kube-apiserver", "kube-controller-manager", "kube-scheduler"] {
        if component != "kube-apiserver" || !later {
            join.node.write_manifest(component, &[])?;
        }
    }
    say::phase(
        "control-plane",
        &format!("Static pods of {} are in {}", join.node.cluster.kubernetes_version, crate::manifest::DIR),
    );
    Ok(())
}

/// Adds this host's etcd to the cluster: as a learner first, so that a host that never starts does not cost the quorum.
pub async fn etcd_join(join: &mut Join) -> anyhow::Result<()> {
    if join.witness {
        return witness(join).await;
    }
    if !wanted(join) || join.node.cluster.etcd.local.is_none() {
        return Ok(());
    }
    join.learn().await?;
    if join.node.dry_run {
        println!("[dryrun] Would add this host's etcd to the cluster");
        join.node.write_manifest("kube-apiserver", &[])?;
        return Ok(());
    }
    let started = Instant::now();
    // The local API server waits for the local etcd: the cluster is asked through the shared endpoint.
    let api = join.admin().await?;
    // Right after `init` the kubelet there may not have shown its static pods to the API server yet.
    let mut others = etcd::endpoints(&api, None).await?;
    while others.is_empty() {
        if started.elapsed() > join.node.timeouts.etcd_api_call {
            bail!("no etcd member is known in the cluster: no pod labelled component=etcd in kube-system carries its client URL");
        }
        tokio::time::sleep(POLL * 4).await;
        others = etcd::endpoints(&api, None).await?;
    }
    super::etcd::make_data_dir(&join.node)?;
    let mut client = etcd::connect(&join.node.files, &join.node.pki_dir(), &others, join.node.timeouts.etcd_api_call).await?;
    let peer = format!("https://{}", crate::endpoint::join(&join.node.address().to_string(), 2380));
    let (id, members) = etcd::add_learner(&mut client, join.node.name(), &peer, join.node.timeouts.etcd_api_call).await?;
    join.node.write_manifest("etcd", &members)?;
    etcd::promote(&mut client, id, join.node.timeouts.etcd_api_call).await?;
    if join.whole {
        join.node.write_manifest("kube-apiserver", &[])?;
    }
    say::phase("etcd", &format!("This host is an etcd member, one of {} {}", members.len(), say::took(started)));
    Ok(())
}

/// A member without an API server beside it: the third vote.
async fn witness(join: &mut Join) -> anyhow::Result<()> {
    join.learn().await?;
    if join.node.cluster.etcd.local.is_none() {
        bail!("the cluster's etcd is external: a witness would have nothing to join");
    }
    if join.node.dry_run {
        println!("[dryrun] Would add this host's etcd to the cluster");
        return Ok(());
    }
    let started = Instant::now();
    // A node may not list pods; members stand beside the API servers.
    let host = |server: &String| {
        crate::endpoint::parse(server).map(|known| format!("https://{}", crate::endpoint::join(&known.host, 2379)))
    };
    let members: Vec<String> = join.node.balanced.iter().filter_map(host).collect();
    if members.is_empty() {
        bail!(
            "the API servers of the cluster are not known: a witness is for control planes that share an endpoint of their own (`rkadm init --control-plane-endpoint`)"
        );
    }
    super::etcd::make_data_dir(&join.node)?;
    let timeout = join.node.timeouts.etcd_api_call;
    let mut client = etcd::connect(&join.node.files, &join.node.pki_dir(), &members, timeout).await?;
    let peer = format!("https://{}", crate::endpoint::join(&join.node.address().to_string(), 2380));
    let (id, members) = etcd::add_learner(&mut client, join.node.name(), &peer, timeout).await?;
    join.node.write_manifest("etcd", &members)?;
    etcd::promote(&mut client, id, timeout).await?;
    // Its authority's key has done its work here: a host that only votes need not be able to sign.
    let key = join.node.pki_dir().join("etcd/ca.key");
    join.node.files.remove(&key)?;
    say::phase("etcd", &format!("This host is a witness, one of {} members {}", members.len(), say::took(started)));
    Ok(())
}

pub async fn mark(join: &mut Join) -> anyhow::Result<()> {
    if !wanted(join) {
        return Ok(());
    }
    join.learn().await?;
    if !join.node.dry_run {
        join.admin().await?;
    }
    super::mark_control_plane::mark(&mut join.node).await
}

pub async fn wait(join: &mut Join) -> anyhow::Result<()> {
    if !wanted(join) {
        return Ok(());
    }
    if join.node.dry_run {
        println!("[dryrun] Would wait for the control plane of this host");
        return Ok(());
    }
    join.learn().await?;
    super::wait_control_plane::wait(&mut join.node).await
}

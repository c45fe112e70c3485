//! Network, proxy and DNS.

use anyhow::Context as _;

use crate::addons::ADDONS;
use crate::init::Init;
use crate::say;

async fn one(init: &mut Init, phase: &str) -> anyhow::Result<()> {
    let addon = ADDONS.iter().find(|addon| addon.phase == phase).context("an add-on of the table")?;
    if addon.is_disabled(&init.node.cluster) {
        say::phase("addons", &format!("Skipping {}: the configuration does without it", addon.name));
        return Ok(());
    }
    let objects = addon.objects(&init.node.cluster, &init.node.addon_server(), &init.proxy)?;
    init.node.apply(&objects).await?;
    say::phase("addons", &format!("Applied essential addon: {}", addon.name));
    Ok(())
}

pub async fn rk_cni(init: &mut Init) -> anyhow::Result<()> {
    one(init, "rk-cni").await
}

pub async fn coredns(init: &mut Init) -> anyhow::Result<()> {
    one(init, "coredns").await
}

pub async fn metrics(init: &mut Init) -> anyhow::Result<()> {
    one(init, "metrics").await
}

pub async fn ingress(init: &mut Init) -> anyhow::Result<()> {
    one(init, "ingress").await
}

pub async fn node_local_dns(init: &mut Init) -> anyhow::Result<()> {
    one(init, "node-local-dns").await
}

pub async fn kube_proxy(init: &mut Init) -> anyhow::Result<()> {
    one(init, "kube-proxy").await
}

//! Labels and taints the node as one of the control plane, as soon as the kubelet has registered it.

use std::time::Instant;

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::init::Init;
use crate::node::{CONTROL_PLANE_LABELS, Node, POLL};
use crate::{apply, say};

pub async fn run(init: &mut Init) -> anyhow::Result<()> {
    mark(&mut init.node).await
}

pub async fn mark(node: &mut Node) -> anyhow::Result<()> {
    let taints: Vec<Value> = node.taints().iter().map(serde_json::to_value).collect::<Result<_, _>>()?;
    let names: Vec<String> = node.taints().iter().map(|taint| format!("{}:{}", taint.key, taint.effect)).collect();
    if node.dry_run {
        println!(
            "[dryrun] Would label node {:?} with {} and taint it with {}",
            node.name(),
            CONTROL_PLANE_LABELS.join(", "),
            names.join(", ")
        );
        return Ok(());
    }
    wait_for_node(node).await?;
    let api = node.api().await?;
    apply::mark_node(&api, node.name(), &CONTROL_PLANE_LABELS, &taints).await?;
    let taints = if names.is_empty() { "no taint".to_string() } else { names.join(", ") };
    say::phase("mark-control-plane", &format!("Node {} is labelled as control plane, {taints}", node.name()));
    Ok(())
}

/// Until the kubelet has registered the node.
pub async fn wait_for_node(node: &mut Node) -> anyhow::Result<()> {
    let api = node.api().await?;
    let path = format!("/api/v1/nodes/{}", node.name());
    let timeout = node.timeouts.kubelet_health_check;
    let started = Instant::now();
    while api.find(&path).await.context("looking for the node")?.is_none() {
        if started.elapsed() > timeout {
            bail!(
                "the kubelet did not register node {} within {timeout:?}: see {}",
                node.name(),
                if node.host.systemd { "journalctl -xeu kubelet" } else { "/var/log/kubelet.log" }
            );
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

//! Is this host fit to join, and is the cluster one that can be joined?

use std::time::Instant;

use anyhow::bail;

use super::preflight::{bring_images, control_plane_facts, node_facts};
use crate::host::port_in_use;
use crate::join::Join;
use crate::{kubelet, preflight, say, supervise, unfinished};

pub async fn run(join: &mut Join) -> anyhow::Result<()> {
    let started = Instant::now();
    let node = &join.node;
    let again = unfinished::is(&node.files, "join");
    let joined = node.files.exists(kubelet::KUBECONFIG) && !again;
    if !joined && !node.dry_run && !node.host.systemd && supervise::daemon("kubelet").is_some() {
        // The kubelet of a try that failed: not a node yet, so nothing is lost.
        supervise::stop("kubelet")?;
    }
    let mut facts = if join.join.control_plane.is_some() {
        control_plane_facts(node, node.files.is_dry())
    } else {
        let mut facts = node_facts(node, node.files.is_dry());
        facts.ports_in_use = [10250, 10248].into_iter().filter(|port| port_in_use(*port)).collect();
        facts
    };
    if joined {
        facts.occupied.insert(0, kubelet::KUBECONFIG.into());
    }
    preflight::prepare(&mut facts, node.dry_run);
    if again {
        say::phase("preflight", "An earlier `rkadm join` was cut off on this host: going on with it");
        (facts.occupied, facts.ports_in_use) = Default::default();
    }
    preflight::judge(preflight::check(&facts), &join.node.ignore)?;
    join.learn().await?;
    if !again {
        check_name(join).await?;
    }
    check_control_plane(join)?;
    if join.node.dry_run {
        return Ok(());
    }
    if join.whole {
        unfinished::begin(&mut join.node.files, "join")?;
    }
    let imported = bring_images(&mut join.node, join.join.control_plane.is_some() || join.witness).await?;
    let images = if imported == 0 { String::new() } else { format!(", imported {imported} image archives") };
    say::phase(
        "preflight",
        &format!("The host is fit, the cluster at {} is trusted{images} {}", join.server()?, say::took(started)),
    );
    Ok(())
}

/// Two hosts with one name would fight over one Node.
async fn check_name(join: &Join) -> anyhow::Result<()> {
    let Some(api) = &join.bootstrap else { return Ok(()) };
    let name = join.node.name();
    let Some(node) = api.find(&format!("/api/v1/nodes/{name}")).await? else { return Ok(()) };
    let ready = node["status"]["conditions"]
        .as_array()
        .is_some_and(|all| all.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True"));
    if ready {
        bail!(
            "a Node with name {name:?} and status \"Ready\" already exists in the cluster. You must delete the existing Node (kubectl delete node \
             {name}) or change the name of this new joining Node (--node-name)"
        );
    }
    Ok(())
}

/// A further control plane needs a shared endpoint, or it would die with the first.
fn check_control_plane(join: &Join) -> anyhow::Result<()> {
    if join.join.control_plane.is_some() && join.node.cluster.control_plane_endpoint.is_empty() {
        bail!(
            "the cluster has no stable controlPlaneEndpoint address, so a second control plane would not help when the first is gone: set up the \
             first with `rkadm init --control-plane-endpoint`"
        );
    }
    Ok(())
}

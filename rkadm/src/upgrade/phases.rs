//! The phases of `upgrade apply` and `upgrade node`, in order. Every one may be repeated: an upgrade that lost its power is finished by the
//! same command.

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::{Upgrade, diff, policy, replace};
use crate::addons::ADDONS;
use crate::phase::{Phase, group, phase};
use crate::{kubelet, manifest, objects, say};

/// `upgrade apply`.
pub const APPLY: &[Phase<Upgrade>] = &[
    phase!("preflight", "Run preflight checks before upgrade", preflight),
    phase!("control-plane", "Upgrade the control plane", control_plane),
    group(
        "upload-config",
        "Upload the kubeadm and kubelet configurations to ConfigMaps",
        &[
            phase!("kubeadm", "Upload the kubeadm ClusterConfiguration to a ConfigMap", upload_cluster),
            phase!("kubelet", "Upload the kubelet configuration to a ConfigMap", upload_kubelet),
        ],
    ),
    phase!("kubelet-config", "Upgrade the kubelet configuration for this node", super::kubelet_config),
    phase!("bootstrap-token", "Configures bootstrap token and cluster-info RBAC rules", bootstrap_token),
    group(
        "addon",
        "Upgrade the default kubeadm addons",
        &[
            phase!("rk-cni", "Upgrade the pod network of rk", rk_cni),
            phase!("coredns", "Upgrade the CoreDNS addon", coredns),
            phase!("kube-proxy", "Upgrade the kube-proxy addon", kube_proxy),
            phase!("metrics", "Upgrade the resource metrics API", metrics),
            phase!("ingress", "Upgrade the Ingress controller of rk, where it is installed", ingress),
            phase!("node-local-dns", "Upgrade the DNS cache of the nodes, where it is installed", node_local_dns),
        ],
    ),
    phase!("post-upgrade", "Run post upgrade tasks", post_upgrade),
];

/// `upgrade node`.
pub const NODE: &[Phase<Upgrade>] = &[
    phase!("preflight", "Run upgrade node pre-flight checks", node_preflight),
    phase!("control-plane", "Upgrade the control plane instance deployed on this node, if any", node_control_plane),
    phase!("kubelet-config", "Upgrade the kubelet configuration for this node", super::kubelet_config),
    group(
        "addon",
        "Upgrade the default kubeadm addons",
        &[
            phase!("coredns", "Upgrade the CoreDNS addon", node_addon),
            phase!("kube-proxy", "Upgrade the kube-proxy addon", node_addon),
        ],
    ),
    phase!("post-upgrade", "Run post upgrade tasks", post_upgrade),
];

async fn preflight(upgrade: &mut Upgrade) -> anyhow::Result<()> {
    let kubelets = super::kubelets(&upgrade.api).await?;
    let mut problems = policy::check(
        &upgrade.current,
        &upgrade.target,
        component::version::current(),
        kubelets.values().map(|(version, _)| version.as_str()),
    );
    let sick: Vec<&str> = kubelets.iter().filter(|(_, (_, ready))| !ready).map(|(name, _)| name.as_str()).collect();
    if !sick.is_empty() {
        problems.push(format!("these nodes are not Ready: {} (kubectl describe node says why)", sick.join(", ")));
    }
    if super::local_endpoint(&upgrade.node.files).is_none() {
        bail!(
            "this host runs no control plane: run `rkadm upgrade apply` on a control-plane node, and `rkadm upgrade node` here afterwards"
        );
    }
    if !problems.is_empty() {
        let ignored = upgrade.node.ignore.iter().any(|name| name.eq_ignore_ascii_case("all"));
        if !upgrade.force && !ignored {
            bail!(
                "[upgrade/version] the upgrade is not possible:\n  - {}\n--force goes on nevertheless",
                problems.join("\n  - ")
            );
        }
        problems.iter().for_each(|problem| say::warning(problem));
    }
    say::phase("upgrade", &format!("Upgrading the control plane from {} to {}", upgrade.current, upgrade.target));
    if upgrade.node.dry_run {
        return Ok(());
    }
    if !upgrade.yes && !upgrade.force {
        super::ask()?;
    }
    let imported = crate::phase::preflight::bring_images(&mut upgrade.node, true).await?;
    say::phase("upgrade/prepull", &format!("The images of {} are here ({imported} archives imported)", upgrade.target));
    Ok(())
}

async fn control_plane(upgrade: &mut Upgrade) -> anyhow::Result<()> {
    if upgrade.node.dry_run {
        for (component, (old, new)) in replace::manifests(upgrade)? {
            print!("{}", diff::unified(&manifest::path(&component), &old, &new, 3));
        }
        println!("[dryrun] Would replace the manifests above one by one");
        return Ok(());
    }
    replace::control_plane(upgrade).await
}

async fn upload_cluster(upgrade: &mut Upgrade) -> anyhow::Result<()> {
    let cluster = upgrade.node.cluster.clone();
    upgrade.node.apply(&objects::kubeadm_config(&cluster)?).await?;
    say::phase("upload-config", "The configuration says the new version");
    Ok(())
}

/// The kubelets' configuration is the user's: it is given again only to have the rules that let nodes read it.
async fn upload_kubelet(upgrade: &mut Upgrade) -> anyhow::Result<()> {
    let map = upgrade.api.find("/api/v1/namespaces/kube-system/configmaps/kubelet-config").await?;
    let text = map.and_then(|map| map["data"]["kubelet"].as_str().map(str::to_string));
    let config: Value = match text {
        Some(text) => serde_yaml::from_str(&text).context("in the ConfigMap kubelet-config")?,
        None => kubelet::configuration(&upgrade.node.cluster, &upgrade.node.host, &Value::Null),
    };
    upgrade.node.apply(&objects::kubelet_config(&config)?).await
}

async fn bootstrap_token(upgrade: &mut Upgrade) -> anyhow::Result<()> {
    let ca = pki::tree::authority_certificate(&upgrade.node.files, &upgrade.node.pki_dir(), "ca")?;
    let info = objects::cluster_info_kubeconfig(&upgrade.node.server(), ca.to_pem().as_bytes())?;
    // cluster-info carries signatures that must stay: its rules only.
    let mut rules: Vec<Value> =
        objects::bootstrap_rules(&info).into_iter().filter(|object| object["kind"] != "ConfigMap").collect();
    if !upgrade.node.balanced.is_empty() {
        rules.extend(objects::balancer_rules());
    }
    upgrade.node.apply(&rules).await
}

async fn rk_cni(upgrade: &mut Upgrade) -> anyhow::Result<()> {
    add_on(upgrade, "rk-cni").await
}

async fn coredns(upgrade: &mut Upgrade) -> anyhow::Result<()> {
    add_on(upgrade, "coredns").await
}

async fn kube_proxy(upgrade: &mut Upgrade) -> anyhow::Result<()> {
    add_on(upgrade, "kube-proxy").await
}

async fn metrics(upgrade: &mut Upgrade) -> anyhow::Result<()> {
    add_on(upgrade, "metrics").await
}

async fn ingress(upgrade: &mut Upgrade) -> anyhow::Result<()> {
    let installed = upgrade.api.find("/apis/apps/v1/namespaces/kube-system/deployments/rk-ingress").await?;
    if installed.is_none() { Ok(()) } else { add_on(upgrade, "ingress").await }
}

async fn node_local_dns(upgrade: &mut Upgrade) -> anyhow::Result<()> {
    let installed = upgrade.api.find("/apis/apps/v1/namespaces/kube-system/daemonsets/node-local-dns").await?;
    if installed.is_none() { Ok(()) } else { add_on(upgrade, "node-local-dns").await }
}

async fn add_on(upgrade: &mut Upgrade, phase: &str) -> anyhow::Result<()> {
    let Some(addon) = ADDONS.iter().find(|addon| addon.phase == phase) else { return Ok(()) };
    if addon.is_disabled(&upgrade.node.cluster) {
        return Ok(());
    }
    // The user's own changes to kube-proxy's configuration stay.
    let known = upgrade.api.find("/api/v1/namespaces/kube-system/configmaps/kube-proxy").await?;
    let text = known.and_then(|map| map["data"]["config.conf"].as_str().map(str::to_string)).unwrap_or_default();
    let proxy: Value = serde_yaml::from_str(&text).unwrap_or_default();
    let server = upgrade.node.addon_server();
    let objects = addon.objects(&upgrade.node.cluster, &server, &proxy)?;
    upgrade.node.apply(&objects).await?;
    say::phase("addons", &format!("Applied essential addon: {}", addon.name));
    Ok(())
}

async fn node_preflight(upgrade: &mut Upgrade) -> anyhow::Result<()> {
    if upgrade.node.dry_run {
        return Ok(());
    }
    let control_plane = super::local_endpoint(&upgrade.node.files).is_some();
    crate::phase::preflight::bring_images(&mut upgrade.node, control_plane).await.map(drop)
}

async fn node_control_plane(upgrade: &mut Upgrade) -> anyhow::Result<()> {
    if super::local_endpoint(&upgrade.node.files).is_none() {
        return Ok(());
    }
    control_plane(upgrade).await
}

/// `upgrade apply` has applied the add-ons for all nodes.
async fn node_addon(_: &mut Upgrade) -> anyhow::Result<()> {
    Ok(())
}

/// What an earlier, interrupted try left behind.
async fn post_upgrade(upgrade: &mut Upgrade) -> anyhow::Result<()> {
    if !upgrade.node.dry_run {
        replace::tidy_up()?;
    }
    Ok(())
}

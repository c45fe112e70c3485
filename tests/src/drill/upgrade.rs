//! From one release to the next, and back from one that is broken.

use anyhow::{Result, ensure};

use super::{ADMIN, deploy, nodes_ready, pods_run};
use crate::lab::Lab;
use crate::release::{Release, later};

/// plan, diff, apply, then node by node: drain, kubelet, uncordon. Containers that need not move do not restart.
///
/// # Errors
/// A step failed, or the cluster does not say the new version afterwards.
pub fn upgrade(lab: &Lab) -> Result<()> {
    let release = Release::make(lab, &later(1), None)?;
    let version = &release.version;
    deploy(lab, "cp1", "served", 2)?;
    let dir = release.give(lab, "cp1")?;
    release.give(lab, "node1")?;
    let new = |host: &str, script: &str| lab.sh(host, &format!("{ADMIN} export PATH={dir}/bin:$PATH; {script}"));
    ensure!(new("cp1", "rkadm upgrade plan")?.contains(&format!("rkadm upgrade apply {version}")));
    ensure!(
        new("cp1", &format!("rkadm upgrade diff {version}"))?
            .contains(&format!("+    image: registry.k8s.io/kube-apiserver:{version}"))
    );
    let said = new("cp1", &format!("rkadm upgrade apply {} --yes 2>&1 || true", later(9)))?;
    ensure!(said.contains("higher than the rkadm version"), "{said}");
    let said = new("cp1", &format!("rkadm upgrade apply {version} --yes"))?;
    ensure!(said.contains("SUCCESS") && said.contains("Saved a snapshot"), "{said}");
    ensure!(new("cp1", "kubectl version -o json")?.contains(&format!("\"gitVersion\": \"{version}\"")));
    // The same again is safe.
    ensure!(new("cp1", &format!("rkadm upgrade apply {version} --yes"))?.contains("as it should be already"));
    for node in ["cp1", "node1"] {
        new("cp1", &format!("kubectl drain {node} --ignore-daemonsets --delete-emptydir-data --force --timeout=120s"))?;
        if node != "cp1" {
            new(node, "rkadm upgrade node")?;
        }
        new(node, "rkadm upgrade kubelet")?;
        new("cp1", &format!("kubectl uncordon {node}"))?;
    }
    nodes_ready(lab, "cp1", 2)?;
    let versions = new("cp1", "kubectl get nodes -o jsonpath='{.items[*].status.nodeInfo.kubeletVersion}'")?;
    ensure!(versions == format!("{version} {version}"), "{versions}");
    pods_run(lab, "cp1", "served", 2)?;
    new("cp1", "kubectl delete deployment served").map(drop)
}

/// A release whose controller manager does not start: the old one runs again, and nothing written meanwhile is lost.
///
/// # Errors
/// The cluster is not as before.
pub fn broken_release(lab: &Lab) -> Result<()> {
    let broken = Release::make(lab, &later(2), Some("kube-controller-manager"))?;
    let dir = broken.give(lab, "cp1")?;
    let before =
        lab.sh("cp1", &format!("{ADMIN} kubectl get --raw /version; cat /etc/kubernetes/manifests/*.yaml | sha256sum"))?;
    lab.sh("cp1", &format!("{ADMIN} kubectl create configmap written-before --from-literal=a=b"))?;
    let apply = format!("{dir}/bin/rkadm upgrade apply {} --yes --component-timeout 20s", broken.version);
    let said = super::fails(lab, "cp1", &apply)?;
    ensure!(said.contains("was rolled back") && said.contains("kube-controller-manager"), "{said}");
    nodes_ready(lab, "cp1", 2)?;
    let after =
        lab.sh("cp1", &format!("{ADMIN} kubectl get --raw /version; cat /etc/kubernetes/manifests/*.yaml | sha256sum"))?;
    ensure!(before == after, "before: {before}\nafter: {after}");
    lab.sh("cp1", &format!("{ADMIN} kubectl delete configmap written-before"))?;
    deploy(lab, "cp1", "after-rollback", 1)?;
    lab.sh("cp1", &format!("{ADMIN} kubectl delete deployment after-rollback")).map(drop)
}

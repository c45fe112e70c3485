//! Backup and restore, by hand with etcdctl and by rkadm.

use anyhow::{Result, ensure};

use super::{ADMIN, ETCD_FLAGS, LIMIT, deploy, nodes_ready, pods_run, test_containers};
use crate::lab::Lab;
use crate::wait::holds;

/// The lines of everybody's notes: save, restore beside, point etcd's manifest to it. All components recover without a restart by hand.
///
/// # Errors
/// Something did not come back as it was at the time of the snapshot.
pub fn by_hand(lab: &Lab) -> Result<()> {
    let workers = test_containers(lab, "node1")?;
    deploy(lab, "cp1", "kept", 2)?;
    let keys = format!(
        "kubectl exec -n kube-system etcd-cp1 -- sh -c \"ETCDCTL_API=3 etcdctl get / --prefix --keys-only {ETCD_FLAGS}\""
    );
    let keys = lab.sh("cp1", &format!("{ADMIN} {keys}"))?;
    ensure!(keys.contains("/registry/deployments/default/kept"), "{keys}");
    lab.sh(
        "cp1",
        &format!("{ADMIN} etcdctl {ETCD_FLAGS} snapshot save /root/snapshot.db && etcdctl snapshot status /root/snapshot.db"),
    )?;
    deploy(lab, "cp1", "unknown", 2)?;
    lab.sh("cp1", &format!("{ADMIN} kubectl delete deployment kept"))?;
    lab.sh("cp1", "rm -rf /var/lib/etcd-from-backup; ETCDCTL_API=3 etcdctl snapshot restore /root/snapshot.db --data-dir /var/lib/etcd-from-backup")?;
    lab.sh("cp1", "sed -i 's#path: /var/lib/etcd$#path: /var/lib/etcd-from-backup#' /etc/kubernetes/manifests/etcd.yaml")?;
    came_back(lab, workers)?;
    // And back to the disk where the data belongs.
    lab.sh("cp1", "sed -i 's#path: /var/lib/etcd-from-backup$#path: /var/lib/etcd#' /etc/kubernetes/manifests/etcd.yaml")?;
    pods_run(lab, "cp1", "unknown", 2)?;
    lab.sh("cp1", &format!("{ADMIN} kubectl delete deployment unknown --ignore-not-found"))?;
    pods_run(lab, "cp1", "kept", 0)
}

/// The same by one command; a damaged file is refused and changes nothing.
///
/// # Errors
/// As [`by_hand`].
pub fn by_command(lab: &Lab) -> Result<()> {
    let workers = test_containers(lab, "node1")?;
    deploy(lab, "cp1", "kept", 2)?;
    lab.sh("cp1", "rkadm etcd snapshot save /root/by-command.db && rkadm etcd snapshot verify /root/by-command.db")?;
    deploy(lab, "cp1", "unknown", 2)?;
    lab.sh("cp1", &format!("{ADMIN} kubectl delete deployment kept"))?;
    lab.sh("cp1", "head -c 100000 /root/by-command.db > /root/cut.db")?;
    let said = super::fails(lab, "cp1", "rkadm etcd snapshot restore /root/cut.db")?;
    ensure!(said.contains("not a whole etcd snapshot"), "{said}");
    pods_run(lab, "cp1", "unknown", 2)?;
    let said = lab.sh("cp1", "rkadm etcd snapshot restore /root/by-command.db")?;
    ensure!(said.contains("etcd runs on the restored data"), "{said}");
    came_back(lab, workers)?;
    lab.sh("cp1", &format!("{ADMIN} kubectl delete deployment kept"))?;
    pods_run(lab, "cp1", "kept", 0)
}

/// What the snapshot knows runs, what it does not know does not; new work is done.
fn came_back(lab: &Lab, others: usize) -> Result<()> {
    holds("the API server on the restored data", LIMIT, || {
        let known = lab.sh("cp1", &format!("{ADMIN} timeout 5 kubectl get deployments -o name"))?;
        Ok(known.contains("kept") && !known.contains("unknown"))
    })?;
    nodes_ready(lab, "cp1", 2)?;
    pods_run(lab, "cp1", "kept", 2)?;
    holds("no container that the restored state does not know", LIMIT, || Ok(test_containers(lab, "node1")? <= others + 2))?;
    deploy(lab, "cp1", "new", 1)?;
    lab.sh("cp1", &format!("{ADMIN} kubectl delete deployment new --wait=true")).map(drop)
}

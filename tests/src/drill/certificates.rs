//! Renewal, and a cluster whose certificates have all ended.

use anyhow::{Result, ensure};

use super::{ADMIN, LIMIT, deploy, nodes_ready};
use crate::lab::Lab;
use crate::wait::holds;

/// `certs check-expiration`, `certs renew all`: new serial numbers, used by everything without a restart by hand.
///
/// # Errors
/// A component does not use the new certificates.
pub fn renewal(lab: &Lab) -> Result<()> {
    let serial = "openssl s_client -connect 127.0.0.1:6443 </dev/null 2>/dev/null | openssl x509 -noout -serial";
    let before = lab.sh("cp1", serial)?;
    ensure!(lab.sh("cp1", "rkadm certs check-expiration")?.contains("apiserver-kubelet-client"));
    ensure!(lab.sh("cp1", "rkadm certs renew all")?.contains("Done renewing certificates"));
    holds("the API server with its new certificate", LIMIT, || Ok(lab.sh("cp1", serial)? != before))?;
    nodes_ready(lab, "cp1", 2)?;
    deploy(lab, "cp1", "after-renewal", 1)?;
    lab.sh("cp1", &format!("{ADMIN} kubectl delete deployment after-renewal")).map(drop)
}

/// Every leaf certificate has ended while nobody looked: one command brings the cluster back.
///
/// # Errors
/// It does not come back.
pub fn expired(lab: &Lab) -> Result<()> {
    // Certificates of one second, made as the administrator would with another validity, and a restart of everything that has them in memory.
    lab.sh("cp1", "printf 'apiVersion: kubeadm.k8s.io/v1beta4\\nkind: ClusterConfiguration\\ncertificateValidityPeriod: 1s\\n' > /root/short.yaml")?;
    lab.sh("cp1", "rkadm certs renew all --config /root/short.yaml")?;
    lab.sh(
        "cp1",
        "sleep 2; for name in etcd kube-apiserver kube-controller-manager kube-scheduler; do kill $(pgrep -x $name); done",
    )?;
    holds("the cluster out of order", LIMIT, || Ok(lab.sh("cp1", &format!("{ADMIN} timeout 5 kubectl get nodes")).is_err()))?;
    ensure!(lab.sh("cp1", "rkadm certs check-expiration")?.contains("<invalid>"));
    let said = lab.sh("cp1", "rkadm certs recover")?;
    ensure!(said.contains("renewed"), "{said}");
    nodes_ready(lab, "cp1", 2)?;
    deploy(lab, "cp1", "after-expiry", 1)?;
    lab.sh("cp1", &format!("{ADMIN} kubectl delete deployment after-expiry")).map(drop)
}

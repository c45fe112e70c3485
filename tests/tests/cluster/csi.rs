//! Volumes of a CSI driver: registration, shared and private mounts, a kubelet killed in between, nothing left behind.

use std::time::Duration;

use anyhow::{Result, ensure};
use tests::wait::{holds, until};

use crate::Cluster;

const LIMIT: Duration = Duration::from_secs(90);

pub(crate) fn volumes_of_a_driver(cluster: &Cluster) -> Result<()> {
    let kubectl = &cluster.kubectl;
    kubectl.run("create namespace csi")?;
    kubectl.feed("-n csi apply -f -", &include_str!("csi.yaml").replace("@IMAGE@", &cluster.image))?;
    kubectl.run("-n csi rollout status daemonset/driver --timeout=90s")?;
    until("the driver in the CSINode object", LIMIT, || {
        let drivers = kubectl.field("csinode node1", ".spec.drivers[*].name")?;
        Ok((drivers == "csi.rk.test").then_some(()))
    })?;
    ensure!(kubectl.field("csinode node1", ".spec.drivers[0].nodeID")? == "node1");
    ensure!(kubectl.field("node node1", ".metadata.labels.topology\\.csi\\.rk\\.test/node")? == "node1");
    for pod in ["writer", "reader"] {
        kubectl.run(&format!("-n csi wait --for=condition=Ready pod/{pod} --timeout=90s"))?;
    }
    let sh = |pod: &str, script: &str| kubectl.args(&["-n", "csi", "exec", pod, "--", "sh", "-c", script]);
    sh("writer", "echo shared > /data/file")?;
    ensure!(sh("reader", "cat /data/file")?.trim() == "shared");
    let denied = sh("reader", "echo x > /data/other").err().map(|error| error.to_string()).unwrap_or_default();
    ensure!(denied.contains("Read-only"), "{denied}");
    ensure!(sh("writer", "stat -c %g /data")?.trim() == "777", "fsGroup");
    let context = sh("writer", "cat /own/context")?;
    for line in ["colour=blue", "csi.storage.k8s.io/ephemeral=true", "csi.storage.k8s.io/pod.name=writer"] {
        ensure!(context.contains(line), "{context}");
    }
    ensure!(sh("writer", "cat /proc/self/mountinfo")?.lines().any(|line| line.contains(" /own ")));

    // The volume grows with its claim.
    kubectl.args(&["patch", "pv", "csi-test", "-p", r#"{"spec":{"capacity":{"storage":"2Gi"}}}"#])?;
    kubectl.run("-n csi annotate pod writer touched=yes")?;
    holds("the claim's new size", Duration::from_secs(120), || {
        Ok(kubectl.field("-n csi persistentvolumeclaim data", ".status.capacity.storage")? == "2Gi")
    })?;

    // Killed while it takes volumes back, the kubelet goes on where it was.
    kubectl.run("-n csi delete pod writer reader --wait=false")?;
    cluster.lab.sh("node1", "kill -9 $(pgrep -x kubelet)")?;
    holds("the pods gone", LIMIT, || Ok(kubectl.run("-n csi get pods -l app=user -o name")?.trim().is_empty()))?;
    let mounts = cluster.lab.sh("node1", "grep -c kubernetes.io~csi /proc/self/mountinfo || true")?;
    ensure!(mounts.trim() == "0", "mounts are left: {mounts}");
    let staged = cluster.lab.sh("node1", "find /var/lib/kubelet/plugins/kubernetes.io/csi -name vol_data.json")?;
    ensure!(staged.trim().is_empty(), "volumes are still staged: {staged}");
    let said = kubectl.run("-n csi logs -l app=driver --tail=-1")?;
    ensure!(said.contains("unstage shared"), "{said}");

    // Without its driver a pod waits, and says for what.
    kubectl.run("-n csi delete daemonset driver --timeout=90s")?;
    cluster.lab.sh("node1", "rm -f /var/lib/kubelet/plugins_registry/csi.rk.test-reg.sock")?;
    holds("the driver out of the CSINode object", LIMIT, || {
        Ok(!kubectl.run("get csinode node1 -o yaml")?.contains("csi.rk.test"))
    })?;
    kubectl.run("delete namespace csi --timeout=120s")?;
    kubectl.run("delete pv/csi-test csidriver/csi.rk.test")?;
    Ok(())
}

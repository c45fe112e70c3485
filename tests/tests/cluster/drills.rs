//! What administrators do: static pods, drain, restarts, crashes, power cuts.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::wait::{holds, until};

use crate::Cluster;

const LIMIT: Duration = Duration::from_secs(120);

pub(crate) fn static_pod(cluster: &Cluster) -> Result<()> {
    let manifest = include_str!("static-pod.yaml").replace("@IMAGE@", &cluster.image);
    let file = "/etc/kubernetes/manifests/hello.yaml";
    cluster.lab.sh("node1", &format!("mkdir -p /etc/kubernetes/manifests; cat > {file} <<'END'\n{manifest}\nEND"))?;
    let kubectl = &cluster.kubectl;
    until("the mirror pod", LIMIT, || {
        Ok(kubectl.field("pod hello-node1", ".status.phase").ok().filter(|phase| phase == "Running"))
    })?;
    let id = kubectl.field("pod hello-node1", ".status.containerStatuses[0].containerID")?;
    // The file is what counts: deleting its mirror stops nothing.
    kubectl.run("delete pod hello-node1 --wait=false --grace-period=0 --force")?;
    until("the mirror pod again", LIMIT, || {
        let now = kubectl.field("pod hello-node1", ".status.containerStatuses[0].containerID");
        Ok(now.ok().filter(|now| *now == id))
    })?;
    cluster.lab.sh("node1", &format!("rm {file}"))?;
    holds("the mirror pod gone with the file", LIMIT, || Ok(kubectl.run("get pod hello-node1").is_err()))
}

pub(crate) fn drain_uncordon(cluster: &Cluster) -> Result<()> {
    let kubectl = &cluster.kubectl;
    let on_node = || kubectl.field("-n web pods -l app=echo --field-selector spec.nodeName=node1", ".items[*].metadata.name");
    kubectl.run("-n web scale deployment/echo --replicas=4")?;
    kubectl.run("-n web rollout status deployment/echo --timeout=90s")?;
    // Bare pods and DaemonSets are refused without flags.
    ensure!(kubectl.fails("drain node1")?.contains("DaemonSet-managed Pods"));
    kubectl.run("drain node1 --ignore-daemonsets --force --delete-emptydir-data --timeout=120s")?;
    ensure!(kubectl.run("get node node1")?.contains("SchedulingDisabled"));
    ensure!(on_node()?.is_empty(), "{}", on_node()?);
    kubectl.run("-n web rollout status deployment/echo --timeout=90s")?;
    kubectl.run("uncordon node1")?;
    ensure!(!kubectl.run("get node node1")?.contains("SchedulingDisabled"));
    kubectl.run("-n web scale deployment/echo --replicas=8")?;
    kubectl.run("-n web rollout status deployment/echo --timeout=90s")?;
    ensure!(!on_node()?.is_empty(), "nothing came back to node1");
    kubectl.run("-n web scale deployment/echo --replicas=4")?;
    kubectl.run("-n web rollout status deployment/echo --timeout=90s")?;
    Ok(())
}

/// All container ids on a node, from the API.
fn containers(cluster: &Cluster, node: &str) -> Result<Vec<String>> {
    let text = cluster.kubectl.args(&[
        "get",
        "pods",
        "-A",
        "--field-selector",
        &format!("spec.nodeName={node}"),
        "-o",
        "jsonpath={.items[*].status.containerStatuses[*].containerID}",
    ])?;
    let mut ids: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    ids.sort();
    Ok(ids)
}

/// The pid of a program on a host, by its exact name.
fn pid(cluster: &Cluster, host: &str, program: &str) -> Result<String> {
    let pid = cluster.lab.sh(host, &format!("pgrep -xo {}", &program[..program.len().min(15)]))?;
    Ok(pid.trim().to_owned())
}

pub(crate) fn kubelet_restart_keeps_containers(cluster: &Cluster) -> Result<()> {
    // Pods that an earlier scenario scaled away are still ending: theirs are not the containers that must stay.
    holds("no pod on its way out", LIMIT, || {
        Ok(cluster.kubectl.field("pods -A", ".items[*].metadata.deletionTimestamp")?.is_empty())
    })?;
    let before = containers(cluster, "node1")?;
    ensure!(!before.is_empty());
    let old = pid(cluster, "node1", "kubelet")?;
    cluster.lab.sh("node1", &format!("kill -9 {old}"))?;
    holds("another kubelet", LIMIT, || Ok(pid(cluster, "node1", "kubelet").is_ok_and(|new| new != old)))?;
    holds("the kubelet's health", LIMIT, || Ok(cluster.lab.sh("node1", "curl -sf http://127.0.0.1:10248/healthz").is_ok()))?;
    // A change made after the restart gets through, so the kubelet has looked at every pod.
    cluster.kubectl.args(&["run", "after", "--image", &cluster.image, "--overrides", r#"{"spec":{"nodeName":"node1"}}"#])?;
    cluster.kubectl.run("wait --for=condition=Ready pod/after --timeout=90s")?;
    cluster.kubectl.run("delete pod after --grace-period=1")?;
    let after = containers(cluster, "node1")?;
    ensure!(before == after, "before {before:?}\nafter {after:?}");
    Ok(())
}

pub(crate) fn control_plane_heals(cluster: &Cluster) -> Result<()> {
    let kubectl = &cluster.kubectl;
    for program in ["kube-controller-manager", "kube-scheduler", "etcd", "kube-apiserver"] {
        let old = pid(cluster, "cp1", program).with_context(|| format!("find {program}"))?;
        cluster.lab.sh("cp1", &format!("kill -9 {old}"))?;
        holds(&format!("another {program}"), LIMIT, || Ok(pid(cluster, "cp1", program).is_ok_and(|new| new != old)))?;
        holds("the API server", LIMIT, || Ok(kubectl.run("get --raw /readyz").is_ok()))?;
    }
    // The whole chain works again: API, controllers, scheduler, kubelet.
    kubectl.args(&["-n", "web", "create", "deployment", "healed", "--image", &cluster.image])?;
    kubectl.run("-n web rollout status deployment/healed --timeout=120s")?;
    kubectl.run("-n web delete deployment healed")?;
    Ok(())
}

pub(crate) fn node_power(cluster: &Cluster) -> Result<()> {
    let kubectl = &cluster.kubectl;
    let ready = || kubectl.field("node node1", ".status.conditions[?(@.type==\"Ready\")].status");
    ensure!(cluster.lab.rkadm(&["kill", "node1"]).status()?.success());
    holds("node1 not ready", LIMIT, || Ok(ready()? == "Unknown"))?;
    ensure!(kubectl.run("describe node node1")?.contains("node.kubernetes.io/unreachable"));
    ensure!(cluster.lab.rkadm(&["start", "node1"]).status()?.success());
    holds("node1 ready again", LIMIT, || Ok(ready()? == "True"))?;
    kubectl.args(&["run", "back", "--image", &cluster.image, "--overrides", r#"{"spec":{"nodeName":"node1"}}"#])?;
    kubectl.run("wait --for=condition=Ready pod/back --timeout=120s")?;
    kubectl.run("delete pod back --grace-period=1")?;
    Ok(())
}

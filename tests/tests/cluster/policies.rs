//! Network policies hold, and the network outlives the programs that make it.

use std::time::Duration;

use anyhow::{Result, ensure};
use tests::wait::{holds, until};

use crate::Cluster;

const LIMIT: Duration = Duration::from_secs(60);

const DENY: &str = r#"{"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "deny", "namespace": "web"},
    "spec": {"podSelector": {}, "policyTypes": ["Ingress"]}}"#;
const ALLOW: &str = r#"{"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "allow", "namespace": "web"},
    "spec": {"podSelector": {"matchLabels": {"app": "echo"}}, "policyTypes": ["Ingress"],
        "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "echo"}}}], "ports": [{"port": 8080}]}]}}"#;

/// Name and address of a running pod of the deployment `echo` on a node.
fn pod_on(cluster: &Cluster, node: &str) -> Result<Option<(String, String)>> {
    let template =
        r#"jsonpath={range .items[*]}{.metadata.name} {.spec.nodeName} {.status.podIP} {.metadata.deletionTimestamp}{"\n"}{end}"#;
    let running = "status.phase=Running";
    let text =
        cluster.kubectl.args(&["-n", "web", "get", "pods", "-l", "app=echo", "--field-selector", running, "-o", template])?;
    Ok(text.lines().find_map(|line| match line.split_whitespace().collect::<Vec<_>>()[..] {
        [name, on, ip] if on == node => Some((name.to_owned(), ip.to_owned())),
        _ => None,
    }))
}

/// Whether a host gets an answer from a pod.
fn reaches(cluster: &Cluster, host: &str, ip: &str) -> Result<bool> {
    let answer = cluster.lab.sh(host, &format!("curl -sf -m 3 http://{ip}:8080/hostname || echo none"))?;
    Ok(answer.trim() != "none")
}

/// Policies apply at once, are additive, spare the node's own probes, and go at once. Killed programs and a removed bridge
/// leave no mark.
pub(crate) fn policies_hold_and_the_network_heals(cluster: &Cluster) -> Result<()> {
    let kubectl = &cluster.kubectl;
    let near = until("a pod on cp1", LIMIT, || pod_on(cluster, "cp1"))?;
    let far = until("a pod on node1", LIMIT, || pod_on(cluster, "node1"))?;
    let fetch =
        || kubectl.args(&["-n", "web", "exec", &near.0, "--", "wget", "-qO-", &format!("http://{}:8080/hostname", far.1)]);
    ensure!(reaches(cluster, "cp1", &far.1)?, "everybody, before there are policies");
    kubectl.feed("apply -f -", DENY)?;
    holds("the other node is shut out", LIMIT, || Ok(!reaches(cluster, "cp1", &far.1)?))?;
    ensure!(reaches(cluster, "node1", &far.1)?, "probes come from the pod's own node");
    kubectl.feed("apply -f -", ALLOW)?;
    until("the allowed pod comes through", LIMIT, || Ok(fetch().ok()))?;
    ensure!(!reaches(cluster, "cp1", &far.1)?, "the other node is still shut out");

    let service = kubectl.field("-n web service echo", ".spec.clusterIP")?;
    let by_service =
        || kubectl.args(&["-n", "web", "exec", &near.0, "--", "wget", "-qO-", &format!("http://{service}/hostname")]);
    until("the service", LIMIT, || Ok(by_service().ok()))?;
    for host in ["cp1", "node1"] {
        cluster.lab.sh(host, "kill -9 $(pidof kube-proxy) $(pidof rk-cni)")?;
    }
    for _ in 0..10 {
        by_service()?;
        ensure!(!reaches(cluster, "cp1", &far.1)?, "policies outlive the agent");
    }
    for set in ["kube-proxy", "rk-cni"] {
        kubectl.run(&format!("-n kube-system rollout status daemonset/{set} --timeout=60s"))?;
    }
    cluster.lab.sh("node1", "ip link del cni0")?;
    holds("the agent connects the pods again", LIMIT, || reaches(cluster, "node1", &far.1))?;
    until("the allowed pod comes through again", LIMIT, || Ok(fetch().ok()))?;
    kubectl.run("-n web delete networkpolicy deny allow")?;
    holds("everybody again", LIMIT, || reaches(cluster, "cp1", &far.1))?;
    Ok(())
}

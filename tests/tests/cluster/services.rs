//! Pod network, services, names.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::wait::{holds, until};

use crate::Cluster;

const LIMIT: Duration = Duration::from_secs(60);

/// A pod of the deployment `echo` on each node, with its address: made by the scenarios before.
fn pods(cluster: &Cluster) -> Result<Vec<(String, String, String)>> {
    let kubectl = &cluster.kubectl;
    kubectl.run("-n web scale deployment/echo --replicas=4")?;
    kubectl.run("-n web rollout status deployment/echo --timeout=90s")?;
    let template = r#"jsonpath={range .items[*]}{.metadata.name} {.spec.nodeName} {.status.podIP}{"\n"}{end}"#;
    let text = kubectl.args(&[
        "-n",
        "web",
        "get",
        "pods",
        "-l",
        "app=echo",
        "--field-selector",
        "status.phase=Running",
        "-o",
        template,
    ])?;
    let mut rows: Vec<(String, String, String)> = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let [name, node, ip] = words[..]
            && !rows.iter().any(|row| row.1 == node)
        {
            rows.push((name.to_owned(), node.to_owned(), ip.to_owned()));
        }
    }
    ensure!(rows.len() == 2, "a running pod on each node: {text}");
    Ok(rows)
}

fn fetch(cluster: &Cluster, pod: &str, url: &str) -> Result<String> {
    cluster.kubectl.args(&["-n", "web", "exec", pod, "--", "wget", "-qO-", url])
}

pub(crate) fn pods_reach_each_other(cluster: &Cluster) -> Result<()> {
    let pods = pods(cluster)?;
    for (from, to) in [(0, 1), (1, 0), (0, 0)] {
        let answer = fetch(cluster, &pods[from].0, &format!("http://{}:8080/hostname", pods[to].2))?;
        ensure!(answer.trim() == pods[to].0, "{answer}");
    }
    // No address translation between pods: the server sees the client's own address.
    let seen = fetch(cluster, &pods[0].0, &format!("http://{}:8080/client", pods[1].2))?;
    ensure!(seen.trim().trim_start_matches("::ffff:") == pods[0].2, "{seen}");
    // From each node to each pod.
    for node in ["cp1", "node1"] {
        for pod in &pods {
            let answer = cluster.lab.sh(node, &format!("curl -sf -m 5 http://{}:8080/hostname", pod.2))?;
            ensure!(answer.trim() == pod.0);
        }
    }
    Ok(())
}

pub(crate) fn service_answers(cluster: &Cluster) -> Result<()> {
    let kubectl = &cluster.kubectl;
    let pods = pods(cluster)?;
    kubectl.run("-n web expose deployment/echo --type=NodePort --port=80 --target-port=8080")?;
    let address = kubectl.field("-n web service echo", ".spec.clusterIP")?;
    let port = kubectl.field("-n web service echo", ".spec.ports[0].nodePort")?;
    until("the service's rules", LIMIT, || Ok(fetch(cluster, &pods[0].0, &format!("http://{address}/hostname")).ok()))?;
    for pod in &pods {
        let mut servers = BTreeSet::new();
        for _ in 0..20 {
            servers.insert(fetch(cluster, &pod.0, &format!("http://{address}/hostname"))?.trim().to_owned());
        }
        ensure!(servers.len() > 1, "all answers come from {servers:?}");
        for name in ["echo", "echo.web", "echo.web.svc.cluster.local"] {
            fetch(cluster, &pod.0, &format!("http://{name}/hostname")).with_context(|| format!("by the name {name}"))?;
        }
    }
    for (node, target) in [("cp1", "172.30.0.1"), ("cp1", "172.30.0.2"), ("node1", "172.30.0.1"), ("node1", "172.30.0.2")] {
        let answer = cluster.lab.sh(node, &format!("curl -sf -m 5 http://{target}:{port}/hostname"))?;
        ensure!(answer.starts_with("echo-"), "{answer}");
        cluster.lab.sh(node, &format!("curl -sf -m 5 http://{address}/hostname"))?;
    }
    let rules = cluster.lab.sh("node1", "iptables -t nat -L | grep web/echo")?;
    ensure!(!rules.is_empty());
    let records = kubectl.args(&["-n", "web", "exec", &pods[0].0, "--", "nslookup", "kubernetes.default.svc.cluster.local"])?;
    ensure!(records.contains("10.96.0.1"), "{records}");
    Ok(())
}

pub(crate) fn no_endpoints_refuses(cluster: &Cluster) -> Result<()> {
    let kubectl = &cluster.kubectl;
    let pods = pods(cluster)?;
    kubectl.run("-n web create service clusterip nobody --tcp=80:8080")?;
    let address = kubectl.field("-n web service nobody", ".spec.clusterIP")?;
    holds("a refusal", LIMIT, || {
        let answer = cluster.lab.sh("node1", &format!("curl -s -m 5 -o /dev/null http://{address}/; echo $?"))?;
        Ok(answer.trim() == "7")
    })?;
    let error =
        fetch(cluster, &pods[0].0, &format!("http://{address}/")).err().map(|error| error.to_string()).unwrap_or_default();
    ensure!(error.contains("refused"), "{error}");
    kubectl.run("-n web delete service nobody")?;
    Ok(())
}

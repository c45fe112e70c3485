//! Nodes, deployments, rollouts, configuration, probes, namespaces.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use tests::wait::{holds, until};

use crate::Cluster;

const LIMIT: Duration = Duration::from_secs(90);

pub(crate) fn nodes_are_ready(cluster: &Cluster) -> Result<()> {
    let table = cluster.kubectl.run("get nodes")?;
    let rows: Vec<Vec<&str>> = table.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
    ensure!(rows.len() == 2, "{table}");
    ensure!(rows[0][..3] == ["cp1", "Ready", "control-plane"], "{table}");
    ensure!(rows[1][..3] == ["node1", "Ready", "<none>"], "{table}");
    ensure!(rows.iter().all(|row| row[4] == component::version::current()), "{table}");
    ensure!(cluster.kubectl.field("node node1", ".status.addresses[?(@.type==\"InternalIP\")].address")? == "172.30.0.2");
    ensure!(cluster.kubectl.field("node cp1", ".spec.taints[0].key")? == "node-role.kubernetes.io/control-plane");
    let info = cluster.kubectl.run("cluster-info")?;
    ensure!(info.contains("control plane") && info.contains("is running at"), "{info}");
    Ok(())
}

pub(crate) fn deployment_spreads_scales_heals(cluster: &Cluster) -> Result<()> {
    let kubectl = &cluster.kubectl;
    kubectl.run("create namespace web")?;
    // Both nodes are to take pods; the drills need the taint no more.
    kubectl.run("taint node cp1 node-role.kubernetes.io/control-plane-")?;
    kubectl.args(&[
        "-n",
        "web",
        "create",
        "deployment",
        "echo",
        "--image",
        &cluster.image,
        "--replicas",
        "4",
        "--port",
        "8080",
    ])?;
    kubectl.run("-n web rollout status deployment/echo --timeout=90s")?;
    let nodes: BTreeSet<String> =
        kubectl.field("-n web pods -l app=echo", ".items[*].spec.nodeName")?.split_whitespace().map(str::to_owned).collect();
    ensure!(nodes.len() == 2, "pods on {nodes:?} only");
    let table = kubectl.run("-n web get pods")?;
    ensure!(table.lines().skip(1).all(|line| line.contains("1/1") && line.contains("Running")), "{table}");
    kubectl.run("-n web scale deployment/echo --replicas=6")?;
    kubectl.run("-n web rollout status deployment/echo --timeout=90s")?;
    kubectl.run("-n web scale deployment/echo --replicas=2")?;
    let pods = || -> Result<Vec<String>> {
        Ok(kubectl.field("-n web pods -l app=echo", ".items[*].metadata.name")?.split_whitespace().map(str::to_owned).collect())
    };
    holds("two pods left", LIMIT, || Ok(pods()?.len() == 2))?;
    let victim = pods()?.remove(0);
    kubectl.run(&format!("-n web delete pod {victim} --wait=false"))?;
    holds("another pod in its place", LIMIT, || {
        let now = pods()?;
        Ok(now.len() == 2 && !now.contains(&victim))
    })?;
    kubectl.run("-n web rollout status deployment/echo --timeout=90s")?;
    Ok(())
}

pub(crate) fn rollout_and_undo(cluster: &Cluster) -> Result<()> {
    let kubectl = &cluster.kubectl;
    kubectl.run("-n web set env deployment/echo GENERATION=two")?;
    kubectl.run("-n web rollout status deployment/echo --timeout=90s")?;
    // An image that is nowhere: the rollout stalls, the old pods keep serving.
    kubectl.args(&["-n", "web", "set", "image", "deployment/echo", "rk-test=registry.k8s.io/rk-test:v0.0.0-none"])?;
    until("a pod that waits for its image", LIMIT, || {
        let table = kubectl.run("-n web get pods")?;
        Ok((table.contains("ErrImage") || table.contains("ImagePullBackOff")).then_some(()))
    })?;
    let available: u32 = kubectl.field("-n web deployment echo", ".status.availableReplicas")?.parse()?;
    ensure!(available >= 1, "no pod serves during a stalled rollout");
    kubectl.run("-n web rollout undo deployment/echo")?;
    kubectl.run("-n web rollout status deployment/echo --timeout=90s")?;
    let image = kubectl.field("-n web deployment echo", ".spec.template.spec.containers[0].image")?;
    ensure!(image == cluster.image, "{image}");
    let history = kubectl.run("-n web rollout history deployment/echo")?;
    ensure!(
        history.contains("REVISION")
            && history.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_digit())).count() >= 2,
        "{history}"
    );
    Ok(())
}

pub(crate) fn configuration_reaches_pods(cluster: &Cluster) -> Result<()> {
    let kubectl = &cluster.kubectl;
    kubectl.run("-n web create configmap settings --from-literal=color=blue --from-literal=data-1=one")?;
    kubectl.run("-n web create secret generic keys --from-literal=password=s3cret")?;
    let manifest = include_str!("configured-pod.yaml").replace("@IMAGE@", &cluster.image);
    kubectl.feed("-n web apply -f -", &manifest)?;
    kubectl.run("-n web wait --for=condition=Ready pod/configured --timeout=90s")?;
    let sh = |script: &str| kubectl.args(&["-n", "web", "exec", "configured", "--", "sh", "-c", script]);
    ensure!(
        sh("echo $COLOR $PASSWORD $MY_NODE $EXPANDED")?.trim()
            == format!("blue s3cret {} color-is-blue", kubectl.field("-n web pod configured", ".spec.nodeName")?)
    );
    ensure!(sh("cat /config/color /secret/password /all/labels /all/settings/color")?.contains("blues3cret"), "files");
    ensure!(sh("stat -Lc %a /secret/password")?.trim() == "400");
    ensure!(sh("cat /var/run/secrets/kubernetes.io/serviceaccount/namespace")? == "web");
    ensure!(sh("cat /scratch/written")?.trim() == "by init");
    let denied = sh("echo x > /config/color").err().map(|error| error.to_string()).unwrap_or_default();
    ensure!(denied.contains("Read-only"), "{denied}");
    kubectl.args(&["-n", "web", "patch", "configmap", "settings", "-p", r#"{"data":{"color":"green"}}"#])?;
    holds("the new value in the volume", Duration::from_secs(150), || Ok(sh("cat /config/color")?.trim() == "green"))
}

pub(crate) fn probes_act(cluster: &Cluster) -> Result<()> {
    let kubectl = &cluster.kubectl;
    kubectl.feed("-n web apply -f -", &include_str!("probed.yaml").replace("@IMAGE@", &cluster.image))?;
    kubectl.run("-n web wait --for=condition=Ready pod/probed --timeout=90s")?;
    let endpoints = || kubectl.field("-n web endpoints probed", ".subsets[*].addresses[*].ip");
    holds("the pod among the endpoints", LIMIT, || Ok(!endpoints()?.is_empty()))?;
    let ask = |path: &str| {
        kubectl.args(&["-n", "web", "exec", "probed", "--", "wget", "-qO-", &format!("http://127.0.0.1:8080{path}")])
    };
    ask("/fail/readiness")?;
    holds("the pod out of the endpoints", LIMIT, || Ok(endpoints()?.is_empty()))?;
    ask("/heal/readiness")?;
    holds("the pod back in the endpoints", LIMIT, || Ok(!endpoints()?.is_empty()))?;
    ask("/fail/liveness")?;
    holds("a restart", LIMIT, || Ok(kubectl.field("-n web pod probed", ".status.containerStatuses[0].restartCount")? == "1"))?;
    let events = kubectl.run("-n web get events")?;
    ensure!(events.contains("Unhealthy") && events.contains("Killing"), "{events}");
    kubectl.run("-n web delete pod/probed service/probed")?;
    Ok(())
}

pub(crate) fn get_all(cluster: &Cluster) -> Result<()> {
    let text = cluster.kubectl.run("get all -A -o yaml")?;
    let list: serde_yaml::Value = serde_yaml::from_str(&text)?;
    let kinds: BTreeSet<&str> =
        list["items"].as_sequence().into_iter().flatten().filter_map(|item| item["kind"].as_str()).collect();
    for kind in ["Pod", "Service", "DaemonSet", "Deployment", "ReplicaSet"] {
        ensure!(kinds.contains(kind), "no {kind} among {kinds:?}");
    }
    Ok(())
}

pub(crate) fn namespace_removes_all(cluster: &Cluster) -> Result<()> {
    let kubectl = &cluster.kubectl;
    kubectl.run("delete namespace web --timeout=120s")?;
    ensure!(kubectl.fails("get namespace web")?.contains("NotFound"));
    let left = kubectl.run("get pods,replicasets,deployments,services,configmaps,secrets,endpoints -A -o name --field-selector=metadata.namespace=web");
    // Old kubectls cannot filter every kind on the server; then ask one by one.
    let left = left.unwrap_or_else(|_| kubectl.run("get pods -n web -o name").unwrap_or_default());
    ensure!(left.trim().is_empty(), "{left}");
    Ok(())
}

//! The node under stress: usage told, limits held, processes killed at any moment, and nothing left behind.

use std::time::Duration;

use anyhow::{Result, ensure};
use tests::wait::{holds, until};

use crate::Cluster;

const LIMIT: Duration = Duration::from_secs(120);

pub(crate) fn usage_is_told(cluster: &Cluster) -> Result<()> {
    let kubectl = &cluster.kubectl;
    let nodes = kubectl.run("top nodes --no-headers")?;
    ensure!(nodes.contains("cp1") && nodes.contains("node1"), "{nodes}");
    ensure!(kubectl.run("top pods -n kube-system --no-headers --containers")?.contains("kube-apiserver"));
    ensure!(kubectl.field("apiservice v1beta1.metrics.k8s.io", ".status.conditions[0].status")? == "True");
    ensure!(kubectl.fails("get podmetrics nobody -n kube-system")?.contains("not found"));
    kubectl.run("-n kube-system autoscale deployment coredns --min=2 --max=3 --cpu-percent=80")?;
    let active = until("the autoscaler has its metric", LIMIT, || {
        let status = kubectl.field("-n kube-system hpa coredns", ".status.conditions[?(@.type==\"ScalingActive\")].status")?;
        Ok((!status.is_empty()).then_some(status))
    });
    let told = kubectl.run("-n kube-system get hpa coredns --no-headers")?;
    kubectl.run("-n kube-system delete hpa coredns")?;
    ensure!(active? == "True", "{told}");
    for (path, name) in [
        ("metrics", "kubelet_running_pods"),
        ("metrics", "kubelet_runtime_operations_total{operation_type=\"list_containers\"}"),
        ("metrics/resource", "container_memory_working_set_bytes{container=\"kube-apiserver\""),
        ("metrics/cadvisor", "container_network_receive_bytes_total{container=\"\""),
        ("metrics/probes", "prober_probe_total{container=\"coredns\""),
        ("stats/summary", "\"usageNanoCores\""),
        ("configz", "\"kubeletconfig\""),
    ] {
        let page = kubectl.run(&format!("get --raw /api/v1/nodes/cp1/proxy/{path}"))?;
        ensure!(page.contains(name), "/{path} has no {name}");
    }
    Ok(())
}

/// A pod on node1; `spec` is the rest of its specification in JSON, `container` that of its container.
fn pod(cluster: &Cluster, name: &str, container: &str, spec: &str) -> Result<()> {
    let manifest = format!(
        r#"{{"apiVersion": "v1", "kind": "Pod", "metadata": {{"name": "{name}"}}, "spec": {{"nodeName": "node1", "terminationGracePeriodSeconds": 1,
            "containers": [{{"name": "c", "image": "{}"{container}}}]{spec}}}}}"#,
        cluster.image
    );
    cluster.kubectl.feed("apply -f -", &manifest)?;
    Ok(())
}

pub(crate) fn limits_are_held(cluster: &Cluster) -> Result<()> {
    let kubectl = &cluster.kubectl;
    pod(cluster, "too-large", r#", "resources": {"requests": {"cpu": "1000"}}"#, "")?;
    holds("the pod that does not fit is refused", LIMIT, || Ok(kubectl.field("pod too-large", ".status.reason")? == "OutOfcpu"))?;
    pod(
        cluster,
        "overfull",
        r#", "volumeMounts": [{"name": "v", "mountPath": "/v"}]"#,
        r#", "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}]"#,
    )?;
    kubectl.run("wait --for=condition=Ready pod/overfull --timeout=60s")?;
    let uid = kubectl.field("pod overfull", ".metadata.uid")?;
    let dir = format!("/var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~empty-dir/v");
    cluster.lab.sh("node1", &format!("head -c 3000000 /dev/zero > {dir}/big"))?;
    holds("the pod with too much on disk is evicted", LIMIT, || {
        Ok(kubectl.field("pod overfull", ".status.reason")? == "Evicted")
    })?;
    ensure!(kubectl.field("pod overfull", ".status.phase")? == "Failed");
    let message = kubectl.field("pod overfull", ".status.message")?;
    ensure!(message == "Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". ", "{message}");
    kubectl.run("delete pod too-large overfull")?;
    Ok(())
}

pub(crate) fn kills_at_any_moment(cluster: &Cluster) -> Result<()> {
    let kubectl = &cluster.kubectl;
    const PODS: usize = 12;
    let names: Vec<String> = (0..PODS).map(|index| format!("killed-{index}")).collect();
    let kill = |program: &str| cluster.lab.sh("node1", &format!("kill -9 $(pgrep -xo {program}) || true"));
    for (index, name) in names.iter().enumerate() {
        pod(cluster, name, "", r#", "volumes": [{"name": "v", "emptyDir": {"medium": "Memory"}}]"#)?;
        match index {
            3 | 7 => drop(kill("kubelet")?),
            5 => drop(kill("containerd")?),
            _ => {}
        }
    }
    let listed = names.join(" ");
    let running = || kubectl.field(&format!("pods {listed}"), ".items[*].status.phase");
    holds("all pods run", LIMIT * 2, || Ok(running()?.split_whitespace().filter(|phase| *phase == "Running").count() == PODS))?;
    let ids = kubectl.field(&format!("pods {listed}"), ".items[*].status.containerStatuses[*].containerID")?;
    kill("containerd")?;
    kill("kubelet")?;
    holds("the kubelet's health", LIMIT, || Ok(cluster.lab.sh("node1", "curl -sf http://127.0.0.1:10248/healthz").is_ok()))?;
    // A pod made now starts, so that both are back; nobody else was disturbed.
    pod(cluster, "after-kill", "", "")?;
    kubectl.run("wait --for=condition=Ready pod/after-kill --timeout=120s")?;
    let now = kubectl.field(&format!("pods {listed}"), ".items[*].status.containerStatuses[*].containerID")?;
    ensure!(ids == now, "containers were restarted: {ids} then {now}");
    // On their way out too.
    kubectl.run(&format!("delete pod after-kill {listed} --wait=false"))?;
    kill("kubelet")?;
    kill("containerd")?;
    holds("all pods are gone", LIMIT * 2, || Ok(!kubectl.run("get pods -o name")?.contains("kill")))
}

pub(crate) fn many_containers(cluster: &Cluster) -> Result<()> {
    let kubectl = &cluster.kubectl;
    const CONTAINERS: usize = 40;
    let more: String = (0..CONTAINERS)
        .map(|index| {
            let port = 9000 + index;
            format!(r#", {{"name": "m{index}", "image": "{}", "command": ["rk-test", "--http={port}"]}}"#, cluster.image)
        })
        .collect();
    let manifest = format!(
        r#"{{"apiVersion": "v1", "kind": "Pod", "metadata": {{"name": "many"}}, "spec": {{"nodeName": "node1", "terminationGracePeriodSeconds": 1,
            "containers": [{{"name": "c", "image": "{}"}}{more}]}}}}"#,
        cluster.image
    );
    kubectl.feed("apply -f -", &manifest)?;
    kubectl.run("wait --for=condition=Ready pod/many --timeout=180s")?;
    let ready = kubectl.field("pod many", ".status.containerStatuses[*].ready")?;
    ensure!(ready.split_whitespace().filter(|word| *word == "true").count() == CONTAINERS + 1, "{ready}");
    kubectl.run("delete pod many --timeout=120s")?;
    Ok(())
}

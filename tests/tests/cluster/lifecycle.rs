//! What becomes of pods that a node refuses, restarts by rule, resizes in place, probes by gRPC or pulls with a password.

use std::time::Duration;

use anyhow::{Result, ensure};
use tests::wait::{holds, until};

use crate::Cluster;

const LIMIT: Duration = Duration::from_secs(90);

pub(crate) fn refusals_say_why(cluster: &Cluster) -> Result<()> {
    let kubectl = &cluster.kubectl;
    kubectl.run("create namespace refused")?;
    kubectl.feed("-n refused apply -f -", &include_str!("refused.yaml").replace("@IMAGE@", &cluster.image))?;
    for (pod, reason, words) in [
        ("sysctl", "SysctlForbidden", "forbidden sysctl: \"kernel.msgmax\" not allowlisted"),
        ("elsewhere", "NodeAffinity", "didn't match Pod's node affinity/selector"),
    ] {
        holds(&format!("pod {pod} is refused"), LIMIT, || {
            Ok(kubectl.field(&format!("-n refused pod {pod}"), ".status.phase")? == "Failed")
        })?;
        ensure!(kubectl.field(&format!("-n refused pod {pod}"), ".status.reason")? == reason);
        let message = kubectl.field(&format!("-n refused pod {pod}"), ".status.message")?;
        ensure!(message.starts_with("Pod was rejected: ") && message.contains(words), "{message}");
        let row = kubectl.run(&format!("-n refused get pod {pod} --no-headers"))?;
        ensure!(row.contains(reason), "{row}");
    }
    until("the container that would run as root waits", LIMIT, || {
        let state = kubectl.field("-n refused pod root", ".status.containerStatuses[0].state.waiting")?;
        let told = state.contains("CreateContainerConfigError")
            && state.contains("container has runAsNonRoot and image will run as root");
        Ok(told.then_some(()))
    })?;
    holds("a container with a rule is restarted, then succeeds", LIMIT, || {
        Ok(kubectl.field("-n refused pod ruled", ".status.phase")? == "Succeeded")
    })?;
    ensure!(kubectl.field("-n refused pod ruled", ".status.containerStatuses[0].restartCount")? == "1");
    holds("the deadline passes", LIMIT, || Ok(kubectl.field("-n refused pod late", ".status.reason")? == "DeadlineExceeded"))?;
    kubectl.run("delete namespace refused --timeout=120s")?;
    Ok(())
}

pub(crate) fn resize_in_place(cluster: &Cluster) -> Result<()> {
    let kubectl = &cluster.kubectl;
    kubectl.run("create namespace resize")?;
    kubectl.feed("-n resize apply -f -", &include_str!("resized.yaml").replace("@IMAGE@", &cluster.image))?;
    kubectl.run("-n resize wait --for=condition=Ready pod/sized --timeout=90s")?;
    let status = |path: &str| kubectl.field("-n resize pod sized", &format!(".status.containerStatuses[0].{path}"));
    // The subresource is patched by path: older kubectls do not know it by name.
    let resize = |resources: &str| {
        let patch = format!(r#"{{"spec":{{"containers":[{{"name":"main","resources":{resources}}}]}}}}"#);
        cluster.lab.sh(
            "cp1",
            &format!(
                "for part in certificate key; do grep client-$part-data /etc/kubernetes/admin.conf | awk '{{print $2}}' \\\n\
                 | base64 -d > /tmp/admin.$part; done\n\
                 curl -sSf --cacert /etc/kubernetes/pki/ca.crt --cert /tmp/admin.certificate --key /tmp/admin.key -X PATCH \\\n\
                 -H 'Content-Type: application/strategic-merge-patch+json' -d '{patch}' \\\n\
                 https://172.30.0.1:6443/api/v1/namespaces/resize/pods/sized/resize"
            ),
        )
    };
    resize(r#"{"requests":{"cpu":"150m"},"limits":{"cpu":"300m"}}"#)?;
    holds("the new limit in the status", LIMIT, || Ok(status("resources.limits.cpu")? == "300m"))?;
    ensure!(status("restartCount")? == "0" && status("allocatedResources.cpu")? == "150m");
    resize(r#"{"requests":{"memory":"48Mi"},"limits":{"memory":"96Mi"}}"#)?;
    holds("a restart for the memory", LIMIT, || {
        Ok(status("restartCount")? == "1" && status("resources.limits.memory").is_ok_and(|limit| limit == "96Mi"))
    })?;
    resize(r#"{"requests":{"cpu":"1000"},"limits":{"cpu":"1000"}}"#)?;
    let pending = || kubectl.field("-n resize pod sized", ".status.conditions[?(@.type==\"PodResizePending\")].reason");
    holds("what no node has is infeasible", LIMIT, || Ok(pending()? == "Infeasible"))?;
    ensure!(status("resources.limits.cpu")? == "300m");
    resize(r#"{"requests":{"cpu":"150m"},"limits":{"cpu":"300m"}}"#)?;
    holds("the condition passes with the wish", LIMIT, || Ok(pending()?.is_empty()))?;
    kubectl.run("delete namespace resize --timeout=120s")?;
    Ok(())
}

pub(crate) fn grpc_and_passwords(cluster: &Cluster) -> Result<()> {
    let kubectl = &cluster.kubectl;
    kubectl.run("create namespace node-test")?;
    kubectl.feed("-n node-test apply -f -", &include_str!("registry.yaml").replace("@IMAGE@", &cluster.image))?;
    kubectl.run("-n node-test wait --for=condition=Ready pod/well pod/registry --timeout=90s")?;
    until("the ill service is not ready, and says so", LIMIT, || {
        let events = kubectl.run("-n node-test get events")?;
        Ok(events.contains("service unhealthy (responded with \"NOT_SERVING\")").then_some(()))
    })?;
    ensure!(kubectl.field("-n node-test pod ill", ".status.containerStatuses[0].ready")? == "false");
    kubectl.args(&["-n", "node-test", "exec", "well", "--", "touch", "/tmp/ill"])?;
    holds("a failing liveness probe restarts", LIMIT, || {
        Ok(kubectl.field("-n node-test pod well", ".status.containerStatuses[0].restartCount")? != "0")
    })?;

    kubectl.run("-n node-test create secret docker-registry pull --docker-server=127.0.0.1:5000 --docker-username=me --docker-password=secret")?;
    let pod = |name: &str, secrets: &str| {
        format!(
            r#"{{"apiVersion": "v1", "kind": "Pod", "metadata": {{"name": "{name}"}}, "spec": {{"nodeName": "node1", "terminationGracePeriodSeconds": 1,
             "imagePullSecrets": {secrets}, "containers": [{{"name": "main", "image": "127.0.0.1:5000/tests/{name}:1"}}]}}}}"#
        )
    };
    kubectl.feed("-n node-test apply -f -", &pod("stranger", "[]"))?;
    kubectl.feed("-n node-test apply -f -", &pod("friend", r#"[{"name": "pull"}]"#))?;
    kubectl.run("-n node-test wait --for=condition=Ready pod/friend --timeout=90s")?;
    let reason = || kubectl.field("-n node-test pod stranger", ".status.containerStatuses[0].state.waiting.reason");
    holds("no password, no image", LIMIT, || Ok(reason()? == "ImagePullBackOff"))?;
    // It comes by another way: the wait is over at once, however long it was to be.
    cluster.lab.sh("node1", "ctr -n k8s.io images tag 127.0.0.1:5000/tests/friend:1 127.0.0.1:5000/tests/stranger:1")?;
    kubectl.run("-n node-test wait --for=condition=Ready pod/stranger --timeout=60s")?;
    kubectl.run("delete namespace node-test --timeout=120s")?;
    Ok(())
}

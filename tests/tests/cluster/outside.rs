//! Ways in from outside: LoadBalancer Services on the nodes' addresses, Ingress.

use std::time::Duration;

use anyhow::{Result, ensure};
use tests::wait::until;

use crate::Cluster;

const LIMIT: Duration = Duration::from_secs(60);

/// The worker's address: control planes are spared, as kubeadm's label on them says.
fn worker(cluster: &Cluster) -> Result<String> {
    cluster.kubectl.field("node node1", ".status.addresses[?(@.type==\"InternalIP\")].address")
}

pub(crate) fn load_balancers_have_the_nodes_addresses(cluster: &Cluster) -> Result<()> {
    let kubectl = &cluster.kubectl;
    kubectl.run("-n web expose deployment/echo --name=balanced --type=LoadBalancer --port=8088 --target-port=8080")?;
    let address = worker(cluster)?;
    until("the node's address in the service's status", LIMIT, || {
        let ips = kubectl.field("-n web service balanced", ".status.loadBalancer.ingress[*].ip")?;
        Ok((ips.trim() == address.trim()).then_some(()))
    })?;
    ensure!(kubectl.run("-n web get service balanced")?.contains(&address), "kubectl get shows the address");
    // From another host, as a machine outside would, and from the node itself.
    for from in ["cp1", "node1"] {
        let url = format!("curl -sf -m 5 http://{address}:8088/hostname");
        let answer = until("an answer by the node's address", LIMIT, || Ok(cluster.lab.sh(from, &url).ok()))?;
        ensure!(answer.starts_with("echo-"), "{answer}");
    }
    // The port is taken now: a second service is told so.
    kubectl.run("-n web expose deployment/echo --name=late --type=LoadBalancer --port=8088 --target-port=8080")?;
    until("an event about the taken port", LIMIT, || {
        let events = kubectl.run("-n web events --for service/late")?;
        Ok(events.contains("port 8088/TCP of the nodes is taken by service web/balanced").then_some(()))
    })?;
    kubectl.run("-n web delete service late")?;
    Ok(())
}

pub(crate) fn ingress_routes(cluster: &Cluster) -> Result<()> {
    let kubectl = &cluster.kubectl;
    cluster.lab.sh("cp1", "rkadm init phase addon ingress")?;
    kubectl.run("-n kube-system rollout status deployment/rk-ingress --timeout=90s")?;
    let key = "openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=secure.test -addext subjectAltName=DNS:secure.test";
    cluster.lab.sh("cp1", &format!("cd /root && {key} -keyout secure.key -out secure.crt 2>/dev/null"))?;
    let create = "kubectl --kubeconfig /etc/kubernetes/admin.conf -n web create secret tls secure --cert=/root/secure.crt --key=/root/secure.key";
    cluster.lab.sh("cp1", create)?;
    kubectl.feed("apply -f -", include_str!("ingress.yaml"))?;
    let address = worker(cluster)?;
    until("the address in the Ingress's status", LIMIT, || {
        let ips = kubectl.field("-n web ingress echo", ".status.loadBalancer.ingress[*].ip")?;
        Ok(ips.split_whitespace().any(|ip| ip == address).then_some(()))
    })?;
    let curl = |arguments: &str| cluster.lab.sh("node1", &format!("curl -s -m 5 {arguments}"));
    let http = format!("--resolve echo.test:80:{address} http://echo.test");
    let answer = until("an answer through the Ingress", LIMIT, || {
        Ok(curl(&format!("-f {http}/app/hostname")).ok().filter(|answer| answer.starts_with("echo-")))
    })?;
    ensure!(answer.starts_with("echo-"), "{answer}");
    let code = |arguments: &str| curl(&format!("-o /dev/null -w %{{http_code}} {arguments}"));
    ensure!(code(&format!("{http}/other"))? == "404", "a path without a rule");
    ensure!(code(&format!("http://{address}/app"))? == "404", "a host without a rule");
    let secure = format!("--resolve secure.test:443:{address} --resolve secure.test:80:{address}");
    ensure!(code(&format!("{secure} http://secure.test/hostname"))? == "308", "HTTP goes to HTTPS");
    let certificate = cluster.lab.sh("cp1", "cat /root/secure.crt")?;
    cluster.lab.sh("node1", &format!("echo '{certificate}' >/root/secure.crt"))?;
    let answer = curl(&format!("-f --cacert /root/secure.crt {secure} https://secure.test/hostname"))?;
    ensure!(answer.starts_with("echo-"), "by HTTPS with the secret's certificate: {answer}");
    for object in ["service/rk-ingress", "deployment/rk-ingress"] {
        kubectl.run(&format!("-n kube-system delete {object}"))?;
    }
    kubectl.run("delete ingressclass rk nginx")?;
    kubectl.run("-n web delete ingress/echo secret/secure service/balanced")?;
    Ok(())
}

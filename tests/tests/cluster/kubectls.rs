//! Old and new kubectls.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::Cluster;

/// Debian 12's kubectl (1.20, validates with the OpenAPI v2 protobuf form) fetched without installing it, and others that are here.
fn kubectls(dir: &std::path::Path) -> Result<Vec<PathBuf>> {
    let script = "apt-get download kubernetes-client >/dev/null 2>&1 || { apt-get update -qq && apt-get download kubernetes-client >/dev/null; } \
                  && dpkg-deb -x kubernetes-client_*.deb .";
    let status = Command::new("sh").args(["-c", script]).current_dir(dir).status()?;
    ensure!(status.success(), "apt-get download kubernetes-client failed");
    let old = dir.join("usr/bin/kubectl");
    ensure!(old.exists(), "no kubectl in Debian's package");
    let mut found = vec![old];
    for base in ["/usr/lib/google-cloud-sdk/bin"] {
        let mut here: Vec<PathBuf> = std::fs::read_dir(base)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("kubectl.1.")))
            .collect();
        here.sort();
        found.extend(here.first().cloned());
        found.extend(here.last().cloned().filter(|last| Some(last) != here.first()));
    }
    Ok(found)
}

pub(crate) fn tour_with_every_kubectl(cluster: &Cluster) -> Result<()> {
    let dir = tempfile::tempdir()?;
    for (index, program) in kubectls(dir.path())?.into_iter().enumerate() {
        let kubectl = cluster.lab.kubectl_of(program.clone());
        tour(cluster, &kubectl, &format!("tour{index}")).with_context(|| format!("with {}", program.display()))?;
    }
    Ok(())
}

fn tour(cluster: &Cluster, kubectl: &tests::kubectl::Kubectl, namespace: &str) -> Result<()> {
    kubectl.run(&format!("create namespace {namespace}"))?;
    let manifest = include_str!("tour.yaml").replace("@IMAGE@", &cluster.image);
    let run = |line: &str| kubectl.run(&format!("-n {namespace} {line}"));
    // Client-side validation is on by default: the document must be good enough to accept this, and to refuse a typo.
    kubectl.feed(&format!("-n {namespace} apply -f -"), &manifest)?;
    let typo = manifest.replace("replicas:", "replicaz:");
    let refused =
        kubectl.feed(&format!("-n {namespace} apply -f -"), &typo).err().map(|error| error.to_string()).unwrap_or_default();
    ensure!(refused.contains("replicaz"), "{refused}");
    run("rollout status deployment/tour --timeout=90s")?;
    ensure!(run("get pods -o wide")?.contains("Running"));
    ensure!(run("describe deployment tour")?.contains("NewReplicaSet"));
    ensure!(run("explain deployment.spec.replicas")?.contains("replicas"));
    run("label deployment tour owner=me")?;
    run("annotate deployment tour note=kept")?;
    run("scale deployment tour --replicas=2")?;
    run("rollout status deployment/tour --timeout=90s")?;
    ensure!(kubectl.run("api-resources")?.contains("deployments"));
    ensure!(run("auth can-i create pods")?.trim() == "yes");
    let pod = kubectl.field(&format!("-n {namespace} pods -l app=tour"), ".items[0].metadata.name")?;
    ensure!(run(&format!("exec {pod} -- hostname"))?.trim() == pod);
    run(&format!("logs {pod}"))?;
    run("apply view-last-applied deployment/tour")?;
    kubectl.feed(&format!("-n {namespace} delete -f -"), &manifest)?;
    kubectl.run(&format!("delete namespace {namespace} --timeout=120s"))?;
    Ok(())
}

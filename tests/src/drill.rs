//! What administrators practise, from start to end in lab hosts, with the lines that they type.
//!
//! The cluster tests run the short ones in their own lab; `make drills` runs all, each in a fresh lab of its own.

pub mod certificates;
pub mod control_planes;
pub mod etcd;
pub mod power;
pub mod upgrade;

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::lab::Lab;
use crate::wait::{holds, until};

/// For whatever a cluster does by itself.
pub const LIMIT: Duration = Duration::from_secs(180);
/// What an administrator sets first.
pub const ADMIN: &str = "export KUBECONFIG=/etc/kubernetes/admin.conf ETCDCTL_API=3;";
/// The certificates that etcdctl wants, as in everybody's notes.
pub const ETCD_FLAGS: &str = "--endpoints=https://127.0.0.1:2379 --cacert=/etc/kubernetes/pki/etcd/ca.crt \
    --cert=/etc/kubernetes/pki/etcd/server.crt --key=/etc/kubernetes/pki/etcd/server.key";

/// Until every node is Ready, by the word of a control-plane host.
///
/// # Errors
/// They are not within [`LIMIT`].
pub fn nodes_ready(lab: &Lab, host: &str, count: usize) -> Result<()> {
    let query = r#"kubectl get nodes -o jsonpath='{range .items[*]}{.status.conditions[?(@.type=="Ready")].status} {end}'"#;
    holds("all nodes ready", LIMIT, || {
        let text = lab.sh(host, &format!("{ADMIN} timeout 10 {query}"))?;
        Ok(text.split_whitespace().filter(|word| *word == "True").count() == count)
    })
}

/// Until a deployment has exactly so many running pods.
///
/// # Errors
/// It has not within [`LIMIT`].
pub fn pods_run(lab: &Lab, host: &str, app: &str, count: usize) -> Result<()> {
    let query = format!("kubectl get pods -l app={app} --field-selector status.phase=Running -o name");
    until(&format!("{count} pods of {app}"), LIMIT, || {
        let text = lab.sh(host, &format!("{ADMIN} timeout 10 {query}"))?;
        Ok((text.lines().count() == count).then_some(()))
    })
}

/// Containers of the test image that run on a host.
///
/// # Errors
/// `ctr` fails there.
pub fn test_containers(lab: &Lab, host: &str) -> Result<usize> {
    let text = lab.sh(host, "ctr -n k8s.io tasks ls | grep RUNNING | cut -d' ' -f1 | sort > /tmp/r; ctr -n k8s.io c ls | grep /rk-test: | cut -d' ' -f1 | sort | comm -12 - /tmp/r")?;
    Ok(text.lines().count())
}

/// A deployment of the test image, running.
///
/// # Errors
/// It does not roll out.
pub fn deploy(lab: &Lab, host: &str, app: &str, replicas: usize) -> Result<()> {
    let image = format!("registry.k8s.io/rk-test:{}", component::version::current());
    lab.sh(host, &format!("{ADMIN} kubectl create deployment {app} --image={image} --replicas={replicas}"))?;
    lab.sh(host, &format!("{ADMIN} kubectl rollout status deployment/{app} --timeout=120s")).map(drop)
}

/// Runs a command that must fail; what it said.
///
/// # Errors
/// It succeeded.
pub fn fails(lab: &Lab, host: &str, script: &str) -> Result<String> {
    let output = lab.sh(host, &format!("{{ {script}; }} 2>&1; echo exit=$?"))?;
    ensure!(!output.contains("exit=0"), "{script} succeeded: {output}");
    Ok(output)
}

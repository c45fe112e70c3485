//! The APIService of every group and version that this server itself serves: local, available, and there again when removed.
//!
//! Upstream: pkg/controlplane/apiserver/aggregator.go, kube-aggregator/pkg/controllers/autoregister

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use api::lister::Lister;
use api::status::Status;
use serde_json::{Value, json};

use super::{change, ensure};
use crate::server::Server;

const GROUP: &str = "apiregistration.k8s.io";
const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";
/// Between looks.
const INTERVAL: Duration = Duration::from_secs(10);

/// Groups by their rank in `kubectl api-resources`. Upstream: DefaultGenericAPIServicePriorities and CreateAggregatorConfig.
const GROUPS: &[(&str, u32)] = &[
    ("", 18000),
    ("apps", 17800),
    ("events.k8s.io", 17750),
    ("authentication.k8s.io", 17700),
    ("authorization.k8s.io", 17600),
    ("autoscaling", 17500),
    ("batch", 17400),
    ("certificates.k8s.io", 17300),
    ("networking.k8s.io", 17200),
    ("policy", 17100),
    ("rbac.authorization.k8s.io", 17000),
    ("storage.k8s.io", 16800),
    ("apiextensions.k8s.io", 16700),
    ("admissionregistration.k8s.io", 16700),
    ("scheduling.k8s.io", 16600),
    ("coordination.k8s.io", 16500),
    ("node.k8s.io", 16300),
    ("discovery.k8s.io", 16200),
    ("flowcontrol.apiserver.k8s.io", 16100),
    ("internal.apiserver.k8s.io", 16000),
    ("resource.k8s.io", 15900),
    ("storagemigration.k8s.io", 15800),
];

/// The rank of a version within its group.
fn version_priority(group: &str, version: &str) -> u32 {
    match (group, version) {
        ("", _) => 1,
        ("autoscaling", "v2") => 30,
        ("flowcontrol.apiserver.k8s.io", "v1") => 21,
        ("resource.k8s.io", "v1") => 20,
        ("resource.k8s.io", "v1beta2") => 15,
        ("admissionregistration.k8s.io" | "discovery.k8s.io", "v1beta1") => 12,
        ("coordination.k8s.io", "v1beta1") => 13,
        ("events.k8s.io", "v1beta1") => 5,
        (_, version) if version.contains("alpha") => 1,
        (_, version) if version.contains("beta") => 9,
        _ => 15,
    }
}

/// The APIServices that must be there.
fn wanted(served: impl Iterator<Item = (String, String)>) -> Vec<Value> {
    let versions: BTreeSet<(String, String)> = served.collect();
    versions
        .into_iter()
        .filter_map(|(group, version)| {
            let (_, rank) = GROUPS.iter().find(|(name, _)| *name == group)?;
            let mut spec = json!({
                "version": version, "groupPriorityMinimum": rank, "versionPriority": version_priority(&group, &version),
            });
            if !group.is_empty() {
                spec["group"] = group.as_str().into();
            }
            Some(json!({
                "metadata": {"name": format!("{version}.{group}"), "labels": {MANAGED: "onstart"}}, "spec": spec,
            }))
        })
        .collect()
}

/// Makes those that are missing, and puts right those that were bent.
///
/// # Errors
/// Those of the writes.
pub(super) async fn keep(server: &Arc<Server>) -> Result<(), Status> {
    let table = server.table.load_full();
    let served = table.all().iter().map(|served| (served.group().to_owned(), served.resource.names.version.clone()));
    for object in wanted(served) {
        let name = object["metadata"]["name"].as_str().unwrap_or("").to_owned();
        match server.caches.get(GROUP, "apiservices", "", &name) {
            None => ensure(server, GROUP, "apiservices", object).await?,
            Some(have) if have["metadata"]["labels"][MANAGED] == "onstart" && have["spec"] != object["spec"] => {
                let make = |old: &Value| {
                    let mut new = old.clone();
                    new["spec"] = object["spec"].clone();
                    new
                };
                change(server, GROUP, "apiservices", "", &name, make).await?;
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// Keeps them until dropped.
pub(super) async fn run(server: Arc<Server>) {
    loop {
        if let Err(error) = keep(&server).await {
            tracing::debug!(err = %error, "Failed to keep the APIServices");
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_served_version_has_one() {
        let pairs = [("", "v1"), ("", "v1"), ("autoscaling", "v1"), ("autoscaling", "v2"), ("apiregistration.k8s.io", "v1")];
        let made = wanted(pairs.into_iter().map(|(group, version)| (group.to_owned(), version.to_owned())));
        let names: Vec<&str> = made.iter().map(|object| object["metadata"]["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["v1.", "v1.autoscaling", "v2.autoscaling"]);
        assert_eq!(
            made[2]["spec"],
            json!({"group": "autoscaling", "version": "v2", "groupPriorityMinimum": 17500, "versionPriority": 30})
        );
    }

    #[test]
    fn every_group_that_is_served_by_default_has_a_rank() {
        for resource in registry::everything() {
            let names = &resource.names;
            let known = GROUPS.iter().any(|(group, _)| *group == names.group) || names.group == GROUP;
            assert!(known || !registry::names::served_by_default(&names.version), "{} has no rank", names.group);
        }
    }
}

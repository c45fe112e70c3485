//! The node's heartbeat. Upstream: component-helpers/apimachinery/lease

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, OwnerReference};
use kube::Api;
use kube::api::PostParams;

use crate::kubelet::Shared;
use crate::objects::message;

const NAMESPACE: &str = "kube-node-lease";

/// Renews until the tasks stop.
pub async fn run(kubelet: Shared) {
    let Some(api) = kubelet.api.clone() else { return };
    let name = kubelet.config.node_name.clone();
    let seconds = kubelet.config.kubelet.node_lease_duration_seconds;
    // Upstream: nodeLeaseRenewIntervalFraction.
    let interval = Duration::from_secs_f64(f64::from(seconds) * 0.25);
    let leases = Api::<Lease>::namespaced(api.clone(), NAMESPACE);
    let mut held: Option<Lease> = None;
    loop {
        let mut wait = interval.mul_f64(1.0 + 0.04 * f64::from(rand::random::<u8>()) / 255.0);
        match renew(&leases, &api, &name, seconds, held.take()).await {
            Ok(lease) => held = Some(lease),
            Err(error) => {
                tracing::debug!(err = message(&error), "Failed to renew node lease");
                wait = Duration::from_millis(500).min(interval);
            }
        }
        tokio::time::sleep(wait).await;
    }
}

async fn renew(
    leases: &Api<Lease>,
    api: &kube::Client,
    name: &str,
    seconds: i32,
    held: Option<Lease>,
) -> Result<Lease, kube::Error> {
    let spec = LeaseSpec {
        holder_identity: Some(name.to_owned()),
        lease_duration_seconds: Some(seconds),
        renew_time: Some(MicroTime(Timestamp::now())),
        ..Default::default()
    };
    let existing = match held {
        Some(lease) => Some(lease),
        None => leases.get_opt(name).await?,
    };
    match existing {
        Some(mut lease) => {
            lease.spec = Some(spec);
            leases.replace(name, &PostParams::default(), &lease).await
        }
        None => {
            let node = Api::<Node>::all(api.clone()).get_opt(name).await?;
            let owner = node.and_then(|node| node.metadata.uid).map(|uid| OwnerReference {
                api_version: "v1".into(),
                kind: "Node".into(),
                name: name.to_owned(),
                uid,
                ..Default::default()
            });
            let mut lease = Lease { spec: Some(spec), ..Default::default() };
            lease.metadata.name = Some(name.to_owned());
            lease.metadata.namespace = Some(NAMESPACE.to_owned());
            lease.metadata.owner_references = owner.map(|owner| vec![owner]);
            leases.create(&PostParams::default(), &lease).await
        }
    }
}

//! Declares ServiceCIDRs ready, and keeps those alive from which Services still have addresses.
//!
//! Upstream: pkg/controller/servicecidrs

use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::ResourceExt;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

use crate::api_error;
use crate::context::{Change, Context, Requeue, Store};
use crate::key::Key;

const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";

pub async fn start(ctx: Context) -> anyhow::Result<()> {
    let (cidrs, addresses, queue) = (ctx.store::<ServiceCIDR>(), ctx.store::<IPAddress>(), ctx.queue());
    cidrs.feed(&queue);
    let (feed, all) = (queue.clone(), cidrs.clone());
    addresses.on_change(move |change| {
        if matches!(change, Change::Deleted(_)) {
            all.list()
                .iter()
                .filter(|cidr| cidr.metadata.deletion_timestamp.is_some())
                .for_each(|cidr| feed.add(Key::of(cidr.as_ref())));
        }
    });
    cidrs.synced().await;
    addresses.synced().await;
    let this = ctx.clone();
    ctx.run(&queue, 1, move |key| {
        let (ctx, cidrs, addresses) = (this.clone(), cidrs.clone(), addresses.clone());
        async move { sync(&ctx, &cidrs, &addresses, &key).await }
    });
    Ok(())
}

async fn sync(ctx: &Context, cidrs: &Store<ServiceCIDR>, addresses: &Store<IPAddress>, key: &Key) -> anyhow::Result<Requeue> {
    let Some(cidr) = cidrs.get(key) else { return Ok(Requeue::No) };
    let api = ctx.cluster::<ServiceCIDR>();
    let protected = cidr.finalizers().iter().any(|finalizer| finalizer == FINALIZER);
    if cidr.metadata.deletion_timestamp.is_none() {
        if !protected {
            let patch = json!({"metadata": {"finalizers": [FINALIZER]}});
            api_error::ignore_not_found(api.patch(&key.name, &PatchParams::default(), &Patch::Strategic(&patch)).await)?;
        }
        return set_ready(ctx, &cidr, "True", "", "Kubernetes Service CIDR is ready").await;
    }
    if !protected {
        return Ok(Requeue::No);
    }
    let used: Vec<IpAddr> = addresses.list().iter().filter_map(|address| address.name_any().parse().ok()).collect();
    let others: Vec<_> = cidrs
        .list()
        .into_iter()
        .filter(|other| other.name_any() != key.name && other.metadata.deletion_timestamp.is_none())
        .collect();
    let covered: Vec<IpNet> = others.iter().flat_map(|other| ranges(other)).collect();
    if is_needed(&ranges(&cidr), &covered, &used) {
        let message = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";
        return set_ready(ctx, &cidr, "False", "Terminating", message).await;
    }
    let patch = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": [FINALIZER]}});
    api_error::ignore_not_found(api.patch(&key.name, &PatchParams::default(), &Patch::Strategic(&patch)).await)?;
    Ok(Requeue::No)
}

fn ranges(cidr: &ServiceCIDR) -> Vec<IpNet> {
    let texts = cidr.spec.as_ref().and_then(|spec| spec.cidrs.as_deref()).unwrap_or_default();
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

/// Whether an address of these ranges is used that no other range would cover.
fn is_needed(own: &[IpNet], others: &[IpNet], used: &[IpAddr]) -> bool {
    let within = |ranges: &[IpNet], ip: &IpAddr| ranges.iter().any(|range| range.contains(ip));
    used.iter().any(|ip| within(own, ip) && !within(others, ip))
}

async fn set_ready(ctx: &Context, cidr: &ServiceCIDR, status: &str, reason: &str, message: &str) -> anyhow::Result<Requeue> {
    let mut changed = cidr.clone();
    let conditions = changed.status.get_or_insert_default().conditions.get_or_insert_default();
    if conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == status) {
        return Ok(Requeue::No);
    }
    conditions.retain(|condition| condition.type_ != "Ready");
    conditions.push(Condition {
        type_: "Ready".to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: None,
        last_transition_time: Time(ctx.now()),
    });
    api_error::ignore_not_found(
        ctx.cluster::<ServiceCIDR>().replace_status(&cidr.name_any(), &PostParams::default(), &changed).await,
    )?;
    Ok(Requeue::No)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_needed_while_it_alone_covers_an_address() {
        let nets = |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpNet>>();
        let used = ["10.96.0.10".parse().unwrap()];
        assert!(is_needed(&nets(&["10.96.0.0/12"]), &[], &used));
        assert!(!is_needed(&nets(&["10.96.0.0/12"]), &nets(&["10.96.0.0/16"]), &used));
        assert!(!is_needed(&nets(&["172.16.0.0/16"]), &[], &used));
    }
}

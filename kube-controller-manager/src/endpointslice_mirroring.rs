//! Mirrors Endpoints that people write by hand (for Services without a selector) into EndpointSlices, which is what proxies read.
//!
//! Upstream: pkg/controller/endpointslicemirroring

use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use kube::api::{DeleteParams, PostParams};

use crate::config::workers;
use crate::context::{Context, Requeue, Store};
use crate::endpointslice::plan::{MANAGED_BY, SERVICE_NAME};
use crate::endpointslice::{BY_SERVICE, service_of};
use crate::key::Key;
use crate::{api_error, owner};

const CONTROLLER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
const NOT_COPIED: &[&str] =
    &["kubectl.kubernetes.io/last-applied-configuration", "endpoints.kubernetes.io/last-change-trigger-time"];

/// Endpoints in one slice.
const MAX_PER_SLICE: usize = 1000;

pub async fn start(ctx: Context) -> anyhow::Result<()> {
    let (services, endpoints, slices, queue) =
        (ctx.store::<Service>(), ctx.store::<Endpoints>(), ctx.store::<EndpointSlice>(), ctx.queue());
    slices.add_index(BY_SERVICE, service_of);
    services.feed(&queue);
    let (feed, batch) = (queue.clone(), ctx.config.options.mirroring_endpointslice_updates_batch_period);
    endpoints.on_change(move |change| {
        let key = Key::of(change.object().as_ref());
        if batch.is_zero() { feed.add(key) } else { feed.add_after(key, batch) }
    });
    let feed = queue.clone();
    slices.on_change(move |change| {
        let slice = change.object();
        if let (true, Some(service)) = (is_ours(slice), slice.labels().get(SERVICE_NAME)) {
            feed.add(Key::new(slice.namespace().unwrap_or_default(), service.clone()));
        }
    });
    services.synced().await;
    endpoints.synced().await;
    slices.synced().await;
    let this = ctx.clone();
    // One worker: what a sync reads must contain what the one before wrote.
    let count = workers(ctx.config.options.mirroring_concurrent_service_endpoint_syncs).min(1);
    ctx.run(&queue, count, move |key| {
        let (ctx, services, endpoints, slices) = (this.clone(), services.clone(), endpoints.clone(), slices.clone());
        async move { sync(&ctx, &services, &endpoints, &slices, &key).await }
    });
    Ok(())
}

fn is_ours(slice: &EndpointSlice) -> bool {
    slice.labels().get(MANAGED_BY).is_some_and(|manager| manager == CONTROLLER)
}

async fn sync(
    ctx: &Context,
    services: &Store<Service>,
    endpoints: &Store<Endpoints>,
    slices: &Store<EndpointSlice>,
    key: &Key,
) -> anyhow::Result<Requeue> {
    let mine: Vec<Arc<EndpointSlice>> =
        slices.by_index(BY_SERVICE, &key.to_string()).into_iter().filter(|slice| is_ours(slice)).collect();
    let by_hand = services.get(key).is_some_and(|service| service.spec.as_ref().is_some_and(|spec| spec.selector.is_none()));
    let source = endpoints.get(key).filter(|endpoints| by_hand && is_mirrored(endpoints));
    let most = usize::try_from(ctx.config.options.mirroring_max_endpoints_per_subset).unwrap_or(MAX_PER_SLICE);
    let wanted = source.map(|endpoints| desired(&endpoints, most)).unwrap_or_default();
    let plan = plan(wanted, &mine);
    let api = ctx.namespaced::<EndpointSlice>(&key.namespace);
    for slice in &plan.create {
        match api.create(&PostParams::default(), slice).await {
            Err(error) if api_error::is_namespace_terminating(&error) => return Ok(Requeue::No),
            other => drop(other?),
        }
    }
    for slice in &plan.update {
        api.replace(&slice.name_any(), &PostParams::default(), slice).await?;
    }
    for name in &plan.delete {
        api_error::ignore_not_found(api.delete(name, &DeleteParams::default()).await)?;
    }
    Ok(Requeue::No)
}

/// Leader election records and what asks to be left alone are not mirrored.
fn is_mirrored(endpoints: &Endpoints) -> bool {
    endpoints.metadata.deletion_timestamp.is_none()
        && endpoints.labels().get(SKIP).is_none_or(|value| value != "true")
        && !endpoints.annotations().contains_key(LEADER)
}

#[derive(Debug, Default, PartialEq)]
struct Plan {
    create: Vec<EndpointSlice>,
    update: Vec<EndpointSlice>,
    delete: Vec<String>,
}

/// Existing slices with the same family and ports are written over; the rest goes.
fn plan(wanted: Vec<EndpointSlice>, existing: &[Arc<EndpointSlice>]) -> Plan {
    let mut plan = Plan::default();
    let mut left: Vec<&Arc<EndpointSlice>> =
        existing.iter().filter(|slice| slice.metadata.deletion_timestamp.is_none()).collect();
    for mut slice in wanted {
        match left.iter().position(|old| old.address_type == slice.address_type && old.ports == slice.ports) {
            None => plan.create.push(slice),
            Some(at) => {
                let old = left.remove(at);
                let same = old.endpoints == slice.endpoints
                    && old.labels() == slice.labels()
                    && old.annotations() == slice.annotations();
                if !same {
                    let (labels, annotations) = (slice.metadata.labels.take(), slice.metadata.annotations.take());
                    slice.metadata = ObjectMeta { labels, annotations, ..old.metadata.clone() };
                    plan.update.push(slice);
                }
            }
        }
    }
    plan.delete = left.iter().map(|slice| slice.name_any()).collect();
    plan
}

fn desired(endpoints: &Endpoints, most: usize) -> Vec<EndpointSlice> {
    let mut slices = Vec::new();
    for subset in endpoints.subsets.iter().flatten() {
        for family in ["IPv4", "IPv6"] {
            let all: Vec<Endpoint> = addresses(subset, family).into_iter().take(most).collect();
            slices.extend(all.chunks(MAX_PER_SLICE).map(|chunk| slice(endpoints, subset, family, chunk.to_vec())));
        }
    }
    slices
}

fn addresses(subset: &EndpointSubset, family: &str) -> Vec<Endpoint> {
    let endpoint = |address: &EndpointAddress, ready: bool| Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        hostname: address.hostname.clone(),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    };
    let of_family =
        |address: &&EndpointAddress| address.ip.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_ipv4() == (family == "IPv4"));
    let ready = subset.addresses.iter().flatten().filter(of_family).map(|address| endpoint(address, true));
    ready.chain(subset.not_ready_addresses.iter().flatten().filter(of_family).map(|address| endpoint(address, false))).collect()
}

fn slice(endpoints: &Endpoints, subset: &EndpointSubset, family: &str, list: Vec<Endpoint>) -> EndpointSlice {
    let mut labels = endpoints.labels().clone();
    labels.insert(SERVICE_NAME.to_owned(), endpoints.name_any());
    labels.insert(MANAGED_BY.to_owned(), CONTROLLER.to_owned());
    let mut annotations = endpoints.annotations().clone();
    annotations.retain(|key, _| !NOT_COPIED.contains(&key.as_str()));
    let port = |port: &k8s_openapi::api::core::v1::EndpointPort| EndpointPort {
        name: Some(port.name.clone().unwrap_or_default()),
        port: Some(port.port),
        protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
        app_protocol: port.app_protocol.clone(),
    };
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", endpoints.name_any())),
            namespace: endpoints.namespace(),
            labels: Some(labels),
            annotations: (!annotations.is_empty()).then_some(annotations),
            owner_references: Some(vec![owner::controller_ref("v1", "Endpoints", &endpoints.metadata)]),
            ..ObjectMeta::default()
        },
        address_type: family.to_owned(),
        endpoints: Some(list),
        ports: subset.ports.as_ref().map(|ports| ports.iter().map(port).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn hand_written_endpoints_become_slices_by_family_and_ports() {
        let endpoints: Endpoints = serde_json::from_value(json!({"metadata": {"name": "db", "namespace": "d", "uid": "u"}, "subsets": [
            {"addresses": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "notReadyAddresses": [{"ip": "10.0.0.2"}], "ports": [{"port": 5432}]}]})).unwrap();
        let made = plan(desired(&endpoints, 1000), &[]);
        let families: Vec<_> =
            made.create.iter().map(|slice| (slice.address_type.as_str(), slice.endpoints.as_ref().unwrap().len())).collect();
        assert_eq!(families, [("IPv4", 2), ("IPv6", 1)]);
        let stored: Vec<Arc<EndpointSlice>> = made
            .create
            .into_iter()
            .enumerate()
            .map(|(n, mut slice)| {
                slice.metadata.name = Some(format!("s{n}"));
                Arc::new(slice)
            })
            .collect();
        assert_eq!(plan(desired(&endpoints, 1000), &stored), Plan::default());
        let mut changed = endpoints.clone();
        changed.subsets.as_mut().unwrap()[0].not_ready_addresses = None;
        let next = plan(desired(&changed, 1000), &stored);
        assert_eq!((next.create.len(), next.update.len(), next.update[0].name_any().as_str()), (0, 1, "s0"));
        assert_eq!(plan(Vec::new(), &stored).delete, ["s0", "s1"]);
    }
}

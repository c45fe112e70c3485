//! Keeps the older Endpoints objects of Services with a selector.
//!
//! Upstream: pkg/controller/endpoint/endpoints_controller.go, pkg/api/v1/endpoints/util.go (RepackSubsets)

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, PostParams};
use kube::{Resource, ResourceExt};

use crate::api_error;
use crate::config::workers;
use crate::context::{Change, Context, Requeue, Store};
use crate::key::Key;
use crate::{pods, service_pods};

/// Most addresses of one object. Upstream: maxCapacity.
const CAPACITY: usize = 1000;
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const MANAGED_BY: (&str, &str) = ("endpoints.kubernetes.io/managed-by", "endpoint-controller");
const HEADLESS: &str = "service.kubernetes.io/headless";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";

pub async fn start(ctx: Context) -> anyhow::Result<()> {
    let (services, pods, endpoints, queue) = (ctx.store::<Service>(), ctx.store::<Pod>(), ctx.store::<Endpoints>(), ctx.queue());
    let again = queue.clone();
    endpoints.on_change(move |change| {
        if let Change::Deleted(endpoints) = change {
            again.add(Key::of(endpoints.as_ref()));
        }
    });
    services.synced().await;
    endpoints.synced().await;
    service_pods::feed(&services, &pods, &queue, ctx.config.options.endpoint_updates_batch_period);
    pods.synced().await;
    let this = ctx.clone();
    ctx.run(&queue, workers(ctx.config.options.concurrent_endpoint_syncs), move |key| {
        let (ctx, services, pods, endpoints) = (this.clone(), services.clone(), pods.clone(), endpoints.clone());
        async move { sync(&ctx, &services, &pods, &endpoints, &key).await }
    });
    Ok(())
}

async fn sync(
    ctx: &Context,
    services: &Store<Service>,
    pods: &Store<Pod>,
    endpoints: &Store<Endpoints>,
    key: &Key,
) -> anyhow::Result<Requeue> {
    let api = ctx.namespaced::<Endpoints>(&key.namespace);
    let existing = endpoints.get(key);
    let Some(service) = services.get(key) else {
        // Also those that somebody wrote by hand, as upstream; but a leader's record of the same name is no Service's.
        if existing.is_some_and(|endpoints| !endpoints.annotations().contains_key(LEADER)) {
            api_error::ignore_not_found(api.delete(&key.name, &DeleteParams::default()).await)?;
        }
        return Ok(Requeue::No);
    };
    if !service_pods::is_managed(&service) {
        return Ok(Requeue::No);
    }
    let mut selected = pods.in_namespace(&key.namespace);
    selected.retain(|pod| service_pods::selects(&service, pod));
    let Some(wanted) = plan(&service, &selected, existing.as_deref()) else { return Ok(Requeue::No) };
    let written = match existing {
        None => api.create(&PostParams::default(), &wanted).await,
        Some(_) => api.replace(&key.name, &PostParams::default(), &wanted).await,
    };
    match written {
        Ok(_) => Ok(Requeue::No),
        Err(error) if api_error::is_namespace_terminating(&error) => Ok(Requeue::No),
        // Our own last write has not come back yet: nothing that anybody has to know.
        Err(error) if api_error::is_conflict(&error) => Err(error).context("endpoints changed meanwhile"),
        Err(error) => {
            let message = format!("Failed to update endpoint {key}: {}", api_error::message(&error));
            ctx.warning(&wanted.object_ref(&()), "FailedToUpdateEndpoint", message);
            Err(error).context("failed to update endpoints")
        }
    }
}

/// The object to write, or `None` when it is as it should be.
fn plan(service: &Service, selected: &[Arc<Pod>], existing: Option<&Endpoints>) -> Option<Endpoints> {
    let (subsets, truncated) = subsets(service, selected);
    let mut wanted = existing.cloned().unwrap_or_else(|| Endpoints {
        metadata: ObjectMeta { name: service.metadata.name.clone(), namespace: service.namespace(), ..ObjectMeta::default() },
        subsets: None,
    });
    wanted.subsets = (!subsets.is_empty()).then_some(subsets);
    let mut labels = service_pods::copied_labels(service, &[HEADLESS]);
    if service_pods::is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels.insert(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned());
    wanted.metadata.labels = Some(labels);
    if truncated {
        wanted.annotations_mut().insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
    } else if let Some(annotations) = wanted.metadata.annotations.as_mut() {
        annotations.remove(OVER_CAPACITY);
        if annotations.is_empty() {
            wanted.metadata.annotations = None;
        }
    }
    (existing != Some(&wanted)).then_some(wanted)
}

/// Number, protocol, name, application protocol.
type Port = (i32, String, String, Option<String>);

/// Ready addresses and others.
type Group = (Vec<EndpointAddress>, Vec<EndpointAddress>);

/// Addresses by the ports they have, in a stable order, and whether some had to be left out.
fn subsets(service: &Service, selected: &[Arc<Pod>]) -> (Vec<EndpointSubset>, bool) {
    let spec = service.spec.as_ref();
    let publish_all = spec.and_then(|spec| spec.publish_not_ready_addresses) == Some(true);
    let v6 = spec.and_then(|spec| spec.ip_families.as_ref()?.first()).is_some_and(|family| family == "IPv6");
    let service_ports = spec.and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    let mut groups: BTreeMap<Vec<Port>, Group> = BTreeMap::new();
    let mut pods: Vec<&Arc<Pod>> = selected.iter().filter(|pod| service_pods::is_endpoint(pod, publish_all)).collect();
    // Ready ones first: if not all fit, these are the ones to keep.
    pods.sort_by_key(|pod| (!pods::is_ready(pod), pod.name_any()));
    let (mut count, mut truncated) = (0, false);
    for pod in pods {
        let Some(ip) = service_pods::pod_ips(pod).find(|ip| ip.is_ipv6() == v6) else { continue };
        let mut ports: Vec<_> = service_ports
            .iter()
            .filter_map(|port| {
                let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
                Some((
                    service_pods::target_port(pod, port)?,
                    protocol,
                    port.name.clone().unwrap_or_default(),
                    port.app_protocol.clone(),
                ))
            })
            .collect();
        ports.sort();
        if ports.is_empty() && !(service_ports.is_empty() && service_pods::is_headless(service)) {
            continue;
        }
        if count == CAPACITY {
            truncated = true;
            break;
        }
        count += 1;
        let address = EndpointAddress {
            ip: ip.to_string(),
            hostname: service_pods::hostname(pod, service),
            node_name: Some(pods::node_name(pod).to_owned()).filter(|name| !name.is_empty()),
            target_ref: Some(service_pods::reference(pod)),
        };
        let (ready, not_ready) = groups.entry(ports).or_default();
        if publish_all || pods::is_ready(pod) { ready.push(address) } else { not_ready.push(address) }
    }
    let list = |mut addresses: Vec<EndpointAddress>| {
        addresses.sort_by(|a, b| a.ip.cmp(&b.ip));
        (!addresses.is_empty()).then_some(addresses)
    };
    let subsets = groups.into_iter().map(|(ports, (ready, not_ready))| EndpointSubset {
        addresses: list(ready),
        not_ready_addresses: list(not_ready),
        ports: (!ports.is_empty()).then(|| ports.into_iter().map(port).collect()),
    });
    (subsets.collect(), truncated)
}

fn port((port, protocol, name, app_protocol): Port) -> EndpointPort {
    EndpointPort { port, protocol: Some(protocol), name: Some(name).filter(|name| !name.is_empty()), app_protocol }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn addresses_are_sorted_by_readiness_and_stable() {
        let service: Service =
            serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "d"}, "spec": {"selector": {"a": "b"},
            "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}]}}))
            .unwrap();
        let pod = |n: u8, ready: bool| -> Arc<Pod> {
            Arc::new(serde_json::from_value(json!({"metadata": {"name": format!("p{n}"), "namespace": "d"}, "spec": {"containers": []},
                "status": {"phase": "Running", "podIP": format!("10.0.0.{n}"), "conditions": [{"type": "Ready", "status": if ready {"True"} else {"False"}}]}})).unwrap())
        };
        let made = plan(&service, &[pod(2, true), pod(1, true), pod(3, false)], None).unwrap();
        let subset = &made.subsets.as_ref().unwrap()[0];
        let ips = |list: &Option<Vec<EndpointAddress>>| list.iter().flatten().map(|a| a.ip.clone()).collect::<Vec<_>>();
        assert_eq!(
            (ips(&subset.addresses), ips(&subset.not_ready_addresses)),
            (vec!["10.0.0.1".into(), "10.0.0.2".into()], vec!["10.0.0.3".to_owned()])
        );
        assert!(plan(&service, &[pod(1, true), pod(2, true), pod(3, false)], Some(&made)).is_none());
        assert!(plan(&service, &[], Some(&made)).unwrap().subsets.is_none());
        let many: Vec<_> = (0..=255).flat_map(|n| std::iter::repeat_n(pod(n, true), 4)).collect();
        let full = plan(&service, &many, None).unwrap();
        assert_eq!(full.annotations()[OVER_CAPACITY], "truncated");
    }
}

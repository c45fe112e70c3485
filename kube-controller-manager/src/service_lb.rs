//! LoadBalancer Services on nodes of one's own: the nodes' addresses are the balancer's. kube-proxy on every node takes what comes to an
//! address and port in the Service's status, so nothing has to run for it.
//!
//! The name and the role are those of upstream's controller, which asks a cloud; clusters with a cloud's controller switch this one off
//! with `--controllers=*,-service-lb-controller`, or give their Services a `loadBalancerClass`.
//! The idea and the label [`ONLY`] are of k3s' servicelb.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{LoadBalancerIngress, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::api_error;
use crate::context::{Context, Requeue, Store};
use crate::endpointslice::{BY_SERVICE, service_of};
use crate::key::Key;

/// The `loadBalancerClass` that is ours, beside none.
const CLASS: &str = "rk.io/servicelb";
/// Where any node has this label with `true`, only such nodes are used.
const ONLY: &str = "svccontroller.k3s.cattle.io/enablelb";
/// Nodes that no balancer uses.
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
/// Ports of the nodes' own: a Service that took one would cut the node off.
const RESERVED: &[i32] = &[22, 2379, 2380, 6443, 10248, 10249, 10250, 10256, 10257, 10259];

/// Starts the controller.
pub async fn start(ctx: Context) -> anyhow::Result<()> {
    let (services, nodes, slices, queue) =
        (ctx.store::<Service>(), ctx.store::<Node>(), ctx.store::<EndpointSlice>(), ctx.queue());
    slices.add_index(BY_SERVICE, service_of);
    services.feed(&queue);
    // A port that became free may be waited for; nodes concern all.
    let all = {
        let (services, queue) = (services.clone(), queue.clone());
        move || services.list().iter().filter(|service| is_ours(service)).for_each(|service| queue.add(Key::of(&**service)))
    };
    let again = all.clone();
    services.on_change(move |change| {
        if change.old().is_some_and(|old| is_ours(old)) {
            again();
        }
    });
    let again = all.clone();
    nodes.on_change(move |change| {
        if change.old().is_none_or(|old| facts(old) != facts(change.object())) {
            again();
        }
    });
    let feed = queue.clone();
    slices.on_change(move |change| {
        let slice = change.object();
        for service in service_of(slice) {
            if let Some((namespace, name)) = service.split_once('/') {
                feed.add(Key::new(namespace, name));
            }
        }
    });
    services.synced().await;
    nodes.synced().await;
    slices.synced().await;
    let this = ctx.clone();
    // One worker: who has a port is decided one after the other.
    ctx.run(&queue, 1, move |key| {
        let (ctx, services, nodes, slices) = (this.clone(), services.clone(), nodes.clone(), slices.clone());
        async move { sync(&ctx, &services, &nodes, &slices, &key).await }
    });
    Ok(())
}

async fn sync(
    ctx: &Context,
    services: &Store<Service>,
    nodes: &Store<Node>,
    slices: &Store<EndpointSlice>,
    key: &Key,
) -> anyhow::Result<Requeue> {
    let Some(service) = services.get(key) else { return Ok(Requeue::No) };
    let have = assigned(&service);
    let about = client::events::reference(&*service);
    let plan = if is_ours(&service) {
        let local = is_local(&service).then(|| with_endpoints(&slices.by_index(BY_SERVICE, &key.to_string())));
        plan(&service, &services.list(), &nodes.list(), local.as_ref())
    } else if service.spec.as_ref().and_then(|spec| spec.type_.as_deref()) != Some("LoadBalancer") {
        // It may have been one before.
        Plan::default()
    } else {
        return Ok(Requeue::No);
    };
    if let Some(why) = &plan.refused {
        ctx.warning(&about, "SyncLoadBalancerFailed", why.clone());
    }
    if plan.addresses == have {
        return Ok(Requeue::No);
    }
    let ingress: Vec<_> = plan.addresses.iter().map(|ip| json!({"ip": ip, "ipMode": "VIP"})).collect();
    let ingress = if ingress.is_empty() { serde_json::Value::Null } else { ingress.into() };
    let patch = json!({"status": {"loadBalancer": {"ingress": ingress}}});
    let api = ctx.namespaced::<Service>(&key.namespace);
    let patched = api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(&patch)).await;
    if api_error::ignore_not_found(patched)?.is_some() && !plan.addresses.is_empty() {
        ctx.normal(&about, "EnsuredLoadBalancer", "Ensured load balancer");
    }
    Ok(Requeue::No)
}

/// What a Service is to have.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    /// Addresses of nodes, sorted.
    addresses: Vec<String>,
    /// Why there are none.
    refused: Option<String>,
}

fn plan(service: &Service, all: &[Arc<Service>], nodes: &[Arc<Node>], local: Option<&BTreeSet<String>>) -> Plan {
    let refuse = |why: String| Plan { addresses: Vec::new(), refused: Some(why) };
    if service.metadata.deletion_timestamp.is_some() {
        return Plan::default();
    }
    let ports = ports(service);
    if let Some((_, port)) = ports.iter().find(|(_, port)| RESERVED.contains(port)) {
        return refuse(format!("port {port} belongs to the nodes themselves: choose another"));
    }
    let mut older: Vec<&Arc<Service>> = all
        .iter()
        .filter(|other| is_ours(other) && other.metadata.deletion_timestamp.is_none() && age(other) < age(service))
        .collect();
    older.sort_by_key(|other| age(other));
    for other in older {
        if let Some((protocol, port)) = self::ports(other).intersection(&ports).next() {
            let name = format!("{}/{}", other.namespace().unwrap_or_default(), other.name_any());
            return refuse(format!("port {port}/{protocol} of the nodes is taken by service {name}"));
        }
    }
    let spec = service.spec.as_ref();
    let families = spec.and_then(|spec| spec.ip_families.clone()).unwrap_or_default();
    let asked = spec.and_then(|spec| spec.load_balancer_ip.as_deref()).filter(|ip| !ip.is_empty());
    // Where all are control planes (one node is all there is) they have to do.
    let spared = nodes.iter().any(|node| !node.labels().contains_key(EXCLUDED));
    let chosen = nodes.iter().any(|node| node.labels().get(ONLY).is_some_and(|value| value == "true"));
    let mut addresses = BTreeMap::new();
    for node in nodes {
        let name = node.name_any();
        let labels = node.labels();
        let usable = is_ready(node)
            && !(spared && labels.contains_key(EXCLUDED))
            && (!chosen || labels.get(ONLY).is_some_and(|value| value == "true"))
            && local.is_none_or(|with| with.contains(&name));
        if !usable {
            continue;
        }
        for family in &families {
            let Some(ip) = address(node, family == "IPv6") else { continue };
            if asked.is_none_or(|asked| asked == ip) {
                addresses.insert(ip.parse::<IpAddr>().ok(), ip);
            }
        }
    }
    match asked {
        Some(ip) if addresses.is_empty() && local.is_none() => {
            refuse(format!("no ready node has the address {ip} of spec.loadBalancerIP"))
        }
        _ => Plan { addresses: addresses.into_values().collect(), refused: None },
    }
}

/// Whether the Service is a balancer of ours.
fn is_ours(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    spec.is_some_and(|spec| {
        spec.type_.as_deref() == Some("LoadBalancer") && spec.load_balancer_class.as_deref().is_none_or(|class| class == CLASS)
    })
}

fn is_local(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.external_traffic_policy.as_deref()) == Some("Local")
}

/// The order in which Services came.
fn age(service: &Service) -> (Option<jiff::Timestamp>, String) {
    let created = service.metadata.creation_timestamp.as_ref().map(|time| time.0);
    (created, format!("{}/{}", service.namespace().unwrap_or_default(), service.name_any()))
}

fn ports(service: &Service) -> BTreeSet<(String, i32)> {
    let ports = service.spec.iter().filter_map(|spec| spec.ports.as_ref()).flatten();
    ports.map(|port| (port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()), port.port)).collect()
}

fn assigned(service: &Service) -> Vec<String> {
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress: &[LoadBalancerIngress] = balancer.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default();
    ingress.iter().filter_map(|one| one.ip.clone()).collect()
}

/// The address by which the node is reached: the external one where it has one.
fn address(node: &Node, v6: bool) -> Option<String> {
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    let of = |kind: &str| {
        let found = addresses.iter().find(|have| have.type_ == kind && have.address.contains(':') == v6);
        found.map(|have| have.address.clone())
    };
    of("ExternalIP").or_else(|| of("InternalIP"))
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().filter_map(|status| status.conditions.as_ref()).flatten();
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// What of a node matters here: its heartbeats do not.
fn facts(node: &Node) -> (bool, Option<String>, Option<String>, [Option<String>; 2]) {
    let label = |key: &str| node.labels().get(key).cloned();
    (is_ready(node), address(node, false), address(node, true), [label(ONLY), label(EXCLUDED)])
}

/// Nodes with a ready endpoint.
fn with_endpoints(slices: &[Arc<EndpointSlice>]) -> BTreeSet<String> {
    let endpoints = slices.iter().filter_map(|slice| slice.endpoints.as_ref()).flatten();
    endpoints
        .filter(|endpoint| endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true))
        .filter_map(|endpoint| endpoint.node_name.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, created: &str, spec: serde_json::Value) -> Arc<Service> {
        let mut spec = spec;
        spec["type"] = json!("LoadBalancer");
        if spec["ipFamilies"].is_null() {
            spec["ipFamilies"] = json!(["IPv4"]);
        }
        let metadata = json!({"namespace": "d", "name": name, "creationTimestamp": created});
        Arc::new(serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap())
    }

    fn node(name: &str, ip: &str, ready: bool, labels: serde_json::Value) -> Arc<Node> {
        let status = json!({
            "addresses": [{"type": "InternalIP", "address": ip}, {"type": "InternalIP", "address": format!("fd00::{}", &ip[ip.len() - 1..])}],
            "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}],
        });
        Arc::new(serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}, "status": status})).unwrap())
    }

    const OLD: &str = "2026-01-01T00:00:00Z";
    const NEW: &str = "2026-01-02T00:00:00Z";

    #[test]
    fn ready_nodes_that_may_be_used_are_the_balancer() {
        let web = service("web", OLD, json!({"ports": [{"port": 80}]}));
        let plan_for = |nodes: &[Arc<Node>], local: Option<&[&str]>| {
            let local = local.map(|names| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>());
            plan(&web, std::slice::from_ref(&web), nodes, local.as_ref()).addresses
        };
        let nodes = [
            node("b", "10.0.0.2", true, json!({})),
            node("a", "10.0.0.1", true, json!({})),
            node("c", "10.0.0.3", false, json!({})),
        ];
        assert_eq!(plan_for(&nodes, None), ["10.0.0.1", "10.0.0.2"]);
        assert_eq!(plan_for(&nodes, Some(&["b", "c"])), ["10.0.0.2"]);
        assert!(plan_for(&nodes, Some(&[])).is_empty());
        let mut some = nodes.to_vec();
        some.push(node("d", "10.0.0.4", true, json!({ONLY: "true"})));
        assert_eq!(plan_for(&some, None), ["10.0.0.4"]);
        some[0] = node("b", "10.0.0.2", true, json!({ONLY: "true", EXCLUDED: ""}));
        assert_eq!(plan_for(&some, None), ["10.0.0.4"]);
        let alone = [node("b", "10.0.0.2", true, json!({EXCLUDED: ""}))];
        assert_eq!(plan_for(&alone, None), ["10.0.0.2"]);
        let both = service("both", OLD, json!({"ports": [{"port": 80}], "ipFamilies": ["IPv6", "IPv4"]}));
        assert_eq!(plan(&both, &[], &nodes[..1], None).addresses, ["10.0.0.2", "fd00::2"]);
    }

    #[test]
    fn a_port_belongs_to_the_oldest_and_never_to_the_node() {
        let nodes = [node("a", "10.0.0.1", true, json!({}))];
        let first = service("first", OLD, json!({"ports": [{"port": 80}, {"port": 443}]}));
        let second = service("second", NEW, json!({"ports": [{"port": 443}]}));
        let udp = service("udp", NEW, json!({"ports": [{"port": 443, "protocol": "UDP"}]}));
        let foreign = service("foreign", OLD, json!({"ports": [{"port": 443}], "loadBalancerClass": "example.com/lb"}));
        let all = [first.clone(), second.clone(), udp.clone()];
        assert_eq!(plan(&first, &all, &nodes, None).addresses, ["10.0.0.1"]);
        assert_eq!(plan(&second, &all, &nodes, None).refused.unwrap(), "port 443/TCP of the nodes is taken by service d/first");
        assert_eq!(plan(&udp, &all, &nodes, None).addresses, ["10.0.0.1"]);
        assert_eq!(plan(&second, &[foreign.clone(), second.clone()], &nodes, None).addresses, ["10.0.0.1"]);
        assert!(!is_ours(&foreign) && is_ours(&first));
        let ssh = service("ssh", OLD, json!({"ports": [{"port": 22}]}));
        assert!(plan(&ssh, &[], &nodes, None).refused.is_some());
        let asked = service("asked", OLD, json!({"ports": [{"port": 80}], "loadBalancerIP": "10.9.9.9"}));
        assert!(plan(&asked, &[], &nodes, None).refused.is_some());
    }
}

//! Which EndpointSlices a Service should have, and the fewest writes that lead there.
//!
//! Upstream: staging/src/k8s.io/endpointslice/{reconciler,utils}.go

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;

use super::topology;
use crate::{owner, pods, service_pods};

pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
pub const CONTROLLER: &str = "endpointslice-controller.k8s.io";
const HEADLESS: &str = "service.kubernetes.io/headless";

#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    pub create: Vec<EndpointSlice>,
    pub update: Vec<EndpointSlice>,
    pub delete: Vec<String>,
    /// Events on the Service: whether a warning, reason, message.
    pub events: Vec<(bool, &'static str, String)>,
}

pub struct Observed<'a> {
    pub service: &'a Service,
    pub pods: &'a [Arc<Pod>],
    pub node: &'a dyn Fn(&str) -> Option<Arc<Node>>,
    /// The slices of this Service that we manage.
    pub slices: &'a [Arc<EndpointSlice>],
    pub max_per_slice: usize,
    /// The zones' shares of CPU, where the Service asks for topology-aware hints.
    pub shares: Option<&'a Result<BTreeMap<String, f64>, &'static str>>,
}

pub fn plan(observed: &Observed<'_>) -> Plan {
    let families: Vec<&str> = observed
        .service
        .spec
        .as_ref()
        .and_then(|spec| spec.ip_families.as_ref())
        .into_iter()
        .flatten()
        .map(String::as_str)
        .collect();
    // A Service that predates families has those of its cluster IP; without one, those of its pods.
    let families = if families.is_empty() { guess_families(observed) } else { families };
    let mut plan = Plan::default();
    for slice in observed.slices {
        if !families.contains(&slice.address_type.as_str()) {
            plan.delete.push(slice.name_any());
        }
    }
    for family in families {
        plan_family(observed, family, &mut plan);
    }
    plan
}

fn guess_families(observed: &Observed<'_>) -> Vec<&'static str> {
    let cluster_ip = observed.service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_ref()?.parse().ok());
    let family = |ip: std::net::IpAddr| if ip.is_ipv4() { "IPv4" } else { "IPv6" };
    let first = cluster_ip.or_else(|| observed.pods.iter().find_map(|pod| service_pods::pod_ips(pod).next()));
    vec![first.map_or("IPv4", family)]
}

fn plan_family(observed: &Observed<'_>, family: &str, plan: &mut Plan) {
    // Endpoints by the ports they have: a slice holds endpoints with the same ports.
    let mut desired: Vec<(Vec<EndpointPort>, Vec<Endpoint>)> = Vec::new();
    for pod in observed.pods.iter().filter(|pod| service_pods::is_endpoint(pod, true)) {
        let Some(endpoint) = endpoint(observed, pod, family) else { continue };
        let ports = ports(observed.service, pod);
        match desired.iter_mut().find(|(known, _)| *known == ports) {
            Some((_, list)) => list.push(endpoint),
            None => desired.push((ports, vec![endpoint])),
        }
    }
    let mine: Vec<&Arc<EndpointSlice>> = observed.slices.iter().filter(|slice| slice.address_type == family).collect();
    if let Some(shares) = observed.shares {
        let mut all: Vec<&mut Endpoint> = desired.iter_mut().flat_map(|(_, list)| list).collect();
        let had_hints = mine.iter().any(|slice| slice.endpoints.iter().flatten().any(|endpoint| endpoint.hints.is_some()));
        match topology::hint(&mut all, shares.as_ref().map_err(|why| *why), family) {
            Ok(()) if !had_hints => {
                let message = format!("Topology Aware Hints has been enabled, addressType: {family}");
                plan.events.push((false, "TopologyAwareHintsEnabled", message));
            }
            Ok(()) => {}
            Err(why) => plan.events.push((true, "TopologyAwareHintsDisabled", why)),
        }
    }
    let mut kept: Vec<EndpointSlice> = Vec::new();
    let mut unused: Vec<&Arc<EndpointSlice>> = mine.clone();
    for (ports, endpoints) in desired {
        let (same, rest): (Vec<_>, Vec<_>) =
            unused.into_iter().partition(|slice| slice.ports.clone().unwrap_or_default() == ports);
        unused = rest;
        kept.extend(pack(observed, family, &ports, endpoints, &same, plan));
    }
    if kept.is_empty() {
        // There is always one slice, so that readers can tell "none" from "not yet".
        let (empty, rest): (Vec<_>, Vec<_>) =
            unused.into_iter().partition(|slice| slice.ports.as_ref().is_none_or(Vec::is_empty));
        unused = rest;
        kept.extend(pack(observed, family, &[], Vec::new(), &empty, plan));
        if kept.is_empty() {
            kept.push(new_slice(observed.service, family, &[]));
        }
    }
    plan.delete.extend(unused.iter().map(|slice| slice.name_any()));
    for slice in kept {
        match mine.iter().find(|old| slice.metadata.name.is_some() && old.metadata.name == slice.metadata.name) {
            None => plan.create.push(slice),
            Some(old) if ***old != slice => plan.update.push(slice),
            Some(_) => {}
        }
    }
}

/// Distributes endpoints with equal ports over existing slices: what is there stays where it is, the rest fills gaps, then new slices.
fn pack(
    observed: &Observed<'_>,
    family: &str,
    ports: &[EndpointPort],
    endpoints: Vec<Endpoint>,
    existing: &[&Arc<EndpointSlice>],
    plan: &mut Plan,
) -> Vec<EndpointSlice> {
    let identity = |endpoint: &Endpoint| {
        (endpoint.target_ref.as_ref().and_then(|target| target.uid.clone()), endpoint.addresses.first().cloned())
    };
    let mut pending: BTreeMap<_, Endpoint> = endpoints.into_iter().map(|endpoint| (identity(&endpoint), endpoint)).collect();
    let mut slices: Vec<EndpointSlice> = Vec::new();
    for old in existing {
        let mut slice = (**old).as_ref().clone();
        let list = old.endpoints.iter().flatten().filter_map(|endpoint| pending.remove(&identity(endpoint))).collect();
        slice.endpoints = Some(list);
        set_labels(observed.service, &mut slice);
        slices.push(slice);
    }
    let mut pending: Vec<Endpoint> = pending.into_values().collect();
    // Slices that change anyway take the newcomers first, then the fullest others.
    let len = |slice: &EndpointSlice| slice.endpoints.as_ref().map_or(0, Vec::len);
    let before: HashMap<String, usize> = existing.iter().map(|slice| (slice.name_any(), len(slice))).collect();
    slices
        .sort_by_key(|slice| (before.get(&slice.name_any()).copied().unwrap_or(0) == len(slice), std::cmp::Reverse(len(slice))));
    for slice in &mut slices {
        let list = slice.endpoints.get_or_insert_default();
        while list.len() < observed.max_per_slice
            && let Some(endpoint) = pending.pop()
        {
            list.push(endpoint);
        }
    }
    while !pending.is_empty() {
        let rest = pending.split_off(pending.len().min(observed.max_per_slice));
        let mut slice = new_slice(observed.service, family, ports);
        slice.endpoints = Some(std::mem::replace(&mut pending, rest));
        slices.push(slice);
    }
    // Empty slices go, all but a placeholder.
    let any_full = slices.iter().any(|slice| len(slice) > 0);
    let mut placeholder = !any_full && ports.is_empty();
    slices.retain(|slice| {
        let keep = len(slice) > 0 || std::mem::take(&mut placeholder);
        if !keep {
            plan.delete.push(slice.name_any());
        }
        keep
    });
    slices
}

fn ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_ref()).into_iter().flatten();
    ports
        .filter_map(|port| {
            Some(EndpointPort {
                name: Some(port.name.clone().unwrap_or_default()),
                port: Some(service_pods::target_port(pod, port)?),
                protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect()
}

fn endpoint(observed: &Observed<'_>, pod: &Pod, family: &str) -> Option<Endpoint> {
    let addresses: Vec<String> =
        service_pods::pod_ips(pod).filter(|ip| ip.is_ipv4() == (family == "IPv4")).map(|ip| ip.to_string()).take(1).collect();
    if addresses.is_empty() {
        return None;
    }
    let service = observed.service;
    let publish_all = service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses) == Some(true);
    let (serving, terminating) = (pods::is_ready(pod), pods::is_deleting(pod));
    let node_name = Some(pods::node_name(pod).to_owned()).filter(|name| !name.is_empty());
    let node = node_name.as_deref().and_then(observed.node);
    let zone = node.and_then(|node| node.labels().get("topology.kubernetes.io/zone").cloned()).filter(|zone| !zone.is_empty());
    Some(Endpoint {
        addresses,
        conditions: Some(EndpointConditions {
            ready: Some(publish_all || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hints: hints(service, node_name.as_deref(), zone.as_deref(), publish_all || (serving && !terminating)),
        hostname: service_pods::hostname(pod, service),
        node_name,
        zone,
        target_ref: Some(service_pods::reference(pod)),
        deprecated_topology: None,
    })
}

/// `spec.trafficDistribution`: which consumers should prefer this endpoint. Upstream: endpointslice/trafficdist.
fn hints(service: &Service, node: Option<&str>, zone: Option<&str>, ready: bool) -> Option<EndpointHints> {
    let preference = service.spec.as_ref()?.traffic_distribution.as_deref()?;
    if !ready {
        return None;
    }
    let for_zones = zone.map(|zone| vec![ForZone { name: zone.to_owned() }]);
    match preference {
        "PreferClose" | "PreferSameZone" => for_zones.map(|zones| EndpointHints { for_zones: Some(zones), for_nodes: None }),
        "PreferSameNode" => {
            let for_nodes = node.map(|node| vec![ForNode { name: node.to_owned() }]);
            (for_nodes.is_some() || for_zones.is_some()).then_some(EndpointHints { for_zones, for_nodes })
        }
        _ => None,
    }
}

fn set_labels(service: &Service, slice: &mut EndpointSlice) {
    let mut labels = service_pods::copied_labels(service, &[SERVICE_NAME, MANAGED_BY, HEADLESS]);
    if service_pods::is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels.insert(SERVICE_NAME.to_owned(), service.name_any());
    labels.insert(MANAGED_BY.to_owned(), CONTROLLER.to_owned());
    slice.metadata.labels = Some(labels);
}

fn new_slice(service: &Service, family: &str, ports: &[EndpointPort]) -> EndpointSlice {
    let mut slice = EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", service.name_any())),
            namespace: service.namespace(),
            owner_references: Some(vec![owner::controller_ref("v1", "Service", &service.metadata)]),
            ..ObjectMeta::default()
        },
        address_type: family.to_owned(),
        endpoints: Some(Vec::new()),
        ports: Some(ports.to_vec()),
    };
    set_labels(service, &mut slice);
    slice
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn service(spec: Value) -> Service {
        let mut base = json!({"selector": {"a": "b"}, "clusterIP": "10.0.0.1", "ipFamilies": ["IPv4"], "ports": [{"name": "http", "port": 80, "targetPort": 8080}]});
        for (key, value) in spec.as_object().unwrap() {
            base[key] = value.clone();
        }
        serde_json::from_value(
            json!({"metadata": {"name": "web", "namespace": "d", "uid": "su", "labels": {"team": "x"}}, "spec": base}),
        )
        .unwrap()
    }

    fn pod(n: u8, ready: bool, deleting: bool) -> Arc<Pod> {
        let mut v = json!({"metadata": {"name": format!("p{n}"), "uid": format!("u{n}"), "namespace": "d"},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 9000 + u32::from(n)}]}]},
            "status": {"phase": "Running", "podIPs": [{"ip": format!("10.1.0.{n}")}, {"ip": format!("fd00::{n}")}],
                "conditions": [{"type": "Ready", "status": if ready {"True"} else {"False"}}]}});
        if deleting {
            v["metadata"]["deletionTimestamp"] = json!("2024-01-01T00:00:00Z");
        }
        Arc::new(serde_json::from_value(v).unwrap())
    }

    fn run(service: &Service, pods: &[Arc<Pod>], slices: &[Arc<EndpointSlice>], max: usize) -> Plan {
        let node: Node =
            serde_json::from_value(json!({"metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "z1"}}})).unwrap();
        let node = Arc::new(node);
        plan(&Observed { service, pods, node: &|_| Some(Arc::clone(&node)), slices, max_per_slice: max, shares: None })
    }

    fn stored(mut slice: EndpointSlice, name: &str) -> Arc<EndpointSlice> {
        slice.metadata.name = Some(name.to_owned());
        Arc::new(slice)
    }

    #[test]
    fn a_service_without_pods_has_an_empty_slice() {
        let web = service(json!({}));
        let made = run(&web, &[], &[], 100);
        assert_eq!((made.create.len(), made.create[0].ports.as_ref().unwrap().len()), (1, 0));
        let labels = made.create[0].labels();
        assert_eq!(
            (labels[SERVICE_NAME].as_str(), labels["team"].as_str(), labels[MANAGED_BY].as_str()),
            ("web", "x", CONTROLLER)
        );
        assert_eq!(run(&web, &[], &[stored(made.create[0].clone(), "s")], 100), Plan::default());
        // The placeholder goes as soon as there is something to say.
        let filled = run(&web, &[pod(1, true, false)], &[stored(made.create[0].clone(), "s")], 100);
        assert_eq!((filled.create.len(), filled.delete), (1, vec!["s".to_owned()]));
    }

    #[test]
    fn conditions_tell_ready_serving_and_terminating_apart() {
        let made = run(&service(json!({})), &[pod(1, true, false), pod(2, false, false), pod(3, true, true)], &[], 100);
        let rows: BTreeMap<String, (bool, bool, bool)> = made.create[0]
            .endpoints
            .iter()
            .flatten()
            .map(|endpoint| {
                let c = endpoint.conditions.clone().unwrap();
                (endpoint.addresses[0].clone(), (c.ready.unwrap(), c.serving.unwrap(), c.terminating.unwrap()))
            })
            .collect();
        assert_eq!(rows["10.1.0.1"], (true, true, false));
        assert_eq!(rows["10.1.0.2"], (false, false, false));
        assert_eq!(rows["10.1.0.3"], (false, true, true));
        assert_eq!(made.create[0].ports.as_ref().unwrap()[0].port, Some(8080));
    }

    #[test]
    fn slices_hold_so_many_and_change_as_little_as_possible() {
        let web = service(json!({}));
        let pods: Vec<_> = (1..=5).map(|n| pod(n, true, false)).collect();
        let made = run(&web, &pods, &[], 2);
        assert_eq!(made.create.iter().map(|s| s.endpoints.as_ref().unwrap().len()).collect::<Vec<_>>(), [2, 2, 1]);
        let slices: Vec<_> = made.create.into_iter().enumerate().map(|(i, s)| stored(s, &format!("s{i}"))).collect();
        assert_eq!(run(&web, &pods, &slices, 2), Plan::default());
        // One pod changes: one slice is written.
        let mut changed = pods.clone();
        changed[0] = pod(1, false, false);
        let plan = run(&web, &changed, &slices, 2);
        assert_eq!((plan.create.len(), plan.update.len(), plan.delete.len()), (0, 1, 0));
        // One pod goes, one comes: again one write, in the slice with the gap.
        let mut swapped = pods.clone();
        swapped[0] = pod(9, true, false);
        let plan = run(&web, &swapped, &slices, 2);
        assert_eq!((plan.create.len(), plan.update.len(), plan.delete.len()), (0, 1, 0));
    }

    #[test]
    fn named_ports_may_differ_by_pod_and_families_have_their_own_slices() {
        let named = service(json!({"ports": [{"name": "http", "port": 80, "targetPort": "web"}]}));
        assert_eq!(run(&named, &[pod(1, true, false), pod(2, true, false)], &[], 100).create.len(), 2);
        let dual = service(json!({"ipFamilies": ["IPv4", "IPv6"]}));
        let made = run(&dual, &[pod(1, true, false)], &[], 100);
        assert_eq!(made.create.iter().map(|s| s.address_type.as_str()).collect::<Vec<_>>(), ["IPv4", "IPv6"]);
        let slices: Vec<_> = made.create.into_iter().enumerate().map(|(i, s)| stored(s, &format!("s{i}"))).collect();
        assert_eq!(run(&service(json!({})), &[pod(1, true, false)], &slices, 100).delete, ["s1"]);
    }

    #[test]
    fn a_traffic_distribution_gives_hints() {
        let close = service(json!({"trafficDistribution": "PreferClose"}));
        let made = run(&close, &[pod(1, true, false)], &[], 100);
        let hints = made.create[0].endpoints.as_ref().unwrap()[0].hints.clone().unwrap();
        assert_eq!(hints.for_zones.unwrap()[0].name, "z1");
        let node = service(json!({"trafficDistribution": "PreferSameNode"}));
        let made = run(&node, &[pod(1, true, false), pod(2, false, false)], &[], 100);
        let endpoints = made.create[0].endpoints.as_ref().unwrap();
        let hints = |at: &str| endpoints.iter().find(|endpoint| endpoint.addresses[0] == at).unwrap().hints.clone();
        let ready = hints("10.1.0.1").unwrap();
        assert_eq!((ready.for_nodes.unwrap()[0].name.as_str(), ready.for_zones.unwrap()[0].name.as_str()), ("n1", "z1"));
        assert_eq!(hints("10.1.0.2"), None, "not ready");
    }

    #[test]
    fn topology_mode_gives_hints_and_says_why_not() {
        let web = service(json!({}));
        let pods = [pod(1, true, false), pod(2, true, false)];
        let plan_with = |shares: Result<BTreeMap<String, f64>, &'static str>, slices: &[Arc<EndpointSlice>]| {
            plan(&Observed {
                service: &web,
                pods: &pods,
                node: &|_| {
                    let labels = json!({"topology.kubernetes.io/zone": "z1"});
                    Some(Arc::new(serde_json::from_value(json!({"metadata": {"labels": labels}})).unwrap()))
                },
                slices,
                max_per_slice: 100,
                shares: Some(&shares),
            })
        };
        let even: BTreeMap<String, f64> = [("z1".to_owned(), 0.5), ("z2".to_owned(), 0.5)].into();
        let made = plan_with(Ok(even.clone()), &[]);
        let zones = |slice: &EndpointSlice| {
            let hints = slice.endpoints.iter().flatten().filter_map(|endpoint| endpoint.hints.clone()?.for_zones);
            let mut zones: Vec<String> = hints.map(|zones| zones[0].name.clone()).collect();
            zones.sort();
            zones
        };
        assert_eq!(
            (zones(&made.create[0]), made.events[0].1),
            (vec!["z1".to_owned(), "z2".to_owned()], "TopologyAwareHintsEnabled")
        );
        let slice = stored(made.create[0].clone(), "s");
        assert_eq!(plan_with(Ok(even), std::slice::from_ref(&slice)), Plan::default(), "nothing changes, nothing is told");
        let gone = plan_with(Err("why"), &[slice]);
        assert_eq!(gone.events, [(true, "TopologyAwareHintsDisabled", "why, addressType: IPv4".to_owned())]);
        assert!(zones(&gone.update[0]).is_empty());
    }
}

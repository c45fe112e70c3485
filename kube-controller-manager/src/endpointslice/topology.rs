//! `service.kubernetes.io/topology-mode: Auto`: endpoints are given to zones in proportion to the zones' CPU, mostly each to its own.
//!
//! Upstream: staging/src/k8s.io/endpointslice/topologycache

use std::collections::BTreeMap;
use std::sync::Arc;

use api::quantity::Quantity;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointHints, ForZone};
use kube::ResourceExt;

const MODE: &str = "service.kubernetes.io/topology-mode";
const MODE_BEFORE: &str = "service.kubernetes.io/topology-aware-hints";
const ZONE: &str = "topology.kubernetes.io/zone";
/// Nodes that run no users' pods, and whose CPU does not count.
const EXCLUDED: [&str; 2] = ["node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"];
/// A zone's endpoints may get this much more traffic than their share. Upstream: overloadThreshold.
const OVERLOAD: f64 = 0.2;

const NO_NODE_INFO: &str = "Insufficient Node information: allocatable CPU or zone not specified on one or more nodes";
const ONE_ZONE: &str = "Nodes only ready in one zone";
const TOO_FEW: &str = "Insufficient number of endpoints";
const OVERLOADED: &str = "Unable to allocate minimum required endpoints to each zone without exceeding overload threshold";
const NO_ZONE: &str = "Endpoint found without zone specified";

/// Whether a Service asks for it.
pub fn is_wanted(service: &Service) -> bool {
    let mode = service.annotations().get(MODE).or_else(|| service.annotations().get(MODE_BEFORE));
    mode.is_some_and(|mode| mode == "Auto" || mode == "auto")
}

/// What of a node decides about shares.
pub fn view(node: &Node) -> impl PartialEq + use<> {
    (zone(node).map(str::to_owned), is_ready(node), cpu(node).map(|cpu| cpu.milli_value()), is_excluded(node))
}

fn zone(node: &Node) -> Option<&str> {
    node.labels().get(ZONE).map(String::as_str).filter(|zone| !zone.is_empty())
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn cpu(node: &Node) -> Option<Quantity> {
    let text = node.status.as_ref()?.allocatable.as_ref()?.get("cpu")?;
    Quantity::parse(&text.0).ok().filter(|cpu| !cpu.is_zero())
}

fn is_excluded(node: &Node) -> bool {
    EXCLUDED.iter().any(|label| node.labels().contains_key(*label))
}

/// Each zone's share of the CPU of ready nodes; why there are none otherwise.
pub fn shares(nodes: &[Arc<Node>]) -> Result<BTreeMap<String, f64>, &'static str> {
    let mut zones: BTreeMap<String, f64> = BTreeMap::new();
    for node in nodes.iter().filter(|node| is_ready(node) && !is_excluded(node)) {
        let (Some(zone), Some(cpu)) = (zone(node), cpu(node)) else { return Err(NO_NODE_INFO) };
        *zones.entry(zone.to_owned()).or_default() += cpu.as_f64();
    }
    match zones.len() {
        0 => Err(NO_NODE_INFO),
        1 => Err(ONE_ZONE),
        _ => {
            let total: f64 = zones.values().sum();
            Ok(zones.into_iter().map(|(zone, cpu)| (zone, cpu / total)).collect())
        }
    }
}

/// Gives every ready endpoint the hint of one zone, or takes all hints away and says why.
pub fn hint(
    endpoints: &mut [&mut Endpoint],
    shares: Result<&BTreeMap<String, f64>, &'static str>,
    family: &str,
) -> Result<(), String> {
    endpoints.iter_mut().for_each(|endpoint| endpoint.hints = None);
    let mut ready: Vec<&mut &mut Endpoint> = endpoints
        .iter_mut()
        .filter(|endpoint| endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) != Some(false))
        .collect();
    // In one order, so that the same endpoints always get the same hints.
    ready.sort_by(|a, b| a.addresses.cmp(&b.addresses));
    let zones: Vec<Option<&str>> = ready.iter().map(|endpoint| endpoint.zone.as_deref()).collect();
    let given = allocate(&zones, shares).map_err(|why| format!("{why}, addressType: {family}"))?;
    for (endpoint, zone) in ready.iter_mut().zip(given) {
        endpoint.hints = Some(EndpointHints { for_zones: Some(vec![ForZone { name: zone }]), for_nodes: None });
    }
    Ok(())
}

/// The zone to serve, for each endpoint by the zone where it is.
fn allocate(at: &[Option<&str>], shares: Result<&BTreeMap<String, f64>, &'static str>) -> Result<Vec<String>, String> {
    let shares = shares.map_err(str::to_owned)?;
    let total = at.len();
    let counts = format!("({total} endpoints, {} zones)", shares.len());
    if shares.len() > total {
        return Err(format!("{TOO_FEW} {counts}"));
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // counts of pods
    let least = |share: f64| (share * total as f64 / (1.0 + OVERLOAD)).ceil() as usize;
    if shares.values().map(|share| least(*share)).sum::<usize>() > total {
        return Err(format!("{OVERLOADED} {counts}"));
    }
    let mut given: Vec<String> = at.iter().map(|zone| zone.map(str::to_owned)).collect::<Option<_>>().ok_or(NO_ZONE)?;
    let mut have: BTreeMap<&str, usize> = BTreeMap::new();
    at.iter().flatten().for_each(|zone| *have.entry(zone).or_default() += 1);
    // How many endpoints each zone has too many (or, negative, too few). One too many is moved only where that helps by a whole.
    let mut surplus: BTreeMap<&str, f64> = BTreeMap::new();
    for zone in shares.keys().map(String::as_str).chain(have.keys().copied()) {
        let wanted = shares.get(zone).map_or(0.0, |share| (share * total as f64).max(least(*share) as f64));
        surplus.insert(zone, have.get(zone).copied().unwrap_or(0) as f64 - wanted);
    }
    while let Some((from, most)) = surplus.iter().max_by(|a, b| a.1.total_cmp(b.1)).map(|(zone, n)| (*zone, *n))
        && let Some((to, need)) = surplus.iter().min_by(|a, b| a.1.total_cmp(b.1)).map(|(zone, n)| (*zone, -*n))
        && most > 0.0
        && need > 0.0
        && (most >= 1.0 || need >= 1.0)
    {
        let Some(moved) = given.iter().rposition(|zone| zone == from) else { break };
        given[moved] = to.to_owned();
        surplus.insert(from, most - 1.0);
        surplus.insert(to, 1.0 - need);
    }
    Ok(given)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(zone: Option<&str>, cpu: &str, ready: bool, control_plane: bool) -> Arc<Node> {
        let mut labels = json!({});
        if let Some(zone) = zone {
            labels[ZONE] = json!(zone);
        }
        if control_plane {
            labels[EXCLUDED[0]] = json!("");
        }
        let ready = if ready { "True" } else { "False" };
        Arc::new(
            serde_json::from_value(json!({"metadata": {"labels": labels},
                "status": {"allocatable": {"cpu": cpu}, "conditions": [{"type": "Ready", "status": ready}]}}))
            .unwrap(),
        )
    }

    #[test]
    fn shares_follow_the_cpu_of_ready_nodes() {
        let (a, b) = (node(Some("a"), "3", true, false), node(Some("b"), "1", true, false));
        type Row = (Vec<Arc<Node>>, Result<Vec<f64>, &'static str>);
        let rows: [Row; 6] = [
            (vec![a.clone(), b.clone()], Ok(vec![0.75, 0.25])),
            (vec![a.clone(), b.clone(), node(None, "9", true, true)], Ok(vec![0.75, 0.25])),
            (vec![a.clone(), b.clone(), node(None, "9", false, false)], Ok(vec![0.75, 0.25])),
            (vec![a.clone(), b, node(None, "9", true, false)], Err(NO_NODE_INFO)),
            (vec![a], Err(ONE_ZONE)),
            (vec![], Err(NO_NODE_INFO)),
        ];
        for (nodes, expected) in rows {
            assert_eq!(shares(&nodes).map(|zones| zones.into_values().collect::<Vec<_>>()), expected, "{nodes:?}");
        }
    }

    #[test]
    fn endpoints_serve_their_own_zone_unless_that_overloads_another() {
        let even: BTreeMap<String, f64> = [("a".to_owned(), 0.5), ("b".to_owned(), 0.5)].into();
        let thirds: BTreeMap<String, f64> = ["a", "b", "c"].map(|zone| (zone.to_owned(), 1.0 / 3.0)).into();
        let give = |zones: &str, shares: &BTreeMap<String, f64>| {
            let at: Vec<String> = zones.chars().map(String::from).collect();
            let at: Vec<Option<&str>> = at.iter().map(|zone| Some(zone.as_str())).collect();
            allocate(&at, Ok(shares)).map(|given| given.concat())
        };
        assert_eq!(give("aabb", &even).unwrap(), "aabb");
        assert_eq!(give("aaab", &even).unwrap(), "aabb", "one of a's serves b");
        assert_eq!(give("aaaaaa", &thirds).unwrap().chars().filter(|zone| *zone == 'a').count(), 2);
        assert_eq!(give("aabbbz", &even).unwrap().chars().filter(|zone| *zone == 'z').count(), 0, "nobody is in z");
        assert_eq!(give("a", &even).unwrap_err(), "Insufficient number of endpoints (1 endpoints, 2 zones)");
        assert!(give("aaaabbbbccc", &thirds).unwrap_err().starts_with(OVERLOADED));
        assert_eq!(allocate(&[None, Some("a")], Ok(&even)).unwrap_err(), NO_ZONE);
        assert_eq!(allocate(&[Some("a")], Err(ONE_ZONE)).unwrap_err(), ONE_ZONE);
    }

    #[test]
    fn only_ready_endpoints_get_hints() {
        let even: BTreeMap<String, f64> = [("a".to_owned(), 0.5), ("b".to_owned(), 0.5)].into();
        let endpoint = |zone: &str, ready: bool| -> Endpoint {
            serde_json::from_value(json!({"addresses": [zone], "zone": zone, "conditions": {"ready": ready}})).unwrap()
        };
        let mut list = [endpoint("a", true), endpoint("b", true), endpoint("c", false)];
        hint(&mut list.iter_mut().collect::<Vec<_>>(), Ok(&even), "IPv4").unwrap();
        let hints: Vec<Option<String>> =
            list.iter().map(|endpoint| Some(endpoint.hints.as_ref()?.for_zones.as_ref()?[0].name.clone())).collect();
        assert_eq!(hints, [Some("a".to_owned()), Some("b".to_owned()), None]);
        let why = hint(&mut list.iter_mut().collect::<Vec<_>>(), Err(ONE_ZONE), "IPv6").unwrap_err();
        assert_eq!(why, "Nodes only ready in one zone, addressType: IPv6");
        assert!(list.iter().all(|endpoint| endpoint.hints.is_none()));
    }
}

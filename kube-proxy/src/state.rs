//! All Services and EndpointSlices, and which Services changed since somebody last looked.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use net::iptables::Family;

use super::endpoint::{self, Endpoint, Slice};
use super::portal::{Place, Portal, open};
use super::service::{ServiceName, ServicePort, ports_of};

/// Services that endpoints are known for; ports as the Service lists them.
#[derive(Debug, Default)]
pub struct State {
    place: Place,
    services: BTreeMap<ServiceName, Vec<Arc<ServicePort>>>,
    slices: HashMap<ServiceName, BTreeMap<String, Slice>>,
    /// Namespace and name of a slice → its Service: a slice may change hands.
    owners: HashMap<(String, String), ServiceName>,
    dirty: BTreeSet<ServiceName>,
    seen: Seen,
}

/// What the API server told since somebody last asked.
#[derive(Debug, Default, Clone)]
pub struct Seen {
    pub services: u64,
    pub slices: u64,
    /// When the pods changed that slices changed for; only the first few, as more would be the same.
    pub triggers: Vec<Timestamp>,
}

/// Triggers that are kept between two syncs.
const MAX_TRIGGERS: usize = 1000;
/// Set by the endpoint slice controller. Upstream: EndpointsLastChangeTriggerTime.
const TRIGGER_ANNOTATION: &str = "endpoints.kubernetes.io/last-change-trigger-time";

impl State {
    pub fn new(place: Place) -> Self {
        Self { place, ..Self::default() }
    }

    /// Notes where this node is; a move concerns every Service.
    pub fn set_place(&mut self, place: Place) -> bool {
        let moved = self.place != place;
        if moved {
            self.place = place;
            self.dirty.extend(self.services.keys().cloned());
        }
        moved
    }

    pub fn set_service(&mut self, service: &Service) {
        let name = ServiceName::new(
            service.metadata.namespace.as_deref().unwrap_or_default(),
            service.metadata.name.as_deref().unwrap_or_default(),
        );
        let ports: Vec<Arc<ServicePort>> = ports_of(service).into_iter().map(Arc::new).collect();
        if ports.is_empty() {
            return self.delete_service(&name);
        }
        if self.services.get(&name) != Some(&ports) {
            self.services.insert(name.clone(), ports);
            self.dirty.insert(name);
            self.seen.services += 1;
        }
    }

    pub fn delete_service(&mut self, name: &ServiceName) {
        if self.services.remove(name).is_some() {
            self.dirty.insert(name.clone());
            self.seen.services += 1;
        }
    }

    pub fn set_slice(&mut self, slice: &EndpointSlice) {
        let Some(key) = slice_key(slice) else { return };
        let service = endpoint::service_of(slice);
        let reduced = endpoint::reduce(slice, &self.place.node);
        let (Some(service), Some(reduced)) = (service, reduced) else { return self.delete_slice(&key.0, &key.1) };
        if self.owners.get(&key).is_some_and(|owner| *owner != service) {
            self.delete_slice(&key.0, &key.1);
        }
        let slices = self.slices.entry(service.clone()).or_default();
        if slices.get(&key.1) != Some(&reduced) {
            slices.insert(key.1.clone(), reduced);
            self.dirty.insert(service.clone());
            self.seen.slices += 1;
            let annotations = slice.metadata.annotations.as_ref();
            let trigger = annotations.and_then(|all| all.get(TRIGGER_ANNOTATION)).and_then(|text| text.parse().ok());
            if self.seen.triggers.len() < MAX_TRIGGERS {
                self.seen.triggers.extend::<Option<Timestamp>>(trigger);
            }
        }
        self.owners.entry(key).or_insert(service);
    }

    pub fn delete_slice(&mut self, namespace: &str, name: &str) {
        let Some(service) = self.owners.remove(&(namespace.to_owned(), name.to_owned())) else { return };
        let Some(slices) = self.slices.get_mut(&service) else { return };
        if slices.remove(name).is_some() {
            if slices.is_empty() {
                self.slices.remove(&service);
            }
            self.dirty.insert(service);
            self.seen.slices += 1;
        }
    }

    /// Forgets what a complete list does not hold: it went while nobody watched.
    pub fn keep_services(&mut self, listed: &HashSet<ServiceName>) {
        let gone: Vec<ServiceName> = self.services.keys().filter(|name| !listed.contains(*name)).cloned().collect();
        for name in gone {
            self.delete_service(&name);
        }
    }

    /// As [`State::keep_services`], by namespace and name.
    pub fn keep_slices(&mut self, listed: &HashSet<(String, String)>) {
        let gone: Vec<(String, String)> = self.owners.keys().filter(|key| !listed.contains(*key)).cloned().collect();
        for (namespace, name) in gone {
            self.delete_slice(&namespace, &name);
        }
    }

    /// The Services that changed since the last call.
    pub fn take_changes(&mut self) -> Vec<ServiceName> {
        std::mem::take(&mut self.dirty).into_iter().collect()
    }

    /// What was told since the last call.
    pub fn take_seen(&mut self) -> Seen {
        std::mem::take(&mut self.seen)
    }

    /// What was told since somebody took it.
    pub fn seen(&self) -> &Seen {
        &self.seen
    }

    pub fn has_changes(&self) -> bool {
        !self.dirty.is_empty()
    }

    pub fn names(&self) -> impl Iterator<Item = &ServiceName> {
        self.services.keys()
    }

    pub fn ports(&self, name: &ServiceName) -> &[Arc<ServicePort>] {
        self.services.get(name).map(Vec::as_slice).unwrap_or_default()
    }

    /// The portals of a Service in one family; none when it does not exist or has no address there.
    pub fn portals(&self, name: &ServiceName, family: Family) -> Vec<Portal> {
        self.ports(name)
            .iter()
            .filter_map(|port| {
                let cluster_ip = port.cluster_ip(family)?;
                Some(open(port, cluster_ip, &self.endpoints(name, port, family), &self.place))
            })
            .collect()
    }

    /// Ready endpoints of the Service on this node, whatever their port: what its health check tells load balancers.
    pub fn local_ready(&self, name: &ServiceName) -> usize {
        let slices = self.slices.get(name).into_iter().flat_map(BTreeMap::values);
        let endpoints = slices.flat_map(|slice| &slice.ports).flat_map(|port| &port.endpoints);
        endpoints
            .filter(|endpoint| endpoint.local && endpoint.ready)
            .map(|endpoint| endpoint.address.ip())
            .collect::<BTreeSet<_>>()
            .len()
    }

    fn endpoints(&self, name: &ServiceName, port: &ServicePort, family: Family) -> Vec<Endpoint> {
        let slices = self.slices.get(name).into_iter().flat_map(BTreeMap::values).filter(|slice| slice.family == family);
        let ports = slices.flat_map(|slice| &slice.ports).filter(|p| p.name == port.name && p.protocol == port.protocol);
        ports.flat_map(|port| port.endpoints.iter().cloned()).collect()
    }
}

/// Namespace and name.
pub fn slice_key(slice: &EndpointSlice) -> Option<(String, String)> {
    Some((slice.metadata.namespace.clone().unwrap_or_default(), slice.metadata.name.clone()?))
}

#[cfg(test)]
pub mod tests {
    use serde_json::{Value, json};

    use super::*;

    pub fn service(name: &str, spec: Value) -> Service {
        serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": name}, "spec": spec})).unwrap()
    }

    /// A slice with ready endpoints; `(ip, node)`.
    pub fn slice(service: &str, name: &str, port: Value, endpoints: &[(&str, &str)]) -> EndpointSlice {
        let endpoints: Vec<Value> = endpoints
            .iter()
            .map(|(ip, node)| json!({"addresses": [ip], "nodeName": node, "conditions": {"ready": true}}))
            .collect();
        let v6 = endpoints.first().is_some_and(|e| e["addresses"][0].as_str().unwrap().contains(':'));
        serde_json::from_value(json!({
            "metadata": {"namespace": "ns", "name": name, "labels": {endpoint::SERVICE_NAME_LABEL: service}},
            "addressType": if v6 { "IPv6" } else { "IPv4" }, "ports": [port], "endpoints": endpoints,
        }))
        .unwrap()
    }

    #[test]
    fn only_what_differs_is_a_change() {
        let mut state = State::new(Place { node: "me".into(), zone: String::new() });
        let web = service("web", json!({"clusterIP": "10.96.0.5", "ports": [{"port": 80}]}));
        let name = ServiceName::new("ns", "web");
        state.set_service(&web);
        assert_eq!(state.take_changes(), std::slice::from_ref(&name));
        state.set_service(&web);
        assert!(!state.has_changes());
        let one = slice("web", "web-1", json!({"port": 8080}), &[("10.0.0.1", "me"), ("10.0.0.2", "you")]);
        state.set_slice(&one);
        assert_eq!(state.take_changes(), std::slice::from_ref(&name));
        state.set_slice(&one);
        assert!(!state.has_changes());
        let portals = state.portals(&name, Family::V4);
        assert_eq!((portals[0].cluster.len(), portals[0].on_this_node.len()), (2, 1));
        assert!(state.portals(&name, Family::V6).is_empty());
        assert_eq!(state.local_ready(&name), 1);
        // It changes hands, and comes back.
        let stolen = slice("other", "web-1", json!({"port": 8080}), &[("10.0.0.1", "me")]);
        state.set_slice(&stolen);
        assert_eq!(state.take_changes(), [ServiceName::new("ns", "other"), name.clone()]);
        assert!(state.portals(&name, Family::V4)[0].cluster.is_empty());
        state.set_slice(&one);
        assert_eq!(state.portals(&name, Family::V4)[0].cluster.len(), 2);
        state.keep_slices(&HashSet::from([("ns".to_owned(), "web-1".to_owned())]));
        assert_eq!(state.portals(&name, Family::V4)[0].cluster.len(), 2);
        state.keep_slices(&HashSet::new());
        assert!(state.portals(&name, Family::V4)[0].cluster.is_empty());
        state.take_changes();
        state.keep_services(&HashSet::from([name.clone()]));
        assert!(!state.has_changes());
        state.keep_services(&HashSet::new());
        assert_eq!(state.take_changes(), [name]);
    }

    #[test]
    fn endpoints_of_several_slices_are_joined_by_port_name() {
        let mut state = State::default();
        state.set_service(&service("web", json!({"clusterIP": "10.96.0.5", "ports": [{"port": 80, "name": "http"}]})));
        state.set_slice(&slice("web", "a", json!({"port": 8080, "name": "http"}), &[("10.0.0.2", "x")]));
        state.set_slice(&slice("web", "b", json!({"port": 8081, "name": "http"}), &[("10.0.0.1", "x"), ("10.0.0.1", "x")]));
        state.set_slice(&slice("web", "c", json!({"port": 9090, "name": "other"}), &[("10.0.0.3", "x")]));
        let portals = state.portals(&ServiceName::new("ns", "web"), Family::V4);
        let all: Vec<String> = portals[0].cluster.iter().map(ToString::to_string).collect();
        assert_eq!(all, ["10.0.0.1:8081", "10.0.0.2:8080"]);
    }
}

//! What the cluster's names lead to: Services, endpoints, namespaces and pods, reduced to what answers are made of.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// A named port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    pub name: String,
    /// Lower case.
    pub protocol: String,
    pub number: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Cluster(Vec<IpAddr>),
    Headless,
    External(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Svc {
    pub kind: Kind,
    pub ports: Vec<Port>,
}

/// One address of a ready endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub ip: IpAddr,
    pub hostname: Option<String>,
    pub pod: Option<String>,
    pub ports: Vec<Port>,
}

impl Endpoint {
    /// The label that the endpoint is known by below its Service.
    pub fn label(&self, pod_names: bool) -> String {
        if let Some(hostname) = &self.hostname {
            return hostname.clone();
        }
        match &self.pod {
            Some(pod) if pod_names => pod.clone(),
            _ => dashed(self.ip),
        }
    }
}

/// `10-0-0-1`, `fd00--1`
pub fn dashed(ip: IpAddr) -> String {
    ip.to_string().replace(['.', ':'], "-")
}

type Named<T> = HashMap<String, HashMap<String, T>>;

/// Everything, by namespace and name.
#[derive(Debug, Default)]
pub struct Index {
    pub namespaces: HashSet<String>,
    services: Named<Svc>,
    /// Namespace → Service → slice → endpoints.
    slices: Named<BTreeMap<String, Vec<Endpoint>>>,
    /// Cluster IP → namespace and Service.
    by_cluster_ip: HashMap<IpAddr, (String, String)>,
    /// Endpoint IP → namespaces and Services.
    by_endpoint_ip: HashMap<IpAddr, BTreeSet<(String, String)>>,
    /// IP → namespaces of pods that have it.
    pods: HashMap<IpAddr, BTreeSet<(String, String)>>,
    /// Changes with every change: the zone's serial number.
    pub serial: u32,
}

fn lower(protocol: Option<&str>) -> String {
    protocol.unwrap_or("TCP").to_ascii_lowercase()
}

impl Index {
    pub fn set_service(&mut self, service: &Service) {
        let (Some(namespace), Some(name), Some(spec)) = (&service.metadata.namespace, &service.metadata.name, &service.spec)
        else {
            return;
        };
        self.delete_service(namespace, name);
        let ips = || -> Vec<IpAddr> {
            let mut all: Vec<IpAddr> =
                spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip).filter_map(|ip| ip.parse().ok()).collect();
            all.dedup();
            let mut seen = HashSet::new();
            all.retain(|ip| seen.insert(*ip));
            all
        };
        let kind = match (spec.type_.as_deref(), &spec.external_name) {
            (Some("ExternalName"), Some(target)) => Kind::External(target.clone()),
            _ if spec.cluster_ip.as_deref() == Some("None") => Kind::Headless,
            _ => Kind::Cluster(ips()),
        };
        if let Kind::Cluster(ips) = &kind {
            for ip in ips {
                self.by_cluster_ip.insert(*ip, (namespace.clone(), name.clone()));
            }
        }
        let ports = spec.ports.iter().flatten().filter_map(|port| {
            let number = u16::try_from(port.port).ok()?;
            Some(Port { name: port.name.clone().unwrap_or_default(), protocol: lower(port.protocol.as_deref()), number })
        });
        let service = Svc { kind, ports: ports.collect() };
        self.services.entry(namespace.clone()).or_default().insert(name.clone(), service);
        self.serial = self.serial.wrapping_add(1);
    }

    pub fn delete_service(&mut self, namespace: &str, name: &str) {
        let Some(services) = self.services.get_mut(namespace) else { return };
        if let Some(Svc { kind: Kind::Cluster(ips), .. }) = services.remove(name) {
            for ip in ips {
                // The address may already be another Service's.
                if self.by_cluster_ip.get(&ip).is_some_and(|(ns, n)| ns == namespace && n == name) {
                    self.by_cluster_ip.remove(&ip);
                }
            }
        }
        if services.is_empty() {
            self.services.remove(namespace);
        }
        self.serial = self.serial.wrapping_add(1);
    }

    pub fn set_slice(&mut self, slice: &EndpointSlice) {
        self.delete_slice(slice);
        let Some((namespace, service, name)) = slice_names(slice) else { return };
        let ports: Vec<Port> = slice
            .ports
            .iter()
            .flatten()
            .filter_map(|port| {
                let number = u16::try_from(port.port?).ok()?;
                Some(Port { name: port.name.clone().unwrap_or_default(), protocol: lower(port.protocol.as_deref()), number })
            })
            .collect();
        let mut endpoints = Vec::new();
        for endpoint in slice.endpoints.iter().flatten() {
            // Unknown means ready; slices of Services that publish unready addresses say ready by themselves.
            if endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) == Some(false) {
                continue;
            }
            for ip in endpoint.addresses.iter().filter_map(|ip| ip.parse().ok()) {
                let pod = endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"));
                endpoints.push(Endpoint {
                    ip,
                    hostname: endpoint.hostname.clone().filter(|hostname| !hostname.is_empty()),
                    pod: pod.and_then(|pod| pod.name.clone()),
                    ports: ports.clone(),
                });
            }
        }
        for endpoint in &endpoints {
            self.by_endpoint_ip.entry(endpoint.ip).or_default().insert((namespace.to_owned(), service.to_owned()));
        }
        let of_service = self.slices.entry(namespace.to_owned()).or_default().entry(service.to_owned()).or_default();
        of_service.insert(name.to_owned(), endpoints);
        self.serial = self.serial.wrapping_add(1);
    }

    pub fn delete_slice(&mut self, slice: &EndpointSlice) {
        let Some((namespace, service, name)) = slice_names(slice) else { return };
        let Some(services) = self.slices.get_mut(namespace) else { return };
        let Some(of_service) = services.get_mut(service) else { return };
        let gone = of_service.remove(name).unwrap_or_default();
        let still: HashSet<IpAddr> = of_service.values().flatten().map(|endpoint| endpoint.ip).collect();
        if of_service.is_empty() {
            services.remove(service);
        }
        let key = (namespace.to_owned(), service.to_owned());
        for ip in gone.iter().map(|endpoint| endpoint.ip).filter(|ip| !still.contains(ip)) {
            remove_from(&mut self.by_endpoint_ip, ip, &key);
        }
        self.serial = self.serial.wrapping_add(1);
    }

    pub fn set_pod(&mut self, pod: &Pod) {
        for ip in pod_ips(pod) {
            self.pods.entry(ip).or_default().insert(pod_key(pod));
        }
    }

    pub fn delete_pod(&mut self, pod: &Pod) {
        for ip in pod_ips(pod) {
            remove_from(&mut self.pods, ip, &pod_key(pod));
        }
    }

    pub fn service(&self, namespace: &str, name: &str) -> Option<&Svc> {
        self.services.get(namespace)?.get(name)
    }

    /// The ready endpoints of a Service.
    pub fn endpoints(&self, namespace: &str, name: &str) -> impl Iterator<Item = &Endpoint> {
        self.slices.get(namespace).and_then(|services| services.get(name)).into_iter().flat_map(BTreeMap::values).flatten()
    }

    pub fn service_at(&self, ip: IpAddr) -> Option<&(String, String)> {
        self.by_cluster_ip.get(&ip)
    }

    /// The Services that have an endpoint at this address.
    pub fn services_with_endpoint(&self, ip: IpAddr) -> impl Iterator<Item = &(String, String)> {
        self.by_endpoint_ip.get(&ip).into_iter().flatten()
    }

    pub fn pod_at(&self, ip: IpAddr, namespace: &str) -> bool {
        self.pods.get(&ip).is_some_and(|pods| pods.iter().any(|(ns, _)| ns == namespace))
    }
}

fn remove_from(map: &mut HashMap<IpAddr, BTreeSet<(String, String)>>, ip: IpAddr, key: &(String, String)) {
    if let Some(set) = map.get_mut(&ip) {
        set.remove(key);
        if set.is_empty() {
            map.remove(&ip);
        }
    }
}

fn slice_names(slice: &EndpointSlice) -> Option<(&str, &str, &str)> {
    let service = slice.metadata.labels.as_ref()?.get(SERVICE_NAME_LABEL)?;
    Some((slice.metadata.namespace.as_deref()?, service, slice.metadata.name.as_deref()?))
}

fn pod_key(pod: &Pod) -> (String, String) {
    (pod.metadata.namespace.clone().unwrap_or_default(), pod.metadata.name.clone().unwrap_or_default())
}

fn pod_ips(pod: &Pod) -> Vec<IpAddr> {
    let status = pod.status.as_ref();
    let listed = status.and_then(|status| status.pod_ips.as_ref()).into_iter().flatten().map(|ip| ip.ip.as_str());
    listed.chain(status.and_then(|status| status.pod_ip.as_deref())).filter_map(|ip| ip.parse().ok()).collect()
}

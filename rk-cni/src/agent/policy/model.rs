//! Namespaces, pods and policies, reduced to what decides about traffic.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Pod as PodObject;
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

pub type Labels = BTreeMap<String, String>;

/// A pod that takes part in the pod network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    pub namespace: String,
    pub labels: Labels,
    pub node: String,
    pub ips: Vec<IpAddr>,
    /// Name, protocol, number.
    pub ports: Vec<(String, Protocol, u16)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    fn parse(text: Option<&str>) -> Option<Self> {
        match text {
            None | Some("TCP") => Some(Self::Tcp),
            Some("UDP") => Some(Self::Udp),
            Some("SCTP") => Some(Self::Sctp),
            Some(_) => None,
        }
    }

    /// As nft writes it.
    pub fn lower(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// A label selector; the empty one matches everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector {
    pub requirements: Vec<(String, Requirement)>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Requirement {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    DoesNotExist,
    /// An operator that we do not know: matches nothing, which is the safe side.
    Never,
}

impl Selector {
    fn of(selector: &LabelSelector) -> Self {
        let labels = selector.match_labels.iter().flatten();
        let mut requirements: Vec<(String, Requirement)> =
            labels.map(|(key, value)| (key.clone(), Requirement::In(vec![value.clone()]))).collect();
        for expression in selector.match_expressions.iter().flatten() {
            let mut values = expression.values.clone().unwrap_or_default();
            values.sort();
            let requirement = match expression.operator.as_str() {
                "In" => Requirement::In(values),
                "NotIn" => Requirement::NotIn(values),
                "Exists" => Requirement::Exists,
                "DoesNotExist" => Requirement::DoesNotExist,
                _ => Requirement::Never,
            };
            requirements.push((expression.key.clone(), requirement));
        }
        requirements.sort();
        Self { requirements }
    }

    pub fn matches(&self, labels: &Labels) -> bool {
        self.requirements.iter().all(|(key, requirement)| {
            let value = labels.get(key);
            match requirement {
                Requirement::In(values) => value.is_some_and(|value| values.contains(value)),
                Requirement::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
                Requirement::Exists => value.is_some(),
                Requirement::DoesNotExist => value.is_none(),
                Requirement::Never => false,
            }
        })
    }
}

/// One side of an allowed connection.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    Block {
        cidr: IpNet,
        except: Vec<IpNet>,
    },
    /// Pods; without `namespaces`, those of the policy's own namespace.
    Pods {
        namespaces: Option<Selector>,
        pods: Selector,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PortMatch {
    Any,
    Range(u16, u16),
    Named(String),
}

/// Peers and ports; either empty means all.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Rule {
    pub peers: Option<Vec<Peer>>,
    pub ports: Option<Vec<(Protocol, PortMatch)>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    pub namespace: String,
    pub pods: Selector,
    /// `None`: says nothing about this direction.
    pub ingress: Option<Vec<Rule>>,
    pub egress: Option<Vec<Rule>>,
}

/// Pods that are done, have no address or use the node's network take no part.
pub fn reduce_pod(pod: &PodObject) -> Option<Pod> {
    let (spec, status) = (pod.spec.as_ref()?, pod.status.as_ref()?);
    if spec.host_network == Some(true) || matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return None;
    }
    let mut ips: Vec<IpAddr> = status.pod_ips.iter().flatten().filter_map(|ip| ip.ip.parse().ok()).collect();
    if ips.is_empty() {
        ips.extend(status.pod_ip.iter().filter_map(|ip| ip.parse::<IpAddr>().ok()));
    }
    if ips.is_empty() {
        return None;
    }
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let ports = containers.flat_map(|container| container.ports.iter().flatten()).filter_map(|port| {
        let number = u16::try_from(port.container_port).ok()?;
        Some((port.name.clone()?, Protocol::parse(port.protocol.as_deref())?, number))
    });
    Some(Pod {
        namespace: pod.metadata.namespace.clone().unwrap_or_default(),
        labels: pod.metadata.labels.clone().unwrap_or_default(),
        node: spec.node_name.clone().unwrap_or_default(),
        ips,
        ports: ports.collect(),
    })
}

/// What a policy says; `None` for one without a spec.
pub fn reduce_policy(policy: &NetworkPolicy) -> Option<Policy> {
    let spec = policy.spec.as_ref()?;
    let named = |kind: &str| spec.policy_types.as_ref().is_some_and(|types| types.iter().any(|t| t == kind));
    let unnamed = spec.policy_types.as_ref().is_none_or(Vec::is_empty);
    let ingress: Vec<Rule> =
        spec.ingress.iter().flatten().map(|rule| reduce_rule(rule.from.as_ref(), rule.ports.as_ref())).collect();
    let egress: Vec<Rule> = spec.egress.iter().flatten().map(|rule| reduce_rule(rule.to.as_ref(), rule.ports.as_ref())).collect();
    Some(Policy {
        namespace: policy.metadata.namespace.clone().unwrap_or_default(),
        pods: spec.pod_selector.as_ref().map(Selector::of).unwrap_or_default(),
        // Ingress is always meant when nothing is said; egress only where there are rules for it.
        ingress: (named("Ingress") || unnamed).then_some(ingress),
        egress: (named("Egress") || (unnamed && spec.egress.is_some())).then_some(egress),
    })
}

fn reduce_rule(peers: Option<&Vec<NetworkPolicyPeer>>, ports: Option<&Vec<NetworkPolicyPort>>) -> Rule {
    Rule {
        peers: peers.filter(|peers| !peers.is_empty()).map(|peers| peers.iter().filter_map(reduce_peer).collect()),
        ports: ports.filter(|ports| !ports.is_empty()).map(|ports| ports.iter().filter_map(reduce_port).collect()),
    }
}

fn reduce_peer(peer: &NetworkPolicyPeer) -> Option<Peer> {
    if let Some(block) = &peer.ip_block {
        let except = block.except.iter().flatten().filter_map(|cidr| cidr.parse().ok()).collect();
        return Some(Peer::Block { cidr: block.cidr.parse::<IpNet>().ok()?.trunc(), except });
    }
    if peer.namespace_selector.is_none() && peer.pod_selector.is_none() {
        return None;
    }
    Some(Peer::Pods {
        namespaces: peer.namespace_selector.as_ref().map(Selector::of),
        pods: peer.pod_selector.as_ref().map(Selector::of).unwrap_or_default(),
    })
}

fn reduce_port(port: &NetworkPolicyPort) -> Option<(Protocol, PortMatch)> {
    let protocol = Protocol::parse(port.protocol.as_deref())?;
    let number = |n: i32| u16::try_from(n).ok();
    Some((
        protocol,
        match &port.port {
            None => PortMatch::Any,
            Some(IntOrString::String(name)) => PortMatch::Named(name.clone()),
            Some(IntOrString::Int(first)) => {
                let first = number(*first)?;
                PortMatch::Range(first, port.end_port.and_then(number).filter(|last| *last >= first).unwrap_or(first))
            }
        },
    ))
}

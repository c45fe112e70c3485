//! Groups of pods that rules speak of: each is a set of addresses in the kernel, shared by all rules with the same selectors.

use std::net::IpAddr;

use super::compile::hash;
use super::model::{Labels, Peer, Pod, Protocol, Requirement, Selector};

/// Whom a group holds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Members {
    Everybody,
    /// Pods of one namespace, or of those that a selector matches.
    Pods {
        scope: Option<String>,
        namespaces: Option<Selector>,
        pods: Selector,
    },
    /// Pods whose address is within a block.
    Block(Peer),
}

/// A group of pods, as addresses or as addresses with the port of a name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Group {
    members: Members,
    port: Option<(Protocol, String)>,
}

/// By what a pod's groups are found without looking at all of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Anchor {
    Namespace(String),
    Label(String, String),
    Any,
}

impl Anchor {
    /// Every anchor whose groups may hold the pod.
    pub fn of_pod(pod: &Pod) -> impl Iterator<Item = Self> + '_ {
        let labels = pod.labels.iter().map(|(key, value)| Self::Label(key.clone(), value.clone()));
        [Self::Any, Self::Namespace(pod.namespace.clone())].into_iter().chain(labels)
    }
}

impl Group {
    /// The pods of a policy's peer.
    pub fn pods(namespace: &str, namespaces: Option<&Selector>, pods: &Selector) -> Self {
        let scope = namespaces.is_none().then(|| namespace.to_owned());
        Self { members: Members::Pods { scope, namespaces: namespaces.cloned(), pods: pods.clone() }, port: None }
    }

    /// What a port's name means at a peer's pods.
    pub fn port(namespace: &str, peer: Option<&Peer>, protocol: Protocol, port: &str) -> Self {
        let members = match peer {
            None => Members::Everybody,
            Some(Peer::Pods { namespaces, pods }) => Self::pods(namespace, namespaces.as_ref(), pods).members,
            Some(block) => Members::Block(block.clone()),
        };
        Self { members, port: Some((protocol, port.to_owned())) }
    }

    /// The sets' name, without the family: it tells the content.
    pub fn name(&self) -> String {
        let prefix = if self.port.is_some() { "port" } else { "peer" };
        format!("{prefix}-{}", hash(&format!("{self:?}")))
    }

    /// nft's type of the set for a family.
    pub fn kind(&self, v4: bool) -> &'static str {
        match (self.port.is_some(), v4) {
            (false, true) => "ipv4_addr",
            (false, false) => "ipv6_addr",
            (true, true) => "ipv4_addr . inet_proto . inet_service",
            (true, false) => "ipv6_addr . inet_proto . inet_service",
        }
    }

    pub fn anchors(&self) -> Vec<Anchor> {
        let Members::Pods { scope, pods, .. } = &self.members else { return vec![Anchor::Any] };
        if let Some(namespace) = scope {
            return vec![Anchor::Namespace(namespace.clone())];
        }
        let listed = pods.requirements.iter().find_map(|(key, requirement)| match requirement {
            Requirement::In(values) => Some((key, values)),
            _ => None,
        });
        match listed {
            Some((key, values)) => values.iter().map(|value| Anchor::Label(key.clone(), value.clone())).collect(),
            None => vec![Anchor::Any],
        }
    }

    /// Whether labels of namespaces decide who is in.
    pub fn looks_at_namespaces(&self) -> bool {
        matches!(&self.members, Members::Pods { scope: None, .. })
    }

    /// The one namespace whose pods may be in, if it is one.
    pub fn scope(&self) -> Option<&str> {
        match &self.members {
            Members::Pods { scope, .. } => scope.as_deref(),
            _ => None,
        }
    }

    /// Whether a pod is in; `namespace` are its namespace's labels, where that is known.
    pub fn holds(&self, pod: &Pod, namespace: Option<&Labels>) -> bool {
        match &self.members {
            Members::Everybody | Members::Block(_) => true,
            Members::Pods { scope: Some(own), pods, .. } => *own == pod.namespace && pods.matches(&pod.labels),
            Members::Pods { scope: None, namespaces, pods } => {
                let fits = |labels| namespaces.as_ref().is_none_or(|selector| selector.matches(labels));
                namespace.is_some_and(fits) && pods.matches(&pod.labels)
            }
        }
    }

    /// What a pod that is in adds to the set of a family.
    pub fn elements(&self, pod: &Pod, v4: bool) -> Vec<String> {
        let within = |ip: &&IpAddr| match &self.members {
            Members::Block(Peer::Block { cidr, except }) => cidr.contains(*ip) && !except.iter().any(|net| net.contains(*ip)),
            _ => true,
        };
        let ips = || pod.ips.iter().filter(|ip| ip.is_ipv4() == v4).filter(within);
        match &self.port {
            None => ips().map(ToString::to_string).collect(),
            Some((protocol, port)) => {
                let numbers = pod.ports.iter().filter(|(name, kind, _)| name == port && kind == protocol);
                let numbers: Vec<u16> = numbers.map(|(_, _, number)| *number).collect();
                ips().flat_map(|ip| numbers.iter().map(move |n| format!("{ip} . {} . {n}", protocol.lower()))).collect()
            }
        }
    }
}

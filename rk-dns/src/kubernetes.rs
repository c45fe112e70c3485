//! Answers to questions about the cluster's own names. Pure: from an [`Index`] and a question to records.
//!
//! Specification: Kubernetes DNS-Based Service Discovery 1.1.0; where it is silent, as CoreDNS's kubernetes plugin.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use crate::config::{Kubernetes, Pods, Zone};
use crate::index::{Endpoint, Index, Kind, Svc};

/// The version of the specification that `dns-version.<zone>` tells.
const SPECIFICATION: &str = "1.1.0";

/// What is known about a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Answers, and records that save the client another question.
    Records {
        answers: Vec<Record>,
        additional: Vec<Record>,
    },
    /// The name is another name for something outside; whoever asks for addresses wants those as well.
    Alias {
        record: Record,
        target: Name,
    },
    /// The name exists, but not with this type. With the zone's SOA.
    NoData(Record),
    NoName(Record),
    /// Not a name of ours, or one that others may know.
    Pass,
}

/// One question; `name` as the client wrote it, `labels` in lower case.
pub struct Question<'a> {
    pub name: &'a Name,
    pub labels: &'a [String],
    pub kind: RecordType,
}

/// Looks a question up.
pub fn answer(config: &Kubernetes, index: &Index, question: &Question<'_>) -> Outcome {
    let Some(zone) = config.zones.iter().filter(|zone| zone.contains(question.labels)).max_by_key(|zone| zone.0.len()) else {
        return Outcome::Pass;
    };
    let lookup = Lookup { config, index, question, zone };
    let rest: Vec<&str> = question.labels[..question.labels.len() - zone.0.len()].iter().map(String::as_str).collect();
    let found = if zone.0.last().is_some_and(|label| label == "arpa") { lookup.reverse(&rest) } else { lookup.forward(&rest) };
    match found {
        Found::Nothing if config.fallthrough.allows(question.labels) => Outcome::Pass,
        Found::Nothing => Outcome::NoName(lookup.soa()),
        Found::Name => Outcome::NoData(lookup.soa()),
        Found::Records(answers, _) if answers.is_empty() => Outcome::NoData(lookup.soa()),
        Found::Records(answers, additional) => Outcome::Records { answers, additional },
        Found::Alias(target) => {
            let record = lookup.record(RData::CNAME(CNAME(target.clone())));
            Outcome::Alias { record, target }
        }
    }
}

enum Found {
    Nothing,
    /// The name exists.
    Name,
    Records(Vec<Record>, Vec<Record>),
    Alias(Name),
}

struct Lookup<'a> {
    config: &'a Kubernetes,
    index: &'a Index,
    question: &'a Question<'a>,
    zone: &'a Zone,
}

impl Lookup<'_> {
    fn record(&self, data: RData) -> Record {
        Record::from_rdata(self.question.name.clone(), self.config.ttl, data)
    }

    fn named(&self, name: Name, data: RData) -> Record {
        Record::from_rdata(name, self.config.ttl, data)
    }

    /// A name below the zone; labels that do not fit give none.
    fn below(&self, labels: &[&str]) -> Option<Name> {
        let all = labels.iter().copied().chain(self.zone.0.iter().map(String::as_str));
        let mut name = Name::from_labels(all.map(str::as_bytes)).ok()?;
        name.set_fqdn(true);
        Some(name)
    }

    fn soa(&self) -> Record {
        let apex = self.below(&[]).unwrap_or_else(Name::root);
        let (server, mailbox) = (self.below(&["ns", "dns"]), self.below(&["hostmaster"]));
        let (server, mailbox) = (server.unwrap_or_else(Name::root), mailbox.unwrap_or_else(Name::root));
        let soa = SOA::new(server, mailbox, self.index.serial, 7200, 1800, 86400, self.config.ttl);
        self.named(apex, RData::SOA(soa))
    }

    fn forward(&self, rest: &[&str]) -> Found {
        match rest {
            [] => self.apex(),
            ["dns-version"] => self.version(),
            ["dns"] => Found::Name,
            ["ns", "dns"] => self.own_addresses(),
            ["svc" | "pod"] => Found::Name,
            [namespace, "svc" | "pod"] => {
                if self.exposes(namespace) {
                    Found::Name
                } else {
                    Found::Nothing
                }
            }
            [name, namespace, "svc"] => self.service(namespace, name),
            [endpoint, name, namespace, "svc"] => self.endpoint(namespace, name, endpoint),
            [port, protocol, name, namespace, "svc"] => self.port(namespace, name, port, protocol),
            [ip, namespace, "pod"] => self.pod(namespace, ip),
            _ => Found::Nothing,
        }
    }

    fn exposes(&self, namespace: &str) -> bool {
        let listed = self.config.namespaces.is_empty() || self.config.namespaces.iter().any(|known| known == namespace);
        listed && self.index.namespaces.contains(namespace)
    }

    fn apex(&self) -> Found {
        match self.question.kind {
            RecordType::SOA => Found::Records(vec![self.soa()], Vec::new()),
            RecordType::NS => {
                let Some(server) = self.below(&["ns", "dns"]) else { return Found::Name };
                Found::Records(vec![self.record(RData::NS(NS(server)))], Vec::new())
            }
            _ => Found::Name,
        }
    }

    fn version(&self) -> Found {
        if self.question.kind != RecordType::TXT {
            return Found::Name;
        }
        Found::Records(vec![self.record(RData::TXT(TXT::new(vec![SPECIFICATION.to_owned()])))], Vec::new())
    }

    /// The name server's own name: the cluster's DNS Service.
    fn own_addresses(&self) -> Found {
        match self.index.service("kube-system", "kube-dns").map(|service| &service.kind) {
            Some(Kind::Cluster(ips)) => self.addresses(ips.iter().copied()),
            _ => Found::Name,
        }
    }

    /// Addresses of the type that is asked for.
    fn addresses(&self, ips: impl Iterator<Item = IpAddr>) -> Found {
        let kind = self.question.kind;
        let wanted = ips.filter(|ip| kind == if ip.is_ipv4() { RecordType::A } else { RecordType::AAAA });
        Found::Records(wanted.map(|ip| self.record(address(ip))).collect(), Vec::new())
    }

    fn find(&self, namespace: &str, name: &str) -> Option<&Svc> {
        let service = self.index.service(namespace, name).filter(|_| self.exposes(namespace))?;
        let empty = self.config.ignore_empty && matches!(service.kind, Kind::Cluster(_));
        (!empty || self.index.endpoints(namespace, name).next().is_some()).then_some(service)
    }

    fn service(&self, namespace: &str, name: &str) -> Found {
        let Some(service) = self.find(namespace, name) else { return Found::Nothing };
        match (&service.kind, self.question.kind) {
            (Kind::External(target), _) => {
                let Ok(mut target) = Name::from_ascii(target) else { return Found::Name };
                target.set_fqdn(true);
                Found::Alias(target)
            }
            (Kind::Cluster(_), RecordType::SRV) => self.cluster_ports(service, namespace, name, |_| true),
            (Kind::Cluster(ips), _) => self.addresses(ips.iter().copied()),
            (Kind::Headless, RecordType::SRV) => self.endpoint_ports(namespace, name, |_, _| true),
            (Kind::Headless, _) => {
                let mut ips: Vec<IpAddr> = self.index.endpoints(namespace, name).map(|endpoint| endpoint.ip).collect();
                if ips.is_empty() {
                    return Found::Nothing;
                }
                ips.sort();
                ips.dedup();
                self.addresses(ips.into_iter())
            }
        }
    }

    fn endpoint(&self, namespace: &str, name: &str, label: &str) -> Found {
        if self.find(namespace, name).is_none() {
            return Found::Nothing;
        }
        let pod_names = self.config.endpoint_pod_names;
        let is_it = |endpoint: &&Endpoint| endpoint.label(pod_names).eq_ignore_ascii_case(label);
        let mut ips: Vec<IpAddr> = self.index.endpoints(namespace, name).filter(is_it).map(|endpoint| endpoint.ip).collect();
        if ips.is_empty() {
            return Found::Nothing;
        }
        if self.question.kind == RecordType::SRV {
            let same = |endpoint: &Endpoint| endpoint.label(pod_names).eq_ignore_ascii_case(label);
            return self.endpoint_ports(namespace, name, |endpoint, _| same(endpoint));
        }
        ips.sort();
        ips.dedup();
        self.addresses(ips.into_iter())
    }

    /// `_http._tcp.name.namespace.svc`
    fn port(&self, namespace: &str, name: &str, port: &str, protocol: &str) -> Found {
        let (Some(port), Some(protocol)) = (port.strip_prefix('_'), protocol.strip_prefix('_')) else { return Found::Nothing };
        let Some(service) = self.find(namespace, name) else { return Found::Nothing };
        let fits = |candidate: &crate::index::Port| candidate.name.eq_ignore_ascii_case(port) && candidate.protocol == protocol;
        let found = match &service.kind {
            Kind::External(_) => return Found::Nothing,
            Kind::Cluster(_) => self.cluster_ports(service, namespace, name, fits),
            Kind::Headless => self.endpoint_ports(namespace, name, |_, candidate| fits(candidate)),
        };
        match (found, self.question.kind) {
            (Found::Records(answers, _), _) if answers.is_empty() => Found::Nothing,
            (found, RecordType::SRV) => found,
            _ => Found::Name,
        }
    }

    fn cluster_ports(&self, service: &Svc, namespace: &str, name: &str, fits: impl Fn(&crate::index::Port) -> bool) -> Found {
        let Some(target) = self.below(&[name, namespace, "svc"]) else { return Found::Name };
        let ports: Vec<_> = service.ports.iter().filter(|port| fits(port)).collect();
        let weight = weight(ports.len());
        let answers = ports.iter().map(|port| self.record(RData::SRV(SRV::new(0, weight, port.number, target.clone()))));
        let ips = if let Kind::Cluster(ips) = &service.kind { ips.as_slice() } else { &[] };
        let additional = ips.iter().map(|ip| self.named(target.clone(), address(*ip)));
        Found::Records(answers.collect(), additional.collect())
    }

    fn endpoint_ports(&self, namespace: &str, name: &str, fits: impl Fn(&Endpoint, &crate::index::Port) -> bool) -> Found {
        let mut chosen: Vec<(&Endpoint, &crate::index::Port)> = Vec::new();
        for endpoint in self.index.endpoints(namespace, name) {
            chosen.extend(endpoint.ports.iter().filter(|port| fits(endpoint, port)).map(|port| (endpoint, port)));
        }
        let weight = weight(chosen.len());
        let (mut answers, mut additional): (Vec<Record>, Vec<Record>) = (Vec::new(), Vec::new());
        for (endpoint, port) in chosen {
            let label = endpoint.label(self.config.endpoint_pod_names);
            let Some(target) = self.below(&[&label, name, namespace, "svc"]) else { continue };
            // One endpoint of both families is one target.
            let answer = self.record(RData::SRV(SRV::new(0, weight, port.number, target.clone())));
            if !answers.contains(&answer) {
                answers.push(answer);
            }
            let extra = self.named(target, address(endpoint.ip));
            if !additional.contains(&extra) {
                additional.push(extra);
            }
        }
        if answers.is_empty() && self.question.kind == RecordType::SRV && self.index.endpoints(namespace, name).next().is_none() {
            return Found::Nothing;
        }
        Found::Records(answers, additional)
    }

    fn pod(&self, namespace: &str, label: &str) -> Found {
        if self.config.pods == Pods::Disabled || !self.exposes(namespace) {
            return Found::Nothing;
        }
        let Some(ip) = undashed(label) else { return Found::Nothing };
        if self.config.pods == Pods::Verified && !self.index.pod_at(ip, namespace) {
            return Found::Nothing;
        }
        self.addresses(std::iter::once(ip))
    }

    fn reverse(&self, rest: &[&str]) -> Found {
        if rest.is_empty() {
            return self.apex();
        }
        let Some(ip) = from_arpa(self.question.labels) else { return Found::Nothing };
        let zone = self.config.zones.iter().find(|zone| zone.0.last().is_none_or(|label| label != "arpa"));
        let Some(zone) = zone else { return Found::Nothing };
        let forward = Lookup { zone, ..*self };
        let mut targets: Vec<Name> = Vec::new();
        if let Some((namespace, name)) = self.index.service_at(ip).filter(|(namespace, _)| self.exposes(namespace)) {
            targets.extend(forward.below(&[name, namespace, "svc"]));
        } else {
            for (namespace, name) in self.index.services_with_endpoint(ip).filter(|(namespace, _)| self.exposes(namespace)) {
                for endpoint in self.index.endpoints(namespace, name).filter(|endpoint| endpoint.ip == ip) {
                    let label = endpoint.label(self.config.endpoint_pod_names);
                    targets.extend(forward.below(&[&label, name, namespace, "svc"]));
                }
            }
        }
        if targets.is_empty() {
            return Found::Nothing;
        }
        if self.question.kind != RecordType::PTR {
            return Found::Name;
        }
        targets.dedup();
        Found::Records(targets.into_iter().map(|target| self.record(RData::PTR(PTR(target)))).collect(), Vec::new())
    }
}

fn address(ip: IpAddr) -> RData {
    match ip {
        IpAddr::V4(v4) => RData::A(A(v4)),
        IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
    }
}

/// Every target is as good as every other.
fn weight(targets: usize) -> u16 {
    u16::try_from(100 / targets.clamp(1, 100)).unwrap_or(1)
}

/// `10-0-0-1` or `fd00--1` as an address.
fn undashed(label: &str) -> Option<IpAddr> {
    let v4: Option<Ipv4Addr> = label.replace('-', ".").parse().ok();
    v4.map(IpAddr::V4).or_else(|| label.replace('-', ":").parse::<Ipv6Addr>().ok().map(IpAddr::V6))
}

/// The address that a reverse name (all labels, lower case) stands for.
fn from_arpa(labels: &[String]) -> Option<IpAddr> {
    match labels {
        [rest @ .., kind, _] if kind == "in-addr" && rest.len() == 4 => {
            let text: Vec<&str> = rest.iter().rev().map(String::as_str).collect();
            text.join(".").parse::<Ipv4Addr>().ok().map(IpAddr::V4)
        }
        [rest @ .., kind, _] if kind == "ip6" && rest.len() == 32 => {
            let mut bits = 0_u128;
            for label in rest.iter().rev() {
                let digit = (label.len() == 1).then(|| u128::from_str_radix(label, 16).ok()).flatten()?;
                bits = bits << 4 | digit;
            }
            Some(IpAddr::V6(Ipv6Addr::from(bits)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;

//! A pod's resolver configuration. Pure but for reading the node's file. Upstream: pkg/kubelet/network/dns

use k8s_openapi::api::core::v1::Pod;

use crate::cri::v1::DnsConfig;
use crate::pod;

/// The resolver's limits. Upstream: MaxDNSNameservers, MaxDNSSearchPaths, MaxDNSSearchListChars.
const MAX_SERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_CHARS: usize = 2048;

/// What the node knows.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// `clusterDNS`.
    pub cluster_dns: Vec<String>,
    /// `clusterDomain`.
    pub cluster_domain: String,
    /// The node's own resolv.conf, read.
    pub host: DnsConfig,
}

/// The pod's configuration, and warnings for its owner: event reason and message.
pub fn config(pod: &Pod, node: &Node) -> (DnsConfig, Vec<(&'static str, String)>) {
    let spec = pod::spec(pod);
    let mut warnings = Vec::new();
    let mut policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    if policy == "ClusterFirst" && pod::is_host_network(pod) {
        policy = "Default";
    }
    if policy == "ClusterFirstWithHostNet" {
        policy = "ClusterFirst";
    }
    if policy == "ClusterFirst" && node.cluster_dns.is_empty() {
        warnings.push(("MissingClusterDNS", format!("pod: {:?}. kubelet does not have ClusterDNS IP configured and cannot create Pod using \"ClusterFirst\" policy. Falling back to \"Default\" policy.", pod::describe(pod))));
        policy = "Default";
    }
    let mut out = match policy {
        "None" => DnsConfig::default(),
        "ClusterFirst" => {
            let mut searches = Vec::new();
            if !node.cluster_domain.is_empty() {
                let domain = &node.cluster_domain;
                searches.extend([format!("{}.svc.{domain}", pod::namespace(pod)), format!("svc.{domain}"), domain.clone()]);
            }
            searches.extend(node.host.searches.iter().cloned());
            DnsConfig { servers: node.cluster_dns.clone(), searches, options: vec!["ndots:5".into()] }
        }
        _ => {
            let mut host = node.host.clone();
            // An empty list would mean "as the host" to the runtime: that is right.
            host.options.dedup();
            host
        }
    };
    if let Some(own) = &spec.dns_config {
        append(&mut out.servers, own.nameservers.iter().flatten().cloned());
        append(&mut out.searches, own.searches.iter().flatten().cloned());
        for option in own.options.iter().flatten() {
            let name = option.name.clone().unwrap_or_default();
            out.options.retain(|have| have.split(':').next() != Some(name.as_str()));
            out.options.push(match &option.value {
                Some(value) if !value.is_empty() => format!("{name}:{value}"),
                _ => name,
            });
        }
    }
    dedup(&mut out.searches);
    if out.servers.len() > MAX_SERVERS {
        out.servers.truncate(MAX_SERVERS);
        warnings.push((
            "DNSConfigForming",
            format!(
                "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {}",
                out.servers.join(" ")
            ),
        ));
    }
    let before = out.searches.len();
    out.searches.truncate(MAX_SEARCHES);
    while out.searches.join(" ").len() > MAX_SEARCH_CHARS {
        out.searches.pop();
    }
    if out.searches.len() < before {
        warnings.push((
            "DNSConfigForming",
            format!(
                "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {}",
                out.searches.join(" ")
            ),
        ));
    }
    (out, warnings)
}

fn append(list: &mut Vec<String>, more: impl Iterator<Item = String>) {
    for item in more {
        if !list.contains(&item) {
            list.push(item);
        }
    }
}

fn dedup(list: &mut Vec<String>) {
    let mut seen = std::collections::HashSet::new();
    list.retain(|item| seen.insert(item.clone()));
}

/// Reads a resolv.conf.
pub fn parse(text: &str) -> DnsConfig {
    let mut out = DnsConfig::default();
    for line in text.lines() {
        let line = line.split(['#', ';']).next().unwrap_or("");
        let mut fields = line.split_whitespace();
        match fields.next() {
            Some("nameserver") => out.servers.extend(fields.next().map(str::to_owned)),
            Some("search") => {
                out.searches =
                    fields.map(|field| if field == "." { "." } else { field.trim_end_matches('.') }.to_owned()).collect()
            }
            Some("options") => out.options = fields.map(str::to_owned).collect(),
            _ => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn make(spec: Value) -> (DnsConfig, usize) {
        let mut spec = spec;
        spec["containers"] = json!([]);
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n"}, "spec": spec})).unwrap();
        let node = Node {
            cluster_dns: vec!["10.96.0.10".into()],
            cluster_domain: "cluster.local".into(),
            host: parse("# x\nnameserver 8.8.8.8\nsearch corp.example.\noptions timeout:2\n"),
        };
        let (config, warnings) = config(&pod, &node);
        (config, warnings.len())
    }

    #[test]
    fn policies_choose_servers_and_domains() {
        let (cluster, _) = make(json!({}));
        assert_eq!(cluster.servers, ["10.96.0.10"]);
        assert_eq!(cluster.searches, ["n.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp.example"]);
        assert_eq!(cluster.options, ["ndots:5"]);
        for spec in [json!({"dnsPolicy": "Default"}), json!({"hostNetwork": true})] {
            let (host, _) = make(spec);
            assert_eq!(
                (host.servers, host.searches, host.options),
                (vec!["8.8.8.8".to_owned()], vec!["corp.example".to_owned()], vec!["timeout:2".to_owned()])
            );
        }
        assert_eq!(make(json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"})).0.servers, ["10.96.0.10"]);
        let (own, _) = make(
            json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": ["a.b"], "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}}),
        );
        assert_eq!(
            (own.servers, own.searches, own.options),
            (vec!["1.1.1.1".to_owned()], vec!["a.b".to_owned()], vec!["ndots:2".to_owned(), "edns0".to_owned()])
        );
    }

    #[test]
    fn limits_are_kept_with_a_warning() {
        let (config, warnings) = make(
            json!({"dnsConfig": {"nameservers": ["1.1.1.1", "1.1.1.2", "1.1.1.3"], "options": [{"name": "ndots", "value": "1"}]}}),
        );
        assert_eq!((config.servers.len(), warnings), (3, 1));
        assert_eq!(config.options, ["ndots:1"]);
    }
}

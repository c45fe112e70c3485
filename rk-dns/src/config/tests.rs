//! Corefiles and what they mean.

use super::*;
use crate::corefile::parse;

fn config(text: &str) -> Result<Config, SyntaxError> {
    let read = |path: &Path| match path.to_str() {
        Some("/etc/resolv.conf") => Ok("search x\nnameserver 192.0.2.53\nnameserver fe80::1%eth0 # link-local\n".to_owned()),
        _ => Err(std::io::ErrorKind::NotFound.into()),
    };
    Config::new(&parse(text)?, &read)
}

#[test]
fn kubeadms_default_is_understood() {
    let manifest = include_str!("../../../manifests/addons/rk-dns.yaml");
    let start = manifest.find("Corefile: |\n").unwrap() + "Corefile: |\n".len();
    let text: String =
        manifest[start..].lines().take_while(|line| line.starts_with("    ")).map(|line| format!("{line}\n")).collect();
    let config = config(&text.replace("@DNS_DOMAIN@", "cluster.local")).unwrap();
    let server = &config.servers[0];
    let kubernetes = server.kubernetes.as_ref().unwrap();
    assert_eq!(kubernetes.zones.len(), 3);
    assert_eq!((kubernetes.pods, kubernetes.ttl), (Pods::Insecure, 30));
    assert!(kubernetes.fallthrough.allows(&Zone::parse("1.0.0.10.in-addr.arpa").0));
    assert!(!kubernetes.fallthrough.allows(&Zone::parse("x.cluster.local").0));
    assert_eq!(server.forwards[0].to.len(), 2);
    assert_eq!(server.forwards[0].max_concurrent, 1000);
    let cache = server.cache.as_ref().unwrap();
    assert_eq!((cache.success_ttl, cache.disable_success.len(), cache.disable_denial.len()), (30, 1, 1));
    assert_eq!(server.lameduck, Duration::from_secs(5));
    assert_eq!(server.health.unwrap().port(), 8080);
    assert_eq!((server.ready.unwrap().port(), server.prometheus.unwrap().port()), (8181, 9153));
    assert!(server.detect_loops && server.load_balance);
    assert_eq!(config.listeners(), ["[::]:53".parse().unwrap()]);
}

#[test]
fn stub_domains_are_served_by_the_longest_zone() {
    let config =
        config(".:53 {\n forward . 192.0.2.1\n}\ncorp.example:53 {\n forward . 192.0.2.2:5353\n}\n10.0.0.0/8 {\n errors\n}")
            .unwrap();
    let to = |name: &str| config.responsible(53, &Zone::parse(name).0).map(|s| s.forwards.first().map(|f| f.to[0].to_string()));
    assert_eq!(to("a.corp.example"), Some(Some("192.0.2.2:5353".into())));
    assert_eq!(to("corp.example.org"), Some(Some("192.0.2.1:53".into())));
    assert_eq!(to("1.0.0.10.in-addr.arpa"), Some(None));
    assert_eq!(config.responsible(54, &[]).map(|_| ()), None);
}

#[test]
fn mistakes_name_the_line() {
    for (text, line, word) in [
        (".:53 {\n frobnicate\n}", 2, "Unknown directive 'frobnicate'"),
        (".:53 {\n kubernetes {\n  pods maybe\n }\n}", 3, "insecure"),
        (".:53 {\n forward .\n}", 2, "no servers"),
        (".:53 {\n forward . dns.google\n}", 2, "not an IP address"),
        (".:53 {\n forward . /nowhere\n}", 2, "failed to read"),
        (".:x {\n}", 1, "port"),
        (".:53 {\n}\n.:53 {\n}", 3, "already defined"),
        ("https://.:443 {\n}", 1, "transport"),
        (".:53 {\n cache {\n  success many\n }\n}", 3, "number"),
        ("", 1, "no server block"),
    ] {
        let problem = config(text).unwrap_err();
        assert!(problem.line == line && problem.message.contains(word), "{text:?}: {problem}");
    }
}

#[test]
fn hosts_are_read_from_the_block() {
    let config = config(".:53 {\n hosts {\n  10.0.0.1 a.example b.example\n  fd00::1 a.example\n  fallthrough\n }\n}").unwrap();
    let hosts = config.servers[0].hosts.as_ref().unwrap();
    assert_eq!(hosts.names[&Zone::parse("a.example").0].len(), 2);
    assert_eq!(hosts.fallthrough, Fallthrough::All);
}

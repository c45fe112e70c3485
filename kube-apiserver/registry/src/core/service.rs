//! Services.
//!
//! Upstream: pkg/registry/core/service, printService

use serde_json::{Value, json};

use crate::column::{self, text, wide};
use crate::identifier;
use crate::resource::{Context, Resource};
use crate::rules::Rules;
use crate::tree::Tree;

mod validate;

pub(crate) use validate::non_special_ip;

/// Rules and columns of Services. Addresses and ports are allocated by the server between `prepare` and `validate`.
pub fn build(resource: &mut Resource) {
    resource.strategy = Rules {
        default,
        create: |_, service| {
            normalize_cluster_ips(service, None);
            drop_type_dependent(service, None);
            service.set("status", json!({"loadBalancer": {}}));
        },
        update: |_, new, old| {
            patch_allocated(new, old);
            normalize_cluster_ips(new, Some(old));
            drop_type_dependent(new, Some(old));
        },
        warnings,
        name: identifier::name_is_dns_label,
        status: true,
        validate: |_, service, errors| validate::service(service, errors),
        validate_update: |_, new, old, errors| validate::change(new, old, errors),
        ..Rules::GENERIC
    }
    .strategy();
    resource.selectable = vec![
        ("spec.clusterIP", |service| service.at("spec").text("clusterIP").to_owned()),
        ("spec.type", |service| service.at("spec").text("type").to_owned()),
    ];
    resource.columns = vec![
        column::name(),
        text("Type", "type determines how the Service is exposed.", |service, _| service.at("spec").text("type").into()),
        text("Cluster-IP", "clusterIP is the IP address of the service and is usually assigned randomly.", |service, _| {
            service.at("spec").items("clusterIPs").first().cloned().unwrap_or_else(|| "<none>".into())
        }),
        text(
            "External-IP",
            "externalIPs is a list of IP addresses for which nodes in the cluster will also accept traffic for this service.",
            |service, _| external_ip(service).into(),
        ),
        text("Port(s)", "The list of ports that are exposed by this service.", |service, _| ports(service).into()),
        column::age(),
        wide(text(
            "Selector",
            "Route service traffic to pods with label keys and values matching this selector.",
            |service, _| column::labels(service.path("spec.selector")).into(),
        )),
    ];
}

fn default(service: &mut Value) {
    let spec = service.child("spec");
    spec.fill_text("sessionAffinity", "None");
    match spec.text("sessionAffinity") {
        "None" => spec.drop("sessionAffinityConfig"),
        "ClientIP" => spec.child("sessionAffinityConfig").child("clientIP").fill("timeoutSeconds", 10800),
        _ => {}
    }
    spec.fill_text("type", "ClusterIP");
    for port in spec.items_mut("ports") {
        port.fill_text("protocol", "TCP");
        let target = port.at("targetPort");
        if target.is_null() || target == 0 || target == "" {
            let number = port.int("port").unwrap_or(0);
            port.set("targetPort", number);
        }
    }
    let kind = spec.text("type").to_owned();
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
        spec.fill_text("externalTrafficPolicy", "Cluster");
    }
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer" | "ClusterIP") {
        spec.fill("internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        spec.fill("allocateLoadBalancerNodePorts", true);
        for ingress in service.child("status").child("loadBalancer").items_mut("ingress") {
            if !ingress.text("ip").is_empty() {
                ingress.fill("ipMode", "VIP");
            }
        }
    }
    service.child("status").fill("loadBalancer", json!({}));
}

/// `clusterIP` and `clusterIPs[0]` follow one another: clients of old know only the first.
fn normalize_cluster_ips(service: &mut Value, old: Option<&Value>) {
    let spec = service.child("spec");
    let ip = spec.text("clusterIP").to_owned();
    let Some(old) = old else {
        if !ip.is_empty() && spec.items("clusterIPs").is_empty() {
            spec.set("clusterIPs", json!([ip]));
        }
        return;
    };
    let before = old.at("spec");
    let same_list = spec.items("clusterIPs") == before.items("clusterIPs");
    if ip.is_empty() {
        if !before.text("clusterIP").is_empty() && same_list {
            spec.drop("clusterIPs");
        }
    } else if spec.items("clusterIPs").is_empty() || (ip != before.text("clusterIP") && same_list) {
        spec.set("clusterIPs", json!([ip]));
    }
}

/// Fields that a change of type makes meaningless are dropped when the client did not touch them.
fn drop_type_dependent(new: &mut Value, old: Option<&Value>) {
    let Some(old) = old else { return };
    let needs_ip = |service: &Value| service.at("spec").text("type") != "ExternalName";
    let needs_port = |service: &Value| match service.at("spec").text("type") {
        "NodePort" => true,
        "LoadBalancer" => service.at("spec").at("allocateLoadBalancerNodePorts").as_bool().unwrap_or(true),
        _ => false,
    };
    let needs_health = |service: &Value| {
        service.at("spec").text("type") == "LoadBalancer" && service.at("spec").text("externalTrafficPolicy") == "Local"
    };
    let (ip_before, ip_now) = (needs_ip(old), needs_ip(new));
    if ip_before && !ip_now {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if new.at("spec").at(field) == old.at("spec").at(field) {
                new.child("spec").drop(field);
            }
        }
    }
    if needs_port(old) && !needs_port(new) {
        let numbers = |service: &Value| -> Vec<i64> {
            service.at("spec").items("ports").iter().filter_map(|port| port.int("nodePort")).filter(|port| *port != 0).collect()
        };
        let before = numbers(old);
        if numbers(new).iter().all(|port| before.contains(port)) {
            for port in new.child("spec").items_mut("ports") {
                port.drop("nodePort");
            }
        }
    }
    if needs_health(old)
        && !needs_health(new)
        && new.at("spec").int("healthCheckNodePort") == old.at("spec").int("healthCheckNodePort")
    {
        new.child("spec").drop("healthCheckNodePort");
    }
    let is_lb = |service: &Value| service.at("spec").text("type") == "LoadBalancer";
    if is_lb(old) && !is_lb(new) {
        for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            if new.at("spec").at(field) == old.at("spec").at(field) {
                new.child("spec").drop(field);
            }
        }
    }
    let external = |service: &Value| {
        matches!(service.at("spec").text("type"), "NodePort" | "LoadBalancer")
            || (service.at("spec").text("type") == "ClusterIP" && !service.at("spec").items("externalIPs").is_empty())
    };
    if external(old)
        && !external(new)
        && new.at("spec").text("externalTrafficPolicy") == old.at("spec").text("externalTrafficPolicy")
    {
        new.child("spec").drop("externalTrafficPolicy");
    }
}

/// An update that leaves out what was allocated keeps it.
fn patch_allocated(new: &mut Value, old: &Value) {
    let kind = |service: &Value| service.at("spec").text("type").to_owned();
    let (now, before) = (kind(new), kind(old));
    if now != "ExternalName" && before != "ExternalName" {
        if new.at("spec").text("clusterIP").is_empty() {
            new.child("spec").keep("clusterIP", old.at("spec"));
        }
        if new.at("spec").items("clusterIPs").is_empty() && new.at("spec").text("clusterIP") == old.at("spec").text("clusterIP") {
            new.child("spec").keep("clusterIPs", old.at("spec"));
        }
        for field in ["ipFamilies", "ipFamilyPolicy"] {
            if !new.at("spec").has(field) {
                new.child("spec").keep(field, old.at("spec"));
            }
        }
    }
    let has_ports = |kind: &str| matches!(kind, "NodePort" | "LoadBalancer");
    if has_ports(&now) && has_ports(&before) {
        let before: Vec<(String, i64, i64)> = old
            .at("spec")
            .items("ports")
            .iter()
            .filter_map(|port| Some((port.text("protocol").to_owned(), port.int("port")?, port.int("nodePort")?)))
            .collect();
        let mut taken: Vec<i64> = new.at("spec").items("ports").iter().filter_map(|port| port.int("nodePort")).collect();
        for port in new.child("spec").items_mut("ports") {
            if port.int("nodePort").unwrap_or(0) != 0 {
                continue;
            }
            let found = before.iter().find(|(protocol, number, node)| {
                protocol == port.text("protocol") && Some(*number) == port.int("port") && !taken.contains(node)
            });
            if let Some((_, _, node)) = found {
                taken.push(*node);
                port.set("nodePort", *node);
            }
        }
    }
    let local = |service: &Value| {
        service.at("spec").text("type") == "LoadBalancer" && service.at("spec").text("externalTrafficPolicy") == "Local"
    };
    if local(new) && local(old) && new.at("spec").int("healthCheckNodePort").unwrap_or(0) == 0 {
        new.child("spec").keep("healthCheckNodePort", old.at("spec"));
    }
}

/// Fills `ipFamilyPolicy` and `ipFamilies` of a Service that is to get addresses, for a cluster of these families (`IPv4`, `IPv6`).
pub fn default_families(service: &mut Value, families: &[&str]) {
    let Some(&primary) = families.first() else { return };
    let spec = service.child("spec");
    if spec.text("type") == "ExternalName" {
        return;
    }
    let headless_without_selector = spec.text("clusterIP") == "None" && spec.len_of("selector") == 0;
    if headless_without_selector {
        spec.fill("ipFamilyPolicy", "RequireDualStack");
        if spec.items("ipFamilies").is_empty() {
            spec.set("ipFamilies", json!([primary]));
        }
        if spec.text("ipFamilyPolicy") != "SingleStack" && spec.items("ipFamilies").len() == 1 {
            let first = spec.items("ipFamilies")[0].clone();
            let second = if first == "IPv4" { "IPv6" } else { "IPv4" };
            spec.set("ipFamilies", json!([first, second]));
        }
        return;
    }
    spec.fill("ipFamilyPolicy", "SingleStack");
    if spec.items("ipFamilies").is_empty() {
        let from_ip: Vec<Value> = spec
            .items("clusterIPs")
            .iter()
            .filter_map(|ip| Some(if ip.as_str()?.parse::<std::net::IpAddr>().ok()?.is_ipv4() { "IPv4" } else { "IPv6" }.into()))
            .collect();
        spec.set("ipFamilies", if from_ip.is_empty() { vec![primary.into()] } else { from_ip });
    }
    if spec.text("ipFamilyPolicy") != "SingleStack" && spec.items("ipFamilies").len() == 1 && families.len() == 2 {
        let first = spec.items("ipFamilies")[0].clone();
        let second = families.iter().find(|family| first != **family).copied().unwrap_or(primary);
        spec.set("ipFamilies", json!([first, second]));
    }
}

fn warnings(_context: &Context, new: &Value, _old: Option<&Value>) -> Vec<String> {
    let mut out = Vec::new();
    let spec = new.at("spec");
    if spec.text("clusterIP") == "None" {
        if !spec.text("loadBalancerIP").is_empty() {
            out.push("spec.loadBalancerIP is ignored for headless services".to_owned());
        }
        if !spec.items("externalIPs").is_empty() {
            out.push("spec.externalIPs is ignored for headless services".to_owned());
        }
        if spec.text("sessionAffinity") != "None" {
            out.push("spec.SessionAffinity is ignored for headless services".to_owned());
        }
    }
    if spec.text("type") == "ExternalName" && !spec.items("externalIPs").is_empty() {
        out.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
    }
    if spec.text("trafficDistribution") == "PreferClose" {
        out.push("spec.trafficDistribution: deprecated; use PreferSameZone".to_owned());
    }
    out
}

fn external_ip(service: &Value) -> String {
    let spec = service.at("spec");
    let external: Vec<&str> = spec.items("externalIPs").iter().filter_map(Value::as_str).collect();
    match spec.text("type") {
        "ClusterIP" | "NodePort" if external.is_empty() => "<none>".to_owned(),
        "ClusterIP" | "NodePort" => external.join(","),
        "LoadBalancer" => {
            let addresses = load_balancer(service.path("status.loadBalancer"));
            let mut all: Vec<&str> = addresses.iter().map(String::as_str).collect();
            all.extend(external);
            if all.is_empty() { "<pending>".to_owned() } else { all.join(",") }
        }
        "ExternalName" => spec.text("externalName").to_owned(),
        _ => "<unknown>".to_owned(),
    }
}

/// The addresses of a load balancer, sorted, each once.
pub fn load_balancer(status: &Value) -> Vec<String> {
    let mut out: Vec<String> = status
        .items("ingress")
        .iter()
        .map(|ingress| if ingress.text("ip").is_empty() { ingress.text("hostname") } else { ingress.text("ip") }.to_owned())
        .filter(|address| !address.is_empty())
        .collect();
    out.sort();
    out.dedup();
    out
}

fn ports(service: &Value) -> String {
    let ports = service.at("spec").items("ports");
    if ports.is_empty() {
        return "<none>".to_owned();
    }
    ports
        .iter()
        .map(|port| {
            let (number, protocol) = (port.int("port").unwrap_or(0), port.text("protocol"));
            match port.int("nodePort").unwrap_or(0) {
                0 => format!("{number}/{protocol}"),
                node => format!("{number}:{node}/{protocol}"),
            }
        })
        .collect::<Vec<_>>()
        .join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_without_addresses_keeps_them() {
        let old = json!({"spec": {"type": "NodePort", "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"], "ipFamilies": ["IPv4"], "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30001}]}});
        let mut new = json!({"spec": {"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP"}]}});
        patch_allocated(&mut new, &old);
        assert_eq!(new["spec"]["clusterIP"], "10.96.0.7");
        assert_eq!(new["spec"]["ports"][0]["nodePort"], 30001);
    }

    #[test]
    fn a_change_to_cluster_ip_drops_node_ports() {
        let old =
            json!({"spec": {"type": "NodePort", "externalTrafficPolicy": "Cluster", "ports": [{"port": 80, "nodePort": 30001}]}});
        let mut new = json!({"spec": {"type": "ClusterIP", "externalTrafficPolicy": "Cluster", "ports": [{"port": 80, "nodePort": 30001}]}});
        drop_type_dependent(&mut new, Some(&old));
        assert_eq!(new, json!({"spec": {"type": "ClusterIP", "ports": [{"port": 80}]}}));
    }
}

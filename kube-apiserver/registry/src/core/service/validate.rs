//! Validation of Services.
//!
//! Upstream: ValidateService, ValidateServiceUpdate

use api::field::{ErrorType, Errors, Path};
use serde_json::Value;

use crate::check;
use crate::identifier;
use crate::metadata::validate_labels;
use crate::pod_spec::container::protocol;
use crate::tree::Tree;

/// Upstream: ports.KubeletPort
const KUBELET_PORT: i64 = 10250;
/// Seconds, a day. Upstream: MaxClientIPServiceAffinitySeconds
const MAX_AFFINITY_SECONDS: i64 = 86400;

pub(super) fn service(service: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let spec = service.at("spec");
    let kind = spec.text("type");
    let headless = spec.text("clusterIP") == "None";
    let ports = spec.items("ports");
    if ports.is_empty() && !headless && kind != "ExternalName" {
        errors.required(&path.child("ports"), "");
    }
    match kind {
        "LoadBalancer" => {
            for (index, port) in ports.iter().enumerate() {
                if port.int("port") == Some(KUBELET_PORT) {
                    let why = format!("may not expose port {KUBELET_PORT} externally since it is used by kubelet");
                    errors.invalid(&path.child("ports").index(index), KUBELET_PORT, why);
                }
            }
            if headless {
                errors.invalid(&path.child("clusterIPs").index(0), "None", "may not be set to 'None' for LoadBalancer services");
            }
        }
        "NodePort" if headless => {
            errors.invalid(&path.child("clusterIPs").index(0), "None", "may not be set to 'None' for NodePort services");
        }
        "ExternalName" => external_name(spec, &path, errors),
        _ => {}
    }
    let mut names = Vec::new();
    for (index, port) in ports.iter().enumerate() {
        self::port(port, ports.len() > 1, &mut names, &path.child("ports").index(index), errors);
    }
    validate_labels(spec.at("selector"), &path.child("selector"), errors);
    match spec.text("sessionAffinity") {
        "" => errors.required(&path.child("sessionAffinity"), ""),
        "ClientIP" => client_ip(spec.at("sessionAffinityConfig"), &path.child("sessionAffinityConfig"), errors),
        "None" => {
            if spec.has("sessionAffinityConfig") {
                errors.forbidden(&path.child("sessionAffinityConfig"), "must not be set when session affinity is None");
            }
        }
        other => errors.not_supported(&path.child("sessionAffinity"), other, &["ClientIP", "None"]),
    }
    if kind != "ExternalName" {
        cluster_ips(spec, &path, errors);
    }
    for (index, ip) in spec.items("externalIPs").iter().enumerate() {
        let (ip, path) = (ip.as_str().unwrap_or(""), path.child("externalIPs").index(index));
        let messages = identifier::ip(ip);
        if messages.is_empty() { non_special_ip(ip, &path, errors) } else { check::each(messages, ip, &path, errors) }
    }
    match kind {
        "" => errors.required(&path.child("type"), ""),
        "ClusterIP" | "NodePort" | "LoadBalancer" | "ExternalName" => {}
        other => errors.not_supported(&path.child("type"), other, &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"]),
    }
    if kind == "ClusterIP" {
        for (index, port) in ports.iter().enumerate() {
            if port.int("nodePort").unwrap_or(0) != 0 {
                errors
                    .forbidden(&path.child("ports").index(index).child("nodePort"), "may not be used when `type` is 'ClusterIP'");
            }
        }
    }
    duplicates(ports, &path.child("ports"), errors);
    source_ranges(service, &path, errors);
    load_balancer(spec, &path, errors);
    traffic(spec, &path, errors);
}

fn external_name(spec: &Value, path: &Path, errors: &mut Errors) {
    if !spec.items("clusterIPs").is_empty() {
        errors.forbidden(&path.child("clusterIPs"), "may not be set for ExternalName services");
    }
    if !spec.items("ipFamilies").is_empty() {
        errors.forbidden(&path.child("ipFamilies"), "may not be set for ExternalName services");
    }
    if spec.has("ipFamilyPolicy") {
        errors.forbidden(&path.child("ipFamilyPolicy"), "may not be set for ExternalName services");
    }
    let name = spec.text("externalName");
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() {
        errors.required(&path.child("externalName"), "");
    } else {
        check::subdomain(name, &path.child("externalName"), errors);
    }
}

fn port<'a>(port: &'a Value, named: bool, names: &mut Vec<&'a str>, path: &Path, errors: &mut Errors) {
    let name = port.text("name");
    if named && name.is_empty() {
        errors.required(&path.child("name"), "");
    } else if !name.is_empty() {
        check::label_name(name, &path.child("name"), errors);
        if names.contains(&name) {
            errors.duplicate(&path.child("name"), name);
        } else {
            names.push(name);
        }
    }
    let number = port.int("port").unwrap_or(0);
    check::each(identifier::port_number(number), number, &path.child("port"), errors);
    protocol(port.text("protocol"), &path.child("protocol"), errors);
    check::port_or_name(port.at("targetPort"), &path.child("targetPort"), errors);
    if port.has("appProtocol") {
        check::qualified(port.text("appProtocol"), &path.child("appProtocol"), errors);
    }
}

fn client_ip(config: &Value, path: &Path, errors: &mut Errors) {
    let client = config.at("clientIP");
    if config.is_null() {
        errors.required(path, "when session affinity type is ClientIP");
    } else if client.is_null() {
        errors.required(&path.child("clientIP"), "when session affinity type is ClientIP");
    } else {
        let at = path.child("clientIP.timeoutSeconds");
        match client.int("timeoutSeconds") {
            None => errors.required(&at, "when session affinity type is ClientIP"),
            Some(seconds) if !(1..=MAX_AFFINITY_SECONDS).contains(&seconds) => {
                errors.invalid(&at, seconds, format!("must be greater than 0 and less than {MAX_AFFINITY_SECONDS}"));
            }
            Some(_) => {}
        }
    }
}

fn cluster_ips(spec: &Value, path: &Path, errors: &mut Errors) {
    let ips = spec.items("clusterIPs");
    let first = spec.text("clusterIP");
    if !first.is_empty() {
        if ips.is_empty() {
            errors.required(&path.child("clusterIPs"), "");
        } else if ips[0] != first {
            errors.invalid(&path.child("clusterIPs"), ips.to_vec(), "first value must match `clusterIP`");
        }
    } else if !ips.is_empty() {
        errors.required(&path.child("clusterIP"), "");
    }
    let families = spec.items("ipFamilies");
    for (index, family) in families.iter().enumerate() {
        let at = path.child("ipFamilies").index(index);
        if family != "IPv4" && family != "IPv6" {
            errors.not_supported(&at, family.clone(), &["IPv4", "IPv6"]);
        } else if families[..index].contains(family) {
            errors.duplicate(&at, family.clone());
        }
    }
    let policy = spec.text("ipFamilyPolicy");
    if spec.has("ipFamilyPolicy") && !matches!(policy, "SingleStack" | "PreferDualStack" | "RequireDualStack") {
        errors.not_supported(&path.child("ipFamilyPolicy"), policy, &["PreferDualStack", "RequireDualStack", "SingleStack"]);
    }
    if ips.len() > 2 {
        errors.invalid(&path.child("clusterIPs"), ips.to_vec(), "may only hold up to 2 values");
    }
    let mut fine = true;
    for (index, ip) in ips.iter().enumerate() {
        let ip = ip.as_str().unwrap_or("");
        if index == 0 && ip == "None" {
            if ips.len() > 1 {
                errors.invalid(&path.child("clusterIPs"), ips.to_vec(), "'None' must be the first and only value");
            }
            fine = false;
            continue;
        }
        let messages = identifier::ip(ip);
        fine &= messages.is_empty();
        check::each(messages, ip, &path.child("clusterIPs").index(index), errors);
    }
    if fine {
        for (index, (ip, family)) in ips.iter().zip(families).enumerate() {
            let six = ip.as_str().unwrap_or("").contains(':');
            if six != (family == "IPv6") {
                let why = format!("expected an {} value as indicated by `ipFamilies[{index}]`", family.as_str().unwrap_or(""));
                errors.invalid(&path.child("clusterIPs").index(index), ip.clone(), why);
            }
        }
    }
}

/// Addresses that must not be reached through a Service.
pub(crate) fn non_special_ip(text: &str, path: &Path, errors: &mut Errors) {
    let Ok(ip) = text.parse::<std::net::IpAddr>() else {
        errors.invalid(path, text, "must be a valid IP address");
        return;
    };
    if ip.is_unspecified() {
        errors.invalid(path, text, "may not be unspecified (0.0.0.0 or ::)");
    }
    if ip.is_loopback() {
        errors.invalid(path, text, "may not be in the loopback range (127.0.0.0/8, ::1/128)");
    }
    let (link_local, multicast) = match ip {
        std::net::IpAddr::V4(ip) => (ip.is_link_local(), ip.octets()[..3] == [224, 0, 0]),
        std::net::IpAddr::V6(ip) => (ip.segments()[0] & 0xffc0 == 0xfe80, ip.segments()[0] & 0xff0f == 0xff02),
    };
    if link_local {
        errors.invalid(path, text, "may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    }
    if multicast {
        errors.invalid(path, text, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)");
    }
}

fn duplicates(ports: &[Value], path: &Path, errors: &mut Errors) {
    let mut nodes = Vec::new();
    for (index, port) in ports.iter().enumerate() {
        let number = port.int("nodePort").unwrap_or(0);
        if number == 0 {
            continue;
        }
        let key = (port.text("protocol"), number);
        if nodes.contains(&key) {
            errors.duplicate(&path.index(index).child("nodePort"), number);
        } else {
            nodes.push(key);
        }
    }
    let mut seen = Vec::new();
    for (index, port) in ports.iter().enumerate() {
        let key = (port.text("protocol"), port.int("port").unwrap_or(0));
        if seen.contains(&key) {
            let shown = format!(
                r#"{{"Name":"","Protocol":{:?},"AppProtocol":null,"Port":{},"TargetPort":0,"NodePort":0}}"#,
                key.0, key.1
            );
            errors.add_shown(ErrorType::Duplicate, &path.index(index), shown, "");
        } else {
            seen.push(key);
        }
    }
}

fn source_ranges(service: &Value, path: &Path, errors: &mut Errors) {
    let spec = service.at("spec");
    let ranges = spec.items("loadBalancerSourceRanges");
    if ranges.is_empty() {
        return;
    }
    let path = path.child("loadBalancerSourceRanges");
    if spec.text("type") != "LoadBalancer" {
        errors.forbidden(&path, "may only be used when `type` is 'LoadBalancer'");
    }
    for (index, range) in ranges.iter().enumerate() {
        let range = range.as_str().unwrap_or("").trim();
        check::each(identifier::cidr(range), range, &path.index(index), errors);
    }
}

fn load_balancer(spec: &Value, path: &Path, errors: &mut Errors) {
    let balanced = spec.text("type") == "LoadBalancer";
    let at = path.child("allocateLoadBalancerNodePorts");
    match (balanced, spec.has("allocateLoadBalancerNodePorts")) {
        (true, false) => errors.required(&at, ""),
        (false, true) => errors.forbidden(&at, "may only be used when `type` is 'LoadBalancer'"),
        _ => {}
    }
    if spec.has("loadBalancerClass") {
        let at = path.child("loadBalancerClass");
        if !balanced {
            errors.forbidden(&at, "may only be used when `type` is 'LoadBalancer'");
        }
        check::qualified(spec.text("loadBalancerClass"), &at, errors);
    }
}

fn traffic(spec: &Value, path: &Path, errors: &mut Errors) {
    let kind = spec.text("type");
    let external = spec.text("externalTrafficPolicy");
    let at = path.child("externalTrafficPolicy");
    let accessible =
        matches!(kind, "LoadBalancer" | "NodePort") || (kind == "ClusterIP" && !spec.items("externalIPs").is_empty());
    if !accessible {
        if !external.is_empty() {
            errors.invalid(&at, external, "may only be set for externally-accessible services");
        }
    } else {
        match external {
            "" => errors.required(&at, ""),
            "Cluster" | "Local" => {}
            other => errors.not_supported(&at, other, &["Cluster", "Local"]),
        }
    }
    let at = path.child("healthCheckNodePort");
    let health = spec.int("healthCheckNodePort").unwrap_or(0);
    if kind == "LoadBalancer" && external == "Local" {
        if health == 0 {
            errors.required(&at, "");
        } else {
            check::each(identifier::port_number(health), health, &at, errors);
        }
    } else if health != 0 {
        errors.invalid(&at, health, "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'");
    }
    let at = path.child("internalTrafficPolicy");
    if !spec.has("internalTrafficPolicy") {
        if matches!(kind, "NodePort" | "LoadBalancer" | "ClusterIP") {
            errors.required(&at, "");
        }
    } else {
        match spec.text("internalTrafficPolicy") {
            "Cluster" | "Local" => {}
            other => errors.not_supported(&at, other, &["Cluster", "Local"]),
        }
    }
    let distribution = spec.text("trafficDistribution");
    if spec.has("trafficDistribution") && !matches!(distribution, "PreferClose" | "PreferSameZone" | "PreferSameNode") {
        errors.not_supported(
            &path.child("trafficDistribution"),
            distribution,
            &["PreferClose", "PreferSameNode", "PreferSameZone"],
        );
    }
}

pub(super) fn change(new: &Value, old: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let (after, before) = (new.at("spec"), old.at("spec"));
    let mut addresses = Errors::new();
    cluster_ips(after, &path, &mut addresses);
    if addresses.is_empty() && after.text("type") != "ExternalName" && before.text("type") != "ExternalName" {
        let at = path.child("clusterIPs");
        match (before.items("clusterIPs").first(), after.items("clusterIPs").first()) {
            (Some(_), None) => errors.invalid(&at.index(0), after.at("clusterIPs").clone(), "primary clusterIP can not be unset"),
            (Some(then), Some(now)) if then != now => {
                errors.invalid(&at.index(0), after.at("clusterIPs").clone(), "may not change once set");
            }
            _ => {}
        }
        match (before.items("ipFamilies").first(), after.items("ipFamilies").first()) {
            (Some(_), None) => errors.invalid(
                &path.child("ipFamilies").index(0),
                after.at("ipFamilies").clone(),
                "primary ipFamily can not be unset",
            ),
            (Some(then), Some(now)) if then != now => {
                errors.invalid(&path.child("ipFamilies").index(0), after.at("ipFamilies").clone(), "may not change once set");
            }
            _ => {}
        }
    }
    if after.text("type") == "LoadBalancer"
        && before.text("type") == "LoadBalancer"
        && after.at("loadBalancerClass") != before.at("loadBalancerClass")
    {
        errors.invalid(&path.child("loadBalancerClass"), after.at("loadBalancerClass").clone(), "may not change once set");
    }
    service(new, errors);
}

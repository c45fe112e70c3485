//! Validation of a pod spec as a whole.
//!
//! Upstream: ValidatePodSpec

use api::field::{Errors, Path};
use serde_json::Value;

use super::container::{self, Pod};
use super::{affinity, resources, security, volume};
use crate::check;
use crate::identifier;
use crate::metadata::validate_labels;
use crate::tree::Tree;

/// Everything about a pod spec that holds in pods and templates.
pub fn pod_spec(spec: &Value, path: &Path, errors: &mut Errors) {
    let grace = spec.int("terminationGracePeriodSeconds").unwrap_or(0);
    let volumes = volume::volumes(spec, &path.child("volumes"), errors);
    let claims: Vec<&str> = spec.items("resourceClaims").iter().map(|claim| claim.text("name")).collect();
    resource_claims(spec, &path.child("resourceClaims"), errors);
    let pod = Pod {
        volumes: &volumes,
        claims: &claims,
        grace: grace.max(0),
        host_users: spec.at("hostUsers").as_bool().unwrap_or(true),
    };
    container::containers(spec, &pod, &path.child("containers"), errors);
    container::init_containers(spec, &pod, &path.child("initContainers"), errors);
    container::ephemeral_containers(spec, &pod, &path.child("ephemeralContainers"), errors);
    if spec.has("resources") {
        resources::requirements(spec.at("resources"), &claims, &path.child("resources"), errors);
    }
    host_network(spec, path, errors);
    match spec.text("restartPolicy") {
        "Always" | "OnFailure" | "Never" => {}
        "" => errors.required(&path.child("restartPolicy"), ""),
        other => errors.not_one_of(&path.child("restartPolicy"), other, &["Always", "OnFailure", "Never"]),
    }
    match spec.text("dnsPolicy") {
        "ClusterFirstWithHostNet" | "ClusterFirst" | "Default" | "None" => {}
        "" => errors.required(&path.child("dnsPolicy"), ""),
        other => {
            errors.not_one_of(&path.child("dnsPolicy"), other, &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"]);
        }
    }
    validate_labels(spec.at("nodeSelector"), &path.child("nodeSelector"), errors);
    security::pod(spec, &path.child("securityContext"), errors);
    affinity::affinity(spec.at("affinity"), &path.child("affinity"), errors);
    dns(spec, &path.child("dnsConfig"), errors);
    for (index, gate) in spec.items("readinessGates").iter().enumerate() {
        let path = path.child("readinessGates").index(index).child("conditionType");
        check::qualified(gate.text("conditionType"), &path, errors);
    }
    scheduling_gates(spec, &path.child("schedulingGates"), errors);
    affinity::spread(spec.items("topologySpreadConstraints"), &path.child("topologySpreadConstraints"), errors);
    host_users(spec, path, errors);
    for field in ["serviceAccountName", "nodeName"] {
        text(spec, field, identifier::dns1123_subdomain, path, errors);
    }
    if let Some(seconds) = spec.int("activeDeadlineSeconds").filter(|seconds| !(1..=i64::from(i32::MAX)).contains(seconds)) {
        errors.invalid(&path.child("activeDeadlineSeconds"), seconds, check::range_error(1, i64::from(i32::MAX)));
    }
    text(spec, "hostname", identifier::dns1123_label, path, errors);
    text(spec, "subdomain", identifier::dns1123_label, path, errors);
    affinity::tolerations(spec.items("tolerations"), &path.child("tolerations"), errors);
    for (index, alias) in spec.items("hostAliases").iter().enumerate() {
        let path = path.child("hostAliases").index(index);
        check::each(identifier::ip(alias.text("ip")), alias.text("ip"), &path.child("ip"), errors);
        for (index, name) in alias.items("hostnames").iter().enumerate() {
            check::subdomain(name.as_str().unwrap_or(""), &path.child("hostnames").index(index), errors);
        }
    }
    text(spec, "priorityClassName", identifier::dns1123_subdomain, path, errors);
    if spec.has("runtimeClassName") {
        check::subdomain(spec.text("runtimeClassName"), &path.child("runtimeClassName"), errors);
    }
    if spec.has("preemptionPolicy") {
        match spec.text("preemptionPolicy") {
            "PreemptLowerPriority" | "Never" => {}
            "" => errors.required(&path.child("preemptionPolicy"), ""),
            other => errors.not_one_of(&path.child("preemptionPolicy"), other, &["PreemptLowerPriority", "Never"]),
        }
    }
    if spec.has("overhead") {
        let wrapped = serde_json::json!({"limits": spec.at("overhead")});
        resources::requirements(&wrapped, &[], &path.child("overhead"), errors);
    }
    if spec.has("os") {
        match spec.at("os").text("name") {
            "linux" | "windows" => {}
            "" => errors.required(&path.child("os.name"), "cannot be empty"),
            other => errors.not_supported(&path.child("os"), other, &["linux", "windows"]),
        }
    }
}

fn text(spec: &Value, field: &str, rule: fn(&str) -> Vec<String>, path: &Path, errors: &mut Errors) {
    let text = spec.text(field);
    if !text.is_empty() {
        check::each(rule(text), text, &path.child(field), errors);
    }
}

fn resource_claims(spec: &Value, path: &Path, errors: &mut Errors) {
    let mut names = Vec::new();
    for (index, claim) in spec.items("resourceClaims").iter().enumerate() {
        let path = path.index(index);
        let name = claim.text("name");
        if name.is_empty() {
            errors.required(&path.child("name"), "");
        } else if names.contains(&name) {
            errors.duplicate(&path.child("name"), name);
        } else {
            check::label_name(name, &path.child("name"), errors);
            names.push(name);
        }
        match (claim.has("resourceClaimName"), claim.has("resourceClaimTemplateName")) {
            (true, true) => errors.add_shown(
                api::field::ErrorType::Invalid,
                &path,
                crate::internal::compact("PodResourceClaim", claim),
                "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified",
            ),
            (false, false) => {
                let shown = crate::internal::compact("PodResourceClaim", claim);
                let why = "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`";
                errors.add_shown(api::field::ErrorType::Invalid, &path, shown, why)
            }
            _ => {}
        }
        for field in ["resourceClaimName", "resourceClaimTemplateName"] {
            if claim.has(field) {
                check::subdomain(claim.text(field), &path.child(field), errors);
            }
        }
    }
}

fn host_network(spec: &Value, path: &Path, errors: &mut Errors) {
    if !spec.truth("hostNetwork") {
        return;
    }
    for (index, container) in spec.items("containers").iter().enumerate() {
        for (port_index, port) in container.items("ports").iter().enumerate() {
            let host = port.int("hostPort").unwrap_or(0);
            let number = port.int("containerPort").unwrap_or(0);
            if host != 0 && host != number {
                let path = path.child("containers").index(index).child("ports").index(port_index).child("containerPort");
                errors.invalid(&path, number, "must match `hostPort` when `hostNetwork` is true");
            }
        }
    }
}

fn host_users(spec: &Value, path: &Path, errors: &mut Errors) {
    if spec.at("hostUsers").as_bool().unwrap_or(true) {
        return;
    }
    for field in ["hostNetwork", "hostPID", "hostIPC"] {
        if spec.truth(field) {
            errors.forbidden(&path.child(field), "when `hostUsers` is false");
        }
    }
}

fn dns(spec: &Value, path: &Path, errors: &mut Errors) {
    let config = spec.at("dnsConfig");
    if spec.text("dnsPolicy") == "None" {
        if config.is_null() {
            errors.required(path, "must provide `dnsConfig` when `dnsPolicy` is None");
            return;
        }
        if config.items("nameservers").is_empty() {
            errors.required(&path.child("nameservers"), "must provide at least one DNS nameserver when `dnsPolicy` is None");
        }
    }
    let servers = config.items("nameservers");
    if servers.len() > 3 {
        errors.invalid(&path.child("nameservers"), servers.to_vec(), "must not have more than 3 nameservers");
    }
    for (index, server) in servers.iter().enumerate() {
        let server = server.as_str().unwrap_or("");
        check::each(identifier::ip(server), server, &path.child("nameservers").index(index), errors);
    }
    let searches = config.items("searches");
    if searches.len() > 32 {
        errors.invalid(&path.child("searches"), searches.to_vec(), "must not have more than 32 search paths");
    }
    let length = searches.iter().filter_map(Value::as_str).map(|search| search.len() + 1).sum::<usize>().saturating_sub(1);
    if length > 2048 {
        errors.invalid(
            &path.child("searches"),
            searches.to_vec(),
            "must not have more than 2048 characters (including spaces) in the search list",
        );
    }
    for (index, search) in searches.iter().enumerate() {
        let search = search.as_str().unwrap_or("");
        if search != "." {
            let bare = search.strip_suffix('.').unwrap_or(search);
            check::each(identifier::dns1123_subdomain_with_underscore(bare), bare, &path.child("searches").index(index), errors);
        }
    }
    for (index, option) in config.items("options").iter().enumerate() {
        if option.text("name").is_empty() {
            errors.required(&path.child("options").index(index), "must not be empty");
        }
    }
}

fn scheduling_gates(spec: &Value, path: &Path, errors: &mut Errors) {
    let mut seen = Vec::new();
    for (index, gate) in spec.items("schedulingGates").iter().enumerate() {
        let path = path.index(index);
        let name = gate.text("name");
        if name.is_empty() {
            errors.required(&path, "must not be empty");
        } else {
            check::qualified(name, &path, errors);
        }
        if seen.contains(&name) {
            errors.duplicate(&path, name);
        }
        seen.push(name);
    }
}

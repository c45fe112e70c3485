//! Resource names and amounts: of containers, pods, quotas, nodes.
//!
//! Upstream: pkg/apis/core/validation (ValidateResourceRequirements), pkg/apis/core/helper

use api::field::{Errors, Path};
use serde_json::Value;

use crate::identifier;
use crate::quantity;
use crate::tree::Tree;

const STANDARD: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "storage",
    "requests.storage",
    "services.nodeports",
    "services.loadbalancers",
];
const STANDARD_QUOTA: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "persistentvolumeclaims",
    "configmaps",
    "services.nodeports",
    "services.loadbalancers",
];
const INTEGERS: &[&str] = &[
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

fn is_huge_page(name: &str) -> bool {
    name.starts_with("hugepages-")
}

fn is_quota_huge_page(name: &str) -> bool {
    name.starts_with("hugepages-") || name.starts_with("requests.hugepages-")
}

fn is_standard_container(name: &str) -> bool {
    matches!(name, "cpu" | "memory" | "ephemeral-storage") || is_huge_page(name)
}

fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// A resource of some vendor's domain.
pub fn is_extended(name: &str) -> bool {
    !is_native(name) && !name.starts_with("requests.") && identifier::qualified_name(&format!("requests.{name}")).is_empty()
}

fn is_integer(name: &str) -> bool {
    INTEGERS.contains(&name) || is_extended(name)
}

/// The name of any resource.
fn name(name: &str, path: &Path, errors: &mut Errors) -> bool {
    let messages = identifier::qualified_name(name);
    let fine = messages.is_empty();
    for message in messages {
        errors.invalid(path, name, message);
    }
    if !fine {
        return false;
    }
    if !name.contains('/') && !STANDARD.contains(&name) && !is_quota_huge_page(name) {
        errors.invalid(path, name, "must be a standard resource type or fully qualified");
    }
    true
}

fn container_name(resource: &str, path: &Path, errors: &mut Errors) {
    name(resource, path, errors);
    if !resource.contains('/') {
        if !is_standard_container(resource) {
            errors.invalid(path, resource, "must be a standard resource for containers");
        }
    } else if !is_native(resource) && !is_extended(resource) {
        errors.invalid(path, resource, "doesn't follow extended resource name standard");
    }
}

/// The name of a resource in a LimitRange.
pub fn limit_range_name(resource: &str, container: bool, path: &Path, errors: &mut Errors) {
    if container {
        container_name(resource, path, errors)
    } else {
        let _ = name(resource, path, errors);
    }
}

/// The name of a resource in a quota.
pub fn quota_name(resource: &str, path: &Path, errors: &mut Errors) {
    let before = errors.0.len();
    for message in identifier::qualified_name(resource) {
        errors.invalid(path, resource, message);
    }
    if errors.0.len() == before && !resource.contains('/') && !STANDARD_QUOTA.contains(&resource) && !is_quota_huge_page(resource)
    {
        errors.invalid(path, resource, "must be a standard resource type or fully qualified");
    }
}

/// An amount: not negative, whole for things that are counted.
pub fn amount(resource: &str, value: &Value, path: &Path, errors: &mut Errors) {
    let Some(amount) = quantity::parse(value) else { return };
    if amount < 0 {
        errors.invalid(path, value.clone(), "must be greater than or equal to 0");
    }
    if is_integer(resource) && !quantity::is_whole(amount) {
        errors.invalid(path, value.clone(), "must be an integer");
    }
}

/// `resources` of a container.
pub fn requirements(resources: &Value, claims: &[&str], path: &Path, errors: &mut Errors) {
    let (limit_path, request_path) = (path.child("limits"), path.child("requests"));
    let (mut huge, mut basic) = (false, false);
    for (resource, value) in resources.entries("limits") {
        let path = limit_path.key(resource);
        container_name(resource, &path, errors);
        amount(resource, value, &path, errors);
        huge |= is_huge_page(resource);
        basic |= matches!(resource, "cpu" | "memory");
    }
    for (resource, value) in resources.entries("requests") {
        let path = request_path.key(resource);
        container_name(resource, &path, errors);
        amount(resource, value, &path, errors);
        let overcommit = is_native(resource) && !is_huge_page(resource);
        let limit = resources.at("limits").at(resource);
        match (quantity::parse(value), quantity::parse(limit)) {
            (Some(request), Some(bound)) => {
                let text = limit.as_str().unwrap_or("");
                if request != bound && !overcommit {
                    errors.invalid(&request_path, value.clone(), format!("must be equal to {resource} limit of {text}"));
                } else if request > bound {
                    errors.invalid(
                        &request_path,
                        value.clone(),
                        format!("must be less than or equal to {resource} limit of {text}"),
                    );
                }
            }
            (_, None) if !overcommit => errors.required(&limit_path, "Limit must be set for non overcommitable resources"),
            _ => {}
        }
        huge |= is_huge_page(resource);
        basic |= matches!(resource, "cpu" | "memory");
    }
    if huge && !basic {
        errors.forbidden(path, "HugePages require cpu or memory");
    }
    let mut seen = Vec::new();
    for (index, claim) in resources.items("claims").iter().enumerate() {
        let path = path.child("claims").index(index);
        let name = claim.text("name");
        if name.is_empty() {
            errors.required(&path, "");
            continue;
        }
        let whole = (name, claim.text("request"));
        if seen.contains(&whole) {
            errors.duplicate(&path, if whole.1.is_empty() { name.to_owned() } else { format!("{name}/{}", whole.1) });
        } else {
            seen.push(whole);
        }
        if !claims.contains(&name) {
            errors.not_found(&path, name);
        }
    }
}

//! What one object takes of a quota.
//!
//! Upstream: pkg/quota/v1/evaluator/core

use api::quantity::{Format, Quantity};
use serde_json::Value;

use super::Amounts;
use crate::pod::{items, text};

fn one() -> Quantity {
    Quantity::from_int(1, Format::DecimalSi)
}

/// Everything an object takes, by the names that quotas use.
pub(super) fn of(group: &str, resource: &str, object: &Value) -> Amounts {
    let mut out = Amounts::new();
    let counted = if group.is_empty() { format!("count/{resource}") } else { format!("count/{resource}.{group}") };
    out.insert(counted, one());
    if !group.is_empty() {
        return out;
    }
    match resource {
        "pods" => pod(object, &mut out),
        "services" => service(object, &mut out),
        "persistentvolumeclaims" => claim(object, &mut out),
        "configmaps" | "secrets" | "replicationcontrollers" | "resourcequotas" => {
            out.insert(resource.to_owned(), one());
        }
        _ => {}
    }
    out
}

fn pod(pod: &Value, out: &mut Amounts) {
    if matches!(text(&pod["status"], "phase"), "Succeeded" | "Failed") {
        return;
    }
    out.insert("pods".to_owned(), one());
    for (kind, prefix) in [("requests", "requests."), ("limits", "limits.")] {
        for (name, amount) in total(&pod["spec"], kind) {
            let plain = matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
            if kind == "requests" && plain {
                out.insert(name.clone(), amount.clone());
            }
            if plain || kind == "requests" {
                out.insert(format!("{prefix}{name}"), amount);
            }
        }
    }
}

/// Containers and sidecars together, or an init container with the sidecars before it, whichever is more.
fn total(spec: &Value, kind: &str) -> Amounts {
    let of = |container: &Value| -> Amounts {
        container["resources"][kind]
            .as_object()
            .into_iter()
            .flatten()
            .filter_map(|(name, amount)| Some((name.clone(), Quantity::parse(amount.as_str()?).ok()?)))
            .collect()
    };
    let add = |to: &mut Amounts, more: Amounts| {
        for (name, amount) in more {
            let sum = to.get(&name).map_or_else(|| amount.clone(), |have| have.add(&amount));
            to.insert(name, sum);
        }
    };
    let mut sum = Amounts::new();
    for container in items(spec, "containers") {
        add(&mut sum, of(container));
    }
    let mut sidecars = Amounts::new();
    let mut peak = Amounts::new();
    for container in items(spec, "initContainers") {
        let mut now = sidecars.clone();
        add(&mut now, of(container));
        if text(container, "restartPolicy") == "Always" {
            add(&mut sum, of(container));
            sidecars.clone_from(&now);
        }
        for (name, amount) in now {
            if peak.get(&name).is_none_or(|have| *have < amount) {
                peak.insert(name, amount);
            }
        }
    }
    for (name, amount) in peak {
        if sum.get(&name).is_none_or(|have| *have < amount) {
            sum.insert(name, amount);
        }
    }
    if kind == "requests" {
        let overhead = spec["overhead"]
            .as_object()
            .into_iter()
            .flatten()
            .filter_map(|(name, amount)| Some((name.clone(), Quantity::parse(amount.as_str()?).ok()?)))
            .collect();
        add(&mut sum, overhead);
    }
    sum
}

fn service(service: &Value, out: &mut Amounts) {
    out.insert("services".to_owned(), one());
    let ports = i64::try_from(items(&service["spec"], "ports").len()).unwrap_or(0);
    match text(&service["spec"], "type") {
        "NodePort" => {
            out.insert("services.nodeports".to_owned(), Quantity::from_int(ports, Format::DecimalSi));
        }
        "LoadBalancer" => {
            out.insert("services.loadbalancers".to_owned(), one());
            if service["spec"]["allocateLoadBalancerNodePorts"] != false {
                out.insert("services.nodeports".to_owned(), Quantity::from_int(ports, Format::DecimalSi));
            }
        }
        _ => {}
    }
}

fn claim(claim: &Value, out: &mut Amounts) {
    out.insert("persistentvolumeclaims".to_owned(), one());
    let class = match claim["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-class"].as_str() {
        Some(class) => class,
        None => text(&claim["spec"], "storageClassName"),
    };
    if !class.is_empty() {
        out.insert(format!("{class}.storageclass.storage.k8s.io/persistentvolumeclaims"), one());
    }
    if let Ok(size) = Quantity::parse(text(&claim["spec"]["resources"]["requests"], "storage")) {
        if !class.is_empty() {
            out.insert(format!("{class}.storageclass.storage.k8s.io/requests.storage"), size.clone());
        }
        out.insert("requests.storage".to_owned(), size);
    }
}

/// The compute resources that a quota limits and that some container says nothing about: `limits.cpu for: a,b`.
pub(super) fn unstated<'a>(pod: &Value, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut out = Vec::new();
    for name in names {
        let (kind, resource) = match name {
            "cpu" | "memory" => ("requests", name),
            "requests.cpu" | "requests.memory" => ("requests", &name["requests.".len()..]),
            "limits.cpu" | "limits.memory" => ("limits", &name["limits.".len()..]),
            _ => continue,
        };
        let mut without: Vec<&str> = ["containers", "initContainers"]
            .iter()
            .flat_map(|key| items(&pod["spec"], key))
            .filter(|container| container["resources"][kind][resource].is_null())
            .map(|container| text(container, "name"))
            .collect();
        without.sort_unstable();
        if !without.is_empty() {
            out.push(format!("{name} for: {}", without.join(",")));
        }
    }
    out
}

/// Whether the quota is for objects like this one.
pub(super) fn in_scope(quota: &Value, group: &str, resource: &str, object: &Value) -> bool {
    let spec = &quota["spec"];
    let plain = items(spec, "scopes").iter().filter_map(Value::as_str).map(|scope| (scope, "Exists", Vec::new()));
    let selected = items(&spec["scopeSelector"], "matchExpressions").iter().map(|expression| {
        let values = items(expression, "values").iter().filter_map(Value::as_str).collect::<Vec<_>>();
        (text(expression, "scopeName"), text(expression, "operator"), values)
    });
    plain.chain(selected).all(|(scope, operator, values)| {
        let is_pod = group.is_empty() && resource == "pods";
        if !is_pod {
            return false;
        }
        let spec = &object["spec"];
        let terminating = spec["activeDeadlineSeconds"].as_i64().is_some_and(|seconds| seconds >= 0);
        let best_effort = crate::pod::containers(spec).all(|container| {
            ["requests", "limits"].iter().all(|kind| {
                let list = &container["resources"][*kind];
                list["cpu"].is_null() && list["memory"].is_null()
            })
        });
        match scope {
            "Terminating" => terminating,
            "NotTerminating" => !terminating,
            "BestEffort" => best_effort,
            "NotBestEffort" => !best_effort,
            "PriorityClass" => {
                let class = text(spec, "priorityClassName");
                match operator {
                    "In" => values.contains(&class),
                    "NotIn" => !values.contains(&class),
                    "DoesNotExist" => class.is_empty(),
                    _ => !class.is_empty(),
                }
            }
            "CrossNamespacePodAffinity" => ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
                let affinity = &spec["affinity"][*kind];
                let terms = items(affinity, "requiredDuringSchedulingIgnoredDuringExecution").iter().chain(
                    items(affinity, "preferredDuringSchedulingIgnoredDuringExecution")
                        .iter()
                        .map(|weighted| &weighted["podAffinityTerm"]),
                );
                terms.into_iter().any(|term| !items(term, "namespaces").is_empty() || !term["namespaceSelector"].is_null())
            }),
            _ => false,
        }
    })
}

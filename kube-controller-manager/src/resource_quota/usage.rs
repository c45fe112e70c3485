//! How much of what quotas count a pod, a Service or a claim uses.
//!
//! Upstream: pkg/quota/v1/evaluator/core

use std::collections::BTreeMap;

use api::quantity::{Format, Quantity};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, PersistentVolumeClaim, Pod, ResourceQuotaSpec, Service};

use crate::pods;
use crate::pv_binder::plan::class_of_claim;

pub type Usage = BTreeMap<String, Quantity>;

pub fn one() -> Quantity {
    Quantity::from_int(1, Format::DecimalSi)
}

pub fn add(total: &mut Usage, key: String, amount: &Quantity) {
    let sum = total.get(&key).map_or_else(|| amount.clone(), |have| have.add(amount));
    total.insert(key, sum);
}

/// Whether a pod still counts: it has not ended, and is not overdue to be gone.
fn counts(pod: &Pod, now: Timestamp) -> bool {
    let overdue = pod.metadata.deletion_timestamp.as_ref().is_some_and(|at| {
        let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(0);
        at.0.saturating_add(SignedDuration::from_secs(grace)).is_ok_and(|end| end < now)
    });
    !pods::is_terminal(pod) && !overdue
}

pub fn of_pod(pod: &Pod, now: Timestamp) -> Usage {
    let mut usage = Usage::new();
    add(&mut usage, "count/pods".to_owned(), &one());
    if !counts(pod, now) {
        return usage;
    }
    add(&mut usage, "pods".to_owned(), &one());
    for (name, amount) in pod_resources(pod, |container| container.resources.as_ref().and_then(|r| r.requests.as_ref()), false) {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
            add(&mut usage, name.clone(), &amount);
        }
        add(&mut usage, format!("requests.{name}"), &amount);
        if name.starts_with("hugepages-") {
            add(&mut usage, name, &amount);
        }
    }
    for (name, amount) in pod_resources(pod, |container| container.resources.as_ref().and_then(|r| r.limits.as_ref()), true) {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
            add(&mut usage, format!("limits.{name}"), &amount);
        }
    }
    usage
}

type Amounts = BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>;

/// What a pod asks for as a whole: its containers and sidecars together, or the hungriest moment of its start, and the overhead.
fn pod_resources(pod: &Pod, of: impl Fn(&Container) -> Option<&Amounts>, limits: bool) -> Usage {
    let Some(spec) = pod.spec.as_ref() else { return Usage::new() };
    let amounts = |list: Option<&Amounts>| -> Usage {
        list.into_iter().flatten().filter_map(|(name, amount)| Some((name.clone(), Quantity::parse(&amount.0).ok()?))).collect()
    };
    let plus = |total: &mut Usage, more: &Usage| more.iter().for_each(|(name, amount)| add(total, name.clone(), amount));
    let mut total = Usage::new();
    spec.containers.iter().for_each(|container| plus(&mut total, &amounts(of(container))));
    let (mut sidecars, mut peak) = (Usage::new(), Usage::new());
    for container in spec.init_containers.iter().flatten() {
        let mut moment = amounts(of(container));
        if container.restart_policy.as_deref() == Some("Always") {
            plus(&mut total, &moment);
            plus(&mut sidecars, &moment);
            moment = sidecars.clone();
        } else {
            plus(&mut moment, &sidecars);
        }
        raise(&mut peak, &moment);
    }
    raise(&mut total, &peak);
    // A pod may set resources as a whole.
    let whole = spec.resources.as_ref().and_then(|r| if limits { r.limits.as_ref() } else { r.requests.as_ref() });
    total.extend(amounts(whole));
    plus(&mut total, &amounts(spec.overhead.as_ref()));
    total
}

fn raise(total: &mut Usage, other: &Usage) {
    for (name, amount) in other {
        if total.get(name).is_none_or(|have| have < amount) {
            total.insert(name.clone(), amount.clone());
        }
    }
}

pub fn of_service(service: &Service) -> Usage {
    let mut usage = Usage::new();
    add(&mut usage, "count/services".to_owned(), &one());
    add(&mut usage, "services".to_owned(), &one());
    let Some(spec) = service.spec.as_ref() else { return usage };
    let ports = Quantity::from_int(i64::try_from(spec.ports.as_ref().map_or(0, Vec::len)).unwrap_or(0), Format::DecimalSi);
    match spec.type_.as_deref() {
        Some("NodePort") => add(&mut usage, "services.nodeports".to_owned(), &ports),
        Some("LoadBalancer") => {
            add(&mut usage, "services.loadbalancers".to_owned(), &one());
            if spec.allocate_load_balancer_node_ports != Some(false) {
                add(&mut usage, "services.nodeports".to_owned(), &ports);
            }
        }
        _ => {}
    }
    usage
}

pub fn of_claim(claim: &PersistentVolumeClaim) -> Usage {
    let mut usage = Usage::new();
    add(&mut usage, "count/persistentvolumeclaims".to_owned(), &one());
    add(&mut usage, "persistentvolumeclaims".to_owned(), &one());
    let class =
        class_of_claim(claim).filter(|class| !class.is_empty()).map(|class| format!("{class}.storageclass.storage.k8s.io/"));
    if let Some(class) = &class {
        add(&mut usage, format!("{class}persistentvolumeclaims"), &one());
    }
    let request = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.requests.as_ref()?.get("storage"));
    if let Some(size) = request.and_then(|size| Quantity::parse(&size.0).ok()) {
        add(&mut usage, "requests.storage".to_owned(), &size);
        if let Some(class) = &class {
            add(&mut usage, format!("{class}requests.storage"), &size);
        }
    }
    usage
}

/// Whether a quota with scopes covers a pod.
pub fn covers(spec: &ResourceQuotaSpec, pod: &Pod) -> bool {
    let simple = spec.scopes.iter().flatten().all(|scope| in_scope(scope, "Exists", &[], pod));
    let selected = spec.scope_selector.iter().flat_map(|selector| selector.match_expressions.iter().flatten());
    simple && { selected }.all(|r| in_scope(&r.scope_name, &r.operator, r.values.as_deref().unwrap_or_default(), pod))
}

/// Whether a quota has scopes: then it counts pods alone.
pub fn has_scopes(spec: &ResourceQuotaSpec) -> bool {
    spec.scopes.as_ref().is_some_and(|scopes| !scopes.is_empty())
        || spec.scope_selector.as_ref().and_then(|s| s.match_expressions.as_ref()).is_some_and(|list| !list.is_empty())
}

fn in_scope(scope: &str, operator: &str, values: &[String], pod: &Pod) -> bool {
    let spec = pod.spec.as_ref();
    let has_deadline = spec.is_some_and(|spec| spec.active_deadline_seconds.is_some_and(|seconds| seconds >= 0));
    match scope {
        "Terminating" => has_deadline,
        "NotTerminating" => !has_deadline,
        "BestEffort" => is_best_effort(pod),
        "NotBestEffort" => !is_best_effort(pod),
        "PriorityClass" => {
            let class = spec.and_then(|spec| spec.priority_class_name.as_deref()).unwrap_or("");
            match operator {
                "In" => values.iter().any(|value| value == class),
                "NotIn" => !values.iter().any(|value| value == class),
                "DoesNotExist" => class.is_empty(),
                _ => !class.is_empty(),
            }
        }
        "CrossNamespacePodAffinity" => spec.is_some_and(crosses_namespaces),
        _ => false,
    }
}

fn is_best_effort(pod: &Pod) -> bool {
    let Some(spec) = pod.spec.as_ref() else { return true };
    let names = |list: Option<&Amounts>| list.is_some_and(|list| list.contains_key("cpu") || list.contains_key("memory"));
    let all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    !all.filter_map(|container| container.resources.as_ref()).any(|r| names(r.requests.as_ref()) || names(r.limits.as_ref()))
}

fn crosses_namespaces(spec: &k8s_openapi::api::core::v1::PodSpec) -> bool {
    let Some(affinity) = spec.affinity.as_ref() else { return false };
    let terms = |required: Option<&Vec<k8s_openapi::api::core::v1::PodAffinityTerm>>,
                 preferred: Option<&Vec<k8s_openapi::api::core::v1::WeightedPodAffinityTerm>>| {
        let all =
            required.into_iter().flatten().chain(preferred.into_iter().flatten().map(|weighted| &weighted.pod_affinity_term));
        { all }.any(|term| term.namespaces.as_ref().is_some_and(|list| !list.is_empty()) || term.namespace_selector.is_some())
    };
    affinity.pod_affinity.as_ref().is_some_and(|a| {
        terms(
            a.required_during_scheduling_ignored_during_execution.as_ref(),
            a.preferred_during_scheduling_ignored_during_execution.as_ref(),
        )
    }) || affinity.pod_anti_affinity.as_ref().is_some_and(|a| {
        terms(
            a.required_during_scheduling_ignored_during_execution.as_ref(),
            a.preferred_during_scheduling_ignored_during_execution.as_ref(),
        )
    })
}

/// The resource that a key counts by number alone, as (`resource`, `group`).
pub fn counted(key: &str) -> Option<(&str, &str)> {
    match key {
        "configmaps" | "secrets" | "replicationcontrollers" | "resourcequotas" => Some((key, "")),
        _ => {
            let name = key.strip_prefix("count/")?;
            let pair = name.split_once('.').unwrap_or((name, ""));
            (!matches!(pair, ("pods" | "services" | "persistentvolumeclaims", ""))).then_some(pair)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn rows(usage: &Usage) -> BTreeMap<String, String> {
        usage.iter().map(|(key, amount)| (key.clone(), amount.to_string())).collect()
    }

    #[test]
    fn pods_use_what_they_ask_for_at_their_hungriest() {
        let now: Timestamp = "2024-01-01T00:00:00Z".parse().unwrap();
        let resources = |cpu: &str| json!({"requests": {"cpu": cpu, "memory": "1Gi"}, "limits": {"cpu": cpu}});
        let mut pod: Pod = serde_json::from_value(json!({"spec": {
            "initContainers": [{"name": "i", "resources": resources("3")}, {"name": "s", "restartPolicy": "Always", "resources": resources("1")}],
            "containers": [{"name": "a", "resources": resources("500m")}, {"name": "b", "resources": resources("1")}]}})).unwrap();
        let usage = rows(&of_pod(&pod, now));
        assert_eq!(
            (usage["requests.cpu"].as_str(), usage["memory"].as_str(), usage["limits.cpu"].as_str(), usage["pods"].as_str()),
            ("3", "3Gi", "3", "1")
        );
        pod.status = serde_json::from_value(json!({"phase": "Succeeded"})).unwrap();
        assert_eq!(rows(&of_pod(&pod, now)).keys().collect::<Vec<_>>(), ["count/pods"]);
    }

    #[test]
    fn services_and_claims_count_by_kind_and_class() {
        let service: Service =
            serde_json::from_value(json!({"spec": {"type": "LoadBalancer", "ports": [{"port": 1}, {"port": 2}]}})).unwrap();
        assert_eq!(rows(&of_service(&service))["services.nodeports"], "2");
        let claim: PersistentVolumeClaim =
            serde_json::from_value(json!({"spec": {"storageClassName": "fast", "resources": {"requests": {"storage": "5Gi"}}}}))
                .unwrap();
        assert_eq!(rows(&of_claim(&claim))["fast.storageclass.storage.k8s.io/requests.storage"], "5Gi");
        assert_eq!(counted("count/deployments.apps"), Some(("deployments", "apps")));
        assert_eq!((counted("secrets"), counted("count/pods"), counted("requests.cpu")), (Some(("secrets", "")), None, None));
    }

    #[test]
    fn scopes_choose_pods() {
        let spec = |value: Value| -> ResourceQuotaSpec { serde_json::from_value(value).unwrap() };
        let pod: Pod =
            serde_json::from_value(json!({"spec": {"containers": [{"name": "c"}], "priorityClassName": "high"}})).unwrap();
        for (quota, expected) in [
            (json!({}), true),
            (json!({"scopes": ["BestEffort"]}), true),
            (json!({"scopes": ["NotBestEffort"]}), false),
            (json!({"scopes": ["Terminating"]}), false),
            (
                json!({"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}]}}),
                true,
            ),
            (json!({"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "DoesNotExist"}]}}), false),
        ] {
            assert_eq!(covers(&spec(quota.clone()), &pod), expected, "{quota}");
        }
    }
}

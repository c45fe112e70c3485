//! Whether a new pod fits this node in other ways than by resources: labels, host ports, what the kernel can enforce.
//!
//! Upstream: pkg/kubelet/lifecycle/predicate.go, pkg/security/apparmor

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Node, NodeSelectorTerm, Pod};
use kube::Api;

use super::admission::Refusal;
use crate::kubelet::Kubelet;
use crate::pod::{self, init_containers, is_sidecar, spec};

/// Decides about a pod that is new here.
///
/// # Errors
/// The node does not take it.
pub async fn admit(kubelet: &Kubelet, pod: &Pod) -> Result<(), Refusal> {
    app_armor(pod, app_armor_enabled)?;
    strict_groups(pod, kubelet.node.capabilities.read().supplemental_groups_policy)?;
    host_ports(kubelet, pod)?;
    let name = &kubelet.config.node_name;
    if selects(pod, &kubelet.node.labels.read(), name) {
        return Ok(());
    }
    // The labels at hand may be old: what counts is what the API server has now.
    let labels = match &kubelet.api {
        Some(api) => match Api::<Node>::all(api.clone()).get_opt(name).await {
            Ok(Some(node)) => node.metadata.labels.unwrap_or_default(),
            Ok(None) | Err(_) => return Ok(()),
        },
        None => return Ok(()),
    };
    if selects(pod, &labels, name) {
        return Ok(());
    }
    let message = "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector".to_owned();
    Err(Refusal { reason: "NodeAffinity", message })
}

/// Whether the pod's node selector and required node affinity match.
fn selects(pod: &Pod, labels: &BTreeMap<String, String>, name: &str) -> bool {
    let selector = spec(pod).node_selector.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    let required = spec(pod)
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    selector && required.is_none_or(|required| required.node_selector_terms.iter().any(|term| term_matches(term, labels, name)))
}

fn term_matches(term: &NodeSelectorTerm, labels: &BTreeMap<String, String>, name: &str) -> bool {
    let (expressions, fields) = (term.match_expressions.as_deref(), term.match_fields.as_deref());
    if expressions.unwrap_or_default().is_empty() && fields.unwrap_or_default().is_empty() {
        return false;
    }
    let holds = |operator: &str, values: &[String], have: Option<&str>| {
        let number = |text: &str| text.parse::<i64>().ok();
        let compare = |less: bool| match (have.and_then(number), values.first().and_then(|value| number(value))) {
            (Some(have), Some(bound)) => have != bound && (have < bound) == less,
            _ => false,
        };
        match operator {
            "In" => have.is_some_and(|have| values.iter().any(|value| value == have)),
            "NotIn" => have.is_none_or(|have| values.iter().all(|value| value != have)),
            "Exists" => have.is_some(),
            "DoesNotExist" => have.is_none(),
            "Gt" => compare(false),
            "Lt" => compare(true),
            _ => false,
        }
    };
    let values = |values: &Option<Vec<String>>| values.clone().unwrap_or_default();
    expressions
        .into_iter()
        .flatten()
        .all(|want| holds(&want.operator, &values(&want.values), labels.get(&want.key).map(String::as_str)))
        && fields
            .into_iter()
            .flatten()
            .all(|want| holds(&want.operator, &values(&want.values), (want.key == "metadata.name").then_some(name)))
}

/// A port of the host that a pod wants: address, protocol, number.
type HostPort = (String, String, i32);

fn wanted_ports(pod: &Pod) -> Vec<HostPort> {
    let sidecars = init_containers(pod).iter().filter(|container| is_sidecar(container));
    let ports = sidecars.chain(&spec(pod).containers).flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let number = port.host_port.filter(|number| *number > 0)?;
            let ip = port.host_ip.clone().filter(|ip| !ip.is_empty()).unwrap_or_else(|| "0.0.0.0".into());
            Some((ip, port.protocol.clone().unwrap_or_else(|| "TCP".into()), number))
        })
        .collect()
}

fn conflicts(a: &HostPort, b: &HostPort) -> bool {
    a.1 == b.1 && a.2 == b.2 && (a.0 == b.0 || a.0 == "0.0.0.0" || b.0 == "0.0.0.0")
}

fn host_ports(kubelet: &Kubelet, pod: &Pod) -> Result<(), Refusal> {
    let wanted = wanted_ports(pod);
    // A static pod waits for its predecessor elsewhere, and must not fail for it.
    if wanted.is_empty() || pod::is_static(pod) {
        return Ok(());
    }
    let taken = kubelet
        .workers
        .list()
        .into_iter()
        .filter(|handle| handle.uid != pod::uid(pod) && handle.view().stage < super::Stage::Clean)
        .filter(|handle| handle.view().runtime.sandbox().is_some())
        .flat_map(|handle| wanted_ports(&handle.request().pod))
        .any(|port| wanted.iter().any(|want| conflicts(want, &port)));
    if !taken {
        return Ok(());
    }
    let message = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports".to_owned();
    Err(Refusal { reason: "NodePorts", message })
}

fn app_armor_enabled() -> bool {
    std::fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.trim() == "Y")
}

fn app_armor(pod: &Pod, enabled: impl Fn() -> bool) -> Result<(), Refusal> {
    let of_pod = spec(pod).security_context.as_ref().and_then(|context| context.app_armor_profile.as_ref());
    let wanted = |container: &Container| {
        let own = container.security_context.as_ref().and_then(|context| context.app_armor_profile.as_ref());
        own.or(of_pod).is_some_and(|profile| profile.type_ != "Unconfined")
    };
    let asked = init_containers(pod).iter().chain(&spec(pod).containers).any(wanted)
        || pod
            .metadata
            .annotations
            .iter()
            .flatten()
            .any(|(key, value)| key.starts_with("container.apparmor.security.beta.kubernetes.io/") && value != "unconfined");
    if asked && !enabled() {
        let message = "Cannot enforce AppArmor: AppArmor is not enabled on the host".to_owned();
        return Err(Refusal { reason: "AppArmor", message });
    }
    Ok(())
}

fn strict_groups(pod: &Pod, supported: bool) -> Result<(), Refusal> {
    let policy = spec(pod).security_context.as_ref().and_then(|context| context.supplemental_groups_policy.as_deref());
    if policy == Some("Strict") && !supported {
        let message = "SupplementalGroupsPolicy=Strict is not supported in this node".to_owned();
        return Err(Refusal { reason: "SupplementalGroupsPolicyNotSupported", message });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(spec: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "uid": "u"}, "spec": spec})).unwrap()
    }

    #[test]
    fn labels_must_match_selector_and_affinity() {
        let labels = BTreeMap::from([("disk".to_owned(), "ssd".to_owned()), ("size".to_owned(), "5".to_owned())]);
        let term = |key: &str, operator: &str, values: &[&str]| {
            json!({"containers": [], "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": key, "operator": operator, "values": values}]}]}}}})
        };
        for (spec, yes) in [
            (json!({"containers": []}), true),
            (json!({"containers": [], "nodeSelector": {"disk": "ssd"}}), true),
            (json!({"containers": [], "nodeSelector": {"disk": "hdd"}}), false),
            (term("disk", "In", &["hdd", "ssd"]), true),
            (term("disk", "NotIn", &["ssd"]), false),
            (term("none", "NotIn", &["ssd"]), true),
            (term("none", "Exists", &[]), false),
            (term("none", "DoesNotExist", &[]), true),
            (term("size", "Gt", &["4"]), true),
            (term("size", "Lt", &["5"]), false),
            (
                json!({"containers": [], "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["other"]}]}]}}}}),
                false,
            ),
        ] {
            assert_eq!(selects(&pod(spec.clone()), &labels, "n"), yes, "{spec}");
        }
    }

    #[test]
    fn host_ports_conflict_by_protocol_and_address() {
        let port = |ip: &str, protocol: &str, number| (ip.to_owned(), protocol.to_owned(), number);
        for (a, b, yes) in [
            (port("0.0.0.0", "TCP", 80), port("1.1.1.1", "TCP", 80), true),
            (port("1.1.1.1", "TCP", 80), port("1.1.1.2", "TCP", 80), false),
            (port("0.0.0.0", "UDP", 80), port("0.0.0.0", "TCP", 80), false),
            (port("0.0.0.0", "TCP", 81), port("0.0.0.0", "TCP", 80), false),
        ] {
            assert_eq!(conflicts(&a, &b), yes, "{a:?} {b:?}");
        }
        let pod =
            pod(json!({"containers": [{"name": "a", "ports": [{"containerPort": 1}, {"containerPort": 2, "hostPort": 3}]}]}));
        assert_eq!(wanted_ports(&pod), [port("0.0.0.0", "TCP", 3)]);
    }

    #[test]
    fn a_profile_that_cannot_be_enforced_is_refused() {
        let with =
            |kind: &str| pod(json!({"containers": [{"name": "a", "securityContext": {"appArmorProfile": {"type": kind}}}]}));
        assert_eq!(app_armor(&with("RuntimeDefault"), || false).unwrap_err().reason, "AppArmor");
        assert!(app_armor(&with("RuntimeDefault"), || true).is_ok());
        assert!(app_armor(&with("Unconfined"), || false).is_ok());
        let strict = pod(json!({"containers": [], "securityContext": {"supplementalGroupsPolicy": "Strict"}}));
        assert!(strict_groups(&strict, false).is_err() && strict_groups(&strict, true).is_ok());
        assert!(app_armor(&pod(json!({"containers": [{"name": "a"}]})), || false).is_ok());
    }
}

//! Whether the node takes a pod at all. Pure but for the table of pods. Upstream: pkg/kubelet/lifecycle/predicate.go, sysctl/allowlist.go

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use k8s_openapi::api::core::v1::Pod;

use crate::kubelet::Kubelet;
use crate::pod::resources::{Requests, of_pod};
use crate::pod::{self, spec};

/// Why not: reason and message of the pod's status.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    /// `OutOfcpu`, `SysctlForbidden`, …
    pub reason: &'static str,
    /// For a person.
    pub message: String,
}

/// Sysctls that touch the pod alone. Upstream: safeSysctls.
const SAFE_SYSCTLS: &[&str] = &[
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

/// Decides about a pod that is new here.
///
/// # Errors
/// The node does not take it.
pub fn admit(kubelet: &Kubelet, pod: &Pod) -> Result<(), Refusal> {
    if let Some(os) = &spec(pod).os
        && os.name != "linux"
    {
        let message = "Failed to admit pod as the OS field doesn't match node OS".to_owned();
        return Err(Refusal { reason: "PodOSNotSupported", message });
    }
    if kubelet.node.shutting_down.load(Ordering::Acquire) {
        let (reason, message) = crate::shutdown::REFUSED;
        return Err(Refusal { reason, message: message.to_owned() });
    }
    sysctls(pod, &kubelet.config.kubelet.allowed_unsafe_sysctls)?;
    let others: Vec<_> = kubelet
        .workers
        .list()
        .into_iter()
        .filter(|handle| handle.uid != pod::uid(pod) && handle.view().stage < super::Stage::Clean)
        .filter(|handle| handle.admitted.load(Ordering::Acquire) || handle.view().runtime.sandbox().is_some())
        .map(|handle| handle.allocated())
        .collect();
    crate::eviction::rank::admit(pod, &kubelet.node.pressure.read()).map_err(|message| Refusal { reason: "Evicted", message })?;
    let allocatable = kubelet.node.allocatable.read().clone();
    if allocatable.is_empty() {
        return Ok(());
    }
    if pod::is_critical(pod) {
        preempt(kubelet, pod, &others, &allocatable);
        return Ok(());
    }
    if let Some(max) = allocatable.get("pods")
        && others.len() as i64 + 1 > *max
    {
        let message = format!("Node didn't have enough resource: pods, requested: 1, used: {}, capacity: {max}", others.len());
        return Err(Refusal { reason: "OutOfpods", message });
    }
    for (resource, reason) in [("cpu", "OutOfcpu"), ("memory", "OutOfmemory"), ("ephemeral-storage", "OutOfephemeral-storage")] {
        let asked = of_pod(pod, Requests, resource).unwrap_or(0);
        let used: i64 = others.iter().map(|pod| of_pod(pod, Requests, resource).unwrap_or(0)).sum();
        if let Some(capacity) = allocatable.get(resource)
            && asked > 0
            && asked + used > *capacity
        {
            let message =
                format!("Node didn't have enough resource: {resource}, requested: {asked}, used: {used}, capacity: {capacity}");
            return Err(Refusal { reason, message });
        }
    }
    Ok(())
}

/// What a node gives out.
const SCARCE: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

/// Ends pods that a critical one needs the place of. Upstream: pkg/kubelet/preemption
fn preempt(kubelet: &Kubelet, pod: &Pod, others: &[Arc<Pod>], allocatable: &BTreeMap<String, i64>) {
    const MESSAGE: &str = "Preempted in order to admit critical pod";
    for victim in victims(pod, others, allocatable) {
        crate::metrics::metrics().preemptions.with_label_values(&["memory"]).inc();
        kubelet.event(&victim, client::events::Kind::Warning, "Preempting", MESSAGE);
        kubelet.workers.evict(pod::uid(&victim), "Preempting", MESSAGE, Some(0));
    }
}

/// The pods whose end makes room: of the lowest class and priority, the fewest of those; none where even all would not do. Pure.
fn victims(pod: &Pod, others: &[Arc<Pod>], allocatable: &BTreeMap<String, i64>) -> Vec<Arc<Pod>> {
    let asks = |pod: &Pod, resource: &str| of_pod(pod, Requests, resource).unwrap_or(0);
    let shortage = |left: &[&Arc<Pod>]| -> Vec<(&str, i64)> {
        let short = |resource: &'static str| {
            let used: i64 = left.iter().map(|other| asks(other, resource)).sum();
            let missing = asks(pod, resource) + used - allocatable.get(resource).copied().unwrap_or(i64::MAX);
            (asks(pod, resource) > 0 && missing > 0).then_some((resource, missing))
        };
        let slots = i64::try_from(left.len()).unwrap_or(i64::MAX) + 1 - allocatable.get("pods").copied().unwrap_or(i64::MAX);
        SCARCE.into_iter().filter_map(short).chain((slots > 0).then_some(("pods", slots))).collect()
    };
    let mut left: Vec<&Arc<Pod>> = others.iter().collect();
    let mut candidates: Vec<&Arc<Pod>> = others.iter().filter(|other| !pod::is_critical(other)).collect();
    // Best-effort pods give back nothing but their slot.
    candidates.sort_by_key(|other| {
        let class = std::cmp::Reverse(crate::pod::qos::class(other));
        (class, spec(other).priority.unwrap_or(0), std::cmp::Reverse(asks(other, "memory")))
    });
    let mut out = Vec::new();
    for candidate in candidates {
        let missing = shortage(&left);
        if missing.is_empty() {
            break;
        }
        if missing.iter().any(|(resource, _)| *resource == "pods" || asks(candidate, resource) > 0) {
            left.retain(|other| !Arc::ptr_eq(other, candidate));
            out.push(candidate.clone());
        }
    }
    if shortage(&left).is_empty() { out } else { Vec::new() }
}

fn sysctls(pod: &Pod, allowed: &[String]) -> Result<(), Refusal> {
    let list = spec(pod).security_context.iter().flat_map(|context| context.sysctls.iter().flatten());
    for sysctl in list {
        let name = sysctl.name.replace('/', ".");
        let matches = |pattern: &String| pattern.strip_suffix('*').map_or(*pattern == name, |prefix| name.starts_with(prefix));
        if !SAFE_SYSCTLS.contains(&name.as_str()) && !allowed.iter().any(matches) {
            return Err(Refusal { reason: "SysctlForbidden", message: format!("forbidden sysctl: {name:?} not allowlisted") });
        }
        let of_host =
            if name.starts_with("net.") { spec(pod).host_network.unwrap_or(false) } else { spec(pod).host_ipc.unwrap_or(false) };
        if of_host {
            let what = if name.starts_with("net.") { "network" } else { "IPC" };
            return Err(Refusal {
                reason: "SysctlForbidden",
                message: format!("forbidden sysctl: {name:?} not allowed with host {what} enabled"),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_critical_pod_takes_the_place_of_the_least_others() {
        let make = |name: &str, memory: &str, priority: i32| -> Arc<Pod> {
            let containers = json!([{"name": "c", "resources": {"requests": {"memory": memory}}}]);
            let pod = json!({"metadata": {"name": name}, "spec": {"priority": priority, "containers": containers}});
            Arc::new(serde_json::from_value(pod).unwrap())
        };
        let others = [make("low", "40", 0), make("high", "40", 10), make("critical", "20", 2_000_000_000), make("none", "0", 0)];
        let allocatable = |memory: i64, pods: i64| [("memory".to_owned(), memory), ("pods".to_owned(), pods)].into();
        for (asked, memory, pods, expected) in [
            ("10", 110, 9, vec![]),
            ("10", 100, 9, vec!["low"]),
            ("60", 100, 9, vec!["low", "high"]),
            ("90", 100, 9, vec![]),
            ("1", 200, 4, vec!["none"]),
        ] {
            let pod = make("new", asked, 2_000_000_000);
            let got = victims(&pod, &others, &allocatable(memory, pods));
            assert_eq!(got.iter().map(|pod| pod::name(pod)).collect::<Vec<_>>(), expected, "{asked} of {memory}");
        }
    }

    #[test]
    fn unsafe_sysctls_need_leave() {
        let pod = |name: &str| -> Pod {
            serde_json::from_value(
                json!({"spec": {"containers": [], "securityContext": {"sysctls": [{"name": name, "value": "1"}]}}}),
            )
            .unwrap()
        };
        assert!(sysctls(&pod("net.ipv4.tcp_syncookies"), &[]).is_ok());
        assert_eq!(
            sysctls(&pod("kernel.msgmax"), &[]).unwrap_err().message,
            "forbidden sysctl: \"kernel.msgmax\" not allowlisted"
        );
        assert!(sysctls(&pod("kernel/msgmax"), &["kernel.msg*".into()]).is_ok());
    }
}

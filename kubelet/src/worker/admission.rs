//! Whether the node takes a pod at all. Pure but for the table of pods. Upstream: pkg/kubelet/lifecycle/predicate.go, sysctl/allowlist.go

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
    sysctls(pod, &kubelet.config.kubelet.allowed_unsafe_sysctls)?;
    let others: Vec<_> = kubelet
        .workers
        .list()
        .into_iter()
        .filter(|handle| handle.uid != pod::uid(pod) && handle.view().stage < super::Stage::Clean)
        .filter(|handle| handle.view().runtime.sandbox().is_some())
        .map(|handle| handle.allocated())
        .collect();
    crate::eviction::rank::admit(pod, &kubelet.node.pressure.read()).map_err(|message| Refusal { reason: "Evicted", message })?;
    let allocatable = kubelet.node.allocatable.read().clone();
    if pod::is_critical(pod) || allocatable.is_empty() {
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

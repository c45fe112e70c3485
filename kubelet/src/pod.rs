//! A pod as the kubelet looks at it: names, sources, containers, classes. Pure.

pub mod container;
pub mod defaults;
pub mod qos;
pub mod quantity;
pub mod resources;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

/// Where the pod's definition came from: `file`, `http` or `api`. Upstream: pkg/kubelet/types.
pub const CONFIG_SOURCE: &str = "kubernetes.io/config.source";
/// Hash of a static pod's definition; also its uid.
pub const CONFIG_HASH: &str = "kubernetes.io/config.hash";
/// On a mirror pod: the hash of the static pod it mirrors.
pub const CONFIG_MIRROR: &str = "kubernetes.io/config.mirror";
/// When the kubelet first saw the definition.
pub const CONFIG_SEEN: &str = "kubernetes.io/config.seen";

/// Priority from which a pod is critical to the system. Upstream: scheduling.SystemCriticalPriority.
const SYSTEM_CRITICAL_PRIORITY: i32 = 2_000_000_000;

/// The pod's uid; empty only for objects that never went through a source.
pub fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or("")
}

/// The pod's name.
pub fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or("")
}

/// The pod's namespace.
pub fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or("default")
}

/// `name_namespace`: what a static pod and its mirror share.
pub fn full_name(pod: &Pod) -> String {
    format!("{}_{}", name(pod), namespace(pod))
}

/// `name_namespace(uid)`: how upstream's messages name a pod.
pub fn describe(pod: &Pod) -> String {
    format!("{}_{}({})", name(pod), namespace(pod), uid(pod))
}

/// `namespace/name`: for logs.
pub fn log_name(pod: &Pod) -> String {
    format!("{}/{}", namespace(pod), name(pod))
}

/// The specification; empty where absent, so that readers need no case for it.
pub fn spec(pod: &Pod) -> &PodSpec {
    static EMPTY: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);
    pod.spec.as_ref().unwrap_or(&EMPTY)
}

/// An annotation's value.
pub fn annotation<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// Whether the definition comes from a file or URL, not from the API server.
pub fn is_static(pod: &Pod) -> bool {
    annotation(pod, CONFIG_SOURCE).is_some_and(|source| source != "api")
}

/// Whether the object is the API server's image of a static pod.
pub fn is_mirror(pod: &Pod) -> bool {
    annotation(pod, CONFIG_MIRROR).is_some()
}

/// Whether the node must not be without it: static, mirror or of system priority.
pub fn is_critical(pod: &Pod) -> bool {
    is_static(pod) || is_mirror(pod) || spec(pod).priority.is_some_and(|priority| priority >= SYSTEM_CRITICAL_PRIORITY)
}

/// Node-critical: never killed for memory before others. Upstream: IsNodeCriticalPod.
pub fn is_node_critical(pod: &Pod) -> bool {
    is_critical(pod) && (spec(pod).priority_class_name.as_deref() == Some("system-node-critical"))
}

/// Whether the pod lives in the node's own network namespace.
pub fn is_host_network(pod: &Pod) -> bool {
    spec(pod).host_network.unwrap_or(false)
}

/// Init containers, in order.
pub fn init_containers(pod: &Pod) -> &[Container] {
    spec(pod).init_containers.as_deref().unwrap_or_default()
}

/// Whether an init container runs beside the pod for its whole life.
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// `Always`, `OnFailure` or `Never`.
pub fn restart_policy(pod: &Pod) -> &str {
    spec(pod).restart_policy.as_deref().unwrap_or("Always")
}

/// Whether all containers ended for good, as the API server's copy says.
pub fn is_terminal(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"))
}

/// Seconds the pod has between SIGTERM and SIGKILL: what the deletion asked for, else what the pod asks for.
pub fn grace_period_seconds(pod: &Pod) -> i64 {
    if pod.metadata.deletion_timestamp.is_some()
        && let Some(seconds) = pod.metadata.deletion_grace_period_seconds
    {
        return seconds;
    }
    spec(pod).termination_grace_period_seconds.unwrap_or(30)
}

/// Host name within the pod, and its domain, as its own processes see them.
/// Upstream: pkg/kubelet/kubelet_pods.go GeneratePodHostNameAndDomain.
pub fn host_name(pod: &Pod, cluster_domain: &str) -> (String, String) {
    let spec = spec(pod);
    if let Some(name) = spec.hostname_override.as_deref().filter(|name| !name.is_empty()) {
        return (name.to_owned(), String::new());
    }
    let mut host = match spec.hostname.as_deref().filter(|name| !name.is_empty()) {
        Some(name) => name.to_owned(),
        None => {
            // The kernel's limit; a name may be longer.
            const MAX: usize = 63;
            name(pod).chars().take(MAX).collect::<String>().trim_end_matches(['-', '.']).to_owned()
        }
    };
    let domain = match spec.subdomain.as_deref().filter(|name| !name.is_empty()) {
        Some(subdomain) => format!("{subdomain}.{}.svc.{cluster_domain}", namespace(pod)),
        None => String::new(),
    };
    if spec.set_hostname_as_fqdn.unwrap_or(false) && !domain.is_empty() {
        host = format!("{host}.{domain}");
    }
    (host, domain)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn host_names_follow_the_specification() {
        for (spec, host, domain) in [
            (json!({"containers": []}), "web-0", ""),
            (json!({"containers": [], "hostname": "h"}), "h", ""),
            (json!({"containers": [], "hostname": "h", "subdomain": "s"}), "h", "s.ns.svc.cluster.local"),
            (
                json!({"containers": [], "subdomain": "s", "setHostnameAsFQDN": true}),
                "web-0.s.ns.svc.cluster.local",
                "s.ns.svc.cluster.local",
            ),
        ] {
            let pod: Pod =
                serde_json::from_value(json!({"metadata": {"name": "web-0", "namespace": "ns"}, "spec": spec})).unwrap();
            assert_eq!(host_name(&pod, "cluster.local"), (host.to_owned(), domain.to_owned()));
        }
        let long: Pod =
            serde_json::from_value(json!({"metadata": {"name": "a".repeat(62) + "-b"}, "spec": {"containers": []}})).unwrap();
        assert_eq!(host_name(&long, "x").0, "a".repeat(62));
    }
}

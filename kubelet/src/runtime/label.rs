//! Labels and annotations that the kubelet puts on sandboxes and containers: its only memory across restarts, and what tools such as
//! crictl show. Upstream: pkg/kubelet/kuberuntime/labels.go

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{Container, Pod};

use crate::cri::v1;
use crate::pod;

/// Pod's name.
pub const POD_NAME: &str = "io.kubernetes.pod.name";
/// Pod's namespace.
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// Pod's uid.
pub const POD_UID: &str = "io.kubernetes.pod.uid";
/// Container's name.
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";

const HASH: &str = "io.kubernetes.container.hash";
const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
const MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
const MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
const PRE_STOP: &str = "io.kubernetes.container.preStopHandler";
const PORTS: &str = "io.kubernetes.container.ports";
const DELETION_GRACE: &str = "io.kubernetes.pod.deletionGracePeriod";
const TERMINATION_GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";

/// Labels of a pod's sandbox: the pod's own and the three that identify it.
pub fn sandbox_labels(pod: &Pod) -> HashMap<String, String> {
    let mut labels: HashMap<_, _> =
        pod.metadata.labels.iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect();
    labels.extend(identity(pod));
    labels
}

/// Labels of a container.
pub fn container_labels(pod: &Pod, container: &Container) -> HashMap<String, String> {
    let mut labels: HashMap<_, _> = identity(pod).into();
    labels.insert(CONTAINER_NAME.into(), container.name.clone());
    labels
}

fn identity(pod: &Pod) -> [(String, String); 3] {
    [(POD_NAME, pod::name(pod)), (POD_NAMESPACE, pod::namespace(pod)), (POD_UID, pod::uid(pod))]
        .map(|(key, value)| (key.into(), value.into()))
}

/// Annotations of a container: what a later kubelet must know when the pod's definition is gone.
pub fn container_annotations(pod: &Pod, container: &Container, restart_count: u32) -> HashMap<String, String> {
    let mut out = HashMap::from([
        (HASH.into(), format!("{:x}", pod::container::hash(container))),
        (RESTART_COUNT.into(), restart_count.to_string()),
        (MESSAGE_PATH.into(), container.termination_message_path.clone().unwrap_or_default()),
        (MESSAGE_POLICY.into(), container.termination_message_policy.clone().unwrap_or_default()),
    ]);
    if let Some(seconds) = pod.metadata.deletion_grace_period_seconds {
        out.insert(DELETION_GRACE.into(), seconds.to_string());
    }
    if let Some(seconds) = pod::spec(pod).termination_grace_period_seconds {
        out.insert(TERMINATION_GRACE.into(), seconds.to_string());
    }
    if let Some(hook) = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref())
        && let Ok(json) = serde_json::to_string(hook)
    {
        out.insert(PRE_STOP.into(), json);
    }
    if let Some(ports) = container.ports.as_ref().filter(|ports| !ports.is_empty())
        && let Ok(json) = serde_json::to_string(ports)
    {
        out.insert(PORTS.into(), json);
    }
    out
}

/// What a container's labels and annotations tell.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recovered {
    /// Name within the pod.
    pub name: String,
    /// Hash at creation.
    pub hash: u64,
    /// How often the container had been restarted before.
    pub restart_count: u32,
    /// File with the container's last words.
    pub message_path: String,
    /// `File` or `FallbackToLogsOnError`.
    pub message_policy: String,
    /// The pod's grace period, seconds.
    pub grace_period: Option<i64>,
    /// The hook to run before stopping.
    pub pre_stop: Option<k8s_openapi::api::core::v1::LifecycleHandler>,
    /// The container's ports, for hooks that name them.
    pub ports: Vec<k8s_openapi::api::core::v1::ContainerPort>,
}

/// Reads a container's labels and annotations back.
pub fn recover(labels: &HashMap<String, String>, annotations: &HashMap<String, String>) -> Recovered {
    let text = |key: &str| annotations.get(key).cloned().unwrap_or_default();
    Recovered {
        name: labels.get(CONTAINER_NAME).cloned().unwrap_or_default(),
        hash: u64::from_str_radix(&text(HASH), 16).unwrap_or(0),
        restart_count: text(RESTART_COUNT).parse().unwrap_or(0),
        message_path: text(MESSAGE_PATH),
        message_policy: text(MESSAGE_POLICY),
        grace_period: text(DELETION_GRACE).parse().or_else(|_| text(TERMINATION_GRACE).parse()).ok(),
        pre_stop: serde_json::from_str(&text(PRE_STOP)).ok(),
        ports: serde_json::from_str(&text(PORTS)).unwrap_or_default(),
    }
}

/// Who a sandbox or container belongs to: uid, namespace, name. `None` for what no kubelet made.
pub fn owner(labels: &HashMap<String, String>) -> Option<(String, String, String)> {
    let text = |key: &str| labels.get(key).cloned();
    Some((text(POD_UID)?, text(POD_NAMESPACE)?, text(POD_NAME)?))
}

/// The owner of a sandbox, by labels.
pub fn owner_of_sandbox(sandbox: &v1::PodSandbox) -> Option<(String, String, String)> {
    owner(&sandbox.labels)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_written_is_recovered() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"a": "b"}},
            "spec": {"terminationGracePeriodSeconds": 7, "containers": [{"name": "c", "image": "i", "terminationMessagePath": "/m",
                "lifecycle": {"preStop": {"exec": {"command": ["x"]}}}, "ports": [{"name": "http", "containerPort": 80}]}]},
        }))
        .unwrap();
        let container = &pod::spec(&pod).containers[0];
        let got = recover(&container_labels(&pod, container), &container_annotations(&pod, container, 3));
        assert_eq!((got.name.as_str(), got.restart_count, got.message_path.as_str(), got.grace_period), ("c", 3, "/m", Some(7)));
        assert_eq!(got.hash, pod::container::hash(container));
        assert!(got.pre_stop.unwrap().exec.is_some());
        assert_eq!(got.ports[0].container_port, 80);
        assert_eq!(owner(&sandbox_labels(&pod)).unwrap().0, "u");
    }
}

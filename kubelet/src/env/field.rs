//! Fields of a pod and of its containers' resources as text: for environments and downward API volumes.
//!
//! Upstream: pkg/fieldpath, pkg/api/v1/resource

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};

use crate::pod::resources::{Limits, Requests, of_container};
use crate::pod::{self, quantity};

/// What is known only on the node.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Node's addresses, primary first.
    pub host_ips: Vec<String>,
    /// Pod's addresses, primary first.
    pub pod_ips: Vec<String>,
    /// Node's allocatable: `cpu` in thousandths, others in units. Stands in for limits that are not set.
    pub allocatable: BTreeMap<String, i64>,
}

/// A `fieldRef`'s text.
///
/// # Errors
/// The path names nothing.
pub fn pod_field(pod: &Pod, path: &str, facts: &Facts) -> Result<String, String> {
    let spec = pod::spec(pod);
    Ok(match path {
        "metadata.name" => pod::name(pod).to_owned(),
        "metadata.namespace" => pod::namespace(pod).to_owned(),
        "metadata.uid" => pod::uid(pod).to_owned(),
        "metadata.labels" => format_map(pod.metadata.labels.as_ref()),
        "metadata.annotations" => format_map(pod.metadata.annotations.as_ref()),
        "spec.nodeName" => spec.node_name.clone().unwrap_or_default(),
        "spec.serviceAccountName" => spec.service_account_name.clone().unwrap_or_default(),
        "spec.restartPolicy" => pod::restart_policy(pod).to_owned(),
        "spec.schedulerName" => spec.scheduler_name.clone().unwrap_or_default(),
        "status.phase" => pod.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_default(),
        "status.hostIP" => facts.host_ips.first().cloned().unwrap_or_default(),
        "status.hostIPs" => facts.host_ips.join(","),
        "status.podIP" => facts.pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => facts.pod_ips.join(","),
        _ => {
            let subscript = |prefix: &str| path.strip_prefix(prefix)?.strip_prefix("['")?.strip_suffix("']");
            if let Some(key) = subscript("metadata.labels") {
                pod.metadata.labels.as_ref().and_then(|labels| labels.get(key)).cloned().unwrap_or_default()
            } else if let Some(key) = subscript("metadata.annotations") {
                pod.metadata.annotations.as_ref().and_then(|annotations| annotations.get(key)).cloned().unwrap_or_default()
            } else {
                return Err(format!("unsupported fieldPath: {path}"));
            }
        }
    })
}

/// `key="value"` lines as Go quotes them, sorted by key.
pub fn format_map(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = map.into_iter().flatten().map(|(key, value)| format!("{key}={}", go_quote(value))).collect();
    lines.join("\n")
}

fn go_quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A `resourceFieldRef`'s text: the amount divided by the divisor, rounded up.
///
/// # Errors
/// The resource is not one that may be asked for.
pub fn resource_field(container: &Container, wanted: &ResourceFieldSelector, facts: &Facts) -> Result<String, String> {
    let (half, name) = match wanted.resource.split_once('.') {
        Some(("limits", name)) => (Limits, name),
        Some(("requests", name)) => (Requests, name),
        _ => return Err(format!("unsupported container resource: {}", wanted.resource)),
    };
    let amount = of_container(container, half, name)
        .or_else(|| if half == Limits { facts.allocatable.get(name).copied() } else { None })
        .unwrap_or(0);
    let divisor = wanted.divisor.as_ref().filter(|divisor| !divisor.0.is_empty() && divisor.0 != "0");
    let out = if name == "cpu" {
        let divisor = divisor.map_or(1000, quantity::milli).max(1);
        amount.div_euclid(divisor) + i64::from(amount.rem_euclid(divisor) != 0)
    } else {
        let divisor = divisor.map_or(1, quantity::value).max(1);
        amount.div_euclid(divisor) + i64::from(amount.rem_euclid(divisor) != 0)
    };
    Ok(out.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_written_as_upstream_does() {
        let map = BTreeMap::from([("b".to_owned(), "x\ny\"".to_owned()), ("a".to_owned(), "1".to_owned())]);
        assert_eq!(format_map(Some(&map)), "a=\"1\"\nb=\"x\\ny\\\"\"");
    }
}

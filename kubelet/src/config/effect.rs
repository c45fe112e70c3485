//! Options that upstream has and that change nothing here: accepted, and named in a warning, so that nobody relies on them.

use serde_json::{Map, Value};

use crate::flags::Flags;

/// Flags of the process without effect, and why.
const FLAGS: &[(&str, &str)] = &[
    ("runonce", "pods are always followed; run a container directly instead"),
    ("minimum-container-ttl-duration", "dead containers go with their pod or when a newer one has died"),
    ("maximum-dead-containers", "dead containers are bounded per container"),
    ("experimental-allocatable-ignore-eviction", "hard eviction thresholds always lessen what is allocatable"),
    ("runtime-cgroups", "the runtime's cgroup is found by its process"),
    ("pod-infra-container-image", "the runtime's configuration names the sandbox image"),
];

/// Fields of the configuration without effect, and why. A field counts as used when it differs from this value.
const FIELDS: &[(&str, Value, &str)] = &[
    ("volumePluginDir", Value::Null, "FlexVolumes are not supported; use a CSI driver"),
    ("contentType", Value::Null, "the API server is spoken to in JSON"),
    ("kubeAPIQPS", Value::Null, "requests to the API server are not throttled on this side"),
    ("kubeAPIBurst", Value::Null, "requests to the API server are not throttled on this side"),
    ("makeIPTablesUtilChains", Value::Bool(true), "no iptables chains are made by this kubelet; the network's agents own theirs"),
    ("iptablesMasqueradeBit", Value::Null, "no iptables chains are made by this kubelet"),
    ("iptablesDropBit", Value::Null, "no iptables chains are made by this kubelet"),
    ("hairpinMode", Value::Null, "the network plugin decides about hairpin mode"),
    ("kernelMemcgNotification", Value::Bool(false), "memory is looked at in intervals"),
    ("qosReserved", Value::Null, "memory is not reserved by class"),
    ("memoryThrottlingFactor", Value::Null, "memory.high is not set"),
    ("systemCgroups", Value::Null, "system processes are not moved between cgroups"),
    ("kubeletCgroups", Value::Null, "the kubelet is not moved between cgroups; its unit decides"),
    ("enableProfilingHandler", Value::Bool(true), "there is no Go runtime to profile"),
    ("enableDebugFlagsHandler", Value::Bool(true), "the verbosity is set at start"),
    ("enableContentionProfiling", Value::Bool(false), "there is no Go runtime to profile"),
    ("tracing", Value::Null, "spans are not exported"),
    ("showHiddenMetricsForVersion", Value::Null, "no metrics are hidden"),
];

/// What to warn of: `document` is the merged configuration as written.
pub fn warnings(flags: &Flags, document: &Map<String, Value>) -> Vec<String> {
    let flags = FLAGS
        .iter()
        .filter(|(name, _)| flags.own(name).is_some_and(|text| !text.is_empty() && text != "false" && text != "0"))
        .map(|(name, why)| format!("--{name} has no effect: {why}"));
    let empty = |value: &Value| match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Object(map) => map.is_empty(),
        _ => false,
    };
    let fields = FIELDS
        .iter()
        .filter(|(name, usual, _)| document.get(*name).is_some_and(|value| !empty(value) && value != usual))
        .map(|(name, _, why)| format!("{name} has no effect: {why}"));
    flags.chain(fields).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn options_without_effect_are_named() {
        let flags = Flags::parse(["--runonce=true".to_owned(), "--maximum-dead-containers=0".to_owned()]).unwrap();
        let Value::Object(document) = json!({"kubeAPIQPS": 5, "makeIPTablesUtilChains": true, "hairpinMode": "", "maxPods": 7})
        else {
            unreachable!()
        };
        let got = warnings(&flags, &document);
        assert_eq!(got.len(), 2, "{got:?}");
        assert!(got[0].starts_with("--runonce") && got[1].starts_with("kubeAPIQPS"));
    }
}

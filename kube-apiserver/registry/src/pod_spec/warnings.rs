//! What is allowed in pods but probably not meant.
//!
//! Upstream: pkg/api/pod/warnings.go

use serde_json::Value;

use crate::quantity;
use crate::tree::Tree;

const DEPRECATED_NODE_LABELS: &[(&str, &str)] = &[
    ("beta.kubernetes.io/arch", "deprecated since v1.14; use \"kubernetes.io/arch\" instead"),
    ("beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\" instead"),
    ("failure-domain.beta.kubernetes.io/region", "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead"),
    ("failure-domain.beta.kubernetes.io/zone", "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead"),
    ("beta.kubernetes.io/instance-type", "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead"),
];

/// Warnings of a pod or template; `prefix` is where it stands (`template`, or empty for a pod).
pub fn pod(pod: &Value, prefix: &str) -> Vec<String> {
    let mut out = Vec::new();
    let (spec, base) = (pod.at("spec"), if prefix.is_empty() { "spec".to_owned() } else { format!("{prefix}.spec") });
    for (key, _) in spec.entries("nodeSelector") {
        if let Some((_, text)) = DEPRECATED_NODE_LABELS.iter().find(|(label, _)| *label == key) {
            out.push(format!("{base}.nodeSelector[{key}]: {text}"));
        }
    }
    affinity(spec, &base, &mut out);
    for (index, constraint) in spec.items("topologySpreadConstraints").iter().enumerate() {
        let at = format!("{base}.topologySpreadConstraints[{index}]");
        if let Some((_, text)) = DEPRECATED_NODE_LABELS.iter().find(|(label, _)| *label == constraint.text("topologyKey")) {
            out.push(format!("{at}.topologyKey: {} is {text}", constraint.text("topologyKey")));
        }
        if !constraint.has("labelSelector") {
            out.push(format!("{at}.labelSelector: a null labelSelector results in matching no pod"));
        }
    }
    let annotations = pod.at("metadata").at("annotations");
    for (key, text) in [
        ("seccomp.security.alpha.kubernetes.io/pod", "non-functional in v1.27+; use the \"seccompProfile\" field instead"),
        ("security.alpha.kubernetes.io/sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
        ("security.alpha.kubernetes.io/unsafe-sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
        ("scheduler.alpha.kubernetes.io/critical-pod", "non-functional in v1.16+; use the \"priorityClassName\" field instead"),
    ] {
        if annotations.has(key) {
            let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}.") };
            out.push(format!("{prefix}metadata.annotations[{key}]: {text}"));
        }
    }
    for (index, secret) in spec.items("imagePullSecrets").iter().enumerate() {
        if secret.text("name").is_empty() {
            out.push(format!("{base}.imagePullSecrets[{index}].name: invalid empty name \"\""));
        }
    }
    for (index, alias) in spec.items("hostAliases").iter().enumerate() {
        if spec.items("hostAliases")[..index].iter().any(|other| other.text("ip") == alias.text("ip")) {
            out.push(format!(
                "{base}.hostAliases[{index}].ip: duplicates IP address of {base}.hostAliases[{}].ip",
                first(spec.items("hostAliases"), "ip", alias.text("ip"))
            ));
        }
    }
    volumes(spec, &base, &mut out);
    containers(spec, &base, &mut out);
    out
}

fn first(items: &[Value], field: &str, value: &str) -> usize {
    items.iter().position(|item| item.text(field) == value).unwrap_or(0)
}

fn affinity(spec: &Value, base: &str, out: &mut Vec<String>) {
    for kind in ["podAffinity", "podAntiAffinity"] {
        let part = spec.at("affinity").at(kind);
        for (list, inner) in [
            ("requiredDuringSchedulingIgnoredDuringExecution", ""),
            ("preferredDuringSchedulingIgnoredDuringExecution", "podAffinityTerm"),
        ] {
            for (index, term) in part.items(list).iter().enumerate() {
                let (term, at) = if inner.is_empty() {
                    (term, format!("{base}.affinity.{kind}.{list}[{index}]"))
                } else {
                    (term.at(inner), format!("{base}.affinity.{kind}.{list}[{index}].{inner}"))
                };
                if !term.has("labelSelector") {
                    out.push(format!("{at}.labelSelector: a null labelSelector results in matching no pod"));
                }
            }
        }
    }
}

fn volumes(spec: &Value, base: &str, out: &mut Vec<String>) {
    for (index, volume) in spec.items("volumes").iter().enumerate() {
        let name = volume.text("name");
        if volume.has("photonPersistentDisk") {
            out.push(format!("{base}.volumes[{index}].photonPersistentDisk: deprecated since v1.11, non-functional in v1.16+"));
        }
        for (key, text) in [
            ("gitRepo", "deprecated since v1.11, and disabled by default in v1.33+"),
            ("scaleIO", "deprecated since v1.16, non-functional in v1.22+"),
            ("flocker", "deprecated since v1.22, non-functional in v1.25+"),
            ("storageos", "deprecated since v1.22, non-functional in v1.25+"),
            ("quobyte", "deprecated since v1.22, non-functional in v1.25+"),
            ("glusterfs", "deprecated since v1.25, non-functional in v1.26+"),
            ("cephfs", "deprecated since v1.28, non-functional in v1.31+"),
            ("rbd", "deprecated since v1.28, non-functional in v1.31+"),
        ] {
            if volume.has(key) {
                out.push(format!("{base}.volumes[{index}].{key}: {text}"));
            }
        }
        let size = volume.path("emptyDir.sizeLimit");
        if quantity::parse(size).is_some_and(|size| !quantity::is_whole(size)) {
            out.push(format!(
                "{base}.volumes[{index}].emptyDir.sizeLimit: fractional byte value {:?} is invalid, must be an integer",
                size.as_str().unwrap_or("")
            ));
        }
        overlaps(volume, name, out);
    }
}

/// Paths within one volume that hide one another.
fn overlaps(volume: &Value, name: &str, out: &mut Vec<String>) {
    let mut warn = |what: String, paths: &[&str]| {
        for (index, path) in paths.iter().enumerate() {
            for other in &paths[..index] {
                let below = |a: &str, b: &str| a == b || a.starts_with(&format!("{}/", b.trim_end_matches('/')));
                if below(path, other) || below(other, path) {
                    out.push(format!("volume {name:?} ({what}): overlapping paths: {path:?} with {other:?}"));
                }
            }
        }
    };
    let paths =
        |source: &Value| -> Vec<String> { source.items("items").iter().map(|item| item.text("path").to_owned()).collect() };
    let plain = |list: &[String]| -> Vec<String> { list.to_vec() };
    for (key, title, field) in [("configMap", "ConfigMap", "name"), ("secret", "Secret", "secretName")] {
        let source = volume.at(key);
        if !source.is_null() {
            let list = plain(&paths(source));
            warn(format!("{title} {:?}", source.text(field)), &list.iter().map(String::as_str).collect::<Vec<_>>());
        }
    }
    if volume.has("downwardAPI") {
        let list = paths(volume.at("downwardAPI"));
        warn("DownwardAPI".to_owned(), &list.iter().map(String::as_str).collect::<Vec<_>>());
    }
    let mut empty = Vec::new();
    if volume.has("projected") {
        let mut all: Vec<(String, String)> = Vec::new();
        for source in volume.at("projected").items("sources") {
            if source.as_object().is_none_or(|map| map.values().all(Value::is_null)) {
                empty.push(());
            }
            for (key, title) in [("secret", "Secret"), ("configMap", "ConfigMap")] {
                if source.has(key) {
                    let named = format!("{title} {:?}", source.at(key).text("name"));
                    all.extend(paths(source.at(key)).into_iter().map(|path| (path, named.clone())));
                }
            }
            if source.has("downwardAPI") {
                all.extend(paths(source.at("downwardAPI")).into_iter().map(|path| (path, "DownwardAPI".to_owned())));
            }
            if source.has("serviceAccountToken") {
                all.push((source.at("serviceAccountToken").text("path").to_owned(), "ServiceAccountToken".to_owned()));
            }
        }
        for (index, (path, owner)) in all.iter().enumerate() {
            for (other, other_owner) in &all[..index] {
                let below = |a: &str, b: &str| a == b || a.starts_with(&format!("{b}/"));
                if !path.is_empty() && !other.is_empty() && (below(path, other) || below(other, path)) {
                    out.push(format!(
                        "volume {name:?} (Projected {owner}): overlapping paths: {path:?} with {other_owner} {other:?}"
                    ));
                }
            }
        }
        for () in empty {
            out.push(format!("volume {name:?} (Projected) has no sources provided"));
        }
    }
}

fn containers(spec: &Value, base: &str, out: &mut Vec<String>) {
    for key in ["initContainers", "containers"] {
        for (index, container) in spec.items(key).iter().enumerate() {
            let at = format!("{base}.{key}[{index}]");
            for (part, title) in [("limits", "limits"), ("requests", "requests")] {
                for (name, value) in container.at("resources").entries(part) {
                    let bytes = matches!(name, "memory" | "ephemeral-storage");
                    if bytes && quantity::parse(value).is_some_and(|amount| !quantity::is_whole(amount)) {
                        out.push(format!(
                            "{at}.resources.{title}[{name}]: fractional byte value {:?} is invalid, must be an integer",
                            value.as_str().unwrap_or("")
                        ));
                    }
                }
            }
            let variables = container.items("env");
            for (position, variable) in variables.iter().enumerate() {
                let name = variable.text("name");
                // A later value that refers to the earlier one is meant.
                let refers = variable.text("value").contains(&format!("$({name})"));
                if refers || !variables[..position].iter().any(|other| other.text("name") == name) {
                    continue;
                }
                out.push(format!(
                    "{at}.env[{position}]: hides previous definition of {name:?}, which may be dropped when using apply"
                ));
            }
        }
    }
    let mut ports: Vec<(String, String)> = Vec::new();
    for (index, container) in spec.items("containers").iter().enumerate() {
        for (position, port) in container.items("ports").iter().enumerate() {
            let key = format!("{}/{}", port.int("containerPort").unwrap_or(0), port.text("protocol"));
            let at = format!("{base}.containers[{index}].ports[{position}]");
            let same = port.int("hostPort").unwrap_or(0) == 0;
            if let Some((_, first)) = ports.iter().find(|(other, _)| *other == key).filter(|_| same) {
                out.push(format!("{at}: duplicate port definition with {first}"));
            } else if same {
                ports.push((key, at));
            }
        }
    }
}

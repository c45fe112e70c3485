//! `--patches DIR`: files named `target[suffix][+strategic|merge|json].{json,yaml}` laid on what is about to be written.
//! Upstream: cmd/kubeadm/app/util/patches.

use std::path::Path;

use anyhow::{Context as _, bail};
use serde_json::Value;

/// What can be patched. Upstream: KnownTargets.
const TARGETS: [&str; 6] =
    ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubeletconfiguration", "corednsdeployment"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Strategic,
    Merge,
    Json,
}

/// Applies every patch of the directory for `target`, in order of file names.
pub fn apply(dir: &Path, target: &str, document: &mut Value) -> anyhow::Result<()> {
    let entries = std::fs::read_dir(dir).with_context(|| format!("cannot read the patches directory {}", dir.display()))?;
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    files.sort();
    for path in files {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some((of, kind)) = parse_name(&name)? else { continue };
        if of != target {
            continue;
        }
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let patch: Value = serde_yaml::from_str(&text).with_context(|| format!("{} is neither YAML nor JSON", path.display()))?;
        match kind {
            Kind::Strategic => strategic(document, &patch),
            Kind::Merge => merge(document, &patch),
            Kind::Json => {
                let patch: json_patch::Patch =
                    serde_json::from_value(patch).with_context(|| format!("{} is no JSON patch", path.display()))?;
                json_patch::patch(document, &patch).with_context(|| format!("the patch {} does not fit", path.display()))?;
            }
        }
    }
    Ok(())
}

/// Target and kind of a patch file; `None` for a file that is none (another extension).
fn parse_name(name: &str) -> anyhow::Result<Option<(&'static str, Kind)>> {
    let Some((stem, "json" | "yaml")) = name.rsplit_once('.') else { return Ok(None) };
    let (stem, kind) = match stem.rsplit_once('+') {
        None => (stem, Kind::Strategic),
        Some((stem, "strategic")) => (stem, Kind::Strategic),
        Some((stem, "merge")) => (stem, Kind::Merge),
        Some((stem, "json")) => (stem, Kind::Json),
        Some((_, other)) => bail!("patch file {name}: unknown patch type {other:?} (strategic, merge or json)"),
    };
    match TARGETS.into_iter().find(|target| stem.starts_with(target)) {
        Some(target) => Ok(Some((target, kind))),
        None => bail!("patch file {name}: it names none of {}", TARGETS.join(", ")),
    }
}

/// RFC 7386.
fn merge(base: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *base = patch.clone();
        return;
    };
    if !base.is_object() {
        *base = Value::Object(serde_json::Map::new());
    }
    let Value::Object(base) = base else { return };
    for (key, value) in patch {
        if value.is_null() {
            base.remove(key);
        } else {
            merge(base.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

/// Strategic merge for what a Pod and a KubeletConfiguration hold: lists of named things are merged by name (ports by containerPort,
/// mounts by mountPath), `$patch: delete` removes an element, other lists are replaced.
fn strategic(base: &mut Value, patch: &Value) {
    match (base, patch) {
        (Value::Object(base), Value::Object(patch)) => {
            for (key, value) in patch {
                match value {
                    Value::Null => {
                        base.remove(key);
                    }
                    Value::Array(items) => match (merge_key(key), base.get_mut(key)) {
                        (Some(by), Some(Value::Array(known))) => merge_list(known, items, by),
                        _ => {
                            base.insert(key.clone(), value.clone());
                        }
                    },
                    _ => strategic(base.entry(key.clone()).or_insert(Value::Null), value),
                }
            }
        }
        (base, patch) => *base = patch.clone(),
    }
}

fn merge_key(list: &str) -> Option<&'static str> {
    Some(match list {
        "containers" | "initContainers" | "ephemeralContainers" | "env" | "volumes" | "imagePullSecrets" => "name",
        "ports" => "containerPort",
        "volumeMounts" => "mountPath",
        "hostAliases" => "ip",
        _ => return None,
    })
}

fn merge_list(known: &mut Vec<Value>, items: &[Value], by: &str) {
    for item in items {
        let at = known.iter().position(|one| one[by] == item[by]);
        match (at, item["$patch"] == "delete") {
            (Some(at), true) => {
                known.remove(at);
            }
            (None, true) => {}
            (Some(at), false) => strategic(&mut known[at], item),
            (None, false) => known.push(item.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn patches_of_every_kind_are_applied_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write("kube-apiserver0+merge.yaml", "metadata: {labels: {a: b}}");
        write(
            "kube-apiserver1.yaml",
            "spec: {containers: [{name: kube-apiserver, resources: {requests: {cpu: 1}}, env: [{name: X, value: y}]}]}",
        );
        write("kube-apiserver2+json.json", r#"[{"op": "add", "path": "/spec/hostPID", "value": true}]"#);
        write("etcd.yaml", "spec: {x: 1}");
        write("README.md", "no patch");
        let mut pod = json!({"metadata": {}, "spec": {"containers": [{"name": "kube-apiserver", "command": ["a"]}]}});
        apply(dir.path(), "kube-apiserver", &mut pod).unwrap();
        assert_eq!(
            pod,
            json!({"metadata": {"labels": {"a": "b"}}, "spec": {"hostPID": true, "containers": [
                {"name": "kube-apiserver", "command": ["a"], "resources": {"requests": {"cpu": 1}}, "env": [{"name": "X", "value": "y"}]}]}})
        );
        write("nonsense.yaml", "{}");
        assert!(apply(dir.path(), "etcd", &mut pod).unwrap_err().to_string().contains("none of"));
        assert!(parse_name("etcd+magic.yaml").is_err());
    }
}

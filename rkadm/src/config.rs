//! Configuration files: several YAML documents, of `kubeadm.k8s.io/v1beta4` or `v1beta3`, and component configurations beside them.

pub mod types;
pub mod v1beta3;
pub mod validate;

use anyhow::{Context as _, bail};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use types::*;

/// What a `--config` file holds. Kinds that are not there are `None`.
#[derive(Debug, Default)]
pub struct Documents {
    pub init: Option<InitConfiguration>,
    pub cluster: Option<ClusterConfiguration>,
    pub join: Option<JoinConfiguration>,
    pub reset: Option<ResetConfiguration>,
    pub upgrade: Option<UpgradeConfiguration>,
    /// KubeletConfiguration, as the user wrote it.
    pub kubelet: Option<Value>,
    /// KubeProxyConfiguration, as the user wrote it.
    pub proxy: Option<Value>,
    /// An old version was read: `config migrate` writes the new one.
    pub old: bool,
}

/// Reads a configuration file.
pub fn load(path: &str) -> anyhow::Result<Documents> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read the configuration file {path}"))?;
    parse(&text).with_context(|| format!("in the configuration file {path}"))
}

/// Parses the documents of a configuration file.
pub fn parse(text: &str) -> anyhow::Result<Documents> {
    let mut out = Documents::default();
    // v1beta3 keeps some things in other kinds; collected first, given their place after all documents are known.
    let mut moved = v1beta3::Moved::default();
    for (index, document) in serde_yaml::Deserializer::from_str(text).enumerate() {
        let value: Value =
            serde::Deserialize::deserialize(document).with_context(|| format!("document {} is not YAML", index + 1))?;
        let Value::Object(mut fields) = value else {
            if value.is_null() {
                continue;
            }
            bail!("document {} is not an object", index + 1);
        };
        let take = |fields: &mut Map<String, Value>, name: &str| match fields.remove(name) {
            Some(Value::String(text)) => text,
            _ => String::new(),
        };
        let (version, kind) = (take(&mut fields, "apiVersion"), take(&mut fields, "kind"));
        match version.as_str() {
            "kubeadm.k8s.io/v1beta4" => {}
            "kubeadm.k8s.io/v1beta3" => {
                out.old = true;
                v1beta3::convert(&kind, &mut fields, &mut moved)?;
            }
            other if other.starts_with("kubeadm.k8s.io/") => {
                bail!("{other} is not supported: write {API_VERSION} (v1beta3 is read as well)")
            }
            other if other.starts_with("kubelet.config.k8s.io/") && kind == "KubeletConfiguration" => {
                out.kubelet = Some(typed(&version, &kind, fields));
                continue;
            }
            other if other.starts_with("kubeproxy.config.k8s.io/") && kind == "KubeProxyConfiguration" => {
                out.proxy = Some(typed(&version, &kind, fields));
                continue;
            }
            other => bail!("document {}: unknown apiVersion {other:?} with kind {kind:?}", index + 1),
        }
        match kind.as_str() {
            "InitConfiguration" => out.init = Some(decode(&kind, fields)?),
            "ClusterConfiguration" => out.cluster = Some(decode(&kind, fields)?),
            "JoinConfiguration" => out.join = Some(decode(&kind, fields)?),
            "ResetConfiguration" => out.reset = Some(decode(&kind, fields)?),
            "UpgradeConfiguration" => out.upgrade = Some(decode(&kind, fields)?),
            other => bail!("document {}: {API_VERSION} has no kind {other:?}", index + 1),
        }
    }
    moved.settle(&mut out);
    Ok(out)
}

fn typed(version: &str, kind: &str, mut fields: Map<String, Value>) -> Value {
    fields.insert("apiVersion".into(), json!(version));
    fields.insert("kind".into(), json!(kind));
    Value::Object(fields)
}

fn decode<T: DeserializeOwned>(kind: &str, fields: Map<String, Value>) -> anyhow::Result<T> {
    serde_json::from_value(Value::Object(fields)).map_err(|e| anyhow::anyhow!("{kind}: {}", hint(&e.to_string())))
}

/// serde's "unknown field `a`, expected one of `b`, `c`" with the nearest name first.
fn hint(message: &str) -> String {
    let names: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    if let ([unknown, known @ ..], true) = (names.as_slice(), message.starts_with("unknown field"))
        && let Some(nearest) = known.iter().min_by_key(|name| distance(unknown, name)).filter(|name| distance(unknown, name) <= 4)
    {
        return format!("unknown field {unknown:?}: did you mean {nearest:?}?");
    }
    message.to_string()
}

/// Levenshtein's distance, without regard to case.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.to_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.to_lowercase().chars().enumerate() {
        let mut left = i + 1;
        let mut diagonal = i;
        for (j, y) in b.iter().enumerate() {
            let cost = (diagonal + usize::from(x != *y)).min(left + 1).min(row[j + 1] + 1);
            diagonal = row[j + 1];
            row[j] = left;
            left = cost;
        }
        row[b.len()] = left;
    }
    row[b.len()]
}

/// One document with its apiVersion and kind, keys in alphabetical order, as upstream's marshaller writes.
pub fn render<T: Serialize>(kind: &str, value: &T) -> anyhow::Result<String> {
    let mut fields = serde_json::to_value(value)?;
    if let Value::Object(map) = &mut fields {
        map.insert("apiVersion".into(), json!(API_VERSION));
        map.insert("kind".into(), json!(kind));
    }
    yaml(&fields)
}

/// YAML of a value, keys in alphabetical order at every level, strings that look like something else in double quotes: as upstream's
/// marshaller writes.
pub fn yaml(value: &Value) -> anyhow::Result<String> {
    // serde_yaml quotes such strings singly; they are emitted as marks and put in their place afterwards.
    let mut quoted = Vec::new();
    let mut text = serde_yaml::to_string(&sorted(value, &mut quoted))?;
    for (n, original) in quoted.iter().enumerate() {
        text = text.replacen(&mark(n), &format!("\"{original}\""), 1);
    }
    Ok(text)
}

fn mark(n: usize) -> String {
    format!("rk-quoted-string-{n:04}-c41f")
}

/// Whether a plain scalar of this text would be read as a number, a bool or nothing (YAML 1.1 and 1.2).
fn is_ambiguous(text: &str) -> bool {
    const WORDS: [&str; 8] = ["y", "n", "yes", "no", "on", "off", "true", "false"];
    text.is_empty()
        || WORDS.iter().any(|word| word.eq_ignore_ascii_case(text))
        || text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-._:~".contains(&b))
            && serde_yaml::from_str::<serde_yaml::Value>(text).is_ok_and(|read| !read.is_string() && !read.is_mapping())
}

fn sorted(value: &Value, quoted: &mut Vec<String>) -> serde_yaml::Value {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<_> = map.keys().collect();
            keys.sort();
            let mut fields = serde_yaml::Mapping::new();
            for key in keys {
                let value = sorted(&map[key], quoted);
                fields.insert(key.as_str().into(), value);
            }
            serde_yaml::Value::Mapping(fields)
        }
        Value::Array(items) => serde_yaml::Value::Sequence(items.iter().map(|item| sorted(item, quoted)).collect()),
        Value::String(text) if is_ambiguous(text) => {
            quoted.push(text.clone());
            serde_yaml::Value::String(mark(quoted.len() - 1))
        }
        other => serde_yaml::to_value(other).unwrap_or_default(),
    }
}

/// `over` laid on `base`: objects field by field, everything else replaced.
pub fn merge(base: &mut Value, over: &Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                merge(base.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over.clone(),
    }
}

#[cfg(test)]
mod tests;

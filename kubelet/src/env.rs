//! A container's environment. Pure, given the objects it refers to.
//!
//! Upstream: pkg/kubelet/kubelet_pods.go makeEnvironmentVariables

pub mod expansion;
pub mod field;
pub mod service;

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVarSource, Pod, Secret, Service};

use crate::pod;

/// What an environment may refer to, fetched beforehand. `None`: asked for and absent.
#[derive(Clone, Debug, Default)]
pub struct References {
    /// ConfigMaps of the pod's namespace by name.
    pub config_maps: BTreeMap<String, Option<Arc<ConfigMap>>>,
    /// Secrets of the pod's namespace by name.
    pub secrets: BTreeMap<String, Option<Arc<Secret>>>,
    /// Services whose addresses go into the environment.
    pub services: Vec<Arc<Service>>,
    /// Values known only at run time: node and pod addresses, allocatable.
    pub facts: field::Facts,
}

/// Names of the ConfigMaps and Secrets that a container's environment needs.
pub fn needs(container: &Container) -> (Vec<String>, Vec<String>) {
    let (mut config_maps, mut secrets) = (Vec::new(), Vec::new());
    for from in container.env_from.iter().flatten() {
        config_maps.extend(from.config_map_ref.as_ref().map(|source| source.name.clone()));
        secrets.extend(from.secret_ref.as_ref().map(|source| source.name.clone()));
    }
    for source in container.env.iter().flatten().filter_map(|env| env.value_from.as_ref()) {
        config_maps.extend(source.config_map_key_ref.as_ref().map(|source| source.name.clone()));
        secrets.extend(source.secret_key_ref.as_ref().map(|source| source.name.clone()));
    }
    (config_maps, secrets)
}

/// The environment, complete and expanded.
///
/// # Errors
/// Something referred to is missing and not optional; the message is upstream's (`CreateContainerConfigError`).
pub fn make(pod: &Pod, container: &Container, references: &References) -> Result<BTreeMap<String, String>, String> {
    let namespace = pod::namespace(pod);
    let mut out: BTreeMap<String, String> = BTreeMap::new();
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or("");
        if let Some(source) = &from.config_map_ref {
            match references.config_maps.get(&source.name).cloned().flatten() {
                Some(map) => out.extend(map.data.iter().flatten().map(|(key, value)| (format!("{prefix}{key}"), value.clone()))),
                None if source.optional.unwrap_or(false) => {}
                None => return Err(format!("configmap {:?} not found", source.name)),
            }
        }
        if let Some(source) = &from.secret_ref {
            match references.secrets.get(&source.name).cloned().flatten() {
                Some(secret) => out.extend(
                    secret
                        .data
                        .iter()
                        .flatten()
                        .map(|(key, value)| (format!("{prefix}{key}"), String::from_utf8_lossy(&value.0).into_owned())),
                ),
                None if source.optional.unwrap_or(false) => {}
                None => return Err(format!("secret {:?} not found", source.name)),
            }
        }
    }
    let services = service::environment(&references.services, namespace, pod::spec(pod).enable_service_links.unwrap_or(true));
    for env in container.env.iter().flatten() {
        let value = match (&env.value, &env.value_from) {
            (_, Some(source)) => match from_source(pod, container, source, references, namespace)? {
                Some(value) => value,
                None => continue,
            },
            (Some(value), None) => expansion::expand_with(value, |name| out.get(name).or_else(|| services.get(name)).cloned()),
            (None, None) => String::new(),
        };
        out.insert(env.name.clone(), value);
    }
    for (key, value) in services {
        out.entry(key).or_insert(value);
    }
    Ok(out)
}

/// `None`: optional and absent.
fn from_source(
    pod: &Pod,
    container: &Container,
    source: &EnvVarSource,
    references: &References,
    namespace: &str,
) -> Result<Option<String>, String> {
    if let Some(field) = &source.field_ref {
        return field::pod_field(pod, &field.field_path, &references.facts).map(Some);
    }
    if let Some(resource) = &source.resource_field_ref {
        let target = match resource.container_name.as_deref().filter(|name| !name.is_empty()) {
            Some(name) => pod::container::find(pod, name).ok_or_else(|| format!("container {name} not found"))?,
            None => container.clone(),
        };
        return field::resource_field(&target, resource, &references.facts).map(Some);
    }
    if let Some(key) = &source.config_map_key_ref {
        let optional = key.optional.unwrap_or(false);
        return match references.config_maps.get(&key.name).cloned().flatten() {
            None if optional => Ok(None),
            None => Err(format!("configmap {:?} not found", key.name)),
            Some(map) => match map.data.as_ref().and_then(|data| data.get(&key.key)) {
                Some(value) => Ok(Some(value.clone())),
                None if optional => Ok(None),
                None => Err(format!("couldn't find key {} in ConfigMap {namespace}/{}", key.key, key.name)),
            },
        };
    }
    if let Some(key) = &source.secret_key_ref {
        let optional = key.optional.unwrap_or(false);
        return match references.secrets.get(&key.name).cloned().flatten() {
            None if optional => Ok(None),
            None => Err(format!("secret {:?} not found", key.name)),
            Some(secret) => match secret.data.as_ref().and_then(|data| data.get(&key.key)) {
                Some(value) => Ok(Some(String::from_utf8_lossy(&value.0).into_owned())),
                None if optional => Ok(None),
                None => Err(format!("couldn't find key {} in Secret {namespace}/{}", key.key, key.name)),
            },
        };
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn environment(container: serde_json::Value) -> Result<BTreeMap<String, String>, String> {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"app": "x"}},
            "spec": {"nodeName": "node", "containers": [container]}}))
            .unwrap();
        let mut references = References::default();
        let map = serde_json::from_value(json!({"data": {"k": "v", "l": "w"}})).unwrap();
        references.config_maps.insert("cm".into(), Some(Arc::new(map)));
        let secret = serde_json::from_value(json!({"data": {"password": "c2VjcmV0"}})).unwrap();
        references.secrets.insert("s".into(), Some(Arc::new(secret)));
        let service = serde_json::from_value(json!({"metadata": {"name": "kubernetes", "namespace": "default"},
            "spec": {"clusterIP": "10.96.0.1", "ports": [{"name": "https", "port": 443}]}}))
        .unwrap();
        references.services.push(Arc::new(service));
        references.facts.pod_ips = vec!["10.0.0.7".into()];
        make(&pod, &pod::spec(&pod).containers[0], &references)
    }

    #[test]
    fn every_source_of_a_variable_works() {
        let got = environment(json!({"name": "c", "resources": {"limits": {"cpu": "1500m", "memory": "64Mi"}},
        "envFrom": [{"prefix": "P_", "configMapRef": {"name": "cm"}}, {"secretRef": {"name": "nope", "optional": true}}],
        "env": [
            {"name": "A", "value": "a"}, {"name": "B", "value": "$(A)-$(NOPE)-$$(A)-$(KUBERNETES_SERVICE_HOST)"},
            {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
            {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
            {"name": "MEM", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
            {"name": "K", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "k"}}},
            {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "password"}}},
            {"name": "O", "valueFrom": {"secretKeyRef": {"name": "s", "key": "nope", "optional": true}}},
        ]}))
        .unwrap();
        for (name, value) in [
            ("P_k", "v"),
            ("A", "a"),
            ("B", "a-$(NOPE)-$(A)-10.96.0.1"),
            ("NAME", "p"),
            ("IP", "10.0.0.7"),
            ("APP", "x"),
            ("CPU", "2"),
            ("MEM", "64"),
            ("K", "v"),
            ("S", "secret"),
            ("KUBERNETES_SERVICE_PORT", "443"),
        ] {
            assert_eq!(got.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert!(!got.contains_key("O"));
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = |env| environment(json!({"name": "c", "env": [{"name": "A", "valueFrom": env}]})).unwrap_err();
        assert_eq!(error(json!({"configMapKeyRef": {"name": "x", "key": "k"}})), "configmap \"x\" not found");
        assert_eq!(error(json!({"configMapKeyRef": {"name": "cm", "key": "x"}})), "couldn't find key x in ConfigMap n/cm");
        assert_eq!(error(json!({"secretKeyRef": {"name": "x", "key": "k"}})), "secret \"x\" not found");
    }
}

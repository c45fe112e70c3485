//! A static pod from its text. Upstream: pkg/kubelet/config/common.go

use k8s_openapi::api::core::v1::{Pod, Toleration};
use sha2::{Digest, Sha256};

use crate::pod;

/// The pod in a manifest, named and identified for this node. `origin` is `file` or `http`; `place` the file or URL.
///
/// # Errors
/// It is not a pod that a node can run; the message is for a person.
pub fn pod(text: &str, origin: &str, place: &str, node_name: &str) -> Result<Pod, String> {
    let value: serde_json::Value = serde_yaml::from_str(text).map_err(|error| error.to_string())?;
    let (kind, version) = (value["kind"].as_str().unwrap_or(""), value["apiVersion"].as_str().unwrap_or(""));
    if kind != "Pod" || version != "v1" {
        return Err(format!("expected kind Pod of apiVersion v1, found kind {kind:?} of apiVersion {version:?}"));
    }
    let mut pod: Pod = serde_json::from_value(value).map_err(|error| error.to_string())?;
    let name = pod.metadata.name.clone().filter(|name| !name.is_empty()).ok_or("metadata.name: Required value")?;
    if pod.spec.as_ref().is_none_or(|spec| spec.containers.is_empty()) {
        return Err("spec.containers: Required value".into());
    }
    for container in pod.spec.iter().flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten())) {
        if container.name.is_empty() || container.image.as_deref().unwrap_or("").is_empty() {
            return Err("spec.containers: name and image are required".into());
        }
    }
    let refers =
        pod.spec.as_ref().is_some_and(|spec| {
            spec.service_account_name.as_deref().is_some_and(|name| !name.is_empty())
                || spec.volumes.iter().flatten().any(|volume| {
                    volume.secret.is_some() || volume.config_map.is_some() || volume.persistent_volume_claim.is_some()
                })
        });
    if refers {
        return Err(
            "static pods may not reference API objects (serviceaccounts, secrets, configmaps, persistentvolumeclaims)".into()
        );
    }
    pod::defaults::apply(&mut pod);
    let node = node_name.to_lowercase();
    // The hash sees the definition as written and where it is from: the same file on two nodes is two pods.
    let mut hasher = Sha256::new();
    hasher.update(format!("host:{node}\n{origin}:{place}\n"));
    hasher.update(serde_json::to_vec(&pod).unwrap_or_default());
    let hash = hex::encode(&hasher.finalize()[..16]);
    if pod.metadata.uid.as_deref().unwrap_or("").is_empty() {
        pod.metadata.uid = Some(hash.clone());
    }
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    pod.metadata.name = Some(format!("{name}-{node}"));
    pod.metadata.namespace.get_or_insert_with(|| "default".into());
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(pod::CONFIG_SOURCE.into(), origin.into());
    annotations.insert(pod::CONFIG_HASH.into(), if uid.is_empty() { hash } else { uid });
    annotations.insert(pod::CONFIG_SEEN.into(), jiff::Timestamp::now().to_string());
    if let Some(spec) = pod.spec.as_mut() {
        spec.node_name = Some(node);
        if spec.priority.is_none() && spec.priority_class_name.as_deref() == Some("system-node-critical") {
            spec.priority = Some(2_000_001_000);
        }
        let tolerations = spec.tolerations.get_or_insert_default();
        if !tolerations.iter().any(|toleration| toleration.effect.as_deref() == Some("NoExecute") && toleration.key.is_none()) {
            tolerations.push(Toleration {
                operator: Some("Exists".into()),
                effect: Some("NoExecute".into()),
                ..Default::default()
            });
        }
    }
    pod.status = Some(k8s_openapi::api::core::v1::PodStatus { phase: Some("Pending".into()), ..Default::default() });
    Ok(pod)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str =
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: ns}\nspec:\n  containers: [{name: a, image: i}]\n";

    #[test]
    fn a_manifest_becomes_this_nodes_pod() {
        let got = pod(MANIFEST, "file", "/m/web.yaml", "Node-1").unwrap();
        assert_eq!(pod::name(&got), "web-node-1");
        assert!(pod::is_static(&got) && pod::is_critical(&got));
        assert_eq!(pod::annotation(&got, pod::CONFIG_HASH), Some(pod::uid(&got)));
        assert_eq!(pod::uid(&got).len(), 32);
        let again = pod(MANIFEST, "file", "/m/web.yaml", "node-1").unwrap();
        assert_eq!(pod::uid(&again), pod::uid(&got), "the same definition is the same pod");
        let other = pod(&MANIFEST.replace("image: i", "image: j"), "file", "/m/web.yaml", "node-1").unwrap();
        assert_ne!(pod::uid(&other), pod::uid(&got));
    }

    #[test]
    fn what_is_no_pod_is_refused_with_a_reason() {
        for (text, why) in [
            ("kind: Service\napiVersion: v1\n", "expected kind Pod"),
            ("a: [", ""),
            ("apiVersion: v1\nkind: Pod\n", "metadata.name"),
            ("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: []}\n", "spec.containers"),
            (
                "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: a, image: b}], volumes: [{name: v, secret: {secretName: s}}]}\n",
                "may not reference",
            ),
        ] {
            let error = pod(text, "file", "/x", "n").unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}

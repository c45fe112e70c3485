//! Which objects each node reaches through its pods.
//!
//! Kept as a count per (object, node), so that a question is two hash look-ups, and a pod's change costs its references.
//!
//! Upstream: plugin/pkg/auth/authorizer/node/graph.go

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;

use crate::object::{list, text};

/// The kinds of objects in the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// ConfigMaps of pods.
    ConfigMap,
    /// Secrets of pods, or of the volumes of their claims.
    Secret,
    /// Service accounts of pods.
    ServiceAccount,
    /// PersistentVolumeClaims of pods.
    Claim,
    /// ResourceClaims of pods.
    ResourceClaim,
    /// Pods bound to the node.
    Pod,
    /// PersistentVolumes bound to claims of pods.
    Volume,
    /// VolumeAttachments to the node.
    VolumeAttachment,
    /// ResourceSlices of the node.
    ResourceSlice,
}

type Id = (Kind, String, String);

/// The graph.
#[derive(Debug, Default)]
pub struct Graph {
    /// What each pod, attachment or slice brought in: its node and the objects it leads to.
    sources: HashMap<Id, (Arc<str>, Vec<Id>)>,
    /// For each object, the nodes that reach it, each with the number of sources.
    nodes: HashMap<Id, HashMap<Arc<str>, usize>>,
    /// Volume → the claim it is bound to and its secrets.
    volumes: HashMap<String, (Id, Vec<Id>)>,
    /// Secret → the volumes that need it.
    volumes_by_secret: HashMap<Id, Vec<String>>,
}

impl Graph {
    /// Takes note of an object as it is now, or of its end.
    pub fn observe(&mut self, group: &str, resource: &str, object: &Value, deleted: bool) {
        let (namespace, name) = (text(object, "/metadata/namespace").to_owned(), text(object, "/metadata/name").to_owned());
        let (kind, node) = match (group, resource) {
            ("", "pods") => (Kind::Pod, text(object, "/spec/nodeName")),
            ("storage.k8s.io", "volumeattachments") => (Kind::VolumeAttachment, text(object, "/spec/nodeName")),
            ("resource.k8s.io", "resourceslices") => (Kind::ResourceSlice, text(object, "/spec/nodeName")),
            ("", "persistentvolumes") => return self.observe_volume(name, object, deleted),
            _ => return,
        };
        let id = (kind, namespace, name);
        self.forget(&id);
        if deleted || node.is_empty() {
            return;
        }
        let node: Arc<str> = Arc::from(node);
        let mut targets = if kind == Kind::Pod { pod_references(object) } else { Vec::new() };
        targets.push(id.clone());
        for target in &targets {
            *self.nodes.entry(target.clone()).or_default().entry(node.clone()).or_default() += 1;
        }
        self.sources.insert(id, (node, targets));
    }

    /// Whether the node reaches the object.
    pub fn reaches(&self, kind: Kind, namespace: &str, name: &str, node: &str) -> bool {
        let id = (kind, namespace.to_owned(), name.to_owned());
        match kind {
            Kind::Volume => self.volume_reaches(name, node),
            Kind::Secret => {
                self.direct(&id, node)
                    || self
                        .volumes_by_secret
                        .get(&id)
                        .is_some_and(|volumes| volumes.iter().any(|name| self.volume_reaches(name, node)))
            }
            _ => self.direct(&id, node),
        }
    }

    fn direct(&self, id: &Id, node: &str) -> bool {
        self.nodes.get(id).is_some_and(|nodes| nodes.contains_key(node))
    }

    fn volume_reaches(&self, name: &str, node: &str) -> bool {
        self.volumes.get(name).is_some_and(|(claim, _)| self.direct(claim, node))
    }

    fn forget(&mut self, id: &Id) {
        let Some((node, targets)) = self.sources.remove(id) else { return };
        for target in targets {
            let Some(nodes) = self.nodes.get_mut(&target) else { continue };
            if let Some(count) = nodes.get_mut(&node) {
                *count -= 1;
                if *count == 0 {
                    nodes.remove(&node);
                }
            }
            if nodes.is_empty() {
                self.nodes.remove(&target);
            }
        }
    }

    fn observe_volume(&mut self, name: String, object: &Value, deleted: bool) {
        if let Some((_, secrets)) = self.volumes.remove(&name) {
            for secret in secrets {
                if let Some(volumes) = self.volumes_by_secret.get_mut(&secret) {
                    volumes.retain(|volume| *volume != name);
                    if volumes.is_empty() {
                        self.volumes_by_secret.remove(&secret);
                    }
                }
            }
        }
        let (namespace, claim) = (text(object, "/spec/claimRef/namespace"), text(object, "/spec/claimRef/name"));
        if deleted || claim.is_empty() {
            return;
        }
        let secrets = volume_secrets(object, namespace);
        for secret in &secrets {
            self.volumes_by_secret.entry(secret.clone()).or_default().push(name.clone());
        }
        self.volumes.insert(name, ((Kind::Claim, namespace.to_owned(), claim.to_owned()), secrets));
    }
}

/// Everything a pod's kubelet must read for it. Mirror pods lead to nothing: a node makes them itself.
fn pod_references(pod: &Value) -> Vec<Id> {
    let namespace = text(pod, "/metadata/namespace");
    let name = text(pod, "/metadata/name");
    let mut out: Vec<Id> = Vec::new();
    if pod.pointer("/metadata/annotations/kubernetes.io~1config.mirror").is_some() {
        return out;
    }
    let mut add = |kind: Kind, target: &str| {
        let id = (kind, namespace.to_owned(), target.to_owned());
        if !target.is_empty() && !out.contains(&id) {
            out.push(id);
        }
    };
    add(Kind::ServiceAccount, text(pod, "/spec/serviceAccountName"));
    for secret in list(pod, "/spec/imagePullSecrets") {
        add(Kind::Secret, text(secret, "/name"));
    }
    for containers in ["/spec/containers", "/spec/initContainers", "/spec/ephemeralContainers"] {
        for container in list(pod, containers) {
            for env in list(container, "/env") {
                add(Kind::Secret, text(env, "/valueFrom/secretKeyRef/name"));
                add(Kind::ConfigMap, text(env, "/valueFrom/configMapKeyRef/name"));
            }
            for source in list(container, "/envFrom") {
                add(Kind::Secret, text(source, "/secretRef/name"));
                add(Kind::ConfigMap, text(source, "/configMapRef/name"));
            }
        }
    }
    for volume in list(pod, "/spec/volumes") {
        add(Kind::Secret, text(volume, "/secret/secretName"));
        add(Kind::Secret, text(volume, "/azureFile/secretName"));
        add(Kind::Secret, text(volume, "/csi/nodePublishSecretRef/name"));
        for driver in ["cephfs", "cinder", "flexVolume", "rbd", "scaleIO", "iscsi", "storageos"] {
            add(Kind::Secret, text(volume, &format!("/{driver}/secretRef/name")));
        }
        add(Kind::ConfigMap, text(volume, "/configMap/name"));
        for source in list(volume, "/projected/sources") {
            add(Kind::Secret, text(source, "/secret/name"));
            add(Kind::ConfigMap, text(source, "/configMap/name"));
        }
        add(Kind::Claim, text(volume, "/persistentVolumeClaim/claimName"));
        if volume.get("ephemeral").is_some_and(Value::is_object) {
            add(Kind::Claim, &format!("{name}-{}", text(volume, "/name")));
        }
    }
    for claim in list(pod, "/spec/resourceClaims") {
        add(Kind::ResourceClaim, text(claim, "/resourceClaimName"));
        let made = list(pod, "/status/resourceClaimStatuses").iter().find(|status| text(status, "/name") == text(claim, "/name"));
        add(Kind::ResourceClaim, made.map_or("", |status| text(status, "/resourceClaimName")));
    }
    add(Kind::ResourceClaim, text(pod, "/status/extendedResourceClaimStatus/resourceClaimName"));
    out
}

/// The secrets of a volume that its kubelet needs.
fn volume_secrets(volume: &Value, claim_namespace: &str) -> Vec<Id> {
    let mut out = Vec::new();
    let mut add = |namespace: &str, name: &str| {
        if !name.is_empty() {
            let namespace = if namespace.is_empty() { claim_namespace } else { namespace };
            out.push((Kind::Secret, namespace.to_owned(), name.to_owned()));
        }
    };
    add(text(volume, "/spec/azureFile/secretNamespace"), text(volume, "/spec/azureFile/secretName"));
    for driver in ["cephfs", "cinder", "flexVolume", "rbd", "scaleIO", "iscsi", "storageos"] {
        let at = format!("/spec/{driver}/secretRef");
        add(text(volume, &format!("{at}/namespace")), text(volume, &format!("{at}/name")));
    }
    for reference in ["nodePublishSecretRef", "nodeStageSecretRef", "nodeExpandSecretRef"] {
        let at = format!("/spec/csi/{reference}");
        add(text(volume, &format!("{at}/namespace")), text(volume, &format!("{at}/name")));
    }
    out
}

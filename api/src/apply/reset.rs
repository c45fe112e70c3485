//! Fields that nobody owns: identity of the object, and what a strategy resets on a write.

use std::sync::LazyLock;

use serde_json::{Value, json};

use super::fields::{self, Set};

fn set(value: Value) -> Set {
    fields::parse(&value).expect("a literal set is well formed")
}

/// Identity and bookkeeping. Upstream: managedfields/internal/stripmeta.go
pub(super) fn unowned() -> Set {
    static SET: LazyLock<Set> = LazyLock::new(|| {
        set(json!({
            "f:apiVersion": {}, "f:kind": {},
            "f:metadata": {
                ".": {}, "f:name": {}, "f:namespace": {}, "f:creationTimestamp": {}, "f:selfLink": {}, "f:uid": {}, "f:clusterName": {},
                "f:generation": {}, "f:managedFields": {}, "f:resourceVersion": {},
            },
        }))
    });
    SET.clone()
}

/// What writes to the object or to one of its subresources do not reach, by group and kind.
///
/// Upstream: GetResetFields of each strategy.
pub(super) fn ignored(object: &Value, subresource: &str) -> Set {
    let (group, _) = crate::kind::split_api_version(object["apiVersion"].as_str().unwrap_or_default());
    let kind = object["kind"].as_str().unwrap_or_default();
    let status_only = |main: Value, status: Value| match subresource {
        "" => set(main),
        "status" => set(status),
        _ => Set::new(),
    };
    let (main, spec) = (|| json!({"f:status": {}}), || json!({"f:spec": {}}));
    match (group, kind) {
        ("", "Pod") => match subresource {
            "" => set(main()),
            "status" => set(json!({"f:spec": {}, "f:metadata": {"f:deletionTimestamp": {}, "f:ownerReferences": {}}})),
            "ephemeralcontainers" => set(json!({"f:status": {}, "f:metadata": {}})),
            _ => Set::new(),
        },
        ("apps", "Deployment") => status_only(main(), json!({"f:spec": {}, "f:metadata": {"f:labels": {}}})),
        ("storage.k8s.io", "VolumeAttachment") => status_only(main(), json!({"f:spec": {}, "f:metadata": {}})),
        ("certificates.k8s.io", "CertificateSigningRequest") => match subresource {
            "" => set(json!({"f:spec": {}, "f:status": {}})),
            "status" => set(json!({"f:spec": {}, "f:status": {"f:conditions": {}}})),
            "approval" => set(json!({"f:spec": {}, "f:status": {"f:certificate": {}}})),
            _ => Set::new(),
        },
        ("apiextensions.k8s.io", "CustomResourceDefinition") => status_only(main(), json!({"f:spec": {}, "f:metadata": {}})),
        ("apiregistration.k8s.io", "APIService") => status_only(main(), json!({"f:spec": {}})),
        ("networking.k8s.io", "NetworkPolicy" | "IngressClass") => Set::new(),
        (
            "",
            "Node"
            | "Namespace"
            | "Service"
            | "PersistentVolume"
            | "PersistentVolumeClaim"
            | "ReplicationController"
            | "ResourceQuota",
        )
        | (
            "apps"
            | "batch"
            | "autoscaling"
            | "policy"
            | "networking.k8s.io"
            | "flowcontrol.apiserver.k8s.io"
            | "resource.k8s.io",
            _,
        )
        | ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy")
        | ("internal.apiserver.k8s.io" | "storagemigration.k8s.io", _) => {
            if has_status(group, kind) {
                status_only(main(), spec())
            } else {
                Set::new()
            }
        }
        _ => Set::new(),
    }
}

fn has_status(group: &str, kind: &str) -> bool {
    crate::kind::all().iter().any(|row| row.kind == kind && row.group == group && row.subresource("status").is_some())
}

//! Names, reservations and ends of ResourceClaims.

use k8s_openapi::api::core::v1::{Pod, PodResourceClaimStatus};
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimConsumerReference, ResourceClaimStatus, ResourceClaimTemplate};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;

use crate::{owner, pods};

/// Keeps an allocated claim until its devices are free. Upstream: resourceapi.Finalizer.
pub const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
/// On a claim made from a template: the pod's name for it.
const POD_CLAIM_NAME: &str = "resource.kubernetes.io/pod-claim-name";
/// Upstream: ResourceClaimReservedForMaxSize.
const MAX_CONSUMERS: usize = 256;
/// A generated name has 63 characters, of which six are a hyphen and the random part.
const MAX_BASE: usize = 57;

/// Whether the pod uses its claims no more, or never will. Upstream: isPodDone.
pub fn is_done(pod: &Pod) -> bool {
    pods::is_terminal(pod) || (pods::is_deleting(pod) && pods::node_name(pod).is_empty())
}

/// What the pod's status says about one of its claims.
pub fn status_of<'a>(pod: &'a Pod, name: &str) -> Option<&'a PodResourceClaimStatus> {
    pod.status.as_ref()?.resource_claim_statuses.as_ref()?.iter().find(|status| status.name == name)
}

/// The names of the claims that a pod uses, as far as they are known.
pub fn claim_names(pod: &Pod) -> impl Iterator<Item = String> {
    pod.spec.iter().flat_map(|spec| spec.resource_claims.iter().flatten()).filter_map(|wish| match &wish.resource_claim_name {
        Some(name) => Some(name.clone()),
        None => status_of(pod, &wish.name)?.resource_claim_name.clone(),
    })
}

/// Whether a claim was made for this entry of its pod.
pub fn is_made_for(claim: &ResourceClaim, name: &str) -> bool {
    claim.metadata.deletion_timestamp.is_none()
        && claim.metadata.annotations.as_ref().and_then(|annotations| annotations.get(POD_CLAIM_NAME)).map(String::as_str)
            == Some(name)
}

/// The claim for a pod's entry `name`.
pub fn claim(pod: &Pod, name: &str, template: &ResourceClaimTemplate) -> ResourceClaim {
    let meta = template.spec.metadata.clone().unwrap_or_default();
    let mut annotations = meta.annotations.unwrap_or_default();
    annotations.insert(POD_CLAIM_NAME.to_owned(), name.to_owned());
    ResourceClaim {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", base(&pod.name_any(), name))),
            namespace: pod.namespace(),
            labels: meta.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![owner::controller_ref("v1", "Pod", &pod.metadata)]),
            ..ObjectMeta::default()
        },
        spec: template.spec.spec.clone(),
        status: None,
    }
}

/// Pod and entry, both recognizable even where they have to be cut.
fn base(pod: &str, name: &str) -> String {
    let whole = format!("{pod}-{name}");
    if whole.len() <= MAX_BASE {
        return whole;
    }
    let pod_part = &pod[..pod.len().min(MAX_BASE / 2)];
    let name_part = &name[..name.len().min(MAX_BASE - 1 - pod_part.len())];
    format!("{pod_part}-{name_part}")
}

/// The claim with the pod among its consumers, if it is allocated and the pod is not there yet.
pub fn reserve(claim: &ResourceClaim, pod: &Pod) -> Option<ResourceClaim> {
    let uid = pod.uid()?;
    let mut changed = claim.clone();
    let status = changed.status.as_mut().filter(|status| status.allocation.is_some())?;
    let consumers = status.reserved_for.get_or_insert_default();
    if claim.metadata.deletion_timestamp.is_some() || consumers.iter().any(|c| c.uid == uid) || consumers.len() >= MAX_CONSUMERS {
        return None;
    }
    consumers.push(ResourceClaimConsumerReference { api_group: None, resource: "pods".into(), name: pod.name_any(), uid });
    Some(changed)
}

/// How it is with somebody for whom a claim is reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consumer {
    Uses,
    Done,
}

/// A pod that is gone, was replaced by another of its name, or has finished, uses nothing.
pub fn consumer(pod: Option<&Pod>, uid: &str) -> Consumer {
    match pod {
        Some(pod) if pod.uid().as_deref() == Some(uid) && !is_done(pod) => Consumer::Uses,
        _ => Consumer::Done,
    }
}

/// What becomes of a claim.
#[derive(Debug, Default, PartialEq)]
pub struct Release {
    /// Write this status: fewer consumers, and without any no allocation.
    pub status: Option<ResourceClaimStatus>,
    /// Then take the finalizer off.
    pub unprotect: bool,
    /// Nobody uses it.
    pub unused: bool,
}

/// `consumers` are in the order of `reservedFor`.
pub fn release(claim: &ResourceClaim, consumers: &[Consumer]) -> Release {
    let status = claim.status.clone().unwrap_or_default();
    let before = status.reserved_for.clone().unwrap_or_default();
    let valid: Vec<_> = before
        .iter()
        .zip(consumers)
        .filter(|(_, consumer)| **consumer == Consumer::Uses)
        .map(|(reference, _)| reference.clone())
        .collect();
    let (unused, fewer) = (valid.is_empty(), valid.len() < before.len());
    let protected = claim.finalizers().iter().any(|finalizer| finalizer == FINALIZER);
    let deallocate = unused && protected && (fewer || claim.metadata.deletion_timestamp.is_some());
    let mut after = status.clone();
    if fewer {
        after.reserved_for = (!valid.is_empty()).then_some(valid);
    }
    if deallocate {
        after.allocation = None;
        // What drivers said about the devices is void with the allocation.
        after.devices = None;
    }
    Release { status: (after != status).then_some(after), unprotect: deallocate, unused }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(name: &str, extra: Value) -> Pod {
        let mut pod = json!({"metadata": {"name": name, "namespace": "d", "uid": name}, "spec": {"containers": [],
            "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "t"}, {"name": "shared", "resourceClaimName": "s"}]}});
        for (key, value) in extra.as_object().into_iter().flatten() {
            match key.as_str() {
                "phase" => pod["status"]["phase"] = value.clone(),
                "node" => pod["spec"]["nodeName"] = value.clone(),
                _ => pod["metadata"][key] = value.clone(),
            }
        }
        serde_json::from_value(pod).unwrap()
    }

    fn a_claim(reserved: &[&str], allocated: bool, protected: bool, deleting: bool) -> ResourceClaim {
        let reserved: Vec<Value> = reserved.iter().map(|name| json!({"resource": "pods", "name": name, "uid": name})).collect();
        let mut claim = json!({"metadata": {"name": "c", "namespace": "d"}, "spec": {}, "status": {"reservedFor": reserved}});
        if allocated {
            claim["status"]["allocation"] = json!({});
        }
        if protected {
            claim["metadata"]["finalizers"] = json!([FINALIZER]);
        }
        if deleting {
            claim["metadata"]["deletionTimestamp"] = json!("2024-01-01T00:00:00Z");
        }
        serde_json::from_value(claim).unwrap()
    }

    #[test]
    fn consumers_that_are_done_go_and_with_the_last_one_the_allocation() {
        use Consumer::{Done, Uses};
        for (reserved, allocated, deleting, consumers, left, allocation, unprotect) in [
            (&["a", "b"][..], true, false, &[Uses, Done][..], Some(1), true, false),
            (&["a"], true, false, &[Done], Some(0), false, true),
            (&["a"], true, true, &[Done], Some(0), false, true),
            (&["a"], true, true, &[Uses], None, true, false),
            (&[], true, false, &[], None, true, false),
            (&[], true, true, &[], Some(0), false, true),
            (&[], false, true, &[], None, false, true),
        ] {
            let step = release(&a_claim(reserved, allocated, true, deleting), consumers);
            let row = format!("{reserved:?} {allocated} {deleting} {consumers:?}");
            let count = step.status.as_ref().map(|status| status.reserved_for.as_ref().map_or(0, Vec::len));
            assert_eq!(count, left, "{row}");
            let allocated_after = step.status.as_ref().map_or(allocated, |status| status.allocation.is_some());
            assert_eq!((allocated_after, step.unprotect), (allocation, unprotect), "{row}");
        }
        let foreign = release(&a_claim(&["a"], true, false, false), &[Done]);
        assert!(foreign.status.unwrap().allocation.is_some(), "without the finalizer somebody else allocated it");
    }

    #[test]
    fn pods_are_done_when_finished_replaced_gone_or_never_started() {
        let deleted = "2024-01-01T00:00:00Z";
        for (pod, expected) in [
            (Some(pod("a", json!({}))), Consumer::Uses),
            (Some(pod("a", json!({"phase": "Failed"}))), Consumer::Done),
            (Some(pod("a", json!({"uid": "other"}))), Consumer::Done),
            (Some(pod("a", json!({"deletionTimestamp": deleted}))), Consumer::Done),
            (Some(pod("a", json!({"deletionTimestamp": deleted, "node": "n"}))), Consumer::Uses),
            (None, Consumer::Done),
        ] {
            assert_eq!(consumer(pod.as_ref(), "a"), expected, "{pod:?}");
        }
    }

    #[test]
    fn claims_are_made_from_templates_and_named_after_pod_and_entry() {
        let template: ResourceClaimTemplate = serde_json::from_value(json!({"metadata": {"name": "t"},
            "spec": {"metadata": {"labels": {"a": "b"}}, "spec": {"devices": {"requests": [{"name": "r"}]}}}}))
        .unwrap();
        let made = claim(&pod("web", json!({})), "gpu", &template);
        assert_eq!(made.metadata.generate_name.as_deref(), Some("web-gpu-"));
        assert_eq!(made.labels()["a"], "b");
        assert!(owner::is_controlled_by(&made.metadata, "web") && is_made_for(&made, "gpu") && !is_made_for(&made, "x"));
        assert_eq!(base(&"p".repeat(60), &"c".repeat(60)).len(), MAX_BASE);
        assert_eq!(base(&"p".repeat(60), "c"), format!("{}-c", "p".repeat(28)));
    }

    #[test]
    fn a_pod_reserves_what_is_allocated_once() {
        assert!(reserve(&a_claim(&[], false, true, false), &pod("a", json!({}))).is_none());
        let reserved = reserve(&a_claim(&[], true, true, false), &pod("a", json!({}))).unwrap();
        assert!(reserve(&reserved, &pod("a", json!({}))).is_none());
        assert_eq!(reserved.status.unwrap().reserved_for.unwrap()[0].name, "a");
    }

    #[test]
    fn a_pod_knows_its_claims_by_name_and_by_status() {
        let mut pod = pod("a", json!({}));
        assert_eq!(claim_names(&pod).collect::<Vec<_>>(), ["s"]);
        pod.status =
            serde_json::from_value(json!({"resourceClaimStatuses": [{"name": "gpu", "resourceClaimName": "a-gpu-x"}]})).unwrap();
        assert_eq!(claim_names(&pod).collect::<Vec<_>>(), ["a-gpu-x", "s"]);
    }
}

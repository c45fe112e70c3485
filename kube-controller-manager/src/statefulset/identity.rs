//! The names of a StatefulSet's pods and claims, and the pods themselves.
//!
//! Upstream: pkg/controller/statefulset/stateful_set_utils.go

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::ResourceExt;

use crate::history::HASH_LABEL;
use crate::{owner, pods};

const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

pub fn start_ordinal(set: &StatefulSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.ordinals.as_ref()?.start).unwrap_or(0)
}

pub fn replicas(set: &StatefulSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

/// `web-3` is the third pod of the set `web`.
pub fn ordinal(set: &StatefulSet, pod: &Pod) -> Option<i32> {
    let name = pod.name_any();
    let number = name.strip_prefix(&set.name_any())?.strip_prefix('-')?;
    number.parse().ok().filter(|ordinal: &i32| *ordinal >= 0 && number == ordinal.to_string())
}

pub fn in_range(set: &StatefulSet, ordinal: i32) -> bool {
    let start = start_ordinal(set);
    ordinal >= start && ordinal < start.saturating_add(replicas(set))
}

/// The name of the revision that a pod was made from.
pub fn revision(pod: &Pod) -> &str {
    pod.labels().get(HASH_LABEL).map_or("", String::as_str)
}

/// A pod of a revision.
pub fn pod(set: &StatefulSet, template: &PodTemplateSpec, revision: &str, ordinal: i32) -> Pod {
    let reference = owner::controller_ref("apps/v1", "StatefulSet", &set.metadata);
    let mut pod = pods::from_template(template, &set.namespace().unwrap_or_default(), &reference);
    let name = format!("{}-{ordinal}", set.name_any());
    pod.metadata.generate_name = None;
    pod.metadata.name = Some(name.clone());
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(name);
    spec.subdomain = set.spec.as_ref().and_then(|spec| spec.service_name.clone());
    identify(set, &mut pod, ordinal);
    pod.labels_mut().insert(HASH_LABEL.to_owned(), revision.to_owned());
    pod
}

/// Sets what ties a pod to its ordinal: labels, and the volumes of its claims.
pub fn identify(set: &StatefulSet, pod: &mut Pod, ordinal: i32) {
    let name = pod.name_any();
    let labels = pod.labels_mut();
    labels.insert(POD_NAME.to_owned(), name);
    labels.insert(POD_INDEX.to_owned(), ordinal.to_string());
    let claims = claims(set, ordinal);
    let volumes = pod.spec.get_or_insert_default().volumes.get_or_insert_default();
    let wanted: Vec<Volume> = claims
        .iter()
        .map(|(volume, claim)| Volume {
            name: volume.clone(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource { claim_name: claim.name_any(), read_only: None }),
            ..Volume::default()
        })
        .collect();
    volumes.retain(|volume| !wanted.iter().any(|claim| claim.name == volume.name));
    volumes.splice(0..0, wanted);
    if volumes.is_empty() {
        pod.spec.get_or_insert_default().volumes = None;
    }
}

/// Whether a pod has the labels and claims of its ordinal.
pub fn is_identified(set: &StatefulSet, pod: &Pod, ordinal: i32) -> bool {
    let labels = pod.labels();
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    let mounted = |(volume, claim): &(String, PersistentVolumeClaim)| {
        let found = volumes.iter().find(|v| v.name == *volume).and_then(|v| v.persistent_volume_claim.as_ref());
        found.is_some_and(|source| source.claim_name == claim.name_any())
    };
    labels.get(POD_NAME) == Some(&pod.name_any()) && claims(set, ordinal).iter().all(mounted)
}

/// The claims of an ordinal, by the name of the volume.
pub fn claims(set: &StatefulSet, ordinal: i32) -> Vec<(String, PersistentVolumeClaim)> {
    let Some(spec) = set.spec.as_ref() else { return Vec::new() };
    let templates = spec.volume_claim_templates.iter().flatten();
    templates
        .map(|template| {
            let mut labels = template.metadata.labels.clone().unwrap_or_default();
            labels.extend(spec.selector.match_labels.clone().unwrap_or_default());
            let claim = PersistentVolumeClaim {
                metadata: ObjectMeta {
                    name: Some(format!("{}-{}-{ordinal}", template.name_any(), set.name_any())),
                    namespace: set.namespace(),
                    labels: Some(labels),
                    annotations: template.metadata.annotations.clone(),
                    ..ObjectMeta::default()
                },
                spec: template.spec.clone(),
                status: None,
            };
            (template.name_any(), claim)
        })
        .collect()
}

/// The owners that the retention policy gives a claim, or `None` if it has them. `pod` is the claim's pod as it is in the cluster.
/// Upstream: updateClaimOwnerRefForSetAndPod.
pub fn claim_owners(
    set: &StatefulSet,
    pod: Option<&Pod>,
    claim: &PersistentVolumeClaim,
    ordinal: i32,
) -> Option<Vec<OwnerReference>> {
    let policy = set.spec.as_ref().and_then(|spec| spec.persistent_volume_claim_retention_policy.as_ref());
    let deletes = |when: Option<&String>| when.is_some_and(|when| when == "Delete");
    let when_deleted = deletes(policy.and_then(|policy| policy.when_deleted.as_ref()));
    let when_scaled = deletes(policy.and_then(|policy| policy.when_scaled.as_ref()));
    let scaled_down = !in_range(set, ordinal);
    let by_set = when_deleted && !(when_scaled && scaled_down);
    let by_pod = when_scaled && scaled_down;
    let have = claim.metadata.owner_references.clone().unwrap_or_default();
    let set_uid = set.uid().unwrap_or_default();
    let pod_uid = pod.and_then(|pod| pod.uid());
    let pod_name = format!("{}-{ordinal}", set.name_any());
    // References to this set and to pods of this name (also earlier ones) are ours to manage.
    let mut wanted: Vec<OwnerReference> =
        have.iter().filter(|owner| owner.uid != set_uid && !(owner.kind == "Pod" && owner.name == pod_name)).cloned().collect();
    let reference = |api: &str, kind: &str, meta: &ObjectMeta| owner::controller_ref(api, kind, meta);
    if by_set {
        wanted.push(
            have.iter()
                .find(|owner| owner.uid == set_uid)
                .cloned()
                .unwrap_or_else(|| reference("apps/v1", "StatefulSet", &set.metadata)),
        );
    }
    if by_pod && let (Some(pod), Some(uid)) = (pod, pod_uid) {
        wanted.push(have.iter().find(|owner| owner.uid == uid).cloned().unwrap_or_else(|| reference("v1", "Pod", &pod.metadata)));
    }
    (wanted != have).then_some(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn set(extra: Value) -> StatefulSet {
        let mut spec = json!({"replicas": 2, "serviceName": "web", "selector": {"matchLabels": {"app": "web"}}, "template": {},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}]});
        for (key, value) in extra.as_object().unwrap() {
            spec[key] = value.clone();
        }
        serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "d", "uid": "su"}, "spec": spec})).unwrap()
    }

    #[test]
    fn pods_have_names_hosts_and_claims_of_their_ordinal() {
        let web = set(json!({}));
        let template = serde_json::from_value(json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [],
            "volumes": [{"name": "data", "emptyDir": {}}, {"name": "other", "emptyDir": {}}]}}))
        .unwrap();
        let made = pod(&web, &template, "web-abc", 3);
        let spec = made.spec.as_ref().unwrap();
        assert_eq!(
            (made.name_any().as_str(), spec.hostname.as_deref(), spec.subdomain.as_deref()),
            ("web-3", Some("web-3"), Some("web"))
        );
        let volumes = spec.volumes.as_ref().unwrap();
        assert_eq!(volumes.len(), 2);
        assert_eq!(volumes[0].persistent_volume_claim.as_ref().unwrap().claim_name, "data-web-3");
        assert_eq!(made.labels()[POD_INDEX], "3");
        assert_eq!(ordinal(&web, &made), Some(3));
        assert!(is_identified(&web, &made, 3));
        for (name, expected) in [("web-03", None), ("web-x", None), ("webby-1", None), ("web-0", Some(0))] {
            let other = Pod { metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() }, ..Pod::default() };
            assert_eq!(ordinal(&web, &other), expected, "{name}");
        }
    }

    #[test]
    fn the_retention_policy_decides_who_owns_claims() {
        let policy = |deleted: &str, scaled: &str| {
            set(json!({"persistentVolumeClaimRetentionPolicy": {"whenDeleted": deleted, "whenScaled": scaled}}))
        };
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "web-1", "uid": "pu"}})).unwrap();
        let bare = PersistentVolumeClaim::default();
        let kinds = |set: &StatefulSet, ordinal: i32| {
            claim_owners(set, Some(&pod), &bare, ordinal).map(|list| list.into_iter().map(|o| o.kind).collect::<Vec<_>>())
        };
        assert_eq!(kinds(&policy("Retain", "Retain"), 1), None);
        assert_eq!(kinds(&policy("Delete", "Retain"), 5), Some(vec!["StatefulSet".to_owned()]));
        assert_eq!(kinds(&policy("Delete", "Delete"), 1), Some(vec!["StatefulSet".to_owned()]));
        assert_eq!(kinds(&policy("Delete", "Delete"), 5), Some(vec!["Pod".to_owned()]));
        assert_eq!(kinds(&policy("Retain", "Delete"), 1), None);
        assert_eq!(kinds(&policy("Retain", "Delete"), 5), Some(vec!["Pod".to_owned()]));
        let mut owned = bare.clone();
        owned.metadata.owner_references =
            Some(vec![owner::controller_ref("apps/v1", "StatefulSet", &policy("Delete", "Retain").metadata)]);
        assert_eq!(claim_owners(&policy("Retain", "Retain"), Some(&pod), &owned, 1), Some(vec![]));
    }
}

//! Owner references: who controls an object, and whether to adopt or release it.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use serde_json::{Value, json};

use crate::selector;

/// The owner reference that is marked as the controller.
pub fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

pub fn is_controlled_by(meta: &ObjectMeta, uid: &str) -> bool {
    controller_of(meta).is_some_and(|owner| owner.uid == uid)
}

/// A controller reference to the object named by `meta`. Upstream: metav1.NewControllerRef.
pub fn controller_ref(api_version: &str, kind: &str, meta: &ObjectMeta) -> OwnerReference {
    OwnerReference {
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// What a controller does about an object that it might own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// Ours and selected.
    Keep,
    /// Selected, without a controller.
    Adopt,
    /// Ours, selected no longer.
    Release,
    /// Somebody else's, or nobody's and not selected.
    Ignore,
}

/// Decides about one object. `owner` is the would-be controller.
/// Upstream: BaseControllerRefManager.ClaimObject (pkg/controller/controller_ref_manager.go).
pub fn claim(owner: &ObjectMeta, selected: bool, object: &ObjectMeta) -> Claim {
    let owner_deleting = owner.deletion_timestamp.is_some();
    match controller_of(object) {
        Some(controller) if Some(&controller.uid) != owner.uid.as_ref() => Claim::Ignore,
        Some(_) if selected => Claim::Keep,
        Some(_) if owner_deleting => Claim::Ignore,
        Some(_) => Claim::Release,
        None if owner_deleting || !selected || object.deletion_timestamp.is_some() => Claim::Ignore,
        None if owner.namespace != object.namespace => Claim::Ignore,
        None => Claim::Adopt,
    }
}

/// `claim` for a label selector.
pub fn claim_by(owner: &ObjectMeta, by: &LabelSelector, object: &ObjectMeta) -> Claim {
    let none = BTreeMap::new();
    claim(owner, selector::matches(by, object.labels.as_ref().unwrap_or(&none)), object)
}

/// The strategic merge patch that makes `owner` the controller of the object with `uid`.
pub fn adoption_patch(owner: &OwnerReference, uid: &str) -> Value {
    json!({"metadata": {"ownerReferences": [owner], "uid": uid}})
}

/// The strategic merge patch that takes `owner_uid` out of the object with `uid`.
pub fn release_patch(owner_uid: &str, uid: &str) -> Value {
    json!({"metadata": {"ownerReferences": [{"$patch": "delete", "uid": owner_uid}], "uid": uid}})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(v: Value) -> ObjectMeta {
        serde_json::from_value(v).unwrap()
    }

    #[test]
    fn only_orphans_that_match_are_adopted_and_only_own_objects_released() {
        let owner = meta(json!({"name": "a", "namespace": "d", "uid": "u1"}));
        let deleting = meta(json!({"name": "a", "namespace": "d", "uid": "u1", "deletionTimestamp": "2024-01-01T00:00:00Z"}));
        let owned = |uid: &str| {
            meta(json!({"namespace": "d", "ownerReferences":
            [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "a", "uid": uid, "controller": true}]}))
        };
        let orphan = meta(json!({"namespace": "d"}));
        let dying = meta(json!({"namespace": "d", "deletionTimestamp": "2024-01-01T00:00:00Z"}));
        for (owner, selected, object, expected) in [
            (&owner, true, &owned("u1"), Claim::Keep),
            (&owner, false, &owned("u1"), Claim::Release),
            (&deleting, false, &owned("u1"), Claim::Ignore),
            (&owner, true, &owned("u2"), Claim::Ignore),
            (&owner, true, &orphan, Claim::Adopt),
            (&owner, false, &orphan, Claim::Ignore),
            (&deleting, true, &orphan, Claim::Ignore),
            (&owner, true, &dying, Claim::Ignore),
        ] {
            assert_eq!(claim(owner, selected, object), expected, "{selected} {object:?}");
        }
    }
}

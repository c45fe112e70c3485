//! Which volume a claim gets, and how a claim and a volume stand to each other.
//!
//! Upstream: pkg/controller/volume/persistentvolume/{pv_controller,index}.go, component-helpers/storage/volume

use std::sync::Arc;

use api::quantity::Quantity;
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim};
use kube::ResourceExt;

use crate::selector;

pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
pub const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
pub const PROVISIONER_BETA: &str = "volume.beta.kubernetes.io/storage-provisioner";
const CLASS_BETA: &str = "volume.beta.kubernetes.io/storage-class";

/// The class of a claim: `None` when it says nothing (the default class may fill in), `Some("")` when it wants none.
pub fn class_of_claim(claim: &PersistentVolumeClaim) -> Option<String> {
    claim.annotations().get(CLASS_BETA).cloned().or_else(|| claim.spec.as_ref()?.storage_class_name.clone())
}

pub fn class_of_volume(volume: &PersistentVolume) -> String {
    let class = volume.annotations().get(CLASS_BETA).cloned();
    class.or_else(|| volume.spec.as_ref()?.storage_class_name.clone()).unwrap_or_default()
}

pub fn claim_ref(volume: &PersistentVolume) -> Option<&ObjectReference> {
    volume.spec.as_ref()?.claim_ref.as_ref()
}

/// Whether the volume names this claim (by uid, where it has one).
pub fn is_for(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    claim_ref(volume).is_some_and(|reference| {
        reference.name == claim.metadata.name
            && reference.namespace == claim.metadata.namespace
            && reference.uid.as_ref().is_none_or(|uid| uid.is_empty() || Some(uid) == claim.metadata.uid.as_ref())
    })
}

fn capacity(volume: &PersistentVolume) -> Option<Quantity> {
    Quantity::parse(&volume.spec.as_ref()?.capacity.as_ref()?.get("storage")?.0).ok()
}

fn request(claim: &PersistentVolumeClaim) -> Quantity {
    let requests = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.requests.as_ref());
    requests.and_then(|requests| Quantity::parse(&requests.get("storage")?.0).ok()).unwrap_or_else(Quantity::zero)
}

fn mode(mode: Option<&String>) -> &str {
    mode.map_or("Filesystem", String::as_str)
}

/// Why a volume cannot serve a claim, if it cannot. Upstream: checkVolumeSatisfyClaim.
pub fn mismatch(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<&'static str> {
    let (Some(offer), Some(wish)) = (volume.spec.as_ref(), claim.spec.as_ref()) else { return Some("incomplete") };
    let modes = offer.access_modes.as_deref().unwrap_or_default();
    if volume.metadata.deletion_timestamp.is_some() {
        return Some("the volume is marked for deletion");
    }
    if capacity(volume).is_none_or(|capacity| capacity < request(claim)) {
        return Some("requested PV is too small");
    }
    if class_of_volume(volume) != class_of_claim(claim).unwrap_or_default() {
        return Some("storageClassName does not match");
    }
    if mode(offer.volume_mode.as_ref()) != mode(wish.volume_mode.as_ref()) {
        return Some("incompatible volumeMode");
    }
    if !wish.access_modes.iter().flatten().all(|wanted| modes.contains(wanted)) {
        return Some("incompatible accessMode");
    }
    None
}

/// The volume that a claim without one should get: one that already names it, else the smallest free one that fits.
pub fn best(claim: &PersistentVolumeClaim, volumes: &[Arc<PersistentVolume>], delayed: bool) -> Option<Arc<PersistentVolume>> {
    let fits = |volume: &&Arc<PersistentVolume>| mismatch(volume, claim).is_none();
    let by = claim.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    if let Some(named) = volumes.iter().filter(|volume| is_for(volume, claim)).find(fits) {
        return Some(Arc::clone(named));
    }
    // Before its first consumer is known, a claim takes only what was meant for it.
    if delayed {
        return None;
    }
    let free = volumes.iter().filter(|volume| {
        let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("");
        claim_ref(volume).is_none() && matches!(phase, "" | "Available")
    });
    let selected = free.filter(|volume| by.is_none_or(|by| selector::matches(by, volume.labels())));
    let mut fitting: Vec<&Arc<PersistentVolume>> = selected.filter(fits).collect();
    fitting.sort_by(|a, b| {
        let modes =
            |volume: &PersistentVolume| volume.spec.as_ref().and_then(|spec| spec.access_modes.as_ref()).map_or(0, Vec::len);
        capacity(a)
            .partial_cmp(&capacity(b))
            .unwrap_or(std::cmp::Ordering::Equal)
            .then(modes(a).cmp(&modes(b)))
            .then(a.name_any().cmp(&b.name_any()))
    });
    fitting.first().map(|volume| Arc::clone(volume))
}

/// How a volume with a claim reference stands to the claim as it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Nobody's.
    Free,
    /// Waits for a claim that is not bound to it yet.
    Reserved,
    Bound,
    /// Its claim is gone.
    Released,
    /// Its claim took another volume.
    Jilted,
}

pub fn standing(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> Standing {
    let Some(reference) = claim_ref(volume) else { return Standing::Free };
    let Some(uid) = reference.uid.as_ref().filter(|uid| !uid.is_empty()) else { return Standing::Reserved };
    let Some(claim) = claim.filter(|claim| claim.metadata.uid.as_ref() == Some(uid)) else { return Standing::Released };
    match claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or("") {
        "" => Standing::Reserved,
        name if name == volume.name_any() => Standing::Bound,
        _ => Standing::Jilted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn volume(name: &str, size: &str, extra: Value) -> Arc<PersistentVolume> {
        let mut spec = json!({"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce", "ReadOnlyMany"]});
        for (key, value) in extra.as_object().unwrap() {
            spec[key] = value.clone();
        }
        Arc::new(serde_json::from_value(json!({"metadata": {"name": name, "labels": {"n": name}}, "spec": spec})).unwrap())
    }

    fn claim(size: &str, extra: Value) -> PersistentVolumeClaim {
        let mut spec = json!({"resources": {"requests": {"storage": size}}, "accessModes": ["ReadWriteOnce"]});
        for (key, value) in extra.as_object().unwrap() {
            spec[key] = value.clone();
        }
        serde_json::from_value(json!({"metadata": {"name": "c", "namespace": "d", "uid": "cu"}, "spec": spec})).unwrap()
    }

    #[test]
    fn the_smallest_volume_that_fits_is_chosen() {
        let taken = json!({"claimRef": {"name": "x", "namespace": "d", "uid": "other"}});
        let volumes = [
            volume("big", "10Gi", json!({})),
            volume("fits", "2Gi", json!({})),
            volume("small", "500Mi", json!({})),
            volume("taken", "1Gi", taken),
            volume("fast", "1Gi", json!({"storageClassName": "fast"})),
            volume("block", "1Gi", json!({"volumeMode": "Block"})),
        ];
        let name = |claim: &PersistentVolumeClaim, delayed: bool| best(claim, &volumes, delayed).map(|volume| volume.name_any());
        assert_eq!(name(&claim("1Gi", json!({})), false).as_deref(), Some("fits"));
        assert_eq!(name(&claim("1Gi", json!({"storageClassName": "fast"})), false).as_deref(), Some("fast"));
        assert_eq!(name(&claim("1Gi", json!({"volumeMode": "Block"})), false).as_deref(), Some("block"));
        assert_eq!(name(&claim("1Gi", json!({"accessModes": ["ReadWriteMany"]})), false), None);
        assert_eq!(name(&claim("1Gi", json!({"selector": {"matchLabels": {"n": "big"}}})), false).as_deref(), Some("big"));
        assert_eq!(name(&claim("1Gi", json!({})), true), None);
        let reserved =
            [volume("big", "10Gi", json!({"claimRef": {"name": "c", "namespace": "d"}})), volume("fits", "2Gi", json!({}))];
        assert_eq!(best(&claim("1Gi", json!({})), &reserved, true).unwrap().name_any(), "big");
    }

    #[test]
    fn a_volume_is_what_its_claim_makes_of_it() {
        let bound = volume("v", "1Gi", json!({"claimRef": {"name": "c", "namespace": "d", "uid": "cu"}}));
        assert_eq!(standing(&volume("v", "1Gi", json!({})), None), Standing::Free);
        assert_eq!(standing(&bound, None), Standing::Released);
        assert_eq!(standing(&bound, Some(&claim("1Gi", json!({})))), Standing::Reserved);
        assert_eq!(standing(&bound, Some(&claim("1Gi", json!({"volumeName": "v"})))), Standing::Bound);
        assert_eq!(standing(&bound, Some(&claim("1Gi", json!({"volumeName": "w"})))), Standing::Jilted);
    }
}

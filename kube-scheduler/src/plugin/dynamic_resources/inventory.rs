//! Which devices there are, and which of them are taken.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::object::Named;
use crate::object::device::{Allocation, Counters, Device, DeviceClaim, Reach, Slice};
use crate::object::node::Node;
use crate::stores::Stores;

/// A device's identity: driver, pool, device.
pub type DeviceId = (String, String, String);

/// Allocations that are decided but not yet seen in the API: by the claim's uid, with the pods that count on them.
#[derive(Clone, Debug, Default)]
pub struct Assumed(Arc<Mutex<HashMap<String, Decided>>>);

/// What a claim will have, and the pods that count on it.
type Decided = (Arc<Allocation>, HashSet<String>);

impl Assumed {
    /// Notes a decision.
    pub fn put(&self, claim: &str, allocation: Arc<Allocation>, pod: &str) {
        self.0.lock().entry(claim.to_owned()).or_insert_with(|| (allocation, HashSet::new())).1.insert(pod.to_owned());
    }

    /// Notes that one more pod counts on a decision, if there is one.
    pub fn join(&self, claim: &str, pod: &str) {
        if let Some((_, pods)) = self.0.lock().get_mut(claim) {
            pods.insert(pod.to_owned());
        }
    }

    /// Notes that a pod counts on it no more; the last one ends it.
    pub fn leave(&self, claim: &str, pod: &str) {
        let mut all = self.0.lock();
        if let Some((_, pods)) = all.get_mut(claim) {
            pods.remove(pod);
            if pods.is_empty() {
                all.remove(claim);
            }
        }
    }

    /// The API says by itself what the claim has, or the claim is gone.
    pub fn forget(&self, claim: &str) {
        self.0.lock().remove(claim);
    }

    /// What is decided for a claim.
    pub fn get(&self, claim: &str) -> Option<Arc<Allocation>> {
        self.0.lock().get(claim).map(|(allocation, _)| allocation.clone())
    }
}

/// What a claim has, in the API or by decision.
pub fn allocation(stores: &Stores, claim: &DeviceClaim) -> Option<Arc<Allocation>> {
    let known = claim.allocation.clone().or_else(|| stores.assumed_devices.get(claim.uid()));
    // A decision is forgotten once the store shows it, which may have been just now: so the store is asked last.
    known.or_else(|| stores.device_claims.get(&claim.key())?.allocation.clone())
}

/// Devices of one name space.
#[derive(Default)]
pub struct Pool {
    /// Slices of the newest generation, by name.
    pub slices: Vec<Arc<Slice>>,
    /// All of its slices are known.
    pub complete: bool,
    /// What is left of what its devices share.
    pub counters: Counters,
}

/// All pools.
#[derive(Default)]
pub struct Inventory {
    /// By driver and name.
    pub pools: BTreeMap<(String, String), Pool>,
    /// Devices that claims have.
    pub taken: HashSet<DeviceId>,
}

impl Inventory {
    /// Looks at everything known.
    pub fn new(stores: &Stores) -> Self {
        let mut out = Self::default();
        for slice in stores.slices.list() {
            let pool = out.pools.entry((slice.driver.clone(), slice.pool.clone())).or_default();
            let newest = pool.slices.first().map_or(slice.generation, |first| first.generation);
            if slice.generation > newest {
                pool.slices.clear();
            }
            if slice.generation >= newest {
                pool.slices.push(slice);
            }
        }
        for claim in stores.device_claims.list() {
            if let Some(allocation) = allocation(stores, &claim) {
                out.taken.extend(allocation.devices.iter().cloned());
            }
        }
        for ((driver, name), pool) in &mut out.pools {
            pool.complete = pool.slices.first().is_some_and(|first| first.count == pool.slices.len() as i64);
            pool.counters = pool.slices.iter().flat_map(|slice| slice.counters.clone()).collect();
            for device in pool.slices.iter().flat_map(|slice| &slice.devices) {
                if !device.consumes.is_empty() && out.taken.contains(&(driver.clone(), name.clone(), device.name.clone())) {
                    for (counter, amount) in &device.consumes {
                        *pool.counters.entry(counter.clone()).or_default() -= amount;
                    }
                }
            }
        }
        out
    }
}

/// Whether a node reaches a device of a slice, and by what.
pub fn reach_of<'a>(slice: &'a Slice, device: &'a Device, node: &Node) -> Option<&'a Reach> {
    let reach = slice.reach.as_ref().or(device.reach.as_ref())?;
    let reaches = match reach {
        Reach::Node(name) => name == node.name(),
        Reach::Some(selector, _) => selector.matches(node.labels(), node.name()),
        Reach::All => true,
    };
    reaches.then_some(reach)
}

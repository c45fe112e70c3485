//! Devices that plugins offer, and which container has which. Pure. Upstream: pkg/kubelet/cm/devicemanager

use std::collections::{BTreeMap, BTreeSet};

use super::topology::{self, Hint};

/// A device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// Usable.
    pub healthy: bool,
    /// Memory nodes it is near to.
    pub nodes: BTreeSet<usize>,
}

/// The devices of a resource.
pub type Devices = BTreeMap<String, Device>;

/// All devices and who has them.
#[derive(Clone, Debug, Default)]
pub struct Pool {
    /// By resource.
    pub offered: BTreeMap<String, Devices>,
    /// By (pod's uid, container, resource).
    pub given: BTreeMap<(String, String, String), Given>,
}

/// What a container was given of a resource.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Given {
    /// The devices.
    pub ids: BTreeSet<String>,
    /// What the plugin said to do with them, encoded.
    pub answer: Vec<u8>,
}

impl Pool {
    /// Capacity and allocatable of each resource.
    pub fn amounts(&self) -> BTreeMap<String, (i64, i64)> {
        let count = |devices: &Devices| {
            let healthy = devices.values().filter(|device| device.healthy).count();
            (i64::try_from(devices.len()).unwrap_or(0), i64::try_from(healthy).unwrap_or(0))
        };
        self.offered.iter().map(|(resource, devices)| (resource.clone(), count(devices))).collect()
    }

    /// Healthy devices that nobody has; those in `reusable` count as free.
    pub fn free(&self, resource: &str, reusable: &BTreeSet<String>) -> BTreeSet<String> {
        let taken: BTreeSet<&String> =
            self.given.iter().filter(|((.., of), _)| of == resource).flat_map(|(_, given)| &given.ids).collect();
        let devices = self.offered.get(resource).into_iter().flatten();
        devices
            .filter(|(id, device)| device.healthy && (!taken.contains(id) || reusable.contains(*id)))
            .map(|(id, _)| id.clone())
            .collect()
    }

    /// What to take for `count` devices: those of the pod's finished init containers first, then those on the nodes of `mask`.
    ///
    /// # Errors
    /// There are not so many; upstream's words.
    pub fn choose(
        &self,
        resource: &str,
        count: usize,
        reusable: &BTreeSet<String>,
        mask: u64,
    ) -> Result<BTreeSet<String>, String> {
        let free = self.free(resource, reusable);
        if free.len() < count {
            return Err(format!(
                "requested number of devices unavailable for {resource}. Requested: {count}, Available: {}",
                free.len()
            ));
        }
        let devices = self.offered.get(resource);
        let near = |id: &String| {
            let device = devices.and_then(|devices| devices.get(id));
            device.is_some_and(|device| device.nodes.iter().any(|node| *node < 64 && mask & (1 << node) != 0))
        };
        let mut ranked: Vec<&String> = free.iter().collect();
        ranked.sort_by_key(|id| (!reusable.contains(*id), !near(id), (*id).clone()));
        Ok(ranked.into_iter().take(count).cloned().collect())
    }

    /// Which memory nodes could give `count` devices; `None` where the devices say nothing of nodes.
    pub fn hints(&self, resource: &str, count: usize, reusable: &BTreeSet<String>, nodes: &[usize]) -> Option<Vec<Hint>> {
        let devices = self.offered.get(resource)?;
        if devices.values().all(|device| device.nodes.is_empty()) {
            return None;
        }
        let on = |mask: u64, device: &Device| device.nodes.iter().any(|node| *node < 64 && mask & (1 << node) != 0);
        let free = self.free(resource, reusable);
        let masks = topology::masks(nodes);
        let able = |mask: &u64| devices.values().filter(|device| on(*mask, device)).count() >= count;
        let fewest = masks.iter().filter(|mask| able(mask)).map(|mask| mask.count_ones()).min().unwrap_or(0);
        let can = |mask: &u64| free.iter().filter(|id| devices.get(*id).is_some_and(|device| on(*mask, device))).count() >= count;
        Some(masks.into_iter().filter(can).map(|mask| Hint { mask, preferred: mask.count_ones() == fewest }).collect())
    }

    /// Takes back what a pod has.
    pub fn take_back(&mut self, uid: &str) -> bool {
        let before = self.given.len();
        self.given.retain(|(owner, ..), _| owner != uid);
        self.given.len() < before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> Pool {
        let device = |healthy, node| Device { healthy, nodes: [node].into() };
        let devices = [("a", true, 0), ("b", true, 1), ("c", true, 1), ("d", false, 0)];
        let devices = devices.map(|(id, healthy, node)| (id.to_owned(), device(healthy, node)));
        Pool { offered: [("ex.io/d".to_owned(), devices.into())].into(), given: BTreeMap::new() }
    }

    #[test]
    fn healthy_devices_are_given_once_and_near_ones_first() {
        let mut pool = pool();
        let none = BTreeSet::new();
        assert_eq!(pool.amounts()["ex.io/d"], (4, 3));
        assert_eq!(pool.choose("ex.io/d", 1, &none, 0b10).unwrap(), ["b".to_owned()].into());
        let key = ("u".to_owned(), "init".to_owned(), "ex.io/d".to_owned());
        pool.given.insert(key, Given { ids: ["c".to_owned()].into(), answer: vec![] });
        assert_eq!(pool.choose("ex.io/d", 1, &["c".to_owned()].into(), 1).unwrap(), ["c".to_owned()].into(), "reused");
        assert_eq!(
            pool.choose("ex.io/d", 3, &none, 1).unwrap_err(),
            "requested number of devices unavailable for ex.io/d. Requested: 3, Available: 2"
        );
        assert!(pool.take_back("u") && !pool.take_back("u"));
    }

    #[test]
    fn hints_follow_the_devices() {
        let hint = |mask, preferred| Hint { mask, preferred };
        let none = BTreeSet::new();
        assert_eq!(pool().hints("ex.io/d", 2, &none, &[0, 1]).unwrap(), [hint(2, true), hint(3, false)]);
        assert_eq!(pool().hints("other", 1, &none, &[0, 1]), None);
    }
}

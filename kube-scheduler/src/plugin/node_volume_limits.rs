//! How many volumes of a CSI driver a node can have.
//!
//! Upstream: pkg/scheduler/framework/plugins/nodevolumelimits

use std::collections::{HashMap, HashSet};

use crate::cluster::NodeIdx;
use crate::cluster::node_info::NodeInfo;
use crate::event::Event;
use crate::object::Named;
use crate::object::pod::Pod;
use crate::plugin::{Begin, Context, Failure, Filter, Plugin};
use crate::stores::Stores;

/// NodeVolumeLimits.
pub const PLUGIN: Plugin = Plugin { filter: Some(filter), hint: Some(hint), ..Plugin::named("NodeVolumeLimits") };

struct Limits<'a> {
    stores: &'a Stores,
    wanted: HashSet<(String, String)>,
}

fn filter<'a>(cx: &Context<'a>, pod: &'a Pod) -> Begin<'a> {
    if pod.spec.volumes.is_empty() {
        return Begin::Skip;
    }
    let wanted = volumes(cx.stores, pod);
    if wanted.is_empty() { Begin::Skip } else { Begin::Check(Box::new(Limits { stores: cx.stores, wanted })) }
}

impl Filter for Limits<'_> {
    fn check(&self, _idx: NodeIdx, node: &NodeInfo) -> Result<(), Failure> {
        let Some(csi) = self.stores.csi_nodes.get(&node.name) else { return Ok(()) };
        let limits: HashMap<&str, i32> =
            csi.limits.iter().filter_map(|(driver, limit)| Some((driver.as_str(), (*limit)?))).collect();
        if limits.is_empty() {
            return Ok(());
        }
        let mut attached: HashSet<(String, String)> = HashSet::new();
        for placed in &node.pods {
            attached.extend(volumes(self.stores, &placed.pod));
        }
        let mut after: HashMap<&str, i32> = HashMap::new();
        let mut new: HashSet<&str> = HashSet::new();
        for (driver, _) in &attached {
            *after.entry(driver).or_default() += 1;
        }
        for volume in self.wanted.iter().filter(|volume| !attached.contains(*volume)) {
            *after.entry(&volume.0).or_default() += 1;
            new.insert(&volume.0);
        }
        let exceeded = new.iter().any(|driver| limits.get(driver).is_some_and(|limit| after[driver] > *limit));
        if exceeded { Err(Failure::resolvable("node(s) exceed max volume count")) } else { Ok(()) }
    }
}

/// Driver and identity of each CSI volume of a pod; a volume still to be made is known by its claim.
fn volumes(stores: &Stores, pod: &Pod) -> HashSet<(String, String)> {
    let mut out = HashSet::new();
    for (name, _) in pod.claims() {
        let Some(claim) = stores.claim(pod.namespace(), &name) else { continue };
        if let Some(volume) = stores.volumes.get(&claim.volume) {
            out.extend(volume.csi.clone());
        } else if claim.volume.is_empty()
            && let Some(class) = claim.class.as_deref().and_then(|class| stores.classes.get(class))
        {
            out.insert((class.provisioner.clone(), claim.key()));
        }
    }
    out
}

fn hint(pod: &Pod, event: &Event) -> bool {
    match event {
        Event::NodeAdded(_) | Event::Storage => true,
        Event::AssignedPodDeleted(gone) => !gone.spec.volumes.is_empty() && !pod.spec.volumes.is_empty(),
        _ => false,
    }
}

//! Volumes that only so many pods may use at once.
//!
//! Upstream: pkg/scheduler/framework/plugins/volumerestrictions

use crate::cluster::NodeIdx;
use crate::cluster::node_info::NodeInfo;
use crate::event::Event;
use crate::object::Named;
use crate::object::pod::{Pod, Volume};
use crate::plugin::{Begin, Context, Failure, Filter, Plugin};

/// VolumeRestrictions.
pub const PLUGIN: Plugin = Plugin { filter: Some(filter), hint: Some(hint), ..Plugin::named("VolumeRestrictions") };

struct Free<'a> {
    disks: Vec<&'a Volume>,
    namespace: &'a str,
    /// Claims of one pod at a time that this pod mounts.
    single: Vec<String>,
    /// How many other pods use one of them.
    in_use: i64,
}

fn filter<'a>(cx: &Context<'a>, pod: &'a Pod) -> Begin<'a> {
    let disks: Vec<_> = pod.spec.volumes.iter().filter(|volume| matches!(volume, Volume::Disk(..))).collect();
    let mut single = Vec::new();
    for (name, ephemeral) in pod.claims() {
        match cx.stores.claim(pod.namespace(), &name) {
            Some(claim) if claim.modes.iter().any(|mode| mode == "ReadWriteOncePod") => single.push(name),
            Some(_) => {}
            None if ephemeral => {}
            None => return Begin::Reject(Failure::unresolvable(format!("persistentvolumeclaim {name:?} not found"))),
        }
    }
    if disks.is_empty() && single.is_empty() {
        return Begin::Skip;
    }
    let mut free = Free { disks, namespace: pod.namespace(), single, in_use: 0 };
    if !free.single.is_empty() {
        for idx in 0..cx.cluster.bound() {
            let pods = &cx.cluster.node(idx as NodeIdx).pods;
            free.in_use += pods.iter().map(|placed| free.uses(&placed.pod)).sum::<i64>();
        }
    }
    Begin::Check(Box::new(free))
}

impl Free<'_> {
    fn uses(&self, other: &Pod) -> i64 {
        if other.namespace() != self.namespace {
            return 0;
        }
        other.claims().filter(|(name, _)| self.single.contains(name)).count() as i64
    }
}

impl Filter for Free<'_> {
    fn check(&self, _idx: NodeIdx, node: &NodeInfo) -> Result<(), Failure> {
        for wanted in &self.disks {
            let others = node.pods.iter().flat_map(|placed| &placed.pod.spec.volumes);
            if others.into_iter().any(|other| conflict(wanted, other)) {
                return Err(Failure::resolvable("node(s) had no available disk"));
            }
        }
        if self.in_use > 0 {
            let reason = "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode";
            return Err(Failure::resolvable(reason));
        }
        Ok(())
    }

    fn add(&mut self, _idx: NodeIdx, pod: &Pod) {
        self.in_use += self.uses(pod);
    }

    fn remove(&mut self, _idx: NodeIdx, pod: &Pod) {
        self.in_use -= self.uses(pod);
    }
}

/// The same disk, unless both only read (and the kind allows that).
fn conflict(one: &Volume, other: &Volume) -> bool {
    match (one, other) {
        (Volume::Disk(kind, id, read), Volume::Disk(other_kind, other_id, other_read)) => {
            kind == other_kind && id == other_id && !(*read && *other_read && *kind != "aws")
        }
        _ => false,
    }
}

fn hint(_pod: &Pod, event: &Event) -> bool {
    matches!(event, Event::AssignedPodDeleted(_) | Event::NodeAdded(_) | Event::Storage)
}

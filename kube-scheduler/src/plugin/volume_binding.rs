//! Claims: bound ones must be reachable from the node, waiting ones must be bindable or makeable there.
//!
//! [`plan`] says which volumes a pod would take on a node; the binding step carries that out.
//!
//! Upstream: pkg/scheduler/framework/plugins/volumebinding

use std::collections::HashSet;
use std::sync::Arc;

use crate::cluster::NodeIdx;
use crate::cluster::node_info::NodeInfo;
use crate::event::Event;
use crate::object::Named;
use crate::object::node::Node;
use crate::object::pod::Pod;
use crate::object::storage::{Claim, Class, NO_PROVISIONER, Volume};
use crate::plugin::{Begin, Context, Failure, Filter, Plugin};
use crate::stores::Stores;

/// VolumeBinding.
pub const PLUGIN: Plugin = Plugin { filter: Some(filter), hint: Some(hint), ..Plugin::named("VolumeBinding") };

const NODE_CONFLICT: &str = "node(s) didn't match PersistentVolume's node affinity";
const BIND_CONFLICT: &str = "node(s) didn't find available persistent volumes to bind";
const NO_ROOM: &str = "node(s) did not have enough free storage";
const VOLUME_GONE: &str = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";

/// What to do about a pod's claims once its node is chosen.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Bind this claim to this volume.
    pub bind: Vec<(Arc<Claim>, Arc<Volume>)>,
    /// Ask for a volume for this claim on the node.
    pub provision: Vec<Arc<Claim>>,
}

impl Plan {
    /// Whether nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.bind.is_empty() && self.provision.is_empty()
    }
}

struct Binding<'a> {
    stores: &'a Stores,
    bound: Vec<Arc<Claim>>,
    waiting: Vec<Arc<Claim>>,
}

fn filter<'a>(cx: &Context<'a>, pod: &'a Pod) -> Begin<'a> {
    match classify(cx.stores, pod) {
        Ok(None) => Begin::Skip,
        Ok(Some(binding)) => Begin::Check(Box::new(binding)),
        Err(failure) => Begin::Reject(failure),
    }
}

/// The pod's claims by state; `None` where it has none.
fn classify<'a>(stores: &'a Stores, pod: &Pod) -> Result<Option<Binding<'a>>, Failure> {
    let mut binding = Binding { stores, bound: Vec::new(), waiting: Vec::new() };
    for (name, ephemeral) in pod.claims() {
        let Some(claim) = stores.claim(pod.namespace(), &name) else {
            let reason = if ephemeral {
                format!("waiting for ephemeral volume controller to create the persistentvolumeclaim {name:?}")
            } else {
                format!("persistentvolumeclaim {name:?} not found")
            };
            return Err(Failure::unresolvable(reason));
        };
        if claim.lost {
            let reason = format!("persistentvolumeclaim {name:?} bound to non-existent persistentvolume {:?}", claim.volume);
            return Err(Failure::unresolvable(reason));
        }
        if claim.terminating() {
            return Err(Failure::unresolvable(format!("persistentvolumeclaim {name:?} is being deleted")));
        }
        let owners = claim.metadata.owner_references.iter().flatten();
        if ephemeral && !owners.into_iter().any(|owner| owner.controller == Some(true) && owner.uid == pod.uid()) {
            return Err(Failure::unresolvable(format!(
                "PVC {}/{name} was not created for pod {}/{} (pod is not owner)",
                pod.namespace(),
                pod.namespace(),
                pod.name()
            )));
        }
        let waits = claim.class.as_deref().and_then(|class| stores.classes.get(class)).is_some_and(|class| class.waits);
        if claim.bound {
            binding.bound.push(claim);
        } else if waits && claim.volume.is_empty() {
            binding.waiting.push(claim);
        } else {
            return Err(Failure::unresolvable("pod has unbound immediate PersistentVolumeClaims"));
        }
    }
    Ok((!binding.bound.is_empty() || !binding.waiting.is_empty()).then_some(binding))
}

/// What the pod's claims need on the node.
///
/// # Errors
/// Why they cannot be had there.
pub fn plan(stores: &Stores, pod: &Pod, node: &Node) -> Result<Plan, Failure> {
    match classify(stores, pod)? {
        None => Ok(Plan::default()),
        Some(binding) => binding.plan(node),
    }
}

impl Filter for Binding<'_> {
    fn check(&self, _idx: NodeIdx, node: &NodeInfo) -> Result<(), Failure> {
        match &node.node {
            Some(node) => self.plan(node).map(|_| ()),
            None => Ok(()),
        }
    }
}

impl Binding<'_> {
    fn plan(&self, node: &Node) -> Result<Plan, Failure> {
        let reaches = |volume: &Volume| volume.nodes.as_ref().is_none_or(|nodes| nodes.matches(node.labels(), node.name()));
        for claim in &self.bound {
            match self.stores.volumes.get(&claim.volume) {
                None => return Err(Failure::unresolvable(VOLUME_GONE)),
                Some(volume) if !reaches(&volume) => return Err(Failure::unresolvable(NODE_CONFLICT)),
                Some(_) => {}
            }
        }
        let mut plan = Plan::default();
        let mut taken: HashSet<String> = HashSet::new();
        // Small claims first, so that they do not take what only a large one can use.
        let mut waiting: Vec<_> = self.waiting.iter().collect();
        waiting.sort_by_key(|claim| claim.bytes);
        for claim in waiting {
            if !claim.selected_node.is_empty() {
                if claim.selected_node != node.name() {
                    return Err(Failure::unresolvable(BIND_CONFLICT));
                }
                plan.provision.push(claim.clone());
                continue;
            }
            let volumes = self.stores.volumes.list();
            let found = volumes.iter().filter(|volume| !taken.contains(volume.name())).filter(|volume| serves(volume, claim));
            let best = found.filter(|volume| reaches(volume)).min_by_key(|volume| (volume.claim.0.is_empty(), volume.bytes));
            if let Some(volume) = best {
                taken.insert(volume.name().to_owned());
                plan.bind.push((claim.clone(), volume.clone()));
                continue;
            }
            let class = claim.class.as_deref().and_then(|class| self.stores.classes.get(class));
            let makeable = class.as_ref().is_some_and(|class| {
                class.provisioner != NO_PROVISIONER
                    && !class.provisioner.is_empty()
                    && (class.topologies.0.is_empty() || class.topologies.matches(node.labels(), node.name()))
            });
            if !makeable {
                return Err(Failure::unresolvable(BIND_CONFLICT));
            }
            if !class.is_some_and(|class| has_room(self.stores, &class, claim, node)) {
                return Err(Failure::unresolvable(NO_ROOM));
            }
            plan.provision.push(claim.clone());
        }
        Ok(plan)
    }
}

/// Whether the class's driver has room for the claim near the node, as far as it says so. Upstream: hasEnoughCapacity
fn has_room(stores: &Stores, class: &Class, claim: &Claim, node: &Node) -> bool {
    let tells = stores.csi_drivers.get(&class.provisioner).is_some_and(|driver| driver.tells_capacity);
    !tells
        || stores.capacities.list().iter().any(|capacity| {
            capacity.class == class.name()
                && capacity.bytes.is_some_and(|bytes| bytes >= claim.bytes)
                && capacity.nodes.matches(node.labels())
        })
}

/// Whether a volume can be the claim's, wherever it is.
fn serves(volume: &Volume, claim: &Claim) -> bool {
    let meant_for_it = volume.claim.0 == claim.key() && (volume.claim.1.is_empty() || volume.claim.1 == claim.uid());
    if !volume.claim.0.is_empty() && !meant_for_it {
        return false;
    }
    volume.bytes >= claim.bytes
        && !volume.terminating()
        && volume.volume_mode == claim.volume_mode
        && (meant_for_it
            || (volume.available
                && volume.class == claim.class.as_deref().unwrap_or("")
                && claim.selector.as_ref().is_none_or(|selector| selector.matches(volume.labels()))))
        && claim.modes.iter().all(|mode| volume.modes.contains(mode))
}

fn hint(_pod: &Pod, event: &Event) -> bool {
    match event {
        Event::NodeAdded(_) | Event::Storage => true,
        Event::NodeUpdated(old, new) => old.labels() != new.labels(),
        _ => false,
    }
}

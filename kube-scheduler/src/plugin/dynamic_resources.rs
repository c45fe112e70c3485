//! Resource claims: devices are chosen with the node, and written to the claim before the pod is bound.
//!
//! Upstream: pkg/scheduler/framework/plugins/dynamicresources

mod allocate;
pub mod inventory;

use std::sync::Arc;

use serde_json::Value as Json;

use crate::cel;
use crate::cluster::NodeIdx;
use crate::cluster::node_info::NodeInfo;
use crate::event::Event;
use crate::object::Named;
use crate::object::device::{Allocation, DeviceClaim};
use crate::object::node::Node;
use crate::object::pod::Pod;
use crate::plugin::{Begin, Context, Failure, Filter, Plugin};
use crate::stores::Stores;
use allocate::{Kind, Memory, Wanted, allocate};
use inventory::{Inventory, allocation};

/// What upstream's plugin adds to the message of every pod that fits nowhere.
pub const POST_FILTER_MESSAGE: &str = "no new claims to deallocate";
/// Pods that may share a claim. Upstream: ResourceClaimReservedForMaxSize
const MAX_RESERVED: usize = 256;

/// DynamicResources.
pub const PLUGIN: Plugin = Plugin { filter: Some(filter), hint: Some(hint), ..Plugin::named("DynamicResources") };

/// What to do about a pod's resource claims once its node is chosen.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Claims of the pod; with what they are to get, where they have nothing yet (`status.allocation`).
    pub claims: Vec<(Arc<DeviceClaim>, Option<Json>)>,
}

struct Devices {
    inventory: Inventory,
    /// Claims that have devices.
    allocated: Vec<(Arc<DeviceClaim>, Arc<Allocation>)>,
    wanted: Vec<Wanted>,
    memory: Memory,
}

fn filter<'a>(cx: &Context<'a>, pod: &'a Pod) -> Begin<'a> {
    match look_up(cx.stores, pod) {
        Ok(None) => Begin::Skip,
        Ok(Some(devices)) => Begin::Check(Box::new(devices)),
        Err(reason) => Begin::Reject(Failure::unresolvable(reason)),
    }
}

/// The pod's claims and all they depend on; `None` where it has none.
fn look_up(stores: &Stores, pod: &Pod) -> Result<Option<Devices>, String> {
    if pod.spec.resource_claims.is_empty() {
        return Ok(None);
    }
    let (mut allocated, mut wanted): (Vec<_>, Vec<_>) = Default::default();
    for reference in &pod.spec.resource_claims {
        let generated = pod.generated_claims.iter().find(|(name, _)| *name == reference.name);
        let name = match (&reference.claim, generated) {
            (Some(name), _) | (None, Some((_, Some(name)))) => name,
            // The template asks for nothing.
            (None, Some((_, None))) => continue,
            (None, None) => return Err(format!("pod {:?}: ResourceClaim not created yet", pod.key())),
        };
        let found = stores.device_claims.get(&client::key(pod.namespace(), name));
        let claim = found.ok_or_else(|| format!("resourceclaim.resource.k8s.io {name:?} not found"))?;
        let owners = claim.metadata.owner_references.iter().flatten();
        if reference.claim.is_none() && !owners.into_iter().any(|owner| owner.controller == Some(true) && owner.uid == pod.uid())
        {
            return Err(format!("ResourceClaim {} was not created for pod {} (pod is not owner)", claim.key(), pod.key()));
        }
        if claim.terminating() {
            return Err("resourceclaim is being deleted".to_owned());
        }
        match allocation(stores, &claim) {
            Some(allocation) => {
                let ours = claim.reserved.iter().any(|uid| uid == pod.uid());
                if !ours && claim.reserved.len() >= MAX_RESERVED {
                    return Err("resourceclaim in use".to_owned());
                }
                allocated.push((claim, allocation));
            }
            None => wanted.push(want(stores, claim)?),
        }
    }
    if allocated.is_empty() && wanted.is_empty() {
        return Ok(None);
    }
    let inventory = if wanted.is_empty() { Inventory::default() } else { Inventory::new(stores) };
    Ok(Some(Devices { inventory, allocated, wanted, memory: Memory::default() }))
}

fn want(stores: &Stores, claim: Arc<DeviceClaim>) -> Result<Wanted, String> {
    let mut requests = Vec::new();
    for request in &claim.requests {
        let mut kinds = Vec::new();
        for alternative in &request.alternatives {
            let name = match alternative.name.as_str() {
                "" => request.name.clone(),
                sub => format!("{}/{sub}", request.name),
            };
            let class = &alternative.device_class_name;
            let Some(class) = stores.device_classes.get(class) else {
                return Err(format!("request {name}: device class {class} does not exist"));
            };
            let texts = class.selectors().chain(alternative.selectors());
            let compiled = texts.enumerate().map(|(number, text)| {
                let error = |error| format!("claim {}: selector #{number}: CEL compile error: {error}", claim.key());
                cel::compile(text).map_err(error)
            });
            let selectors = compiled.collect::<Result<_, _>>()?;
            kinds.push(Kind { name, alternative: alternative.clone(), class, selectors });
        }
        requests.push(kinds);
    }
    Ok(Wanted { claim, requests })
}

impl Filter for Devices {
    fn check(&self, _idx: NodeIdx, node: &NodeInfo) -> Result<(), Failure> {
        match &node.node {
            Some(node) => self.plan(node).map(drop),
            None => Ok(()),
        }
    }
}

impl Devices {
    fn plan(&self, node: &Node) -> Result<Plan, Failure> {
        let mut plan = Plan::default();
        for (claim, allocation) in &self.allocated {
            if !allocation.nodes.as_ref().is_none_or(|nodes| nodes.matches(node.labels(), node.name())) {
                return Err(Failure::unresolvable("resourceclaim not available on the node"));
            }
            plan.claims.push((claim.clone(), None));
        }
        if self.wanted.is_empty() {
            return Ok(plan);
        }
        match allocate(&self.wanted, &self.inventory, node, &self.memory) {
            Ok(Some(results)) => {
                let claims = self.wanted.iter().map(|wanted| wanted.claim.clone());
                plan.claims.extend(claims.zip(results.into_iter().map(Some)));
                Ok(plan)
            }
            Ok(None) => Err(Failure::unresolvable("cannot allocate all claims")),
            Err(error) => Err(Failure::unresolvable(error)),
        }
    }
}

/// What the pod's claims get on the node.
///
/// # Errors
/// Why they cannot be had there.
pub fn plan(stores: &Stores, pod: &Pod, node: &Node) -> Result<Plan, Failure> {
    match look_up(stores, pod).map_err(Failure::unresolvable)? {
        Some(devices) => devices.plan(node),
        None => Ok(Plan::default()),
    }
}

/// Takes the planned devices at once, so that the next pod does not.
pub fn assume(stores: &Stores, pod: &Pod, plan: &Plan) {
    for (claim, planned) in &plan.claims {
        match planned {
            Some(json) => stores.assumed_devices.put(claim.uid(), Arc::new(Allocation::read(json)), pod.uid()),
            None => stores.assumed_devices.join(claim.uid(), pod.uid()),
        }
    }
}

/// Gives planned devices back.
pub fn forget(stores: &Stores, pod: &Pod, plan: &Plan) {
    for (claim, _) in &plan.claims {
        stores.assumed_devices.leave(claim.uid(), pod.uid());
    }
}

fn hint(_pod: &Pod, event: &Event) -> bool {
    match event {
        Event::NodeAdded(_) | Event::Devices | Event::PodUpdated(..) => true,
        Event::NodeUpdated(old, new) => old.labels() != new.labels(),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
